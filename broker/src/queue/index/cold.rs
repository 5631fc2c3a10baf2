//! The pages that are not in memory, and where each stands in the orders of the index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::held::{Held, Number, Role};
use super::homes::Homes;
use super::keys::Lane;
use super::page::{Hash, Page, Stand, short_hash};
use super::{Counts, StateSet, split_ready_order};
use crate::queue::ids::QueueId;

/// Pages by their first message.
type Order = BTreeSet<(u64, Lsn, Number)>;

/// Pages by the earliest time of their messages, and by their first birth.
type TimeOrder = BTreeSet<(u64, Lsn, Number)>;

/// The page of an order's earliest time: nothing in any page comes before both of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Earliest {
    pub(super) time_ms: u64,
    pub(super) birth: Lsn,
    pub(super) page: Lsn,
}

/// Invariant: a page is in the order of its queue and state, in the orders of its due times and of the
/// ends of its times to live, in `expiries` where its queue has a retention, and in `ready_since` where
/// its messages are ready.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pages: Vec<Option<Arc<Page>>>,
    unused: Vec<Number>,
    by_lsn: BTreeMap<Lsn, Number>,
    homes: Homes,
    orders: BTreeMap<(QueueId, u32, Lane), Order>,
    /// How many pages are of messages that have fairness keys.
    in_lanes: usize,
    counts: BTreeMap<QueueId, Counts>,
    due_boot: TimeOrder,
    due_wall: TimeOrder,
    ttl_boot: TimeOrder,
    ttl_wall: TimeOrder,
    expiries: TimeOrder,
    /// Pages of ready messages, by when the oldest came into its queue.
    ready_since: BTreeSet<(QueueId, u64, Number)>,
    /// Pages by the keys of their messages.
    held: Held,
}

impl Cold {
    pub(super) fn add(&mut self, page: Page, retention_ms: Option<u64>) {
        let number = self.add_to_orders(page, retention_ms);
        let page = page_of(&self.pages, number);
        self.homes.insert(page.births(), number);
        for (role, hash) in page.roles() {
            self.held.insert(page.queue(), role, hash, number);
        }
    }

    /// Adds pages to none, all at once.
    pub(super) fn fill(&mut self, pages: Vec<Page>, retention_ms: impl Fn(QueueId) -> Option<u64>) {
        let add = |page: Page| {
            let retention_ms = retention_ms(page.queue());
            self.add_to_orders(page, retention_ms)
        };
        let numbers: Vec<Number> = pages.into_iter().map(add).collect();
        let births = |number: &Number| (*number, page_of(&self.pages, *number).births());
        self.homes.fill(numbers.iter().map(births));
        let mut lists = BTreeMap::<(QueueId, Role), Vec<(Number, &[Hash])>>::new();
        for number in numbers {
            let page = page_of(&self.pages, number);
            for (role, hashes) in page.hashes() {
                lists.entry((page.queue(), role)).or_default().push((number, hashes));
            }
        }
        for ((queue, role), lists) in lists {
            self.held.fill(queue, role, &lists);
        }
    }

    /// Adds a page, but not where its messages are and what keys they have.
    fn add_to_orders(&mut self, page: Page, retention_ms: Option<u64>) -> Number {
        let number = self.unused.pop().unwrap_or_else(|| {
            self.pages.push(None);
            Number::try_from(self.pages.len() - 1).expect("memory for fewer pages")
        });
        self.by_lsn.insert(Lsn(page.lsn), number);
        let (order, birth) = page.first();
        let orders = self.orders.entry(order_of(&page)).or_default();
        self.in_lanes += usize::from(page.lane() != Lane::default());
        orders.insert((order, birth, number));
        *self.counts.entry(page.queue()).or_default() += page.counts();
        self.ready_since.extend(ready_since(&page, number));
        self.add_times(&page, number, retention_ms);
        self.pages[number as usize] = Some(Arc::new(page));
        number
    }

    /// Takes a page out, where it is still here.
    pub(super) fn take(&mut self, page: Lsn, retention_ms: Option<u64>) -> Option<Arc<Page>> {
        let number = self.by_lsn.remove(&page)?;
        let page = self.pages[number as usize].take().expect("a number names a page");
        self.unused.push(number);
        self.homes.remove(page.births());
        let key = order_of(&page);
        self.in_lanes -= usize::from(page.lane() != Lane::default());
        let orders = self.orders.get_mut(&key).expect("a page is in the order of its state");
        let (order, birth) = page.first();
        orders.remove(&(order, birth, number));
        if orders.is_empty() {
            self.orders.remove(&key);
        }
        self.uncount(&page);
        ready_since(&page, number).map(|since| self.ready_since.remove(&since));
        self.remove_times(&page, number, retention_ms);
        for (role, hash) in page.roles() {
            self.held.remove(page.queue(), role, hash, number);
        }
        Some(page)
    }

