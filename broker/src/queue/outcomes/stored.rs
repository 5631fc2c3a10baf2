//! The records of outcomes, and what one tells.

use prost::Message;

use crate::queue::body::StoredFailure;

/// A message that is done has its outcome, and needs its own records no more. The body is a
/// [`StoredOutcome`].
#[derive(Clone, PartialEq, Message)]
pub struct OutcomeWritten {
    #[prost(uint64, tag = "1")]
    pub birth: u64,
    /// The queue that keeps it.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
}

/// Outcomes are not kept any more.
#[derive(Clone, PartialEq, Message)]
pub struct OutcomesForgotten {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// So many of the queue's, the oldest.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Messages whose outcomes are not written at all.
    #[prost(uint64, repeated, tag = "3")]
    pub unwritten: Vec<u64>,
}

/// A message's life, told when it was over: the body of an [`OutcomeWritten`].
#[derive(Clone, PartialEq, Message)]
pub struct StoredOutcome {
    /// Empty: the id is made of the birth.
    #[prost(string, tag = "1")]
    pub message_id: String,
    #[prost(string, tag = "2")]
    pub message_type: String,
    #[prost(string, tag = "3")]
    pub correlation_id: String,
    /// In the order of the log.
    #[prost(message, repeated, tag = "4")]
    pub events: Vec<StoredEvent>,
}

/// One step of it.
#[derive(Clone, PartialEq, Message)]
pub struct StoredEvent {
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// [`crate::queue::event::EventKind::number`].
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
    /// The queue's name by then.
    #[prost(string, tag = "4")]
    pub queue: String,
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
    #[prost(uint64, tag = "6")]
    pub consumer: u64,
    #[prost(message, optional, tag = "7")]
    pub failure: Option<StoredFailure>,
    /// Where it went.
    #[prost(string, tag = "8")]
    pub to_queue: String,
    /// Why it was dead-lettered.
    #[prost(int32, tag = "9")]
    pub reason: i32,
}
