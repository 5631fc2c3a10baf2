//! The facts in the log: what was decided, with everything needed to apply it again.
//!
//! A record's head is one [`Record`], encoded as protocol buffers so that fields can be added; its
//! body, where it has one, is what somebody may read later (a message, a failure). Nothing in a
//! record asks for another decision: times are absolute, jitter is rolled, leases are named.

mod operation;
mod producers;

use prost::{Message, Oneof};
use qbroker_storage::Retention;

use super::ids::QueueId;
pub use super::ordering::Advanced;
pub use super::outcomes::{OutcomeWritten, OutcomesForgotten};
pub use super::patch::Patched;
use super::state::record::{Change, StateChanged};
use super::time::Due;
pub use operation::*;
pub use producers::{BatchRefused, BatchStored, ProducerOpened, ProducersForgotten};

pub use super::overflow::Dropped;

/// Messages that one record names at most: what names more takes several records, so that a head
/// stays below 64 KiB.
pub const BIRTHS_MAX: usize = 4_096;

/// One fact. Tags are stable; a tag is never used for anything else.
#[derive(Clone, PartialEq, Oneof)]
pub enum Record {
    #[prost(message, tag = "1")]
    Started(Started),
    #[prost(message, tag = "2")]
    QueuePut(Box<QueueDefinition>),
    #[prost(message, tag = "3")]
    QueueDeleted(QueueDeleted),
    #[prost(message, tag = "4")]
    Purged(Purged),
    #[prost(message, tag = "5")]
    ProducerOpened(ProducerOpened),
    #[prost(message, tag = "6")]
    BatchStored(BatchStored),
    #[prost(message, tag = "7")]
    Published(Published),
    #[prost(message, tag = "8")]
    SessionOpened(SessionOpened),
    #[prost(message, tag = "9")]
    SessionEnded(SessionEnded),
    #[prost(message, tag = "10")]
    Granted(Granted),
    #[prost(message, tag = "11")]
    Extended(Extended),
    #[prost(message, tag = "12")]
    LeasesEnded(LeasesEnded),
    #[prost(message, tag = "13")]
    Resumed(Resumed),
    #[prost(message, tag = "14")]
    Acked(Acked),
    #[prost(message, tag = "15")]
    Released(Released),
    #[prost(message, tag = "16")]
    Nacked(Nacked),
    #[prost(message, tag = "17")]
    DeadLettered(DeadLettered),
    #[prost(message, tag = "30")]
    Updated(Updated),
    #[prost(message, tag = "18")]
    CameDue(CameDue),
    #[prost(message, tag = "19")]
    Expired(Expired),
    #[prost(message, tag = "20")]
    ProducersForgotten(ProducersForgotten),
    #[prost(message, tag = "21")]
    Parked(Parked),
    #[prost(message, tag = "22")]
    BatchRefused(BatchRefused),
    #[prost(message, tag = "23")]
    SessionChanged(SessionChanged),
    #[prost(message, tag = "24")]
    PagedOut(PagedOut),
    #[prost(message, tag = "26")]
    Deleted(Deleted),
    #[prost(message, tag = "56")]
    Begun(Begun),
    #[prost(message, tag = "47")]
    Moved(Moved),
    #[prost(message, tag = "48")]
    OperationStarted(OperationStarted),
    #[prost(message, tag = "49")]
    OperationStepped(OperationStepped),
    #[prost(message, tag = "51")]
    Advanced(Advanced),
    #[prost(message, tag = "60")]
    OutcomeWritten(OutcomeWritten),
    #[prost(message, tag = "61")]
    OutcomesForgotten(OutcomesForgotten),
    #[prost(message, tag = "44")]
    Dropped(Dropped),
    #[prost(message, tag = "62")]
    Patched(Box<Patched>),
    #[prost(message, tag = "63")]
    StateChanged(Box<StateChanged>),
}

#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(
        oneof = "Record",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 30, 44, 47, 48, 49, 51, 56, 60, 61, 62, 63"
    )]
    record: Option<Record>,
}

/// A record of the log that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum UnknownRecord {
    #[error("the record's head cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the record's kind is unknown; the folder was written by a newer version")]
    Kind,
}

impl Record {
    /// Appends the head's bytes.
    pub fn encode_head(&self, head: &mut Vec<u8>) {
        self.encode(head);
    }

    /// Reads what [`Self::encode_head`] wrote.
    pub fn decode_head(head: &[u8]) -> Result<Self, UnknownRecord> {
        match Head::decode(head)?.record {
            None => Err(UnknownRecord::Kind),
            Some(Self::StateChanged(it)) if it.change.is_none() => Err(UnknownRecord::Kind),
            Some(record) => Ok(record),
        }
    }

