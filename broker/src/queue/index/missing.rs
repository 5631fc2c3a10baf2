//! An index that misses at random, so that nobody comes to rely on it never missing.

use std::cell::Cell;

use qbroker_storage::Lsn;

use super::memory::MemoryIndex;
use super::{Counts, Cursor, Index, Lookup, Message, Missing, StateSet};
use crate::queue::ids::QueueId;
use crate::queue::time::Now;

/// Answers [`Missing`] to about every third lookup, never twice in a row after a load.
#[derive(Debug)]
pub struct MissingIndex {
    inside: MemoryIndex,
    state: Cell<u64>,
    /// Lookups that are sure to succeed after a page was loaded, so that a decision can finish.
    pinned: Cell<u32>,
}

impl MissingIndex {
    pub fn new(seed: u64) -> Self {
        Self { inside: MemoryIndex::default(), state: Cell::new(seed | 1), pinned: Cell::new(0) }
    }

    fn try_miss(&self) -> Lookup<()> {
        if 0 < self.pinned.get() {
            self.pinned.set(self.pinned.get() - 1);
            return Ok(());
        }
        // xorshift64 (Marsaglia, 2003)
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        if state % 3 == 0 { Err(Missing(state)) } else { Ok(()) }
    }
}

impl Index for MissingIndex {
    fn message(&self, birth: Lsn) -> Lookup<Option<Message>> {
        self.try_miss()?;
        self.inside.message(birth)
    }

    fn ready(&self, queue: QueueId, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.try_miss()?;
        self.inside.ready(queue, max, births)
    }

    fn due(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.try_miss()?;
        self.inside.due(now, max, births)
    }

    fn next_due(&self) -> (Option<u64>, Option<u64>) {
        self.inside.next_due()
    }

    fn expired(&self, wall_ms: u64, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.try_miss()?;
        self.inside.expired(wall_ms, max, births)
    }

    fn next_expiry(&self) -> Option<u64> {
        self.inside.next_expiry()
    }

    fn oldest_ready(&self, queue: QueueId) -> Lookup<Option<u64>> {
        self.try_miss()?;
        self.inside.oldest_ready(queue)
    }

    fn list(
        &self,
        queue: QueueId,
        states: StateSet,
        after: Option<Cursor>,
        max: usize,
        page: &mut Vec<Cursor>,
    ) -> Lookup<()> {
        self.try_miss()?;
        self.inside.list(queue, states, after, max, page)
    }

    fn counts(&self, queue: QueueId) -> Counts {
        self.inside.counts(queue)
    }

    fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>) {
        self.inside.set_retention(queue, retention_ms);
    }

    fn insert(&mut self, birth: Lsn, message: Message) {
        self.inside.insert(birth, message);
    }

    fn change(&mut self, birth: Lsn, message: Message) {
        self.inside.change(birth, message);
    }

    fn remove(&mut self, birth: Lsn) -> Message {
        self.inside.remove(birth)
    }

    fn forget_boot_clock(&mut self) {
        self.inside.forget_boot_clock();
    }

    fn for_each(&self, visit: &mut dyn FnMut(Lsn, &Message)) {
        self.inside.for_each(visit);
    }

    fn load(&mut self, _page: Missing) {
        self.pinned.set(1_000);
    }
}
