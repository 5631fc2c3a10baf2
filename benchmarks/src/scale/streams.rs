//! Many consume streams at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::numbered::Seen;
use super::progress::Progress;
use super::traffic::bounded;
use crate::qbroker::Consumer;
use crate::system::{Consumer as _, Fallible};

/// What the streams have taken together.
struct Shared {
    seen: Seen,
    messages: u64,
    taken: AtomicU64,
    all: watch::Sender<bool>,
    progress: Arc<Progress>,
}

/// Takes the messages numbered below `messages` by these streams together, each once, acks them, and
/// waits until that is on disk. The streams were paused: nothing was delivered before all were open.
///
/// # Errors
///
/// A message does not come, or comes twice.
pub(crate) async fn drain_all(
    paused: Vec<qbroker_client::Consumer>,
    window: u32,
    messages: u64,
    progress: Arc<Progress>,
) -> Fallible<()> {
    let (all, _) = watch::channel(false);
    let seen = Seen::below(messages)?;
    let shared = Arc::new(Shared { seen, messages, taken: AtomicU64::new(0), all, progress });
    let mut tasks = JoinSet::new();
    for consumer in paused {
        consumer.set_window(window);
        tasks.spawn(drain(Consumer::new(consumer), Arc::clone(&shared)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a consumer panicked")??;
    }
    let taken = shared.taken.load(Ordering::Relaxed);
    ensure!(taken == messages, "{taken} messages delivered of {messages}");
    Ok(())
}

async fn drain(mut consumer: Consumer, shared: Arc<Shared>) -> Fallible<()> {
    let mut all = shared.all.subscribe();
    loop {
        let batch = tokio::select! {
            batch = bounded(consumer.receive()) => batch.context("a delivery is missing")?,
            _ = all.wait_for(|all| *all) => break,
        };
        shared.seen.mark(&batch)?;
        let messages = batch.len() as u64;
        shared.progress.add(messages);
        consumer.ack(batch).await?;
        if shared.taken.fetch_add(messages, Ordering::Relaxed) + messages == shared.messages {
            shared.all.send_replace(true);
        }
    }
    bounded(consumer.acked()).await.context("the answer to an ack is missing")
}
