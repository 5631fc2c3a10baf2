//! Consuming what is there, by one consumer or many together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::system::{Consumer, Fallible};
use crate::workload::Load;

/// Takes and acks until the load is done, or as many as `all` says once that is known; how many.
///
/// # Errors
///
/// Anything that goes wrong with one of the consumers.
pub(crate) async fn take<C: Consumer>(
    consumers: Vec<C>,
    load: Load,
    all: watch::Receiver<Option<u64>>,
) -> Fallible<u64> {
    let (done, _) = watch::channel(false);
    let shared = Arc::new(Shared { load, all, taken: AtomicU64::new(0), done });
    let mut tasks = JoinSet::new();
    for consumer in consumers {
        tasks.spawn(take_share(consumer, Arc::clone(&shared)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a consumer panicked")??;
    }
    Ok(shared.taken.load(Ordering::Relaxed))
}

/// What the consumers have done together.
#[derive(Debug)]
struct Shared {
    load: Load,
    all: watch::Receiver<Option<u64>>,
    taken: AtomicU64,
    /// Wakes those that wait for what others have taken.
    done: watch::Sender<bool>,
}

async fn take_share<C: Consumer>(mut consumer: C, shared: Arc<Shared>) -> Fallible<()> {
    let mut all = shared.all.clone();
    let mut done = shared.done.subscribe();
    let start = Instant::now();
    while start.elapsed() < shared.load.duration_max {
        let known = *all.borrow_and_update();
        if known.is_some_and(|all| all <= shared.taken.load(Ordering::Relaxed)) {
            shared.done.send_replace(true);
            break;
        }
        tokio::select! {
            batch = consumer.receive() => {
                let batch = batch?;
                let messages = C::check(&batch, &shared.load.payload)?;
                shared.taken.fetch_add(messages, Ordering::Relaxed);
                consumer.ack(batch).await?;
            }
            changed = all.changed(), if known.is_none() => changed.context("nobody publishes")?,
            _ = done.changed() => break,
        }
    }
    consumer.acked().await
}
