//! The index of the first days: everything in memory, correct and plain.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::keys::{Keyed, Keys};
use super::pages::Pages;
use super::ready::ReadyOrder;
use super::times::Times;
use super::{
    Counts, Cursor, Frozen, Index, Lane, Lookup, Message, Missing, Page, State, StateSet,
    ready_order, split_ready_order,
};
use crate::queue::ids::QueueId;
use crate::queue::time::Now;

/// Messages by birth, and per queue the orders in which they are looked for.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    messages: Pages<Message>,
    queues: BTreeMap<QueueId, Orders>,
    /// Scheduled messages of all queues, by when they are ready.
    dues: Times,
    /// Messages that nobody holds, by the end of their time to live.
    ttls: Times,
    /// Messages that nobody holds, in queues with a retention, by its end.
    expiries: BTreeSet<(u64, Lsn)>,
    /// Messages that have keys.
    keyed: Keyed,
}

/// Invariant: every message of the queue is in exactly one of the first five.
#[derive(Debug, Default)]
struct Orders {
    ready: ReadyOrder,
    scheduled: BTreeSet<(u64, Lsn)>,
    leased: BTreeSet<Lsn>,
    parked: BTreeSet<(Lsn, Lsn)>,
    behind: BTreeSet<(Lsn, Lsn)>,
    retention_ms: Option<u64>,
    bytes: u64,
}

fn split_order(key: u64, birth: Lsn) -> (u8, Lsn, Lsn) {
    let (rank, place) = split_ready_order(key);
    (rank, place, birth)
}

impl Orders {
    fn add(&mut self, birth: Lsn, message: &Message) {
        match message.state {
            State::Ready => {
                let place = (message.rank(), message.place, birth);
                self.ready.insert(message.lane(), place);
            }
            State::Scheduled(due) => drop(self.scheduled.insert((due.wall_ms, birth))),
            State::Leased => drop(self.leased.insert(birth)),
            State::Parked => drop(self.parked.insert((message.place, birth))),
            State::Behind => drop(self.behind.insert((message.place, birth))),
        }
        self.bytes += u64::from(message.size);
    }

    fn take(&mut self, birth: Lsn, message: &Message) {
        let was_there = match message.state {
            State::Ready => {
                let place = (message.rank(), message.place, birth);
                self.ready.remove(message.lane(), place)
            }
            State::Scheduled(due) => self.scheduled.remove(&(due.wall_ms, birth)),
            State::Leased => self.leased.remove(&birth),
            State::Parked => self.parked.remove(&(message.place, birth)),
            State::Behind => self.behind.remove(&(message.place, birth)),
        };
        debug_assert!(was_there, "message {birth} is not where its state says");
        self.bytes -= u64::from(message.size);
    }

    /// When the message expires, unless somebody holds it.
    fn expiry(&self, message: &Message) -> Option<u64> {
        let retention_ms = self.retention_ms.filter(|_| message.state != State::Leased)?;
        Some(message.since_ms.saturating_add(retention_ms))
    }

    fn births_not_leased(&self) -> impl Iterator<Item = Lsn> {
        let ready = self.ready.births();
        let scheduled = self.scheduled.iter().map(|&(_, birth)| birth);
        let others = self.parked.iter().chain(&self.behind).map(|&(_, birth)| birth);
        ready.chain(scheduled).chain(others)
    }

    fn is_empty(&self) -> bool {
        self.ready.len() == 0
            && self.scheduled.is_empty()
            && self.leased.is_empty()
            && self.parked.is_empty()
            && self.behind.is_empty()
            && self.retention_ms.is_none()
    }
}

impl MemoryIndex {
    fn add(&mut self, birth: Lsn, message: &Message) {
        let orders = self.queues.entry(message.queue).or_default();
        orders.add(birth, message);
        if let Some(expiry) = orders.expiry(message) {
            self.expiries.insert((expiry, birth));
        }
        message.due().into_iter().for_each(|due| self.dues.insert(due, birth));
        message.waits_until().into_iter().for_each(|end| self.ttls.insert(end, birth));
        if message.keys != Keys::NONE {
            self.keyed.add(birth, message);
        }
    }