    /// Whether the log must keep the record until the core retires it. `body` tells whether it has one.
    pub fn retention(&self, has_body: bool) -> Retention {
        match self {
            Self::Published(_)
            | Self::DeadLettered(_)
            | Self::OutcomeWritten(_)
            | Self::PagedOut(_)
            | Self::Patched(_) => Retention::Keep,
            Self::Nacked(_) if has_body => Retention::Keep,
            Self::StateChanged(it) if matches!(it.change, Some(Change::ValueStored(_))) => {
                Retention::Keep
            }
            _ => Retention::Passing,
        }
    }
}

/// The first record of every start.
#[derive(Clone, PartialEq, Message)]
pub struct Started {
    /// No other start has it, of this folder or of a copy: above the last one, and mostly the second of the
    /// wall clock.
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    /// Names the machine's uptime; relative delays run on its clock.
    #[prost(string, tag = "2")]
    pub boot_id: String,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
}

/// A queue as it is from here on.
#[derive(Clone, PartialEq, Message)]
pub struct QueueDefinition {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub description: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: std::collections::BTreeMap<String, String>,
    #[prost(message, required, tag = "5")]
    pub policy: super::policy::Policy,
    #[prost(uint64, tag = "6")]
    pub create_ms: u64,
    #[prost(uint64, tag = "7")]
    pub update_ms: u64,
    /// Some queue's dead letters come here.
    #[prost(bool, tag = "8")]
    pub is_dead_letter_queue: bool,
    /// The request that made it, so that its retry succeeds.
    #[prost(string, tag = "9")]
    pub request_id: String,
    /// Grows with every change.
    #[prost(uint32, tag = "10")]
    pub revision: u32,
    /// Nothing is delivered from it.
    #[prost(bool, tag = "37")]
    pub paused: bool,
    /// Nor is anything published to it.
    #[prost(bool, tag = "38")]
    pub publishing_paused: bool,
}

impl QueueDefinition {
    /// The queue's id, typed.
    pub fn queue_id(&self) -> QueueId {
        QueueId(self.id)
    }
}

/// A queue is gone, with every message in it.
#[derive(Clone, PartialEq, Message)]
pub struct QueueDeleted {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
}

/// Every message of a queue that was in one of these states is gone. Read from older logs;
/// [`Deleted`] is what is written.
#[derive(Clone, PartialEq, Message)]
pub struct Purged {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// Bits of [`super::index::StateSet`].
    #[prost(uint32, tag = "2")]
    pub states: u32,
}

/// A message is born: its LSN is its name for ever. The body is a [`super::body::StoredMessage`].
#[derive(Clone, PartialEq, Message)]
pub struct Published {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    #[prost(fixed64, tag = "2")]
    pub wall_ms: u64,
    /// Bytes of the body.
    #[prost(uint32, tag = "3")]
    pub size: u32,
    #[prost(message, optional, tag = "4")]
    pub due: Option<StoredDue>,
    /// Keyed hash of a client-chosen message id; two halves, absent for ids made here.
    #[prost(fixed64, optional, tag = "5")]
    pub id_hash_high: Option<u64>,
    #[prost(fixed64, optional, tag = "6")]
    pub id_hash_low: Option<u64>,
    #[prost(uint32, tag = "7")]
    pub priority: u32,
    /// End of the message's time to live, wall clock; 0: none.
    #[prost(uint64, tag = "8")]
    pub expire_ms: u64,
    #[prost(fixed64, optional, tag = "9")]
    pub ordering_hash: Option<u64>,
    #[prost(fixed64, optional, tag = "10")]
    pub fairness_hash: Option<u64>,
    #[prost(fixed64, optional, tag = "11")]
    pub unique_hash: Option<u64>,
    /// The message's own limit of failures; unset: the queue's.
    #[prost(sint32, optional, tag = "12")]
    pub max_attempts: Option<i32>,
    /// The end of its time to live by the clock of this uptime.
    #[prost(uint64, optional, tag = "30")]
    pub expire_boot_ms: Option<u64>,
}

impl Published {
    /// When the message's time to live ends, if it does.
    pub fn ttl_end(&self) -> Option<Due> {
        let (wall_ms, boot_ms) = (self.expire_ms, self.expire_boot_ms);
        (wall_ms != 0).then_some(Due { wall_ms, boot_ms })
    }

    /// The hash of the message id, where the client chose one.
    pub fn id_hash(&self) -> Option<u128> {
        Some(u128::from(self.id_hash_high?) << 64 | u128::from(self.id_hash_low?))
    }
}

