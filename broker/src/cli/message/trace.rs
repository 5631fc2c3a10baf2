//! `qbroker message trace`: what happened to one message, or to those of a correlation id.

use clap::{ArgGroup, Args};
use qbroker::exit::Exit;
use serde_json::{Value, json};

use super::naming;
use super::peek::listed_item;
use super::watch::{COLUMNS, event_item};
use crate::cli::Outcome;
use crate::cli::globals::Globals;
use crate::cli::output::Item;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("of").args(["id", "correlation_id"]).required(true)))]
pub(in crate::cli) struct TraceArgs {
    /// q. and the message's sequence; or the id that its publisher chose, with --queue, for as long as
    /// the queue remembers ids.
    id: Option<String>,
    /// The application's own id: of the ten latest messages that `message find` finds by it, what
    /// happened to any of them. The broker needs its search index.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// A queue that it was, or is, in.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
}

impl TraceArgs {
    /// Tells it: a line for each step, or one JSON object with the message where it is still there.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let Self { id, correlation_id, queue } = self;
        naming::check(id, queue)?;
        let client = globals.connect().await?;
        let trace = match (id, correlation_id) {
            (None, Some(id)) => {
                let traced = client.trace_correlated(queue, id).await;
                traced.map_err(|error| naming::uncorrelated(error, id, queue))?
            }
            (id, _) => {
                let id = id.as_deref().unwrap_or_default();
                let traced = client.trace_message(queue, id).await;
                traced.map_err(|error| naming::untraced(error, id, queue))?
            }
        };
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
