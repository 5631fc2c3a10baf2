//! One message at a time: published, confirmed, delivered, acked, before the next.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;

use super::numbered;
use super::traffic::bounded;
use crate::qbroker::Qbroker;
use crate::samples::histogram;
use crate::system::{Consumer as _, Fallible, Publisher as _, System as _};

/// Nanoseconds of each step.
#[derive(Debug)]
pub(crate) struct Seen {
    /// From the publish to its confirm.
    pub(crate) confirm: Histogram<u64>,
    /// From the publish to the delivery.
    pub(crate) deliver: Histogram<u64>,
    /// From the ack to its answer.
    pub(crate) ack: Histogram<u64>,
}

/// Sends messages around for so long, one at least.
pub(crate) async fn run(broker: &Qbroker, payload_bytes: u32, length: Duration) -> Fallible<Seen> {
    const QUEUE: &str = "idle";
    let mut publisher = broker.publisher(QUEUE).await?;
    let mut consumer = broker.consumer(QUEUE, 1).await?;
    let mut seen = Seen { confirm: histogram(), deliver: histogram(), ack: histogram() };
    let start = Instant::now();
    for number in 0.. {
        let payload = numbered::payload(number, payload_bytes);
        let begin = Instant::now();
        publisher.offer(&payload, 1).await?;
        let confirmed = async {
            publisher.confirmed().await?;
            nanoseconds(begin)
        };
        let delivered = async {
            let batch = consumer.receive().await?;
            Ok((nanoseconds(begin)?, batch))
        };
        let (confirmed, (delivered, batch)) =
            bounded(async { tokio::try_join!(confirmed, delivered) }).await.context("idle")?;
        let [delivery] = &batch[..] else { anyhow::bail!("{} deliveries of one", batch.len()) };
        ensure!(numbered::number(delivery)? == number, "another message came: {delivery:?}");
        let begin = Instant::now();
        consumer.ack(batch).await?;
        bounded(consumer.acked()).await?;
        seen.ack.record(nanoseconds(begin)?)?;
        seen.confirm.record(confirmed)?;
        seen.deliver.record(delivered)?;
        if length <= start.elapsed() {
            break;
        }
    }
    Ok(seen)
}

fn nanoseconds(since: Instant) -> Fallible<u64> {
    Ok(u64::try_from(since.elapsed().as_nanos())?)
}
