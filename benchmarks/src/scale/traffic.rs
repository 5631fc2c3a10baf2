//! Messages through the broker: on one publish stream in batches, on one consume stream.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use qbroker_client::{Delivery, OutgoingMessage};

use super::progress::Progress;
use crate::qbroker::{Consumer, Publisher};
use crate::row::Row;
use crate::system::{Consumer as _, Fallible, Publisher as _};

/// Messages in a publish request, where nothing else is said.
pub(crate) const BATCH: u64 = 100;

/// Messages in flight: as in the rows of `quick` that publish or consume in batches.
pub(crate) fn in_flight() -> u32 {
    Row::PublishBatches.in_flight()
}

/// A wait that takes so long is for something that was lost.
pub(crate) const STUCK: Duration = Duration::from_secs(300);

/// Content of so many bytes.
pub(crate) fn payload(bytes: u32) -> Bytes {
    Bytes::from(vec![7; bytes as usize])
}

/// Waits no longer than anything may take.
pub(crate) async fn bounded<T>(waiting: impl Future<Output = Fallible<T>>) -> Fallible<T> {
    tokio::time::timeout(STUCK, waiting).await.with_context(|| format!("none in {STUCK:?}"))?
}

/// Publishes the messages of these numbers in batches, and waits until all are confirmed.
///
/// # Errors
///
/// One is not stored, or not answered.
pub(crate) async fn publish(
    publisher: &mut Publisher,
    numbers: Range<u64>,
    in_flight: u32,
    progress: &Progress,
    make: impl Fn(u64) -> OutgoingMessage,
) -> Fallible<()> {
    let count = numbers.end - numbers.start;
    let (mut offered, mut confirmed) = (0, 0);
    while confirmed < count {
        while offered < count && offered + BATCH <= confirmed + u64::from(in_flight) {
            let batch = BATCH.min(count - offered);
            let first = numbers.start + offered;
            publisher.offer_messages((first..first + batch).map(&make).collect()).await?;
            offered += batch;
        }
        let newly = bounded(publisher.confirmed()).await.context("a confirm is missing")?;
        progress.add(newly);
        confirmed += newly;
    }
    ensure!(confirmed == count, "{confirmed} messages confirmed of {count}");
    Ok(())
}

/// Takes so many messages that never were with anybody, acks them, and waits until that is on disk.
///
/// # Errors
///
/// One comes twice, or out of order, or not at all.
pub(crate) async fn drain(
    consumer: &mut Consumer,
    order: &mut Order,
    messages: u64,
    progress: &Progress,
) -> Fallible<()> {
    let mut taken = 0;
    while taken < messages {
        let batch = bounded(consumer.receive()).await.context("a delivery is missing")?;
        order.check(&batch)?;
        taken += batch.len() as u64;
        progress.add(batch.len() as u64);
        consumer.ack(batch).await?;
    }
    ensure!(taken == messages, "{taken} messages delivered of {messages}");
    bounded(consumer.acked()).await.context("the answer to an ack is missing")
}

/// What one queue delivers to one consumer comes in the order of the log, each message once.
#[derive(Debug, Default)]
pub(crate) struct Order {
    latest: u64,
}

impl Order {
    /// Looks at the next deliveries.
    ///
    /// # Errors
    ///
    /// One was delivered before, or overtook another.
    pub(crate) fn check(&mut self, batch: &[Delivery]) -> Fallible<()> {
        for delivery in batch {
            let sequence = delivery.message.sequence;
            ensure!(self.latest < sequence, "{sequence} was delivered after {}", self.latest);
            self.latest = sequence;
        }
        Ok(())
    }
}
