//! What is measured: the few things that a workload asks of every broker and of the floor alike.

use std::future::Future;

use bytes::Bytes;

use crate::process::ServerProcess;

/// A server and its client, ready for workloads.
///
/// A queue is made when it is first named. The floor knows none and takes any name.
pub(crate) trait System: Send + Sync + 'static {
    type Publisher: Publisher;
    type Consumer: Consumer;
    type RoundTrip: RoundTrip;

    /// What tables call it.
    const NAME: &'static str;

    /// The process that serves.
    fn server(&self) -> &ServerProcess;

    /// A stream for publishing to `queue`.
    fn publisher(&self, queue: &str) -> impl Future<Output = Fallible<Self::Publisher>> + Send;

    /// A stream for consuming `queue` with this window.
    fn consumer(
        &self,
        queue: &str,
        window: u32,
    ) -> impl Future<Output = Fallible<Self::Consumer>> + Send;

    /// A publisher and a consumer of `queue` that take turns.
    fn round_trip(&self, queue: &str) -> impl Future<Output = Fallible<Self::RoundTrip>> + Send;

    /// Whether what is consumed must have been published before.
    fn needs_messages(&self) -> bool;

    /// Removes `queue` and what is left in it.
    fn discard(&self, queue: &str) -> impl Future<Output = Fallible<()>> + Send;
}

/// A system that takes single calls beside streams.
pub(crate) trait Unary: System {
    type Caller: Caller;

    /// Something that publishes to `queue` by single calls; clones share it.
    fn caller(&self, queue: &str) -> impl Future<Output = Fallible<Self::Caller>> + Send;
}

/// The outcome of a step; whatever goes wrong ends the benchmark.
pub(crate) type Fallible<T> = anyhow::Result<T>;

/// Publishes on one stream.
pub(crate) trait Publisher: Send + 'static {
    /// Sends one request of `messages` messages, each with this payload.
    fn offer(
        &mut self,
        payload: &Bytes,
        messages: usize,
    ) -> impl Future<Output = Fallible<()>> + Send;

    /// Waits until more of what was offered is on disk; how many messages.
    fn confirmed(&mut self) -> impl Future<Output = Fallible<u64>> + Send;
}

/// Publishes by single calls.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Publishes one message and waits until it is on disk.
    fn publish(&mut self, payload: Bytes) -> impl Future<Output = Fallible<()>> + Send;
}

/// Consumes on one stream.
pub(crate) trait Consumer: Send + 'static {
    /// Some deliveries.
    type Batch: Send;

    /// Waits for deliveries and returns those that are there. Canceling it loses nothing.
    fn receive(&mut self) -> impl Future<Output = Fallible<Self::Batch>> + Send;

    /// Whether every delivery carries this payload, and how many there are.
    ///
    /// # Errors
    ///
    /// One does not.
    fn check(batch: &Self::Batch, payload: &Bytes) -> Fallible<u64>;

    /// Acks deliveries; the acks are on their way when this returns.
    fn ack(&mut self, batch: Self::Batch) -> impl Future<Output = Fallible<()>> + Send;

    /// Waits until every ack so far is on disk.
    fn acked(&mut self) -> impl Future<Output = Fallible<()>> + Send;
}

/// Sends one message at a time around.
pub(crate) trait RoundTrip: Send + 'static {
    /// Publishes a message and waits until it is confirmed and, where the system has queues, until
    /// it is delivered too.
    fn there(&mut self, payload: &Bytes) -> impl Future<Output = Fallible<()>> + Send;

    /// Acks it and waits until that is on disk.
    fn back(&mut self) -> impl Future<Output = Fallible<()>> + Send;
}
