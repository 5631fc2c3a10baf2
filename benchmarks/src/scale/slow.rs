//! A slow consumer beside the load: it has a backlog of its own and takes a message now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use qbroker_client::{Consumer, OutgoingMessage};
use tokio::task::JoinSet;

use super::progress::Progress;
use super::traffic::{self, in_flight, publish};
use crate::qbroker::Qbroker;
use crate::system::{Fallible, System as _};

/// Runs until it is ended.
#[derive(Debug)]
pub(crate) struct SlowConsumer {
    task: JoinSet<Fallible<()>>,
    taken: Arc<AtomicU64>,
}

const QUEUE: &str = "slow";

/// More than it will ever take.
const BACKLOG: u64 = 20_000;

/// What it lets lie in its hands.
const WINDOW: u32 = 1_000;

const THINKS_FOR: Duration = Duration::from_millis(100);

impl SlowConsumer {
    /// Fills its queue and begins.
    pub(crate) async fn start(
        broker: &Qbroker,
        payload_bytes: u32,
        progress: &Progress,
    ) -> Fallible<Self> {
        progress.begin("the slow consumer's backlog", Some(BACKLOG));
        let mut publisher = broker.publisher(QUEUE).await?;
        let payload = traffic::payload(payload_bytes);
        let make = |_| OutgoingMessage::new(payload.clone());
        publish(&mut publisher, 0..BACKLOG, in_flight(), progress, make).await?;
        let consumer = broker.client().consumer([QUEUE]).window(WINDOW).open().await?;
        let taken = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        task.spawn(work(consumer, Arc::clone(&taken)));
        Ok(Self { task, taken })
    }

    /// Ends it; how many messages it has taken.
    ///
    /// # Errors
    ///
    /// It failed, or was cut off for its slowness.
    pub(crate) async fn end(mut self) -> Fallible<u64> {
        if let Some(ended) = self.task.try_join_next() {
            ended.context("the slow consumer panicked")?.context("the slow consumer")?;
        }
        Ok(self.taken.load(Ordering::Relaxed))
    }
}

async fn work(consumer: Consumer, taken: Arc<AtomicU64>) -> Fallible<()> {
    while let Some(delivery) = consumer.next().await? {
        tokio::time::sleep(THINKS_FOR).await;
        delivery.ack().await?;
        taken.fetch_add(1, Ordering::Relaxed);
    }
    anyhow::bail!("the broker drained it")
}
