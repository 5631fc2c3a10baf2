//! `qbroker message watch`: what happens to messages, as it happens.

use clap::Args;
use qbroker::exit::Exit;
use qbroker_client::{Event, EventKind, EventQuery};
use serde_json::{Value, json};

use super::line::{failure, reason};
use crate::cli::Outcome;
use crate::cli::failure::{Failure, say};
use crate::cli::globals::{Format, Globals};
use crate::cli::output::{Column, Item, column, time, write_out};
use crate::cli::signals::Stops;

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    /// Only these queues [default: all].
    queues: Vec<String>,
    /// Begin at this sequence, an event's or a message's [default: from now on]. The log goes back
    /// some way, and not for ever.
    #[arg(long, value_name = "SEQUENCE", default_value = "0", hide_default_value = true)]
    from: u64,
    /// Only the message of this id.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    message_id: String,
    /// Only messages with this correlation id.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

/// The columns of events.
pub(super) const COLUMNS: [Column; 8] = [
    column("SEQUENCE", "sequence"),
    column("TIME", "time"),
    column("EVENT", "event"),
    column("QUEUE", "queue"),
    column("MESSAGE_ID", "message_id"),
    column("ATTEMPT", "attempt"),
    column("CONSUMER", "consumer_id"),
    column("DETAIL", "detail"),
];

impl WatchArgs {
    /// Prints events until it is told to stop.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        if globals.output == Some(Format::Json) {
            // A document has an end; this has none.
            let message = "events are printed one by one: for JSON, use --output jsonl";
            return Err(Failure::new(Exit::Usage, message));
        }
        let stops = Stops::listen()?;
        let client = globals.connect().await?;
        let query = EventQuery {
            from_sequence: self.from,
            queues: self.queues.clone(),
            message_id: self.message_id.clone(),
            correlation_id: self.correlation_id.clone(),
        };
        let mut events = client.watch_events(query).await?;
        let output = globals.output();
        if !globals.quiet {
            say(&format!("watching from sequence {} on", events.next_sequence()));
        }
        write_out(&output.stream_head(&COLUMNS))?;
        let mut left = self.count.unwrap_or(usize::MAX);
        while 0 < left {
            let batch = tokio::select! {
                biased;
                () = stops.finish.cancelled() => break,
                batch = events.next_batch() => batch?,
            };
            let lines: String = batch
                .iter()
                .take(left)
                .map(|event| output.stream_line(&COLUMNS, event_item(event, output.has_columns())))
                .collect();
            left -= batch.len().min(left);
            if !lines.is_empty() {
                write_out(&lines)?;
            }
        }
        Ok(stops.exit())
    }
}

/// An event; what is empty is left out.
pub(super) fn event_item(event: &Event, for_columns: bool) -> Item {
    let mut item = Item::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() && value != json!("") && value != json!(0) {
            item.insert(key.to_owned(), value);
        }
    };
    put("sequence", json!(event.sequence));
    put("time", time(event.time));
    put("event", json!(name(&event.kind)));
    put("queue", json!(event.queue));
    put("message_id", json!(event.message_id));
    put("message_sequence", json!(event.message_sequence));
    put("message_type", json!(event.message_type));
    put("correlation_id", json!(event.correlation_id));
    put("attempt", json!(event.attempt));
    put("consumer_id", json!(event.consumer_id));
    put("failure", event.failure.as_ref().map_or(Value::Null, failure));
    match &event.kind {
        EventKind::DeadLettered { to, reason: why } => {
            put("to_queue", json!(to));
            put("reason", json!(reason(*why)));
        }
        EventKind::Moved { to } => put("to_queue", json!(to)),
        _ => {}
    }
    if for_columns {
        put("detail", json!(detail(event)));
    }
    item
}

/// The rest in one cell.
fn detail(event: &Event) -> String {
    let failure =
        event.failure.as_ref().map(|failure| format!("{}: {}", failure.kind, failure.message));
    let what = match &event.kind {
        EventKind::DeadLettered { to, reason: why } if to.is_empty() => {
            Some(format!("{}, deleted", reason(*why)))
        }
        EventKind::DeadLettered { to, reason: why } => Some(format!("{}, to {to}", reason(*why))),
        EventKind::Moved { to } => Some(format!("to {to}")),
        _ => None,
    };
    what.into_iter().chain(failure).collect::<Vec<_>>().join("; ")
}

/// The protocol's word for it, in lower case.
fn name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Published => "published",
        EventKind::Due => "due",
        EventKind::Leased => "leased",
        EventKind::Acked => "acked",
        EventKind::Failed => "failed",
        EventKind::Released => "released",
        EventKind::LeaseLost => "lease_lost",
        EventKind::DeadLettered { .. } => "dead_lettered",
        EventKind::Parked => "parked",
        EventKind::Expired => "expired",
        EventKind::Moved { .. } => "moved",
        EventKind::Dropped => "dropped",
        EventKind::Deleted => "deleted",
        EventKind::Updated => "updated",
        // Also what a newer client may add.
        _ => "unknown",
    }
}
