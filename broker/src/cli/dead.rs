//! `qbroker dead`: the dead letters of a queue.

use clap::{Args, Subcommand};
use qbroker::exit::Exit;
use qbroker_client::{Client, ListedMessage, MessageQuery, Reason};
use serde_json::{Value, json};

use super::Outcome;
use super::failure::{Failure, say};
use super::globals::Globals;
use super::message::filter::{FILTER_HELP, FilterArgs, WhichArgs};
use super::message::{GetArgs, listed_item, many};
use super::operation::{BulkArgs, Work};
use super::output::{Column, Item, column};

const QUEUE_HELP: &str = "\
A queue is named by itself, for its dead letters, or its dead-letter queue is.";

#[derive(Debug, Subcommand)]
#[command(after_help = QUEUE_HELP)]
pub(super) enum DeadCommand {
    /// List dead letters: why each died, and where it came from.
    List(ListArgs),
    /// Show one dead letter: what its attempts told.
    #[command(visible_alias = "get")]
    Show(GetArgs),
    /// Move dead letters back to the queues they died in, or to another one.
    Redrive(RedriveArgs),
    /// Delete dead letters.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub(super) struct ListArgs {
    /// The queue, or its dead-letter queue.
    queue: String,
    /// The most to show.
    #[arg(long, value_name = "N", default_value = "50")]
    max: usize,
    #[command(flatten)]
    which: FilterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub(super) struct RedriveArgs {
    /// The queue, or its dead-letter queue.
    queue: String,
    /// Where they go, instead of the queues they died in; it must exist.
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,
    #[command(flatten)]
    which: WhichArgs,
    /// Failures and crashes since they died count on; else they begin at 0 again.
    #[arg(long)]
    keep_attempts: bool,
    #[command(flatten)]
    bulk: BulkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub(super) struct DeleteArgs {
    /// The queue, or its dead-letter queue.
    queue: String,
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    bulk: BulkArgs,
}

impl DeadCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            match &self {
                Self::List(args) => args.run(globals).await,
                Self::Show(args) => args.run(globals).await,
                Self::Redrive(args) => {
                    let to = args.to.as_deref();
                    let (queue, exists) = letters(globals, &args.queue).await?;
                    if !exists {
                        return none_died(globals, &args.bulk, &Work::of_move(&queue, to));
                    }
                    let how = (!args.keep_attempts, &args.bulk);
                    many::moved(globals, &queue, to, args.which.filter(), how).await
                }
                Self::Delete(args) => {
                    let (queue, exists) = letters(globals, &args.queue).await?;
                    if !exists {
                        return none_died(globals, &args.bulk, &Work::of_delete(&queue));
                    }
                    many::deleted(globals, &queue, args.which.filter(), &args.bulk).await
                }
            }
        })
    }
}

/// The queue that holds the dead letters of this one, which may be it, and whether it exists: it is made
/// when the first one dies.
async fn letters(globals: &Globals, queue: &str) -> Result<(String, bool), Failure> {
    let client = globals.connect().await?;
    let letters = letters_of(&client, queue).await?;
    // Whoever may not look at it may still be allowed to work on it.
    let found = client.get_queue(&letters).await;
    let is_missing = found.is_err_and(|error| error.reason() == Some(&Reason::QueueNotFound));
    Ok((letters, !is_missing))
}

/// Tells that nothing has died yet as it is told that nothing matched.
fn none_died(globals: &Globals, bulk: &BulkArgs, work: &Work<'_>) -> Outcome {
    if !globals.quiet {
        let queue = work.queue;
        say(&format!("there are no dead letters: {queue} is made when the first message dies"));
    }
    bulk.nothing(globals, work)
}

async fn letters_of(client: &Client, queue: &str) -> Result<String, Failure> {
    let policy = client.get_queue(queue).await?.policy;
    if policy.discard_dead_letters == Some(true) {
        let why = format!(
            "{queue} discards its dead letters; those of before are in the queue that had them then \
             ({queue}.dead, unless another one was named): name that"
        );
        return Err(Failure::new(Exit::Data, why));
    }
    // A dead-letter queue has none itself.
    Ok(policy.dead_letter_queue.unwrap_or_else(|| queue.to_owned()))
}

const LIST: [Column; 7] = [
    column("MESSAGE_ID", "message_id"),
    column("SEQUENCE", "sequence"),
    column("SOURCE", "source"),
    column("REASON", "reason"),
    column("ATTEMPTS", "died_after"),
    column("DIED", "died"),
    column("FAILURE", "failure"),
];

/// What is shown of a dead letter beside what is of every message.
pub(super) const LETTER: [Column; 5] = [
    column("SOURCE", "source"),
    column("REASON", "reason"),
    column("DIED AFTER", "died_after"),
    column("DIED", "died"),
    column("FAILURE", "failure"),
];

/// Dead letters asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

impl ListArgs {
    async fn run(&self, globals: &Globals) -> Outcome {
        let client = globals.connect().await?;
        let queue = letters_of(&client, &self.queue).await?;
        let mut query = MessageQuery { filter: self.which.filter(), ..MessageQuery::default() };
        let mut items = Vec::new();
        let output = globals.output();
        while items.len() < self.max {
            let missing = u32::try_from(self.max - items.len()).unwrap_or(u32::MAX);
            query.page_size = missing.min(PAGE_SIZE);
            let page = match client.list_messages(&queue, query.clone()).await {
                // It is made when the first one dies.
                Err(error) if error.reason() == Some(&Reason::QueueNotFound) => break,
                page => page?,
            };
            let has_columns = output.has_columns();
            items.extend(page.items.iter().map(|listed| letter_item(listed, has_columns)));
            if page.next_page_token.is_empty() {
                break;
            }
            query.page_token = page.next_page_token;
        }
        output.list(&LIST, items)?;
        Ok(Exit::Ok)
    }
}

/// For programs as everywhere; for people what is told of its death in columns of their own.
pub(super) fn letter_item(listed: &ListedMessage, for_columns: bool) -> Item {
    let mut item = listed_item(listed, for_columns);
    let Some(letter) = item.get("dead_letter").filter(|_| for_columns).cloned() else {
        return item;
    };
    let failure = match &letter["failure"] {
        Value::Null => Value::Null,
        failure => {
            let text = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
            json!([text("type"), text("message")].join(": "))
        }
    };
    for (key, value) in [
        ("source", letter["source_queue"].clone()),
        ("reason", letter["reason"].clone()),
        ("died_after", letter["attempts"].clone()),
        ("died", letter["time"].clone()),
        ("failure", failure),
    ] {
        item.insert(key.to_owned(), value);
    }
    item
}