    fn uncount(&mut self, page: &Page) {
        let counts = self.counts.get_mut(&page.queue()).expect("a page is counted");
        *counts -= page.counts();
        if *counts == Counts::default() {
            self.counts.remove(&page.queue());
        }
    }

    fn add_times(&mut self, page: &Page, number: Number, retention_ms: Option<u64>) {
        self.add_ends(page, number);
        self.expiries.extend(in_time(expiry(page, retention_ms), page, number));
    }

    fn add_ends(&mut self, page: &Page, number: Number) {
        for (order, time) in self.ends_of(page) {
            order.extend(in_time(time, page, number));
        }
    }

    fn remove_times(&mut self, page: &Page, number: Number, retention_ms: Option<u64>) {
        self.remove_ends(page, number);
        in_time(expiry(page, retention_ms), page, number).map(|it| self.expiries.remove(&it));
    }

    fn remove_ends(&mut self, page: &Page, number: Number) {
        for (order, time) in self.ends_of(page) {
            in_time(time, page, number).map(|it| order.remove(&it));
        }
    }

    /// The orders of due times and of the ends of times to live, and the page's time in each.
    fn ends_of(&mut self, page: &Page) -> [(&mut TimeOrder, Option<u64>); 4] {
        [
            (&mut self.due_boot, page.due_boot_ms),
            (&mut self.due_wall, page.due_wall_ms),
            (&mut self.ttl_boot, page.ttl_boot_ms),
            (&mut self.ttl_wall, page.ttl_wall_ms),
        ]
    }

    /// The queue of a page.
    pub(super) fn queue_of(&self, page: Lsn) -> Option<QueueId> {
        self.by_lsn.get(&page).map(|&number| self.page(number).queue())
    }

    /// The page of this record.
    pub(super) fn get(&self, page: Lsn) -> Option<Arc<Page>> {
        self.by_lsn.get(&page).and_then(|&number| self.pages[number as usize].clone())
    }

    /// The page that a message is in.
    pub(super) fn home(&self, birth: Lsn) -> Option<Lsn> {
        self.homes.get(birth).map(|number| Lsn(self.page(number).lsn))
    }

    /// The orders of a queue's pages of a state, by lane.
    fn lanes(&self, queue: QueueId, state: StateSet) -> impl Iterator<Item = (Lane, &Order)> {
        let lanes = (queue, state.0, Lane(0))..=(queue, state.0, Lane(u8::MAX));
        self.orders.range(lanes).map(|(&(.., lane), order)| (lane, order))
    }

    fn first_in(&self, order: &Order) -> Option<&Page> {
        order.first().map(|&(.., number)| self.page(number))
    }

    /// The first page of a lane.
    pub(super) fn first_ready(&self, queue: QueueId, lane: Lane) -> Option<&Page> {
        self.first_in(self.orders.get(&(queue, StateSet::READY.0, lane))?)
    }

    /// When the oldest of all ready messages of a queue came into it.
    pub(super) fn oldest_ready(&self, queue: QueueId) -> Option<u64> {
        let pages = (queue, 0, Number::MIN)..=(queue, u64::MAX, Number::MAX);
        self.ready_since.range(pages).next().map(|&(_, since_ms, _)| since_ms)
    }

    /// Whether ready messages of a queue have fairness keys.
    pub(super) fn has_lanes(&self, queue: QueueId) -> bool {
        0 < self.in_lanes
            && self.lanes(queue, StateSet::READY).any(|(lane, _)| lane != Lane::default())
    }

    /// Visits the lanes of a queue's pages, each with the rank of its first message.
    pub(super) fn fronts(&self, queue: QueueId, visit: &mut impl FnMut(Lane, u8)) {
        for (lane, order) in self.lanes(queue, StateSet::READY) {
            if let Some(&(order, ..)) = order.first() {
                visit(lane, split_ready_order(order).0);
            }
        }
    }

    /// The first page of a queue and state that may hold something after `after` and before
    /// `before`; `None` is no bound.
    pub(super) fn between(
        &self,
        queue: QueueId,
        state: StateSet,
        after: Option<Stand>,
        before: Option<Stand>,
    ) -> Option<Lsn> {
        let end = before.map_or(Bound::Unbounded, |(order, birth)| {
            Bound::Excluded((order, birth, Number::MIN))
        });
        let orders = self.lanes(queue, state);
        let pages = orders.flat_map(|(_, order)| order.range((Bound::Unbounded, end)));
        let pages = pages.map(|&(.., number)| self.page(number));
        let mut reaching = pages.filter(|page| after.is_none_or(|after| after < page.last()));
        reaching.next().map(|page| Lsn(page.lsn))
    }