    fn take(&mut self, birth: Lsn, message: &Message) {
        let orders = self.queues.get_mut(&message.queue).expect("a message's queue has orders");
        orders.take(birth, message);
        if let Some(expiry) = orders.expiry(message) {
            self.expiries.remove(&(expiry, birth));
        }
        if orders.is_empty() {
            self.queues.remove(&message.queue);
        }
        message.due().into_iter().for_each(|due| self.dues.remove(due, birth));
        message.waits_until().into_iter().for_each(|end| self.ttls.remove(end, birth));
        if message.keys != Keys::NONE {
            self.keyed.take(birth, message);
        }
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// How many queues have orders.
    pub(super) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The queue after this one, the first one again after the last.
    pub(super) fn queue_after(&self, queue: QueueId) -> Option<QueueId> {
        let after = self.queues.range((Bound::Excluded(queue), Bound::Unbounded)).next();
        after.or_else(|| self.queues.first_key_value()).map(|(queue, _)| *queue)
    }

    /// The messages of a queue that are wanted last, at least `least` of them and at most `most`,
    /// where it has so many beyond `keep` in one state.
    pub(super) fn wanted_last(
        &self,
        queue: QueueId,
        keep: usize,
        least: usize,
        most: usize,
    ) -> Option<Vec<Lsn>> {
        let orders = self.queues.get(&queue)?;
        let surplus = |len: usize| Some(len.saturating_sub(keep).min(most)).filter(|n| least <= *n);
        let mut births: Vec<Lsn> = if let Some(count) = surplus(orders.scheduled.len()) {
            orders.scheduled.iter().rev().take(count).map(|&(_, birth)| birth).collect()
        } else if let Some(count) = surplus(orders.parked.len()) {
            orders.parked.iter().rev().take(count).map(|&(_, birth)| birth).collect()
        } else if let Some(count) = surplus(orders.behind.len()) {
            orders.behind.iter().rev().take(count).map(|&(_, birth)| birth).collect()
        } else {
            orders.ready.wanted_last(surplus(orders.ready.len())?, least)
        };
        births.reverse();
        (!births.is_empty()).then_some(births)
    }

    /// Place and birth of the messages that [`Index::oldest`] adds.
    pub(super) fn oldest_stands(
        &self,
        queue: QueueId,
        states: StateSet,
        max: usize,
    ) -> Vec<(Lsn, Lsn)> {
        let Some(orders) = self.queues.get(&queue) else { return Vec::new() };
        let mut stands = Vec::new();
        if states.contains(StateSet::READY) {
            stands.extend(orders.ready.first_of_lines(max));
        }
        if states.contains(StateSet::PARKED) {
            stands.extend(orders.parked.iter().take(max));
        }
        stands.sort_unstable();
        stands.truncate(max);
        stands
    }

    /// Scheduled messages whose time has come, on each clock, the earliest first.
    pub(super) fn dues_over(&self, now: Now) -> [impl Iterator<Item = (u64, Lsn)>; 2] {
        self.dues.over_by_clock(now)
    }

    pub(super) fn retention(&self, queue: QueueId) -> Option<u64> {
        self.queues.get(&queue)?.retention_ms
    }

    pub(super) fn present(&self, birth: Lsn) -> &Message {
        self.messages.get(birth).expect("what is applied was looked up")
    }

    pub(super) fn messages(&self) -> &Pages<Message> {
        &self.messages
    }
}

impl Index for MemoryIndex {
    fn message(&self, birth: Lsn) -> Lookup<Option<Message>> {
        Ok(self.messages.get(birth).copied())
    }

    fn ready(&self, queue: QueueId, lane: Lane, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        if let Some(orders) = self.queues.get(&queue) {
            births.extend(orders.ready.of_lane(lane).take(max).map(|(_, _, birth)| birth));
        }
        Ok(())
    }

