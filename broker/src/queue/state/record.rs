//! The facts about state: what changed, in the heads of records.

use prost::{Message, Oneof};

use super::schedules::CatchUp;
use crate::queue::record::StoredDue;

/// One change. A head without one was written by a newer version.
#[derive(Clone, PartialEq, Message)]
pub struct StateChanged {
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub change: Option<Change>,
}

/// Tags are stable.
#[derive(Clone, PartialEq, Oneof)]
pub enum Change {
    #[prost(message, tag = "1")]
    ValueStored(ValueStored),
    #[prost(message, tag = "2")]
    Removed(Removed),
    #[prost(message, tag = "3")]
    CounterSet(CounterSet),
    #[prost(message, tag = "4")]
    PermitTaken(PermitTaken),
    #[prost(message, tag = "5")]
    BarrierCreated(BarrierCreated),
    #[prost(message, tag = "6")]
    Arrived(Arrived),
    #[prost(message, tag = "7")]
    BarrierExpired(BarrierExpired),
    #[prost(message, tag = "8")]
    ScheduleStored(Box<ScheduleStored>),
    #[prost(message, tag = "9")]
    ScheduleTicked(ScheduleTicked),
}

/// A value is stored, in place of one that was there. The body is the value itself.
#[derive(Clone, PartialEq, Message)]
pub struct ValueStored {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(uint32, tag = "2")]
    pub size: u32,
    /// Unset: it stays until it is deleted.
    #[prost(message, optional, tag = "3")]
    pub end: Option<StoredDue>,
}

/// These are gone: deleted, given back, or at their end.
#[derive(Clone, PartialEq, Message)]
pub struct Removed {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub counters: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub answers: Vec<String>,
    #[prost(uint64, repeated, tag = "4")]
    pub permits: Vec<u64>,
    #[prost(string, repeated, tag = "5")]
    pub barriers: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub schedules: Vec<String>,
}

/// A counter is this from here on.
#[derive(Clone, PartialEq, Message)]
pub struct CounterSet {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(sint64, tag = "2")]
    pub value: i64,
    #[prost(message, optional, tag = "3")]
    pub end: Option<StoredDue>,
    /// The request that did it, where it may come again, and until when it is known.
    #[prost(string, tag = "4")]
    pub request_id: String,
    #[prost(message, optional, tag = "5")]
    pub request_end: Option<StoredDue>,
}

/// A permit is taken; this record's LSN is its id.
#[derive(Clone, PartialEq, Message)]
pub struct PermitTaken {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    #[prost(message, required, tag = "3")]
    pub end: StoredDue,
    /// The lease that it ends with, as message and grant; 0: none.
    #[prost(uint64, tag = "4")]
    pub birth: u64,
    #[prost(uint64, tag = "5")]
    pub grant: u64,
    /// The session that it ends with; 0: none.
    #[prost(uint64, tag = "6")]
    pub session: u64,
    #[prost(string, tag = "7")]
    pub request_id: String,
}

/// A barrier is there.
#[derive(Clone, PartialEq, Message)]
pub struct BarrierCreated {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(uint32, tag = "2")]
    pub parties: u32,
    #[prost(message, required, tag = "3")]
    pub end: StoredDue,
    #[prost(bool, tag = "4")]
    pub collect: bool,
    #[prost(message, repeated, tag = "5")]
    pub on_complete: Vec<Template>,
    #[prost(message, repeated, tag = "6")]
    pub on_expire: Vec<Template>,
}