    /// A page with a message that may hold this unique key.
    pub(super) fn holding(&self, queue: QueueId, key: u64) -> Option<Lsn> {
        let number = self.held.pages(queue, Role::Holds, short_hash(key)).next();
        number.map(|number| Lsn(self.page(number).lsn))
    }

    /// Whether a page has the first of a line.
    pub(super) fn has_leader(&self, queue: QueueId, line: u32) -> bool {
        self.held.pages(queue, Role::Leads, line).next().is_some()
    }

    /// The first page with a message that waits in a line.
    pub(super) fn first_behind(&self, queue: QueueId, line: u32) -> Option<&Page> {
        let pages = self.held.pages(queue, Role::Waits, line).map(|number| self.page(number));
        pages.min_by_key(|page| page.first())
    }

    pub(super) fn counts(&self, queue: QueueId) -> Counts {
        self.counts.get(&queue).copied().unwrap_or_default()
    }

    /// The earliest due time on each clock, the boot clock's first.
    pub(super) fn next_due(&self) -> [Option<Earliest>; 2] {
        [self.earliest(&self.due_boot), self.earliest(&self.due_wall)]
    }

    /// When the first time to live ends on each clock, the boot clock's first.
    pub(super) fn next_ttl_end(&self) -> [Option<Earliest>; 2] {
        [self.earliest(&self.ttl_boot), self.earliest(&self.ttl_wall)]
    }

    /// When the first message expires.
    pub(super) fn next_expiry(&self) -> Option<Earliest> {
        self.earliest(&self.expiries)
    }

    /// Messages of this queue stay for another time from now on.
    pub(super) fn set_retention(
        &mut self,
        queue: QueueId,
        before_ms: Option<u64>,
        after_ms: Option<u64>,
    ) {
        let orders = (queue, 0, Lane(0))..=(queue, u32::MAX, Lane(u8::MAX));
        for &(.., number) in self.orders.range(orders).flat_map(|(_, order)| order) {
            let page = page_of(&self.pages, number);
            in_time(expiry(page, before_ms), page, number).map(|it| self.expiries.remove(&it));
            self.expiries.extend(in_time(expiry(page, after_ms), page, number));
        }
    }

    /// All times are the wall clock's from now on.
    pub(super) fn forget_boot_clock(&mut self) {
        let by_boot = self.due_boot.iter().chain(&self.ttl_boot);
        let numbers: BTreeSet<Number> = by_boot.map(|&(.., number)| number).collect();
        for number in numbers {
            let page = self.pages[number as usize].take().expect("an order names a page");
            self.remove_ends(&page, number);
            let mut page = Arc::unwrap_or_clone(page);
            page.forget_boot_clock();
            self.add_ends(&page, number);
            self.pages[number as usize] = Some(Arc::new(page));
        }
    }

    /// Every page, in the order of their records.
    pub(super) fn all(&self) -> Vec<Arc<Page>> {
        let page = |number: &Number| self.pages[*number as usize].clone();
        self.by_lsn.values().filter_map(page).collect()
    }

    fn earliest(&self, order: &TimeOrder) -> Option<Earliest> {
        order.first().map(|&(time_ms, birth, number)| {
            let page = Lsn(self.page(number).lsn);
            Earliest { time_ms, birth, page }
        })
    }

    fn page(&self, number: Number) -> &Page {
        page_of(&self.pages, number)
    }
}

/// Where a page has its place: only what is ready is in lanes.
fn order_of(page: &Page) -> (QueueId, u32, Lane) {
    (page.queue(), page.state().0, page.lane())
}

fn page_of(pages: &[Option<Arc<Page>>], number: Number) -> &Page {
    pages[number as usize].as_deref().expect("an order names a page")
}

/// Where a page of ready messages stands by its oldest one.
fn ready_since(page: &Page, number: Number) -> Option<(QueueId, u64, Number)> {
    let is_ready = page.state() == StateSet::READY;
    is_ready.then_some((page.queue(), page.oldest_since_ms, number))
}

/// A page's place in the order of such a time.
fn in_time(time_ms: Option<u64>, page: &Page, number: Number) -> Option<(u64, Lsn, Number)> {
    time_ms.map(|time_ms| (time_ms, page.first_birth(), number))
}

/// When the first message of a page expires.
fn expiry(page: &Page, retention_ms: Option<u64>) -> Option<u64> {
    retention_ms.map(|retention_ms| page.oldest_since_ms.saturating_add(retention_ms))
}