    fn has_lanes(&self, queue: QueueId) -> bool {
        self.keyed.has_lanes()
            && self.queues.get(&queue).is_some_and(|orders| {
                orders.ready.fronts().any(|(lane, _)| lane != Lane::default())
            })
    }

    fn fronts(&self, queue: QueueId, visit: &mut dyn FnMut(Lane, u8)) {
        let orders = self.queues.get(&queue);
        let fronts = orders.into_iter().flat_map(|orders| orders.ready.fronts());
        fronts.for_each(|(lane, rank)| visit(lane, rank));
    }

    fn due(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.dues.over(now, max, births);
        Ok(())
    }

    fn next_due(&self) -> (Option<u64>, Option<u64>) {
        self.dues.first()
    }

    fn ttl_over(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        self.ttls.over(now, max, births);
        Ok(())
    }

    fn next_ttl_end(&self) -> (Option<u64>, Option<u64>) {
        self.ttls.first()
    }

    fn expired(&self, wall_ms: u64, max: usize, births: &mut Vec<Lsn>) -> Lookup<()> {
        let expired = self.expiries.range(..=(wall_ms, Lsn(u64::MAX)));
        births.extend(expired.take(max).map(|&(_, birth)| birth));
        Ok(())
    }

    fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|&(expiry, _)| expiry)
    }

    fn holder(&self, queue: QueueId, key: u64) -> Lookup<Option<Lsn>> {
        Ok(self.keyed.holder(queue, key))
    }

    fn has_leader(&self, queue: QueueId, line: u32) -> bool {
        self.keyed.has_leader(queue, line)
    }

    fn has_behind(&self, queue: QueueId, line: u32) -> bool {
        self.keyed.first_behind(queue, line).is_some()
    }

    fn first_behind(&self, queue: QueueId, line: u32) -> Lookup<Option<Lsn>> {
        Ok(self.keyed.first_behind(queue, line))
    }

    fn oldest_ready(&self, queue: QueueId) -> Option<u64> {
        let orders = self.queues.get(&queue)?;
        orders.ready.firsts().map(|birth| self.present(birth).since_ms).min()
    }

    fn oldest(
        &self,
        queue: QueueId,
        states: StateSet,
        max: usize,
        births: &mut Vec<Lsn>,
    ) -> Lookup<()> {
        births.extend(self.oldest_stands(queue, states, max).into_iter().map(|(_, birth)| birth));
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
        let Some(orders) = self.queues.get(&queue) else { return Ok(()) };
        let from = |section: StateSet| -> Bound<(u64, Lsn)> {
            match after {
                Some(after) if section.0 == u32::from(after.section) => {
                    Bound::Excluded((after.key, after.birth))
                }
                _ => Bound::Unbounded,
            }
        };
        let rest = |section: StateSet| {
            states.contains(section) && after.is_none_or(|a| u32::from(a.section) <= section.0)
        };
        let end = page.len().saturating_add(max);
        let mut add = |section: StateSet, found: &mut dyn Iterator<Item = (u64, Lsn)>| {
            let room = end - page.len();
            page.extend(found.take(room).map(|(key, birth)| Cursor::new(section, key, birth)));
        };
        if rest(StateSet::READY) {
            let last = after.filter(|after| u32::from(after.section) == StateSet::READY.0);
            let ready = orders.ready.after(last.map(|last| split_order(last.key, last.birth)));
            add(
                StateSet::READY,
                &mut ready.map(|(rank, place, birth)| (ready_order(rank, place), birth)),
            );
        }
        if rest(StateSet::SCHEDULED) {
            let scheduled = orders.scheduled.range((from(StateSet::SCHEDULED), Bound::Unbounded));
            add(StateSet::SCHEDULED, &mut scheduled.copied());
        }
        if rest(StateSet::LEASED) {
            let from = from(StateSet::LEASED).map(|(_, birth)| birth);
            let leased = orders.leased.range((from, Bound::Unbounded));
            add(StateSet::LEASED, &mut leased.map(|&birth| (0, birth)));
        }
        if rest(StateSet::PARKED) {
            let from = from(StateSet::PARKED).map(|(place, birth)| (Lsn(place), birth));
            let parked = orders.parked.range((from, Bound::Unbounded));
            add(StateSet::PARKED, &mut parked.map(|&(place, birth)| (place.0, birth)));
        }
        if rest(StateSet::BEHIND) {
            let from = from(StateSet::BEHIND).map(|(place, birth)| (Lsn(place), birth));
            let behind = orders.behind.range((from, Bound::Unbounded));
            add(StateSet::BEHIND, &mut behind.map(|&(place, birth)| (place.0, birth)));
        }
        Ok(())
    }

    fn counts(&self, queue: QueueId) -> Counts {
        self.queues.get(&queue).map_or_else(Counts::default, |orders| Counts {
            ready: orders.ready.len() as u64,
            scheduled: orders.scheduled.len() as u64,
            leased: orders.leased.len() as u64,
            parked: orders.parked.len() as u64,
            behind: orders.behind.len() as u64,
            bytes: orders.bytes,
        })
    }

    fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>) {
        let before = self.queues.get(&queue).and_then(|orders| orders.retention_ms);
        if before == retention_ms {
            return;
        }
        let orders = self.queues.entry(queue).or_default();
        orders.retention_ms = retention_ms;
        for birth in orders.births_not_leased() {
            let since_ms = self.messages.get(birth).expect("an order names what is there").since_ms;
            if let Some(before) = before {
                self.expiries.remove(&(since_ms.saturating_add(before), birth));
            }
            if let Some(after) = retention_ms {
                self.expiries.insert((since_ms.saturating_add(after), birth));
            }
        }
        if orders.is_empty() {
            self.queues.remove(&queue);
        }
    }

    fn insert(&mut self, birth: Lsn, message: Message) {
        self.add(birth, &message);
        let before = self.messages.insert(birth, message);
        debug_assert!(before.is_none(), "message {birth} was there already");
    }

    fn change(&mut self, birth: Lsn, message: Message) {
        let before = *self.present(birth);
        self.take(birth, &before);
        self.add(birth, &message);
        self.messages.insert(birth, message);
    }

    fn remove(&mut self, birth: Lsn) -> Message {
        let message = self.messages.remove(birth).expect("what is applied was looked up");
        self.take(birth, &message);
        message
    }

    fn forget_boot_clock(&mut self) {
        for birth in self.dues.take_boot() {
            let message = self.messages.get_mut(birth).expect("a scheduled message is there");
            message.forget_boot_clock();
            message.due().into_iter().for_each(|due| self.dues.insert(due, birth));
        }
        for birth in self.ttls.take_boot() {
            let message = self.messages.get_mut(birth).expect("a message that expires is there");
            message.forget_boot_clock();
            message.waits_until().into_iter().for_each(|end| self.ttls.insert(end, birth));
        }
        // What somebody holds is in neither, and comes back with its time.
        for &birth in self.queues.values().flat_map(|orders| &orders.leased) {
            let message = self.messages.get_mut(birth).expect("a leased message is there");
            message.forget_boot_clock();
        }
    }

    fn frozen(&self) -> Box<dyn Frozen> {
        Box::new(self.messages.clone())
    }

    fn surplus(&mut self) -> Option<Vec<Lsn>> {
        None
    }

    fn page_out(&mut self, _page: Lsn, _births: &[u64]) {
        // Everything stays in memory.
    }

    fn is_missing(&self, _page: Missing) -> bool {
        false
    }

    fn page(&self, _page: Missing) -> Option<Arc<Page>> {
        None
    }

    fn put_back(&mut self, pages: Vec<Page>) {
        assert!(pages.is_empty(), "there are no pages: everything is in memory");
    }

    fn load(&mut self, page: Missing, _messages: Vec<(Lsn, Message)>) -> bool {
        unreachable!("{page:?} cannot be missing: everything is in memory");
    }
}
