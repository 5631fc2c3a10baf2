//! The index of production: what waits long is in pages on disk, all else in memory.
//!
//! Some hundred thousand messages are in memory, in a [`MemoryIndex`]. Beyond that, those of each
//! queue that are wanted last go into pages of neighbours, which are records of the log; in memory
//! stay a few bytes for each. Whoever looks for one of them gets the whole page back first, so a
//! message changes only while it is in memory, and a page has no state of its own to be kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::cold::{Cold, Earliest};
use super::memory::MemoryIndex;
use super::page::Stand;
use super::pages::Pages;
use super::{
    Counts, Cursor, Frozen, Index, Lane, Lookup, Message, Missing, PLACE_MAX, Page, StateSet,
    ready_order,
};
use crate::queue::ids::QueueId;
use crate::queue::policy::PRIORITY_MAX;
use crate::queue::time::Now;

/// Messages of a page: some twenty kilobytes, read at once.
const PAGE_MESSAGES: usize = 512;
/// Smaller pages would take more memory than they save.
const PAGE_MESSAGES_MIN: usize = 16;
/// So many ready messages are found at once even where that takes pages; who wants more asks again.
const READY_AT_ONCE: usize = 8_192;
/// Queues that are looked at for messages to put away, before the others have their turn.
const QUEUES_LOOKED_AT: usize = 256;

/// Messages in memory and in pages; see the module.
#[derive(Debug)]
pub struct PagedIndex {
    hot: MemoryIndex,
    cold: Cold,
    /// Beyond so many in memory, some go into pages.
    messages_in_memory: usize,
    page_messages: usize,
    page_messages_min: usize,
    /// The queue that messages were put away of last.
    hand: QueueId,
    /// No queue had enough to put away when so many were in memory.
    patience: usize,
}

impl PagedIndex {
    /// An empty index that keeps about so many messages in memory.
    pub fn new(messages_in_memory: usize) -> Self {
        // A small memory has small pages: a page in memory must not be most of it.
        let most = PAGE_MESSAGES.min(messages_in_memory / 4).max(1);
        Self::with_pages(messages_in_memory, most, PAGE_MESSAGES_MIN.min(most))
    }

    pub(in crate::queue) fn with_pages(
        messages_in_memory: usize,
        page_messages: usize,
        page_messages_min: usize,
    ) -> Self {
        Self {
            hot: MemoryIndex::default(),
            cold: Cold::default(),
            messages_in_memory,
            page_messages,
            page_messages_min,
            hand: QueueId(0),
            patience: 0,
        }
    }

    fn stand(&self, birth: Lsn) -> Stand {
        (self.hot.present(birth).order(), birth)
    }
}

/// The sections of a listing, in their order.
const SECTIONS: [StateSet; 5] =
    [StateSet::READY, StateSet::SCHEDULED, StateSet::LEASED, StateSet::PARKED, StateSet::BEHIND];

/// An error where there is something that must be in memory first.
fn unless(missing: Option<Lsn>) -> Lookup<()> {
    missing.map_or(Ok(()), |page| Err(Missing(page)))
}

/// Fails for the page of an order's earliest time, where that has come.
fn unless_over(earliest: Option<Earliest>, now_ms: u64) -> Lookup<()> {
    unless(earliest.filter(|earliest| earliest.time_ms <= now_ms).map(|earliest| earliest.page))
}

fn earlier(hot: Option<u64>, cold: Option<Earliest>) -> Option<u64> {
    hot.into_iter().chain(cold.map(|earliest| earliest.time_ms)).min()
}

impl Index for PagedIndex {
    fn message(&self, birth: Lsn) -> Lookup<Option<Message>> {
        match self.hot.message(birth)? {
            None => unless(self.cold.home(birth)).map(|()| None),
            found => Ok(found),
        }
    }

    fn ready(&self, queue: QueueId, lane: Lane, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        let start = births.len();
        self.hot.ready(queue, lane, max, births)?;
        let Some(page) = self.cold.first_ready(queue, lane) else { return Ok(()) };
        let before = births[start..].partition_point(|&birth| self.stand(birth) < page.first());
        births.truncate(start + before);
        if before < max.min(READY_AT_ONCE) {
            births.truncate(start);
            return Err(Missing(Lsn(page.lsn)));
        }
        Ok(())
    }

    fn has_lanes(&self, queue: QueueId) -> bool {
        self.hot.has_lanes(queue) || self.cold.has_lanes(queue)
    }

    fn fronts(&self, queue: QueueId, visit: &mut dyn FnMut(Lane, u8)) {
        let mut fronts = BTreeMap::<Lane, u8>::new();
        let mut add = |lane, rank| {
            let first = fronts.entry(lane).or_insert(rank);
            *first = rank.min(*first);
        };
        self.hot.fronts(queue, &mut add);
        self.cold.fronts(queue, &mut add);
        fronts.into_iter().for_each(|(lane, rank)| visit(lane, rank));
    }

