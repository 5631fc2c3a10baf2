//! Publishes the jobs in batches, many of them on their way at once.

use std::collections::VecDeque;

use anyhow::ensure;
use qbroker_client::{Client, PendingBatch};

use crate::Fallible;
use crate::jobs::{Job, Jobs, RUST_QUEUE};
use crate::tally::Tally;

/// Messages in one request: the cheapest way, see `Publisher::offer_batch`.
const BATCH_MESSAGES: usize = 100;

/// Batches offered and not yet confirmed, at most.
const BATCHES_PENDING_MAX: usize = 40;

/// Publishes every job and returns once all of them are on disk.
///
/// The publisher rides through the kills by itself: where the broker's answer was lost, it asks
/// what was stored and sends the rest. So nothing is stored twice, and nobody has to look for it.
///
/// # Errors
///
/// The broker refuses a batch, or finds a message in it that it has already.
pub(crate) async fn publish(client: &Client, jobs: &Jobs, tally: &Tally) -> Fallible<()> {
    let publisher = client.publisher(RUST_QUEUE).open().await?;
    let mut pending = VecDeque::new();
    for batch in jobs.batches(BATCH_MESSAGES) {
        if pending.len() == BATCHES_PENDING_MAX {
            let oldest = pending.pop_front().expect("the bound is not 0");
            confirm(oldest, tally).await?;
        }
        pending.push_back(publisher.offer_batch(batch.iter().map(Job::message).collect()).await?);
    }
    for batch in pending {
        confirm(batch, tally).await?;
    }
    Ok(publisher.close().await?)
}

async fn confirm(batch: PendingBatch, tally: &Tally) -> Fallible<()> {
    let receipt = batch.await?;
    let again = receipt.duplicates().len();
    ensure!(again == 0, "{again} messages of a batch had been stored before");
    tally.published(receipt.len());
    Ok(())
}
