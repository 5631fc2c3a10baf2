//! `qbroker message trace`: what happened to one message.

use clap::Args;
use qbroker::exit::Exit;
use serde_json::{Value, json};

use super::peek::listed_item;
use super::watch::{COLUMNS, event_item};
use crate::cli::Outcome;
use crate::cli::globals::Globals;
use crate::cli::output::Item;

#[derive(Debug, Args)]
pub(in crate::cli) struct TraceArgs {
    /// q. and the message's sequence; or the id that its publisher chose, with --queue, for as long as
    /// the queue remembers ids.
    id: String,
    /// A queue that it was, or is, in.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
}

impl TraceArgs {
    /// Tells it: a line for each step, or one JSON object with the message where it is still there.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let client = globals.connect().await?;
        let trace = client.trace_message(&self.queue, &self.id).await?;
        let output = globals.output();
        let has_columns = output.has_columns();
        let events = trace.events.iter().map(|event| event_item(event, has_columns));
        if has_columns {
            output.list(&COLUMNS, events.collect())?;
            return Ok(Exit::Ok);
        }
        let message = trace.message.as_ref().map(|message| listed_item(message, false));
        let mut item = Item::new();
        item.insert("events".to_owned(), Value::from_iter(events));
        item.insert("message".to_owned(), json!(message));
        output.item(&[], item)?;
        Ok(Exit::Ok)
    }
}