/// A [`Due`] in the log.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StoredDue {
    #[prost(fixed64, tag = "1")]
    pub wall_ms: u64,
    #[prost(uint64, optional, tag = "2")]
    pub boot_ms: Option<u64>,
}

impl From<Due> for StoredDue {
    fn from(due: Due) -> Self {
        Self { wall_ms: due.wall_ms, boot_ms: due.boot_ms }
    }
}

impl From<StoredDue> for Due {
    fn from(due: StoredDue) -> Self {
        Self { wall_ms: due.wall_ms, boot_ms: due.boot_ms }
    }
}

/// A worker process came; this record's LSN is its session's id.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOpened {
    #[prost(string, tag = "1")]
    pub name: String,
    /// How long it keeps its leases without a connection.
    #[prost(uint64, tag = "2")]
    pub grace_ms: u64,
}

/// A session has another grace from here on, or belongs to nobody any more.
#[derive(Clone, PartialEq, Message)]
pub struct SessionChanged {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub grace_ms: u64,
    /// Its process was started anew: the name is free, and what it holds is about to be ended.
    #[prost(bool, tag = "3")]
    pub disowned: bool,
}

/// A session is over; its leases were ended before.
#[derive(Clone, PartialEq, Message)]
pub struct SessionEnded {
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

/// Messages of one queue were leased; the tokens carry this record's LSN.
#[derive(Clone, PartialEq, Message)]
pub struct Granted {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// The stream they go to; 0: a pull.
    #[prost(uint64, tag = "2")]
    pub consumer: u64,
    /// How long each lasts from its delivery, or from its renewal.
    #[prost(uint64, tag = "3")]
    pub duration_ms: u64,
    #[prost(uint64, repeated, tag = "4")]
    pub births: Vec<u64>,
    /// The lease ends by time; otherwise it lives with its session.
    #[prost(bool, tag = "5")]
    pub timed: bool,
    /// How long the session may renew each; 0: without end.
    #[prost(uint64, tag = "6")]
    pub extension_ms_max: u64,
    /// Their end counts as a crash only once it is told that work on them has begun.
    #[prost(bool, tag = "56")]
    pub unstarted: bool,
    /// What its client calls the pull that they go to; only where it has a name.
    #[prost(string, tag = "57")]
    pub request: String,
    /// Wall clock; 0: an older version wrote this.
    #[prost(uint64, tag = "58")]
    pub wall_ms: u64,
}

/// Work on these leases has begun: from here on their end counts as a crash.
#[derive(Clone, PartialEq, Message)]
pub struct Begun {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

/// Leases that end by time last this long from now.
#[derive(Clone, PartialEq, Message)]
pub struct Extended {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    #[prost(uint64, tag = "2")]
    pub duration_ms: u64,
}

/// Leases ended without a settlement; the messages are ready again, at their old places.
#[derive(Clone, PartialEq, Message)]
pub struct LeasesEnded {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    /// A lost session or the end of its time counts; a delivery that never arrived does not.
    #[prost(bool, tag = "2")]
    pub crashed: bool,
}

/// A stream took the place of another one of its session.
#[derive(Clone, PartialEq, Message)]
pub struct Resumed {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// The one that it replaces.
    #[prost(uint64, tag = "2")]
    pub previous: u64,
    #[prost(uint64, tag = "3")]
    pub consumer: u64,
    /// The leases that the client still holds; they are the new stream's. The others of the old one
    /// were ended before.
    #[prost(uint64, repeated, tag = "4")]
    pub held: Vec<u64>,
    /// What the client called the stream that is replaced. Another name than `previous` where that
    /// one itself replaced it, and the client never learned of it.
    #[prost(uint64, tag = "5")]
    pub known_as: u64,
}

/// Which call a settlement came in, so that its repeat is answered as it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct Call {
    /// The stream it came on; 0: a single call.
    #[prost(uint64, tag = "1")]
    pub consumer: u64,
    /// The client's number, or for a single call the LSN of its first record.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
}

/// A call of settlements: the messages it acked are gone for good. Its other outcomes follow.
#[derive(Clone, PartialEq, Message)]
pub struct Acked {
    #[prost(message, required, tag = "1")]
    pub call: Call,
    /// Calls of the stream up to this one were answered; their outcomes may be forgotten.
    #[prost(uint64, tag = "2")]
    pub answered_through: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub births: Vec<u64>,
}

/// A message was handed back unprocessed.
#[derive(Clone, PartialEq, Message)]
pub struct Released {
    #[prost(message, required, tag = "1")]
    pub call: Call,
    #[prost(uint64, tag = "2")]
    pub birth: u64,
    #[prost(message, optional, tag = "3")]
    pub due: Option<StoredDue>,
}

/// An attempt failed. The body is a [`super::body::StoredFailure`], or empty.
#[derive(Clone, PartialEq, Message)]
pub struct Nacked {
    #[prost(message, required, tag = "1")]
    pub call: Call,
    #[prost(uint64, tag = "2")]
    pub birth: u64,
    /// When it is ready again; unset: at once.
    #[prost(message, optional, tag = "3")]
    pub due: Option<StoredDue>,
    /// In a dead-letter queue, after the last attempt: it stays, and is not delivered again.
    #[prost(bool, tag = "4")]
    pub parked: bool,
    /// LSN of the record of the failure before; 0: none. A message's history is this chain.
    #[prost(uint64, tag = "5")]
    pub previous_failure: u64,
    /// The record has a body, and stays for as long as it is the message's last failure.
    #[prost(bool, tag = "6")]
    pub has_failure: bool,
    /// The settlement was a dead-letter, in a dead-letter queue.
    #[prost(bool, tag = "7")]
    pub given_up: bool,
    /// Which attempt it was; 0: an older version wrote this.
    #[prost(uint32, tag = "30")]
    pub attempt: u32,
    /// When it began, wall clock; 0: unknown.
    #[prost(uint64, tag = "57")]
    pub start_ms: u64,
}

/// A message went to a dead-letter queue, or was discarded instead. The body is a
/// [`super::body::StoredDeadLetter`].
#[derive(Clone, PartialEq, Message)]
pub struct DeadLettered {
    /// Unset where no settlement caused it.
    #[prost(message, optional, tag = "1")]
    pub call: Option<Call>,
    #[prost(uint64, tag = "2")]
    pub birth: u64,
    /// 0: discarded.
    #[prost(uint32, tag = "3")]
    pub to_queue: u32,
    #[prost(enumeration = "DeadLetterReason", tag = "4")]
    pub reason: i32,
    /// Attempts in the source queue, this one included.
    #[prost(uint32, tag = "5")]
    pub attempts: u32,
    #[prost(uint64, tag = "6")]
    pub wall_ms: u64,
    #[prost(uint64, tag = "7")]
    pub previous_failure: u64,
    /// The body tells the failure; otherwise the failure before is the last one.
    #[prost(bool, tag = "8")]
    pub has_failure: bool,
    /// When the attempt that ended so began, wall clock; 0: there was none, or it is unknown.
    #[prost(uint64, tag = "57")]
    pub start_ms: u64,
}

/// Why a message was dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum DeadLetterReason {
    Unknown = 0,
    /// Its failures reached the limit.
    MaxAttempts = 1,
    /// Its consumers died, or let the lease end, too often.
    MaxCrashes = 2,
    /// Its time to live ended before it was done.
    Expired = 3,
    /// A consumer asked for it.
    ByConsumer = 4,
    /// Its queue was full, and it was the oldest.
    Overflow = 5,
}

