//! Publishing: a stream of numbered batches, each stored exactly once, over reconnects too.

mod batch;
mod outbox;
mod receipt;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::connection::{Client, MESSAGE_BYTES_MAX};
use crate::driver::Handle;
use crate::error::Error;
use crate::group::Member;
use crate::message::OutgoingMessage;
use outbox::Outbox;
pub use receipt::{BatchReceipt, PendingBatch, PendingReceipt, Receipt};

/// Options of a [`Publisher`], from [`Client::publisher`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `open`"]
pub struct PublisherBuilder {
    client: Client,
    queue: String,
    unconfirmed_bytes_max: usize,
}

impl Client {
    /// A publisher of messages to `queue`; messages may name another.
    pub fn publisher(&self, queue: impl Into<String>) -> PublisherBuilder {
        PublisherBuilder {
            client: self.clone(),
            queue: queue.into(),
            unconfirmed_bytes_max: 32 * 1024 * 1024,
        }
    }
}

impl PublisherBuilder {
    /// How many bytes may be offered and not yet answered; further offers wait.
    ///
    /// Default: 32 MiB; less than 16 MiB, the largest batch, counts as that.
    pub fn unconfirmed_bytes_max(mut self, bytes: usize) -> Self {
        self.unconfirmed_bytes_max = bytes.clamp(MESSAGE_BYTES_MAX, u32::MAX as usize);
        self
    }

    /// Opens the publisher's stream and returns once the broker has taken it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where the broker does not, else what kept the client from reaching it
    /// within the request timeout.
    pub async fn open(self) -> Result<Publisher, Error> {
        let budget = Arc::new(Semaphore::new(self.unconfirmed_bytes_max));
        let outbox = Outbox::new(self.queue, Arc::clone(&budget));
        let handle = Arc::new(Handle::start(self.client, outbox).await?);
        Ok(Publisher { handle, budget })
    }
}

/// Publishes messages on one stream, many of them on their way at once; cheap to clone.
///
/// A receipt means that the message is on disk. When the connection breaks or the broker restarts,
/// the publisher comes back, learns what was stored and sends the rest again: every message is
/// stored once. Messages offered meanwhile wait, within the bound of
/// [`PublisherBuilder::unconfirmed_bytes_max`].
///
/// What is offered at the same time shares batches, without a timer: a lone message leaves at once,
/// a thousand leave together. Messages that one task offers one after the other are stored in that
/// order, but where the broker refuses one that another task offered with them: what only shared its
/// batch is sent again, behind what left meanwhile.
///
/// When the last clone is dropped, what was offered is still sent if the broker is there; use
/// [`Publisher::close`] to know.
///
/// ```no_run
/// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
/// use qbroker_client::OutgoingMessage;
///
/// let publisher = client.publisher("mails").open().await?;
///
/// // One message, confirmed.
/// let receipt = publisher.publish(OutgoingMessage::new("hello")).await?;
/// println!("{} is on disk", receipt.message_id);
///
/// // Many on their way at once.
/// let mut pending = Vec::new();
/// for number in 0..10_000 {
///     pending.push(publisher.offer(OutgoingMessage::new(number.to_string())).await?);
/// }
/// for receipt in pending {
///     receipt.await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Publisher {
    handle: Arc<Handle<Outbox>>,
    budget: Arc<Semaphore>,
}

impl Publisher {
    /// Publishes one message and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: it is not stored. [`Error::OutcomeUnknown`]: it may or may not be.
    /// [`Error::Closed`] and what ended the publisher: it is not stored if it was never sent.
    pub async fn publish(&self, message: OutgoingMessage) -> Result<Receipt, Error> {
        self.offer(message).await?.await
    }

    /// Hands in one message and returns what to wait for, as soon as there is room.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where the publisher was closed or has failed, [`Error::Option`] for a
    /// message larger than any broker takes.
    pub async fn offer(&self, message: OutgoingMessage) -> Result<PendingReceipt, Error> {
        let cost = message.cost();
        self.reserve(cost).await?;
        let message_id = message.0.message_id.clone();
        let offered = self.handle.shared.change(|outbox| outbox.offer(message, cost));
        let (group, member) = offered.inspect_err(|_| self.budget.add_permits(cost))?;
        Ok(PendingReceipt { member: Member::new(group, member), message_id })
    }

    /// Publishes a batch, all or nothing, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// As [`Publisher::publish`], for the batch as a whole; metadata "index" of a refusal is the
    /// position of the message that caused it.
    pub async fn publish_batch(&self, batch: Vec<OutgoingMessage>) -> Result<BatchReceipt, Error> {
        self.offer_batch(batch).await?.await
    }

    /// Hands in a batch and returns what to wait for, as soon as there is room.
    ///
    /// Batches of about 100 messages are the cheapest way to publish; the broker takes 1,000 at most.
    ///
    /// # Errors
    ///
    /// As [`Publisher::offer`].
    pub async fn offer_batch(&self, batch: Vec<OutgoingMessage>) -> Result<PendingBatch, Error> {
        let cost = batch.iter().map(OutgoingMessage::cost).sum();
        self.reserve(cost).await?;
        let offered = self.handle.shared.change(|outbox| outbox.offer_batch(batch, cost));
        let group = offered.inspect_err(|_| self.budget.add_permits(cost))?;
        Ok(PendingBatch::new(group))
    }

    /// Accepts nothing more and waits until everything offered is answered.
    ///
    /// # Errors
    ///
    /// What ended the publisher before that; each pending receipt has its own answer.
    pub async fn close(&self) -> Result<(), Error> {
        self.handle.shared.change(Outbox::close);
        self.handle.ended().await
    }

    /// Waits for room for `cost` bytes; they are given back when the batch they are in is answered.
    async fn reserve(&self, cost: usize) -> Result<(), Error> {
        if MESSAGE_BYTES_MAX < cost {
            return Err(Error::Option(format!(
                "{cost} bytes at once, more than the {MESSAGE_BYTES_MAX} that any broker takes"
            )));
        }
        let bytes = u32::try_from(cost).expect("it is below 16 MiB");
        let permit = self.budget.acquire_many(bytes).await;
        permit.expect("the budget is never closed").forget();
        Ok(())
    }
}
