//! The Rust client of qbroker: publish with confirms, consume,
//! settle, administer.
//!
//! A [`Client`] is a few connections to one broker. From it come a [`Publisher`], a [`Consumer`],
//! and single calls. All of them live through broken connections and restarts of the broker:
//!
//! - A receipt means that the message is on disk. A publisher that comes back learns what was
//!   stored and sends only the rest again: every message is stored once.
//! - A consumer that comes back names the leases it holds: jobs that run go on and are settled
//!   afterwards. If it stays away longer than its session's grace, the leases are lost, and
//!   [`Delivery::lost`] tells whoever works on them.
//! - Settling tells when it is durable, and is safe to repeat.
//!
//! ```no_run
//! use qbroker_client::{Client, Failure, OutgoingMessage};
//!
//! # async fn send_mail(payload: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn example() -> Result<(), qbroker_client::Error> {
//! let client = Client::connect("http://127.0.0.1:7650").await?;
//!
//! let publisher = client.publisher("mails").open().await?;
//! let receipt = publisher.publish(OutgoingMessage::new("to: ann@example.org")).await?;
//! println!("{} is on disk", receipt.message_id);
//!
//! let consumer = client.consumer(["mails"]).window(16).open().await?;
//! while let Some(delivery) = consumer.next().await? {
//!     match send_mail(&delivery.message.payload).await {
//!         Ok(()) => delivery.ack().await?,
//!         Err(error) => delivery.nack(Failure::new("io", error.to_string())).await?,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! # Speed
//!
//! Publishes and settlements that are made at the same time travel together, without a timer: do
//! not wait for one before you make the next. [`Publisher::offer_batch`] with about 100 messages,
//! [`Consumer::next_batch`] and [`Consumer::ack_all`] are the cheapest: one lock and one answer for
//! the whole batch. Payloads are [`Bytes`](bytes::Bytes) and are not copied: a received one keeps
//! the piece of the connection's buffer alive that it arrived in (up to about 256 KiB), so copy the
//! small ones that you keep for long.
//!
//! # Errors
//!
//! [`Error`] says what can be done: a [`Refusal`] did nothing and carries the broker's [`Reason`];
//! [`Error::is_retryable`] says whether trying again can help.
#![warn(missing_docs)]

mod admin;
mod backoff;
mod calls;
mod connection;
mod consumer;
mod driver;
mod error;
mod group;
mod message;
mod options;
mod publisher;
mod reason;
mod schedule;
mod settlement;
mod state;
mod stream;
mod time;

pub use admin::{
    Attempt, ConnectedConsumer, ConsumerQuery, Event, EventKind, EventQuery, Events, FindBy,
    FindQuery, FoundMessage, FoundPage, Limit, ListedMessage, MessageFilter, MessageQuery,
    MessageState, MessageUpdate, Operation, OperationKind, OperationOptions, OperationState,
    Overflow, Page, Queue, QueueOrder, QueuePolicy, QueueQuery, QueueSpec, QueueState, QueueStats,
    QueueUpdate, RetryPolicy, ServerInfo, StatsRound, StatsWatch, Trace, WatchedQueue,
};
pub use connection::Client;
pub use consumer::{
    Consumer, ConsumerBuilder, Delivery, LostReason, QueueShare, Settling, SettlingAll,
};
pub use error::{Error, Reason, Refusal};
pub use message::{DeadLetterInfo, DeadLetterReason, Failure, Leased, Message, OutgoingMessage};
pub use options::ClientBuilder;
pub use publisher::{
    BatchReceipt, PendingBatch, PendingReceipt, Publisher, PublisherBuilder, Receipt,
};
pub use schedule::{CatchUp, Schedule, ScheduleQuery, ScheduleSpec};
pub use settlement::{Outcome, Patch, Settlement};
pub use state::{
    Barrier, BarrierMember, BarrierState, Counted, CounterChange, Holder, NewBarrier, State,
};
