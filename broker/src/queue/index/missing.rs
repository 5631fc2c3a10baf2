//! An index that misses whatever was not looked up, so that nobody comes to rely on it never missing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::memory::MemoryIndex;
use super::{Counts, Cursor, Frozen, Index, Lane, Lookup, Message, Missing, Page, StateSet};
use crate::queue::ids::QueueId;
use crate::queue::time::Now;

/// Keeps pages until [`Self::evict`] drops some of them at random, as a cache would between two
/// commands. What is changed without being present panics: it was applied without being looked up.
#[derive(Debug)]
pub struct MissingIndex {
    inside: MemoryIndex,
    /// Pages in memory; see [`page`] for their numbers.
    present: RefCell<BTreeSet<u64>>,
    state: u64,
}

/// What of the index can be missing.
#[derive(Clone, Copy)]
enum Part {
    Message(Lsn),
    Ready(QueueId),
    List(QueueId),
    Oldest(QueueId),
    Due,
    Expired,
    TtlOver,
    Holder(QueueId),
    Behind(QueueId),
}

fn page(part: Part) -> Missing {
    Missing(Lsn(match part {
        Part::Message(birth) => birth.0 << 3,
        Part::Ready(queue) => u64::from(queue.0) << 3 | 1,
        Part::List(queue) => u64::from(queue.0) << 3 | 2,
        Part::Oldest(queue) => u64::from(queue.0) << 3 | 6,
        Part::Due => 3,
        Part::Expired => 4,
        Part::TtlOver => 5,
        Part::Holder(queue) => u64::from(queue.0) << 3 | 6,
        Part::Behind(queue) => u64::from(queue.0) << 3 | 7,
    }))
}

impl MissingIndex {
    pub fn new(seed: u64) -> Self {
        Self { inside: MemoryIndex::default(), present: RefCell::default(), state: seed | 1 }
    }

    /// Drops about half of all pages.
    pub fn evict(&mut self) {
        let mut state = self.state;
        self.present.get_mut().retain(|_| {
            // xorshift64 (Marsaglia, 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.is_multiple_of(2)
        });
        self.state = state;
    }

    fn look_up(&self, of: Part) -> Lookup<()> {
        let page = page(of);
        if self.present.borrow().contains(&page.0.0) { Ok(()) } else { Err(page) }
    }

    fn assert_present(&self, birth: Lsn) {
        let present = self.look_up(Part::Message(birth)).is_ok();
        assert!(present, "message {birth} is changed without having been looked up");
    }

    fn pin(&self, birth: Lsn) {
        self.present.borrow_mut().insert(page(Part::Message(birth)).0.0);
    }
}

impl Index for MissingIndex {
    fn message(&self, birth: Lsn) -> Lookup<Option<Message>> {
        self.look_up(Part::Message(birth))?;
        self.inside.message(birth)
    }

    fn ready(&self, queue: QueueId, lane: Lane, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.look_up(Part::Ready(queue))?;
        self.inside.ready(queue, lane, max, births)
    }

    fn has_lanes(&self, queue: QueueId) -> bool {
        self.inside.has_lanes(queue)
    }

    fn fronts(&self, queue: QueueId, visit: &mut dyn FnMut(Lane, u8)) {
        self.inside.fronts(queue, visit);
    }

    fn due(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.look_up(Part::Due)?;
        self.inside.due(now, max, births)
    }

    fn next_due(&self) -> (Option<u64>, Option<u64>) {
        self.inside.next_due()
    }

    fn ttl_over(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.look_up(Part::TtlOver)?;
        self.inside.ttl_over(now, max, births)
    }

    fn next_ttl_end(&self) -> (Option<u64>, Option<u64>) {
        self.inside.next_ttl_end()
    }

    fn expired(&self, wall_ms: u64, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.look_up(Part::Expired)?;
        self.inside.expired(wall_ms, max, births)
    }

    fn next_expiry(&self) -> Option<u64> {
        self.inside.next_expiry()
    }

    fn holder(&self, queue: QueueId, key: u64) -> Lookup<Option<Lsn>> {
        self.look_up(Part::Holder(queue))?;
        self.inside.holder(queue, key)
    }

    fn has_leader(&self, queue: QueueId, line: u32) -> bool {
        self.inside.has_leader(queue, line)
    }

    fn has_behind(&self, queue: QueueId, line: u32) -> bool {
        self.inside.has_behind(queue, line)
    }

    fn first_behind(&self, queue: QueueId, line: u32) -> Lookup<Option<Lsn>> {
        self.look_up(Part::Behind(queue))?;
        self.inside.first_behind(queue, line)
    }

    fn oldest_ready(&self, queue: QueueId) -> Option<u64> {
        self.inside.oldest_ready(queue)
    }

    fn oldest(
        &self,
        queue: QueueId,
        states: StateSet,
        max: usize,
        births: &mut Vec<Lsn>,
    ) -> Lookup<()> {
        self.look_up(Part::Oldest(queue))?;
        self.inside.oldest(queue, states, max, births)
    }

    fn list(
        &self,
        queue: QueueId,
        states: StateSet,
        after: Option<Cursor>,
        max: usize,
        page: &mut Vec<Cursor>,
    ) -> Lookup<()> {
        self.look_up(Part::List(queue))?;
        let first = page.len();
        self.inside.list(queue, states, after, max, page)?;
        page[first..].iter().for_each(|cursor| self.pin(cursor.birth));
        Ok(())
    }

    fn counts(&self, queue: QueueId) -> Counts {
        self.inside.counts(queue)
    }

    fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>) {
        self.inside.set_retention(queue, retention_ms);
    }

    fn insert(&mut self, birth: Lsn, message: Message) {
        self.inside.insert(birth, message);
        self.pin(birth);
    }

    fn change(&mut self, birth: Lsn, message: Message) {
        self.assert_present(birth);
        self.inside.change(birth, message);
    }

    fn remove(&mut self, birth: Lsn) -> Message {
        self.assert_present(birth);
        self.inside.remove(birth)
    }

    fn forget_boot_clock(&mut self) {
        self.inside.forget_boot_clock();
    }

    fn frozen(&self) -> Box<dyn Frozen> {
        self.inside.frozen()
    }

    fn surplus(&mut self) -> Option<Vec<Lsn>> {
        None
    }

    fn page_out(&mut self, page: Lsn, births: &[u64]) {
        self.inside.page_out(page, births);
    }

    fn is_missing(&self, page: Missing) -> bool {
        !self.present.borrow().contains(&page.0.0)
    }

    fn page(&self, _page: Missing) -> Option<Arc<Page>> {
        None
    }

    fn put_back(&mut self, pages: Vec<Page>) {
        self.inside.put_back(pages);
    }

    fn load(&mut self, page: Missing, _messages: Vec<(Lsn, Message)>) -> bool {
        self.present.get_mut().insert(page.0.0);
        false
    }
}