    fn due(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        let (start, end) = (births.len(), births.len() + max);
        let cold = self.cold.next_due().into_iter().zip([now.boot_ms, now.wall_ms]);
        for (hot, (cold, now_ms)) in self.hot.dues_over(now).into_iter().zip(cold) {
            let mut last = None;
            for (time_ms, birth) in hot.take(end - births.len()) {
                births.push(birth);
                last = Some((time_ms, birth));
            }
            // Where there are enough, what comes later need not be in memory: of all that waited for
            // one moment, or for a broker that was down, no more is brought in than a step takes.
            let comes_later =
                |cold: Earliest| last.is_none_or(|last| last < (cold.time_ms, cold.birth));
            let cold = cold.filter(|&cold| births.len() < end || !comes_later(cold));
            unless_over(cold, now_ms).inspect_err(|_| births.truncate(start))?;
        }
        Ok(())
    }

    fn next_due(&self) -> (Option<u64>, Option<u64>) {
        let (hot_boot, hot_wall) = self.hot.next_due();
        let [cold_boot, cold_wall] = self.cold.next_due();
        (earlier(hot_boot, cold_boot), earlier(hot_wall, cold_wall))
    }

    fn ttl_over(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        let start = births.len();
        self.hot.ttl_over(now, max, births)?;
        // Which goes first makes no difference, so a step brings no more pages in than it needs.
        if births.len() - start < max {
            let [boot, wall] = self.cold.next_ttl_end();
            let missing =
                unless_over(boot, now.boot_ms).and_then(|()| unless_over(wall, now.wall_ms));
            missing.inspect_err(|_| births.truncate(start))?;
        }
        Ok(())
    }

    fn next_ttl_end(&self) -> (Option<u64>, Option<u64>) {
        let (hot_boot, hot_wall) = self.hot.next_ttl_end();
        let [cold_boot, cold_wall] = self.cold.next_ttl_end();
        (earlier(hot_boot, cold_boot), earlier(hot_wall, cold_wall))
    }

    fn expired(&self, wall_ms: u64, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        let start = births.len();
        self.hot.expired(wall_ms, max, births)?;
        // As in `ttl_over`.
        if births.len() - start < max {
            let missing = unless_over(self.cold.next_expiry(), wall_ms);
            missing.inspect_err(|_| births.truncate(start))?;
        }
        Ok(())
    }

    fn next_expiry(&self) -> Option<u64> {
        earlier(self.hot.next_expiry(), self.cold.next_expiry())
    }

    fn holder(&self, queue: QueueId, key: u64) -> Lookup<Option<Lsn>> {
        match self.hot.holder(queue, key)? {
            None => unless(self.cold.holding(queue, key)).map(|()| None),
            found => Ok(found),
        }
    }

    fn has_leader(&self, queue: QueueId, line: u32) -> bool {
        self.hot.has_leader(queue, line) || self.cold.has_leader(queue, line)
    }

    fn has_behind(&self, queue: QueueId, line: u32) -> bool {
        self.hot.has_behind(queue, line) || self.cold.first_behind(queue, line).is_some()
    }

    fn first_behind(&self, queue: QueueId, line: u32) -> Lookup<Option<Lsn>> {
        let hot = self.hot.first_behind(queue, line)?;
        match self.cold.first_behind(queue, line) {
            Some(page) if hot.is_none_or(|birth| page.first() < self.stand(birth)) => {
                Err(Missing(Lsn(page.lsn)))
            }
            _ => Ok(hot),
        }
    }

    fn oldest_ready(&self, queue: QueueId) -> Option<u64> {
        let (hot, cold) = (self.hot.oldest_ready(queue), self.cold.oldest_ready(queue));
        hot.into_iter().chain(cold).min()
    }

    fn oldest(
        &self,
        queue: QueueId,
        states: StateSet,
        max: usize,
        births: &mut Vec<Lsn>,
    ) -> Lookup<()> {
        let stands = self.hot.oldest_stands(queue, states, max);
        // Where there are enough, what came later need not be in memory.
        let last = stands.last().filter(|_| stands.len() == max);
        let (place, birth) = last.copied().unwrap_or((PLACE_MAX, Lsn(u64::MAX)));
        if states.contains(StateSet::PARKED) {
            let last = Some((place.0, birth));
            unless(self.cold.between(queue, StateSet::PARKED, None, last))?;
        }
        if states.contains(StateSet::READY) {
            for rank in u8::MAX - PRIORITY_MAX..=u8::MAX {
                let before_all = Some((ready_order(rank, Lsn(0)), Lsn(0)));
                let last = Some((ready_order(rank, place), birth));
                unless(self.cold.between(queue, StateSet::READY, before_all, last))?;
            }
        }
        births.extend(stands.into_iter().map(|(_, birth)| birth));
        Ok(())
    }

