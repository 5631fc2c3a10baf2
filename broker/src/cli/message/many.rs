//! `qbroker message move`, and `message delete` of what a filter means.

use clap::Args;
use qbroker_client::{MessageFilter, OperationOptions};

use super::filter::{FILTER_HELP, WhichArgs};
use crate::cli::Outcome;
use crate::cli::globals::Globals;
use crate::cli::operation::{BulkArgs, counted};

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub(in crate::cli) struct MoveArgs {
    /// The queue they are in.
    queue: String,
    /// The queue they go to; it must exist.
    to: String,
    #[command(flatten)]
    which: WhichArgs,
    /// Failures and crashes begin at 0 again.
    #[arg(long)]
    reset_attempts: bool,
    #[command(flatten)]
    bulk: BulkArgs,
}

impl MoveArgs {
    /// Begins it.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let Self { queue, to, which, reset_attempts, bulk } = self;
        moved(globals, queue, Some(to), which.filter(), (*reset_attempts, bulk)).await
    }
}

/// Begins to move messages, back to their source queues where none is named.
pub(in crate::cli) async fn moved(
    globals: &Globals,
    queue: &str,
    to: Option<&str>,
    filter: MessageFilter,
    (reset_attempts, bulk): (bool, &BulkArgs),
) -> Outcome {
    let client = globals.connect().await?;
    let options = OperationOptions { reset_attempts, ..bulk.options() };
    let begun = client.move_messages(queue, to, filter, options).await?;
    bulk.follow(globals, &client, &begun).await
}

/// Begins to delete messages, once somebody has agreed.
pub(in crate::cli) async fn deleted(
    globals: &Globals,
    queue: &str,
    filter: MessageFilter,
    bulk: &BulkArgs,
) -> Outcome {
    let client = globals.connect().await?;
    if !bulk.dry_run && !globals.yes {
        let count_only = OperationOptions { count_only: true, ..bulk.options() };
        let found = client.delete_matching(queue, filter.clone(), count_only).await?;
        globals.confirm(&format!("delete {} messages of the queue {queue}", counted(&found)))?;
    }
    let begun = client.delete_matching(queue, filter, bulk.options()).await?;
    bulk.follow(globals, &client, &begun).await
}
