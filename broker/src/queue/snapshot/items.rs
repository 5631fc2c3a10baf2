//! What the items of a snapshot hold, but for messages, pages, operations, outcomes and state.

use bytes::Bytes;

use crate::queue::record::{BatchRefused, BatchStored, Call, QueueDefinition, SessionOpened};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HeaderItem {
    #[prost(uint32, tag = "1")]
    pub(super) epoch: u32,
    #[prost(string, tag = "2")]
    pub(super) boot_id: String,
    #[prost(uint64, tag = "3")]
    pub(super) next: u64,
    #[prost(uint32, tag = "4")]
    pub(super) last_queue: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueItem {
    #[prost(message, required, tag = "1")]
    pub(super) definition: QueueDefinition,
    #[prost(uint64, tag = "2")]
    pub(super) published: u64,
    #[prost(uint64, tag = "3")]
    pub(super) delivered: u64,
    #[prost(uint64, tag = "4")]
    pub(super) acked: u64,
    #[prost(uint64, tag = "5")]
    pub(super) retried: u64,
    #[prost(uint64, tag = "6")]
    pub(super) dead_lettered: u64,
    #[prost(uint64, tag = "7")]
    pub(super) expired_leases: u64,
    #[prost(uint64, tag = "30")]
    pub(super) expired: u64,
    #[prost(uint64, tag = "56")]
    pub(super) deleted: u64,
    #[prost(uint64, tag = "47")]
    pub(super) moved: u64,
    #[prost(uint64, tag = "44")]
    pub(super) dropped: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionItem {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(message, required, tag = "2")]
    pub(super) opened: SessionOpened,
    /// Streams, and beside them the names by which the client may still call them.
    #[prost(uint64, repeated, tag = "3")]
    pub(super) streams: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pub(super) known_as: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseItem {
    #[prost(uint64, tag = "1")]
    pub(super) birth: u64,
    #[prost(uint64, tag = "2")]
    pub(super) grant: u64,
    #[prost(uint32, tag = "3")]
    pub(super) epoch: u32,
    #[prost(uint64, tag = "4")]
    pub(super) session: u64,
    #[prost(uint64, tag = "5")]
    pub(super) consumer: u64,
    #[prost(uint64, tag = "6")]
    pub(super) duration_ms: u64,
    #[prost(bool, tag = "7")]
    pub(super) timed: bool,
    #[prost(uint64, tag = "8")]
    pub(super) extension_ms_max: u64,
    #[prost(uint32, tag = "9")]
    pub(super) size: u32,
    #[prost(bool, tag = "56")]
    pub(super) unstarted: bool,
    /// Told where there is a fairness key.
    #[prost(uint32, tag = "51")]
    pub(super) queue: u32,
    #[prost(fixed32, tag = "52")]
    pub(super) fairness: u32,
    #[prost(uint64, tag = "57")]
    pub(super) start_ms: u64,
}

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
    /// Of the stream, where it is known.
    #[prost(uint64, tag = "5")]
    pub(super) session: u64,
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

/// One id, as the first checkpoints have them.
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

/// Ids that a queue remembers, in their order.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MessageIdsItem {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    /// As [`SeenId::read`](crate::queue::dedup::SeenId::read) takes them.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) entries: Bytes,
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

/// A line of an ordering key that is about to get a new leader.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaderlessItem {
    #[prost(uint32, tag = "1")]
    pub(super) queue: u32,
    #[prost(fixed32, tag = "2")]
    pub(super) line: u32,
}
