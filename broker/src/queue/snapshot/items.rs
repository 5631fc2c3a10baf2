//! What is remembered of calls, producers and operations, as items of a snapshot.

use crate::queue::record::{BatchRefused, BatchStored, Call, OperationStarted, OperationStepped};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SettledItem {
    #[prost(message, required, tag = "1")]
    pub(super) call: Call,
    /// Births, grants and kinds side by side.
    #[prost(uint64, repeated, tag = "2")]
    pub(super) births: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(super) grants: Vec<u64>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) kinds: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PulledItem {
    #[prost(uint64, tag = "1")]
    pub(super) session: u64,
    #[prost(string, tag = "2")]
    pub(super) request: String,
    #[prost(uint64, tag = "3")]
    pub(super) wall_ms: u64,
    /// Births and grants side by side.
    #[prost(uint64, repeated, tag = "4")]
    pub(super) births: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) grants: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProducerItem {
    #[prost(uint64, tag = "1")]
    pub(super) epoch: u64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint64, tag = "3")]
    pub(super) last_ms: u64,
    #[prost(uint64, tag = "4")]
    pub(super) stored: u64,
    #[prost(message, repeated, tag = "5")]
    pub(super) stored_outcomes: Vec<BatchStored>,
    #[prost(message, repeated, tag = "6")]
    pub(super) refused_outcomes: Vec<BatchRefused>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MessageIdItem {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    #[prost(fixed64, tag = "2")]
    pub(super) hash_high: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) hash_low: u64,
    #[prost(uint64, tag = "4")]
    pub(super) birth: u64,
    #[prost(uint64, tag = "5")]
    pub(super) expire_ms: u64,
}

/// A page that is in memory again, and may be needed by the checkpoint before.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PageBackItem {
    #[prost(uint64, tag = "1")]
    pub(super) page: u64,
    #[prost(uint64, tag = "2")]
    pub(super) since: u64,
}

/// Records that the log keeps: from the first on a bit for each, in bytes with the lowest bit first.
/// Of messages that are in memory they are told by the messages as well.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeptItem {
    #[prost(uint64, tag = "1")]
    pub(super) first: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) bits: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperationItem {
    #[prost(message, required, tag = "1")]
    pub(super) started: OperationStarted,
    #[prost(message, required, tag = "2")]
    pub(super) progress: OperationStepped,
}

/// A line of an ordering key that is about to get a new leader.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaderlessItem {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    #[prost(fixed32, tag = "2")]
    pub(super) line: u32,
}
