//! The Rust client of qbroker.
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
mod settlement;
mod stream;
mod time;

pub use admin::{
    Limit, ListedMessage, MessageQuery, MessageState, Page, Queue, QueuePolicy, QueueQuery,
    QueueSpec, QueueStats, QueueUpdate, RetryPolicy, ServerInfo,
};
pub use connection::Client;
pub use consumer::{Consumer, ConsumerBuilder, Delivery, LostReason, Settling, SettlingAll};
pub use error::{Error, Reason, Refusal};
pub use message::{DeadLetterInfo, DeadLetterReason, Failure, Leased, Message, OutgoingMessage};
pub use options::ClientBuilder;
pub use publisher::{
    BatchReceipt, PendingBatch, PendingReceipt, Publisher, PublisherBuilder, Receipt,
};
pub use settlement::Outcome;