/// A message that is published later, as it was handed in.
#[derive(Clone, PartialEq, Message)]
pub struct Template {
    #[prost(string, tag = "1")]
    pub queue: String,
    #[prost(string, tag = "2")]
    pub message_id: String,
    #[prost(fixed64, optional, tag = "3")]
    pub id_hash_high: Option<u64>,
    #[prost(fixed64, optional, tag = "4")]
    pub id_hash_low: Option<u64>,
    #[prost(uint64, tag = "5")]
    pub payload_bytes: u64,
    #[prost(uint64, optional, tag = "6")]
    pub delay_ms: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub deliver_ms: Option<u64>,
    #[prost(uint32, tag = "8")]
    pub priority: u32,
    #[prost(uint64, optional, tag = "9")]
    pub ttl_ms: Option<u64>,
    #[prost(sint32, optional, tag = "10")]
    pub max_attempts: Option<i32>,
    #[prost(fixed64, optional, tag = "12")]
    pub unique_hash: Option<u64>,
    #[prost(fixed64, optional, tag = "13")]
    pub ordering_hash: Option<u64>,
    #[prost(fixed64, optional, tag = "14")]
    pub fairness_hash: Option<u64>,
    /// The body that its record will have.
    #[prost(bytes = "bytes", tag = "11")]
    pub body: bytes::Bytes,
}

/// Somebody arrived at a barrier for the first time.
#[derive(Clone, PartialEq, Message)]
pub struct Arrived {
    #[prost(string, tag = "1")]
    pub key: String,
    /// Keyed hash of the member's name; two halves.
    #[prost(fixed64, tag = "2")]
    pub hash_high: u64,
    #[prost(fixed64, tag = "3")]
    pub hash_low: u64,
    #[prost(bool, tag = "4")]
    pub failed: bool,
    /// Where the barrier collects.
    #[prost(message, optional, tag = "5")]
    pub member: Option<Member>,
    /// It was the last one; what is published then stands before this record.
    #[prost(bool, tag = "6")]
    pub completes: bool,
}

/// A member and what it brought: `BarrierMember` of the protocol, in its numbers.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(string, tag = "1")]
    pub member_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
    #[prost(bool, tag = "3")]
    pub failed: bool,
}

/// `BarrierResults` of the protocol, in its numbers.
#[derive(Clone, PartialEq, Message)]
pub struct Results {
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
}

/// A barrier's time was over before all had arrived; what is published then stands before this record.
#[derive(Clone, PartialEq, Message)]
pub struct BarrierExpired {
    #[prost(string, tag = "1")]
    pub key: String,
    /// Until when it is known that it was there.
    #[prost(message, required, tag = "2")]
    pub end: StoredDue,
}

/// A schedule is this from here on; in checkpoints, too. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Message)]
pub struct ScheduleStored {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub cron: String,
    #[prost(string, tag = "3")]
    pub time_zone: String,
    #[prost(message, optional, tag = "4")]
    pub message: Option<Template>,
    #[prost(enumeration = "CatchUp", tag = "5")]
    pub catch_up: i32,
    #[prost(uint64, tag = "6")]
    pub jitter_ms: u64,
    #[prost(bool, tag = "7")]
    pub skip_if_unfinished: bool,
    #[prost(bool, tag = "8")]
    pub paused: bool,
    #[prost(fixed64, tag = "9")]
    pub create_ms: u64,
    /// Its next tick; unset while it is paused, or where none comes any more.
    #[prost(fixed64, optional, tag = "10")]
    pub next_ms: Option<u64>,
    /// The last tick that was handled.
    #[prost(fixed64, optional, tag = "11")]
    pub tick_ms: Option<u64>,
    /// When a tick was published last.
    #[prost(fixed64, optional, tag = "12")]
    pub publish_ms: Option<u64>,
    #[prost(uint64, tag = "13")]
    pub published_total: u64,
    #[prost(uint64, tag = "14")]
    pub skipped_total: u64,
    /// Why the last tick published nothing; empty where it did.
    #[prost(string, tag = "15")]
    pub skipped: String,
}

/// A schedule has ticked; what it publishes stands before this record.
#[derive(Clone, PartialEq, Message)]
pub struct ScheduleTicked {
    #[prost(string, tag = "1")]
    pub name: String,
    /// The tick: those before it are over, too.
    #[prost(fixed64, tag = "2")]
    pub tick_ms: u64,
    #[prost(fixed64, optional, tag = "3")]
    pub next_ms: Option<u64>,
    #[prost(fixed64, tag = "4")]
    pub wall_ms: u64,
    /// It came too late, and the schedule does not catch up.
    #[prost(bool, tag = "5")]
    pub missed: bool,
    /// Why it was refused, where it was.
    #[prost(string, tag = "6")]
    pub skipped: String,
}
