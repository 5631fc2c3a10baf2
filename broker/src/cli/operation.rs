//! `qbroker operation`: work on many messages, which the broker does by itself.

use clap::{Args, Subcommand};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use qbroker::exit::Exit;
use qbroker_client::{Client, Operation, OperationKind, OperationOptions, OperationState};
use serde_json::{Value, json};

use super::Outcome;
use super::failure::say;
use super::globals::Globals;
use super::output::{Column, Item, column, time};

/// Operations asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum OperationCommand {
    /// List operations, the latest first; those that ended are known for a day.
    List,
    /// Show one operation: how far it is, and what it could not do.
    #[command(visible_alias = "show")]
    Get(IdArgs),
    /// End an operation where it is; what it did stays done.
    Cancel(IdArgs),
    /// Wait until an operation has ended, and show how far it is.
    Wait(IdArgs),
}

#[derive(Debug, Args)]
pub(super) struct IdArgs {
    /// The operation, as it was told when it began: o. and a number.
    id: String,
}

const LIST: [Column; 8] = [
    column("OPERATION", "operation_id"),
    column("KIND", "kind"),
    column("QUEUE", "queue"),
    column("TO", "to"),
    column("STATE", "state"),
    column("DONE", "done"),
    column("FAILED", "failed"),
    column("BEGAN", "create_time"),
];

const DETAILS: [Column; 14] = [
    column("OPERATION", "operation_id"),
    column("KIND", "kind"),
    column("QUEUE", "queue"),
    column("TO", "to"),
    column("STATE", "state"),
    column("EXAMINED", "examined"),
    column("OF", "total"),
    column("MATCHED", "matched"),
    column("DONE", "done"),
    column("FAILED", "failed"),
    column("WHY", "failed_reasons"),
    column("ERROR", "error"),
    column("BEGAN", "create_time"),
    column("ENDED", "end_time"),
];

impl OperationCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let client = globals.connect().await?;
            match self {
                Self::List => list(&client, globals).await,
                Self::Get(args) => show(&client.get_operation(&args.id).await?, globals),
                Self::Cancel(args) => show(&client.cancel_operation(&args.id).await?, globals),
                Self::Wait(args) => wait(&client, globals, &args.id).await,
            }
        })
    }
}

