//! `qbroker message update`, `message delete` and `message get`: messages by their ids.

use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};
use qbroker::exit::Exit;
use qbroker_client::{Attempt, MessageUpdate, Refusal};
use serde_json::{Value, json};

use super::filter::{FILTER_HELP, FilterArgs};
use super::line::failure;
use super::many::deleted;
use super::naming;
use super::publish::timestamp;
use crate::cli::Outcome;
use crate::cli::dead::{LETTER, letter_item};
use crate::cli::failure::{Failure, say};
use crate::cli::globals::Globals;
use crate::cli::operation::BulkArgs;
use crate::cli::output::{Column, Item, column, time};

/// Which messages.
#[derive(Debug, Args)]
pub(in crate::cli) struct Names {
    /// q. and the message's sequence; or the id that its publisher chose, with --queue, for as long as
    /// the queue remembers ids.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// The queue they are in.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").args(["priority", "delay", "at", "now"]).required(true).multiple(true)))]
#[command(group(ArgGroup::new("when").args(["delay", "at", "now"])))]
pub(in crate::cli) struct UpdateArgs {
    #[command(flatten)]
    names: Names,
    /// How urgent they are from now on, 0 (the least) to 9.
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// Deliver them no earlier than this long from now.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Deliver them no earlier than at this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    at: Option<SystemTime>,
    /// Deliver them as soon as somebody takes them.
    #[arg(long)]
    now: bool,
}

impl UpdateArgs {
    /// Changes them. Exits with 3 where some were refused, and with 65 where all were.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let Names { ids, queue } = &self.names;
        naming::check(ids, queue)?;
        let mut update = MessageUpdate::new();
        if let Some(priority) = self.priority {
            update = update.priority(priority);
        }
        if let Some(delay) = self.delay.or_else(|| self.now.then_some(Duration::ZERO)) {
            update = update.delay(delay);
        }
        if let Some(time) = self.at {
            update = update.deliver_time(time);
        }
        let client = globals.connect().await?;
        let refused = client.update_messages(queue, ids.clone(), update).await?;
        tell(globals, (ids.len(), queue), &refused)
    }
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
#[command(group(ArgGroup::new("which").args(["ids", "conditions"]).required(true)))]
pub(in crate::cli) struct DeleteArgs {
    /// q. and the message's sequence; or the id that its publisher chose, with --queue, for as long as
    /// the queue remembers ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The queue they are in.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
    #[command(flatten)]
    which: FilterArgs,
    #[command(flatten)]
    bulk: BulkArgs,
}

impl DeleteArgs {
    /// Deletes them. Exits as an update does; what a filter means is an operation.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let Self { ids, queue, which, bulk } = self;
        if let Some(filter) = which.filter() {
            if queue.is_empty() {
                return Err(Failure::new(Exit::Usage, "say with --queue where they are"));
            }
            return deleted(globals, queue, filter, bulk).await;
        }
        if bulk.is_said() {
            let why = "--rate, --limit, --dry-run and --wait go with --filter";
            return Err(Failure::new(Exit::Usage, why));
        }
        naming::check(ids, queue)?;
        let client = globals.connect().await?;
        let refused = client.delete_messages(queue, ids.clone()).await?;
        tell(globals, (ids.len(), queue), &refused)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GetArgs {
    /// q. and the message's sequence; or the id that its publisher chose, with --queue, for as long as
    /// the queue remembers ids.
    id: String,
    /// The queue it is in.
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    queue: String,
}

/// What is shown of one message.
const DETAILS: [Column; 14] = [
    column("MESSAGE_ID", "message_id"),
    column("SEQUENCE", "sequence"),
    column("QUEUE", "queue"),
    column("STATE", "state"),
    column("ATTEMPT", "attempt"),
    column("PRIORITY", "priority"),
    column("PUBLISHED", "publish_time"),
    column("DELIVER", "deliver_time"),
    column("EXPIRES", "expire_time"),
    column("TYPE", "message_type"),
    column("CONSUMER", "consumer_id"),
    column("LEASE ENDS", "lease_expire_time"),
    column("PAYLOAD", "shown"),
    column("ATTEMPTS", "attempts"),
];

impl GetArgs {
    /// Shows it.
    pub(in crate::cli) async fn run(&self, globals: &Globals) -> Outcome {
        let Self { id, queue } = self;
        naming::check([id], queue)?;
        let client = globals.connect().await?;
        let found = client.get_message(queue, id).await;
        let found = found.map_err(|error| naming::unseen(error, id, queue))?;
        let for_columns = globals.output().has_columns();
        let mut item = letter_item(&found, for_columns);
        let attempts = match for_columns {
            true => json!(found.attempts.iter().map(in_words).collect::<Vec<_>>().join("; ")),
            false => found.attempts.iter().map(attempt).collect(),
        };
        item.insert("attempts".to_owned(), attempts);
        let is_letter = found.message.dead_letter.is_some();
        let letter = if is_letter { &LETTER[..] } else { &[] };
        globals.output().item(&[&DETAILS, letter].concat(), item)?;
        Ok(Exit::Ok)
    }
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "attempt": attempt.attempt,
        "start_time": time(attempt.start_time),
        "end_time": time(attempt.end_time),
        "failure": failure(&attempt.failure),
        "consumer_id": attempt.consumer_id,
    })
}

/// An attempt for people: its number, and what it told.
fn in_words(attempt: &Attempt) -> String {
    let told = [attempt.failure.kind.as_str(), attempt.failure.message.as_str()];
    let told: Vec<_> = told.into_iter().filter(|text| !text.is_empty()).collect();
    format!("{} {}", attempt.attempt, told.join(": "))
}

/// Says which were refused, and how many were not.
fn tell(
    globals: &Globals,
    (named, queue): (usize, &str),
    refused: &[(String, Refusal)],
) -> Outcome {
    let mut item = Item::new();
    item.insert("done".to_owned(), json!(named.saturating_sub(refused.len())));
    item.insert("refused".to_owned(), json!(refused.len()));
    globals.output().item(&[column("DONE", "done"), column("REFUSED", "refused")], item)?;
    for (id, why) in refused {
        say(&format!("{id}: {}: {}", why.reason, naming::refused(why, id, queue)));
    }
    Ok(match refused.len() {
        0 => Exit::Ok,
        count if count < named => Exit::Partial,
        _ => Exit::Data,
    })
}
