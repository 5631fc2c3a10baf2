//! A million messages wait: the memory they take, and how long a start takes after a crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::peer::Peer;
use crate::process_tree::{self, Memory};
use crate::row::Row;
use crate::system::{Consumer as _, Fallible};
use crate::workload::{self, Load};

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Backlog {
    pub(crate) messages: u64,
    /// From the first message offered to the last confirm.
    pub(crate) fill_seconds: f64,
    /// Of the server, while it holds them, before it is killed.
    pub(crate) memory: Memory,
    /// From the start of the program after SIGKILL until a consumer has the first message.
    pub(crate) restart_seconds: f64,
}

/// The queue that holds them.
const QUEUE: &str = "backlog";

/// Slower than the slowest disk: 500 messages a second for a million of them.
const STUCK: Duration = Duration::from_secs(2_000);

/// What the restarted broker may send at once; the first message is what counts.
const WINDOW: u32 = 100;

/// Publishes `messages`, kills the server, starts it again and waits for the first delivery.
pub(crate) async fn measure<P, S, F>(start: S, messages: u64, load: Load) -> Fallible<Backlog>
where
    P: Peer,
    S: Fn() -> F,
    F: Future<Output = Fallible<Arc<P>>>,
{
    let load = Load { messages_max: messages, duration_max: Duration::MAX, ..load };
    let payload = load.payload.clone();
    let peer = start().await?;
    let server = peer.server().clone();
    let _end = server.end_on_drop();
    let begin = Instant::now();
    // On a worker of the runtime, as the measured rows are.
    let filling = {
        let (peer, load) = (Arc::clone(&peer), load);
        async move { workload::fill(Row::PublishBatches, &*peer, QUEUE, load).await }
    };
    let mut task = tokio::task::JoinSet::new();
    task.spawn(filling);
    let filled = tokio::time::timeout(STUCK, task.join_next()).await.context("no end of it")?;
    // Who published stays connected until the memory is read: PostgreSQL's is shared, and what no
    // process of it has touched belongs to none.
    let (filled, publisher) = filled.expect("one task").context("filling panicked")??;
    let fill_seconds = begin.elapsed().as_secs_f64();
    ensure!(filled == messages, "{filled} confirmed of {messages}");
    tokio::time::sleep(P::SETTLES_WITHIN.saturating_sub(begin.elapsed())).await;
    let memory = process_tree::memory(server.id())?;
    drop((publisher, peer));
    server.kill();

    let begin = Instant::now();
    let peer = start().await?;
    let _end = peer.server().end_on_drop();
    // Some listen before all queues are back: RabbitMQ's quorum queues first elect their leaders.
    let mut consumer = peer.server().until(|| peer.consumer(QUEUE, WINDOW)).await?;
    let first = tokio::time::timeout(STUCK, consumer.receive()).await.context("no delivery")??;
    let restart_seconds = begin.elapsed().as_secs_f64();
    let delivered = P::Consumer::check(&first, &payload).context("after the restart")?;
    ensure!(0 < delivered, "the first delivery after the restart is empty");
    Ok(Backlog { messages, fill_seconds, memory, restart_seconds })
}