/// Delays are over. A message that waits for its first time takes this LSN as its place.
#[derive(Clone, PartialEq, Message)]
pub struct CameDue {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

/// Messages older than their queue's retention are gone, or such whose time to live ended and that
/// have no dead-letter queue to go to.
#[derive(Clone, PartialEq, Message)]
pub struct Expired {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    /// It was the time to live.
    #[prost(bool, tag = "30")]
    pub by_ttl: bool,
}

/// Leases ended for good: of dead letters once too often, or of messages that cannot be read. The
/// messages stay, and are not delivered again.
#[derive(Clone, PartialEq, Message)]
pub struct Parked {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    /// Their records cannot be read: nobody crashed, and nothing is counted.
    #[prost(bool, tag = "2")]
    pub unreadable: bool,
}

/// Messages are gone because somebody said so; whoever held one holds it no more.
#[derive(Clone, PartialEq, Message)]
pub struct Deleted {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

/// Messages have another priority, or another time.
#[derive(Clone, PartialEq, Message)]
pub struct Updated {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
    /// Unset: as it was.
    #[prost(uint32, optional, tag = "2")]
    pub priority: Option<u32>,
    /// They are scheduled for this time, and held by nobody.
    #[prost(message, optional, tag = "3")]
    pub due: Option<StoredDue>,
    /// They are ready, and held by nobody. One that waits for its first time takes this LSN as its
    /// place.
    #[prost(bool, tag = "4")]
    pub at_once: bool,
}

/// What the index knew of messages that wait long is in this record's body from here on, no longer in
/// memory. Changes nothing for anybody else.
#[derive(Clone, PartialEq, Message)]
pub struct PagedOut {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

#[cfg(test)]
mod tests;