    fn list(
        &self,
        queue: QueueId,
        states: StateSet,
        after: Option<Cursor>,
        max: usize,
        page: &mut Vec<Cursor>,
    ) -> Lookup<()> {
        let (begin, end) = (page.len(), page.len().saturating_add(max));
        for section in SECTIONS.into_iter().filter(|section| states.contains(*section)) {
            let room = end - page.len();
            let is_over = after.is_some_and(|after| section.0 < u32::from(after.section));
            if room == 0 || is_over {
                continue;
            }
            let start = page.len();
            self.hot.list(queue, section, after, room, page)?;
            // Where the page is full, what comes after it need not be in memory.
            let is_full = page.len() == start + room;
            let last = page.last().filter(|_| is_full).map(|last| (last.key, last.birth));
            let after = after.filter(|after| u32::from(after.section) == section.0);
            let after = after.map(|after| (after.key, after.birth));
            if let Some(missing) = self.cold.between(queue, section, after, last) {
                page.truncate(begin);
                return Err(Missing(missing));
            }
        }
        Ok(())
    }

    fn counts(&self, queue: QueueId) -> Counts {
        let mut counts = self.hot.counts(queue);
        counts += self.cold.counts(queue);
        counts
    }

    fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>) {
        self.cold.set_retention(queue, self.hot.retention(queue), retention_ms);
        self.hot.set_retention(queue, retention_ms);
    }

    fn insert(&mut self, birth: Lsn, message: Message) {
        self.hot.insert(birth, message);
    }

    fn change(&mut self, birth: Lsn, message: Message) {
        self.hot.change(birth, message);
    }

    fn remove(&mut self, birth: Lsn) -> Message {
        self.hot.remove(birth)
    }

    fn forget_boot_clock(&mut self) {
        self.hot.forget_boot_clock();
        self.cold.forget_boot_clock();
    }

    fn frozen(&self) -> Box<dyn Frozen> {
        Box::new(FrozenPaged { hot: self.hot.messages().clone(), cold: self.cold.all() })
    }

    fn surplus(&mut self) -> Option<Vec<Lsn>> {
        if self.hot.len() <= self.messages_in_memory.max(self.patience) {
            return None;
        }
        let queues = self.hot.queue_count();
        // Half of the memory is for the queues' fronts, in equal shares.
        let share = self.messages_in_memory / (2 * queues.max(1));
        let most = self.page_messages;
        let least = share.clamp(self.page_messages_min, most);
        let mut queue = self.hand;
        for _ in 0..queues.min(QUEUES_LOOKED_AT) + 1 {
            if let Some(births) = self.hot.wanted_last(queue, share, least, most) {
                (self.hand, self.patience) = (queue, 0);
                return Some(births);
            }
            queue = self.hot.queue_after(queue)?;
        }
        (self.hand, self.patience) = (queue, self.hot.len() + most);
        None
    }

    fn page_out(&mut self, page: Lsn, births: &[u64]) {
        // They are the last of an order, which gives them away best from its end.
        let from_the_end = births.iter().rev().map(|&birth| Lsn(birth));
        let mut messages: Vec<_> =
            from_the_end.map(|birth| (birth, self.hot.remove(birth))).collect();
        messages.reverse();
        let page = Page::new(page, &messages);
        let retention_ms = self.hot.retention(page.queue());
        self.cold.add(page, retention_ms);
    }

    fn is_missing(&self, page: Missing) -> bool {
        self.cold.queue_of(page.0).is_some()
    }

    fn page(&self, page: Missing) -> Option<Arc<Page>> {
        self.cold.get(page.0)
    }

    fn put_back(&mut self, pages: Vec<Page>) {
        self.cold.fill(pages, |queue| self.hot.retention(queue));
    }

    fn load(&mut self, page: Missing, messages: Vec<(Lsn, Message)>) -> bool {
        let retention_ms = self.cold.queue_of(page.0).and_then(|queue| self.hot.retention(queue));
        let Some(page) = self.cold.take(page.0, retention_ms) else { return false };
        for (birth, mut message) in messages {
            page.update(&mut message);
            self.hot.insert(birth, message);
        }
        true
    }
}

struct FrozenPaged {
    hot: Pages<Message>,
    cold: Vec<Arc<Page>>,
}

impl Frozen for FrozenPaged {
    fn for_each(&self, visit: &mut dyn FnMut(Lsn, &Message)) {
        self.hot.for_each(visit);
    }

    fn pages(&self) -> &[Arc<Page>] {
        &self.cold
    }
}

#[cfg(test)]
mod tests;
