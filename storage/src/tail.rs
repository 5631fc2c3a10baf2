//! The newest records in memory: those not yet written, and the last that were.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::WriteError;
use crate::frame::Kind;
use crate::lsn::{Lsn, LsnRange};
use crate::record::{FrozenBatch, StoredRecord};

/// A batch and the LSN of its first record.
#[derive(Clone, Debug)]
pub(crate) struct Appended {
    pub(crate) first: Lsn,
    pub(crate) batch: Arc<FrozenBatch>,
}

impl Appended {
    /// The LSN after its last.
    pub(crate) fn end(&self) -> u64 {
        self.first.0 + self.batch.records.len() as u64
    }

    /// A record of the batch.
    pub(crate) fn stored(&self, lsn: Lsn) -> StoredRecord {
        self.batch.stored(usize::try_from(lsn.0 - self.first.0).expect("inside the batch"))
    }
}

/// A frame without records that somebody wants written.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// What is appended and what is cached, in one queue behind one lock.
///
/// Invariant: entries are dense in LSN and end at `next_lsn`; `entries[..taken]` are with the
/// writer or on disk; only what is on disk is let go.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) next_lsn: Lsn,
    entries: VecDeque<Appended>,
    taken: usize,
    bytes: usize,
    bytes_max: usize,
    controls: VecDeque<Control>,
    controls_asked: u64,
    pub(crate) controls_done: u64,
    /// Set once, by the first failure or by closing: nothing is accepted any more.
    pub(crate) stopped: Option<WriteError>,
    pub(crate) closing: bool,
}

/// What the writer does next.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) controls: Vec<Control>,
    pub(crate) batches: Vec<Appended>,
}

impl Tail {
    pub(crate) fn new(next_lsn: Lsn, bytes_max: usize) -> Self {
        Self {
            next_lsn,
            entries: VecDeque::new(),
            taken: 0,
            bytes: 0,
            bytes_max,
            controls: VecDeque::new(),
            controls_asked: 0,
            controls_done: 0,
            stopped: None,
            closing: false,
        }
    }

    /// Takes a batch in and gives it its LSNs.
    pub(crate) fn push(&mut self, batch: Arc<FrozenBatch>) -> LsnRange {
        let first = self.next_lsn;
        self.bytes += batch.bytes;
        let appended = Appended { first, batch };
        self.next_lsn = Lsn(appended.end());
        let lsns = LsnRange { first, last: Lsn(appended.end() - 1) };
        self.entries.push_back(appended);
        lsns
    }

    /// Asks for a frame without records; the number that `controls_done` has when it is durable.
    pub(crate) fn push_control(&mut self, control: Control) -> u64 {
        self.controls.push_back(control);
        self.controls_asked += 1;
        self.controls_asked
    }

    pub(crate) fn has_work(&self) -> bool {
        self.taken < self.entries.len() || !self.controls.is_empty()
    }

    /// Gives the writer all frames without records, and batches up to `bytes_target`, whole ones
    /// and at least one.
    pub(crate) fn take(&mut self, bytes_target: usize, bytes_max: usize) -> Work {
        let mut work = Work { controls: self.controls.drain(..).collect(), batches: Vec::new() };
        let mut bytes = 0;
        while let Some(next) = self.entries.get(self.taken) {
            let more = bytes + next.batch.bytes;
            let fits = bytes < bytes_target && more <= bytes_max;
            if !work.batches.is_empty() && !fits {
                break;
            }
            bytes = more;
            work.batches.push(next.clone());
            self.taken += 1;
        }
        work
    }

    /// What was taken is durable: lets go of the oldest beyond the cache's size, and returns them,
    /// so that their memory is freed outside the lock.
    pub(crate) fn evict(&mut self) -> Vec<Appended> {
        let mut evicted = Vec::new();
        while self.bytes_max < self.bytes && 0 < self.taken {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.batch.bytes;
            self.taken -= 1;
            evicted.push(oldest);
        }
        evicted
    }

    /// The batches with records from `lsn` on, in order.
    pub(crate) fn from(&self, lsn: Lsn) -> Vec<Appended> {
        let before = self.entries.partition_point(|entry| entry.end() <= lsn.0);
        self.entries.range(before..).cloned().collect()
    }

    /// As [`Self::from`], as many batches as have about so many records; `None` where the one that
    /// `lsn` is in is not here.
    pub(crate) fn stretch(&self, lsn: Lsn, records: usize) -> Option<Vec<Appended>> {
        let before = self.entries.partition_point(|entry| entry.end() <= lsn.0);
        let first = self.entries.get(before).filter(|entry| entry.first <= lsn)?;
        let end = first.first.0 + records as u64;
        let near = self.entries.range(before..).take_while(|entry| entry.first.0 <= end);
        Some(near.cloned().collect())
    }

    /// The batch an LSN is in, while it is here.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<&Appended> {
        let after = self.entries.partition_point(|entry| entry.first <= lsn);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        (lsn.0 < entry.end()).then_some(entry)
    }
}