async fn list(client: &Client, globals: &Globals) -> Outcome {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let page = client.list_operations(PAGE_SIZE, &token).await?;
        items.extend(page.items.iter().map(|operation| item(operation, globals)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    globals.output().list(&LIST, items)?;
    Ok(Exit::Ok)
}

fn show(operation: &Operation, globals: &Globals) -> Outcome {
    globals.output().item(&DETAILS, item(operation, globals))?;
    Ok(Exit::Ok)
}

/// How an operation is begun, and whether it is waited for.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct BulkArgs {
    /// Messages a second at most; as fast as it goes where it is not said.
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    rate: f64,
    /// Messages at most.
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    limit: u64,
    /// Say how many match, and do nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Wait until it has ended; the broker goes on in any case.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

impl BulkArgs {
    /// Whether anything is said of it.
    pub(in crate::cli) fn is_said(&self) -> bool {
        self.rate != 0.0 || self.limit != 0 || self.dry_run || self.wait
    }

    /// What is said of it.
    pub(in crate::cli) fn options(&self) -> OperationOptions {
        OperationOptions {
            max_rate: self.rate,
            limit: self.limit,
            count_only: self.dry_run,
            reset_attempts: false,
        }
    }

    /// Shows an operation that was begun; waits for its end where that was asked for.
    pub(in crate::cli) async fn follow(
        &self,
        globals: &Globals,
        client: &Client,
        begun: &Operation,
    ) -> Outcome {
        let id = &begun.operation_id;
        if id.is_empty() {
            return show_count(begun.matched, !begun.is_running(), globals);
        }
        if self.wait {
            return wait(client, globals, id).await;
        }
        if begun.is_running() && !globals.quiet {
            say(&format!(
                "{id} goes on by itself: `qbroker operation show {id}` says how far it is, \
                 `qbroker operation wait {id}` waits for its end"
            ));
        }
        show(begun, globals)
    }

    /// Shows what there would be to show had it matched nothing, where there is no queue to begin it on.
    pub(in crate::cli) fn nothing(&self, globals: &Globals, work: &Work<'_>) -> Outcome {
        if self.dry_run {
            return show_count(0, true, globals);
        }
        globals.output().item(&DETAILS, work.ended(globals))?;
        Ok(Exit::Ok)
    }
}

/// What an operation would have done, had there been a queue.
#[derive(Debug)]
pub(in crate::cli) struct Work<'a> {
    kind: &'static str,
    pub(in crate::cli) queue: &'a str,
    to: Option<&'a str>,
}

impl<'a> Work<'a> {
    /// To move messages, back to their source queues where none is named.
    pub(in crate::cli) fn of_move(queue: &'a str, to: Option<&'a str>) -> Self {
        Self { kind: MOVE, queue, to }
    }

    /// To delete them.
    pub(in crate::cli) fn of_delete(queue: &'a str) -> Self {
        Self { kind: DELETE, queue, to: None }
    }

    /// The same keys as of an operation; it has no id and no times, for there was none.
    fn ended(&self, globals: &Globals) -> Item {
        let Self { kind, queue, to } = *self;
        let to_sources = kind == MOVE && globals.output().has_columns();
        object(json!({
            "operation_id": null,
            "kind": kind,
            "queue": queue,
            "to": to.or_else(|| to_sources.then_some(THEIR_SOURCES)),
            "state": "succeeded",
            "examined": 0,
            "total": 0,
            "matched": 0,
            "done": 0,
            "failed": 0,
            "failed_reasons": {},
            "error": null,
            "create_time": null,
            "end_time": null,
        }))
    }
}

const DELETE: &str = "delete";
const MOVE: &str = "move";

/// What people are told where messages go back to.
const THEIR_SOURCES: &str = "(their sources)";

/// How many match, where nothing is to be done; `all` says that none was left uncounted.
fn show_count(matched: u64, all: bool, globals: &Globals) -> Outcome {
    let columns = [column("MATCHED", "matched"), column("ALL", "all")];
    globals.output().item(&columns, object(json!({"matched": matched, "all": all})))?;
    Ok(Exit::Ok)
}

/// How many match, in words, before they are gone.
pub(in crate::cli) fn counted(operation: &Operation) -> String {
    let at_least = if operation.is_running() { "at least " } else { "" };
    format!("{at_least}{}", operation.matched)
}

/// Waits for the end. Exits with 3 where some messages were refused, and with 65 where all were or it
/// could not go on.
async fn wait(client: &Client, globals: &Globals, id: &str) -> Outcome {
    let bar = progress(globals);
    let ended = client.wait_operation(id, |operation| {
        bar.set_length(operation.total);
        bar.set_position(operation.examined.min(operation.total));
        let Operation { done, failed, .. } = operation;
        bar.set_message(format!("{} done, {} failed", HumanCount(*done), HumanCount(*failed)));
    });
    let ended = ended.await;
    bar.finish_and_clear();
    let ended = ended?;
    show(&ended, globals)?;
    if let Some(why) = &ended.error {
        say(&format!("{id}: {}: {}", why.reason, why.message));
    }
    Ok(match ended.state {
        OperationState::Failed if ended.done == 0 => Exit::Data,
        OperationState::Failed | OperationState::Canceled => Exit::Partial,
        _ if ended.failed == 0 => Exit::Ok,
        _ if ended.done == 0 => Exit::Data,
        _ => Exit::Partial,
    })
}

/// On stderr, and only where that is a terminal.
fn progress(globals: &Globals) -> ProgressBar {
    if globals.quiet {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {percent:>3} %  {msg}  {elapsed}";
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    ProgressBar::new(0).with_style(style)
}

fn item(operation: &Operation, globals: &Globals) -> Item {
    let kind = match operation.kind {
        OperationKind::Delete => DELETE,
        OperationKind::Move => MOVE,
        _ => "unknown",
    };
    let to_sources =
        operation.kind == OperationKind::Move && operation.destination_queue.is_empty();
    let to = match operation.destination_queue.as_str() {
        "" if to_sources && globals.output().has_columns() => Some(THEIR_SOURCES),
        "" => None,
        queue => Some(queue),
    };
    let state = match operation.state {
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Canceled => "canceled",
        _ => "unknown",
    };
    let error = operation.error.as_ref().map(|why| format!("{}: {}", why.reason, why.message));
    let reasons: std::collections::BTreeMap<_, _> = operation.failed_reasons.iter().collect();
    object(json!({
        "operation_id": operation.operation_id,
        "kind": kind,
        "queue": operation.queue,
        "to": to,
        "state": state,
        "examined": operation.examined,
        "total": operation.total,
        "matched": operation.matched,
        "done": operation.done,
        "failed": operation.failed,
        "failed_reasons": reasons,
        "error": error,
        "create_time": time(operation.create_time),
        "end_time": time(operation.end_time),
    }))
}

fn object(value: Value) -> Item {
    let Value::Object(item) = value else { unreachable!("callers make objects") };
    item
}
