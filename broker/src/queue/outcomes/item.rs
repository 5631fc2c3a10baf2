//! Outcomes as checkpoints have them.

use qbroker_storage::Lsn;

use super::{Finished, KeptOutcome};
use crate::queue::ids::QueueId;

/// A message that is done, and whose outcome is not written yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FinishedItem {
    #[prost(uint64, tag = "1")]
    birth: u64,
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint64, tag = "4")]
    end: u64,
    #[prost(uint64, tag = "5")]
    grant: u64,
    #[prost(uint64, tag = "6")]
    content: u64,
    #[prost(uint64, tag = "7")]
    last_failure: u64,
    #[prost(uint64, tag = "8")]
    dead_letter: u64,
    #[prost(uint64, tag = "9")]
    step: u64,
}

/// Outcomes of a queue, side by side; those of one queue follow each other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutcomesItem {
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    #[prost(uint64, repeated, tag = "2")]
    births: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    records: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    wall_ms: Vec<u64>,
}

impl OutcomesItem {
    pub(in crate::queue) fn new(queue: QueueId, entries: &[KeptOutcome]) -> Self {
        Self {
            queue: queue.0,
            births: entries.iter().map(|entry| entry.birth.0).collect(),
            records: entries.iter().map(|entry| entry.record.0).collect(),
            wall_ms: entries.iter().map(|entry| entry.wall_ms).collect(),
        }
    }

    pub(in crate::queue) fn entries(&self) -> impl Iterator<Item = KeptOutcome> {
        let numbers = self.births.iter().zip(&self.records).zip(&self.wall_ms);
        numbers.map(|((&birth, &record), &wall_ms)| KeptOutcome {
            birth: Lsn(birth),
            record: Lsn(record),
            wall_ms,
        })
    }
}

impl From<&Finished> for FinishedItem {
    fn from(finished: &Finished) -> Self {
        Self {
            birth: finished.birth.0,
            queue: finished.queue.0,
            end: finished.end.0,
            grant: finished.grant.0,
            content: finished.content.0,
            last_failure: finished.last_failure.0,
            dead_letter: finished.dead_letter.0,
            step: finished.step.0,
        }
    }
}

impl From<&FinishedItem> for Finished {
    fn from(item: &FinishedItem) -> Self {
        Self {
            birth: Lsn(item.birth),
            queue: QueueId(item.queue),
            end: Lsn(item.end),
            grant: Lsn(item.grant),
            content: Lsn(item.content),
            last_failure: Lsn(item.last_failure),
            dead_letter: Lsn(item.dead_letter),
            step: Lsn(item.step),
        }
    }
}
