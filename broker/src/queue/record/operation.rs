//! The records of operations, and of the moves that they do.

use prost::Message;
use qbroker_storage::Lsn;

use crate::queue::filter::Filter;
use crate::queue::index::Cursor;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum OperationKind {
    /// Written by a newer version.
    Unknown = 0,
    Delete = 1,
    Move = 2,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum OperationState {
    Running = 0,
    Succeeded = 1,
    /// It could not go on.
    Failed = 2,
    /// Somebody ended it.
    Canceled = 3,
}

/// Work on many messages was begun; this record's LSN is its id.
#[derive(Clone, PartialEq, Message)]
pub struct OperationStarted {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    #[prost(enumeration = "OperationKind", tag = "2")]
    pub kind: i32,
    #[prost(message, required, tag = "3")]
    pub filter: Filter,
    /// Where messages are moved; empty: to their source queues.
    #[prost(string, tag = "4")]
    pub destination: String,
    #[prost(bool, tag = "5")]
    pub reset_attempts: bool,
    /// Messages a second, in thousandths; 0: as fast as it goes.
    #[prost(uint64, tag = "6")]
    pub rate: u64,
    /// Messages at most; 0: all.
    #[prost(uint64, tag = "7")]
    pub limit: u64,
    #[prost(uint64, tag = "8")]
    pub wall_ms: u64,
    /// Messages to be looked at, as far as was known by then.
    #[prost(uint64, tag = "9")]
    pub messages: u64,
    /// The queue's name, for whoever asks when the queue is gone.
    #[prost(string, tag = "10")]
    pub queue_name: String,
}

/// How far an operation is from here on.
#[derive(Clone, PartialEq, Message)]
pub struct OperationStepped {
    #[prost(uint64, tag = "1")]
    pub operation: u64,
    /// Where it looks next; unset: at the beginning.
    #[prost(message, optional, tag = "2")]
    pub after: Option<StoredCursor>,
    /// How often it has looked through the queue.
    #[prost(uint32, tag = "3")]
    pub passes: u32,
    /// It has done something since it last began to.
    #[prost(bool, tag = "4")]
    pub has_acted: bool,
    #[prost(uint64, tag = "5")]
    pub examined: u64,
    #[prost(uint64, tag = "6")]
    pub done: u64,
    #[prost(message, repeated, tag = "7")]
    pub refused: Vec<RefusedMessages>,
    #[prost(enumeration = "OperationState", tag = "8")]
    pub state: i32,
    /// When it ended; 0: it goes on.
    #[prost(uint64, tag = "9")]
    pub end_ms: u64,
    /// Why it failed: the reason on the wire, and in words.
    #[prost(string, tag = "10")]
    pub error_reason: String,
    #[prost(string, tag = "11")]
    pub error: String,
}

/// Messages that an operation could do nothing with, for one reason.
#[derive(Clone, PartialEq, Message)]
pub struct RefusedMessages {
    /// As on the wire.
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Of the first of them, in words.
    #[prost(string, tag = "3")]
    pub first: String,
}

/// A [`Cursor`] in the log.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StoredCursor {
    #[prost(uint32, tag = "1")]
    pub section: u32,
    #[prost(fixed64, tag = "2")]
    pub key: u64,
    #[prost(uint64, tag = "3")]
    pub birth: u64,
}

impl From<Cursor> for StoredCursor {
    fn from(cursor: Cursor) -> Self {
        Self { section: cursor.section.into(), key: cursor.key, birth: cursor.birth.0 }
    }
}

impl StoredCursor {
    /// The place that it stands for.
    pub fn cursor(self) -> Option<Cursor> {
        let section = u8::try_from(self.section).ok()?;
        Some(Cursor { section, key: self.key, birth: Lsn(self.birth) })
    }
}

/// Messages are in another queue; nobody holds them.
#[derive(Clone, PartialEq, Message)]
pub struct Moved {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    #[prost(uint32, tag = "2")]
    pub to_queue: u32,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
    #[prost(bool, tag = "4")]
    pub reset_attempts: bool,
    /// Dead letters stay such there.
    #[prost(bool, tag = "5")]
    pub is_to_dead_letters: bool,
    #[prost(uint64, tag = "6")]
    pub operation: u64,
    /// What each of them counts from here on, whatever is known of it; unset: as it did.
    #[prost(uint32, optional, tag = "7")]
    pub failures: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub crashes: Option<u32>,
    /// None of them has a time to live.
    #[prost(bool, tag = "9")]
    pub without_ttl: bool,
}
