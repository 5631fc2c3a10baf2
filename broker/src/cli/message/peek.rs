//! `qbroker message peek`: looks at messages where they lie, and changes nothing.

use clap::Args;
use qbroker::exit::Exit;
use qbroker_client::{ListedMessage, Message, MessageQuery, MessageState};
use serde_json::{Value, json};

use super::filter::{FILTER_HELP, FilterArgs};
use super::line::item;
use crate::cli::Outcome;
use crate::cli::globals::Globals;
use crate::cli::output::{Column, Item, column, time};
use crate::cli::size;

/// Messages asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

/// How much of a payload a column shows.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// The columns of messages.
pub(super) const COLUMNS: [Column; 6] = [
    column("MESSAGE_ID", "message_id"),
    column("STATE", "state"),
    column("ATTEMPT", "attempt"),
    column("PUBLISHED", "publish_time"),
    column("TYPE", "message_type"),
    column("PAYLOAD", "shown"),
];

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub(in crate::cli) struct PeekArgs {
    /// The queue; dead letters are in a queue of their own, usually <QUEUE>.dead.
    queue: String,
    /// The most messages to show.
    #[arg(long, value_name = "N", default_value = "10")]
    max: usize,
    /// How many bytes of each payload to fetch; 0 for none.
    #[arg(long, value_name = "SIZE", default_value = "4096", value_parser = size::parse_payload)]
    payload_bytes: u32,
    #[command(flatten)]
    which: FilterArgs,
}

impl PeekArgs {
    /// Looks, page by page.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let client = globals.connect().await?;
        let mut query = MessageQuery {
            max_payload_bytes: Some(self.payload_bytes),
            filter: self.which.filter(),
            ..MessageQuery::default()
        };
        let output = globals.output();
        let mut items: Vec<Item> = Vec::new();
        while items.len() < self.max {
            let missing = u32::try_from(self.max - items.len()).unwrap_or(u32::MAX);
            query.page_size = missing.min(PAGE_SIZE);
            let page = client.list_messages(&self.queue, query.clone()).await?;
            let found = page.items.iter();
            items.extend(found.map(|listed| listed_item(listed, output.has_columns())));
            if page.next_page_token.is_empty() {
                break;
            }
            query.page_token = page.next_page_token;
        }
        output.list(&COLUMNS, items)?;
        Ok(Exit::Ok)
    }
}

pub(in crate::cli) fn listed_item(listed: &ListedMessage, for_columns: bool) -> Item {
    let mut item = item(&listed.message);
    if for_columns {
        item = shown(item, &listed.message);
    }
    item.insert("state".to_owned(), json!(state(listed.state)));
    item.insert("attempt".to_owned(), json!(listed.attempt));
    item.insert("payload_truncated".to_owned(), json!(listed.payload_truncated));
    if let Some(error) = &listed.error {
        // Not an empty one: there was one, and it is lost.
        item.remove("payload");
        if for_columns {
            item.insert("shown".to_owned(), json!("<cannot be read>"));
        }
        item.insert("error".to_owned(), json!(error.message));
    }
    if listed.state == MessageState::Leased {
        item.insert("lease_expire_time".to_owned(), time(listed.lease_expire_time));
        item.insert("consumer_id".to_owned(), json!(listed.consumer_id));
    }
    item
}

fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Ready => "ready",
        MessageState::Scheduled => "scheduled",
        MessageState::Leased => "leased",
        MessageState::Parked => "parked",
        MessageState::Behind => "behind",
        _ => "unknown",
    }
}

/// Adds the column for people: the beginning of a text, or how large it is.
pub(super) fn shown(mut item: Item, message: &Message) -> Item {
    let shown = match item.get("payload").and_then(Value::as_str) {
        Some(text) if SHOWN_CHARACTERS_MAX < text.chars().count() => {
            text.chars().take(SHOWN_CHARACTERS_MAX).chain("...".chars()).collect()
        }
        Some(text) => text.to_owned(),
        None => format!("<{} bytes>", message.payload.len()),
    };
    item.insert("shown".to_owned(), json!(shown));
    item
}
