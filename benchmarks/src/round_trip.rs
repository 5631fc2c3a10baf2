//! One message at a time around, for whatever has queues.

use anyhow::{Context as _, ensure};
use bytes::Bytes;

use crate::system::{Consumer, Fallible, Publisher, RoundTrip};

/// A publisher and a consumer of one queue that take turns.
#[derive(Debug)]
pub(crate) struct Trip<P, C: Consumer> {
    publisher: P,
    consumer: C,
    delivered: Option<C::Batch>,
}

impl<P: Publisher, C: Consumer> Trip<P, C> {
    /// Of two of the same queue, with nothing in it.
    pub(crate) fn new(publisher: P, consumer: C) -> Self {
        Self { publisher, consumer, delivered: None }
    }
}

impl<P: Publisher, C: Consumer> RoundTrip for Trip<P, C> {
    async fn there(&mut self, payload: &Bytes) -> Fallible<()> {
        self.publisher.offer(payload, 1).await?;
        let both = tokio::try_join!(self.publisher.confirmed(), self.consumer.receive());
        let (confirmed, batch) = both?;
        let delivered = C::check(&batch, payload)?;
        ensure!(
            (confirmed, delivered) == (1, 1),
            "of 1 message {confirmed} confirmed, {delivered} delivered"
        );
        self.delivered = Some(batch);
        Ok(())
    }

    async fn back(&mut self) -> Fallible<()> {
        let batch = self.delivered.take().context("nothing was delivered")?;
        self.consumer.ack(batch).await?;
        self.consumer.acked().await
    }
}
