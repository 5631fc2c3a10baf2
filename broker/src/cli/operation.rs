//! `qbroker operation`: work on many messages, which the broker does by itself.

use clap::{Args, Subcommand};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use qbroker::exit::Exit;
use qbroker_client::{Client, Operation, OperationKind, OperationOptions, OperationState};
use serde_json::json;

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
        if begun.operation_id.is_empty() {
            let columns = [column("MATCHED", "matched"), column("ALL", "all")];
            let counted = json!({"matched": begun.matched, "all": !begun.is_running()});
            let item = counted.as_object().expect("it was just made as an object").clone();
            globals.output().item(&columns, item)?;
            return Ok(Exit::Ok);
        }
        match self.wait {
            true => wait(client, globals, &begun.operation_id).await,
            false => show(begun, globals),
        }
    }
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
        OperationKind::Delete => "delete",
        OperationKind::Move => "move",
        _ => "unknown",
    };
    let to_sources =
        operation.kind == OperationKind::Move && operation.destination_queue.is_empty();
    let to = match operation.destination_queue.as_str() {
        "" if to_sources && globals.output().has_columns() => Some("(their sources)"),
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
    let item = json!({
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
    });
    item.as_object().expect("it was just made as an object").clone()
}
