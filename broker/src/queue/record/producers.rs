//! The facts about producers and their batches.

use std::collections::BTreeMap;

use prost::Message;

/// A producer whose batches are stored once. Its epoch is this record's LSN.
#[derive(Clone, PartialEq, Message)]
pub struct ProducerOpened {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub wall_ms: u64,
}

/// Producers idle too long, or the oldest beyond the limit.
#[derive(Clone, PartialEq, Message)]
pub struct ProducersForgotten {
    #[prost(uint64, repeated, tag = "1")]
    pub producers: Vec<u64>,
}

/// A producer's batch is stored; the records of its messages stand before this one.
#[derive(Clone, PartialEq, Message)]
pub struct BatchStored {
    #[prost(uint64, tag = "1")]
    pub producer: u64,
    #[prost(uint64, tag = "2")]
    pub batch: u64,
    #[prost(uint64, tag = "3")]
    pub wall_ms: u64,
    /// Messages of the batch, by position, that were stored before.
    #[prost(uint32, repeated, tag = "4")]
    pub duplicates: Vec<u32>,
    /// LSN of the first message; 0 where all were stored before.
    #[prost(uint64, tag = "5")]
    pub first: u64,
    /// The client knows the outcomes of every batch up to this one.
    #[prost(uint64, tag = "6")]
    pub confirmed_through: u64,
}

/// A batch of which nothing was stored. Logged before the producer's next batch that is: until then
/// the client sends the refused one again, should a crash come between.
#[derive(Clone, PartialEq, Message)]
pub struct BatchRefused {
    #[prost(uint64, tag = "1")]
    pub producer: u64,
    #[prost(uint64, tag = "2")]
    pub batch: u64,
    #[prost(uint32, tag = "3")]
    pub index: u32,
    /// The reason on the wire.
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(string, tag = "5")]
    pub message: String,
    /// The values of the message, by their names on the wire.
    #[prost(btree_map = "string, string", tag = "6")]
    pub values: BTreeMap<String, String>,
}
