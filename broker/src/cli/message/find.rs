//! `qbroker message find`: messages by a name, wherever they are.

use clap::{ArgGroup, Args};
use qbroker::exit::Exit;
use qbroker_client::{FindBy, FindQuery, FoundMessage};
use serde_json::json;

use super::peek::listed_item;
use super::watch::event_item;
use crate::cli::Outcome;
use crate::cli::failure::say;
use crate::cli::globals::Globals;
use crate::cli::output::{Column, Item, column};

/// The columns of what was found.
const COLUMNS: [Column; 7] = [
    column("MESSAGE_ID", "message_id"),
    column("SEQUENCE", "sequence"),
    column("QUEUE", "queue"),
    column("STATE", "state"),
    column("TYPE", "message_type"),
    column("CORRELATION", "correlation_id"),
    column("TIME", "time"),
];

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("by").args(["message_id", "correlation_id", "message_type"]).required(true)))]
pub(in crate::cli) struct FindArgs {
    /// The id that its publisher chose.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// The application's own id.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// What kind of work it is.
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// Only messages that are, or ended, in this queue.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
    /// The most messages to show.
    #[arg(long, value_name = "N", default_value = "50")]
    max: usize,
}

impl FindArgs {
    /// Finds dead letters, delayed messages and those that are done and have an outcome.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let client = globals.connect().await?;
        let mut query = FindQuery { queue: self.queue.clone(), ..FindQuery::new(self.by()) };
        let mut items: Vec<Item> = Vec::new();
        let mut complete = true;
        while items.len() < self.max {
            let missing = u32::try_from(self.max - items.len()).unwrap_or(u32::MAX);
            query.page_size = missing.min(1_000);
            let page = client.find_messages(query.clone()).await?;
            items.extend(page.items.iter().map(found_item));
            complete &= page.complete;
            if page.next_page_token.is_empty() {
                break;
            }
            query.page_token = page.next_page_token;
        }
        globals.output().list(&COLUMNS, items)?;
        if !complete {
            say("the search index is being filled: there may be more");
        }
        Ok(Exit::Ok)
    }

    fn by(&self) -> FindBy {
        match (&self.message_id, &self.correlation_id, &self.message_type) {
            (Some(id), ..) => FindBy::MessageId(id.clone()),
            (None, Some(id), _) => FindBy::CorrelationId(id.clone()),
            (None, None, name) => FindBy::MessageType(name.clone().unwrap_or_default()),
        }
    }
}

fn found_item(found: &FoundMessage) -> Item {
    match found {
        FoundMessage::There(listed) => {
            let mut item = listed_item(listed, false);
            // It was not asked for.
            item.remove("payload");
            item.remove("payload_truncated");
            let time = item.get("publish_time").cloned();
            item.insert("time".to_owned(), time.unwrap_or_default());
            item
        }
        FoundMessage::Done(event) => {
            let mut item = event_item(event, false);
            item.insert("state".to_owned(), json!(item.get("event")));
            item.insert("sequence".to_owned(), json!(event.message_sequence));
            item
        }
        // Also what a newer client may add.
        _ => Item::new(),
    }
}
