//! Queues that hold as much as they may: what is refused then, and what goes.
//!
//! `max_messages` and `max_bytes` bound what publishes put into a queue. Beyond them a publish is refused,
//! or the oldest ready messages make room for it, in the same turn. What an operation moves is refused
//! likewise, and stays. Everything else that brings a message in or back, a dead letter, a lease that ends,
//! is never refused, so a queue may hold more for a while; what may go then goes by itself, a step at a
//! time. So do the oldest dead letters beyond
//! `retention_bytes`.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::catalog::Queue;
use super::dead_letter::Letter;
use super::ids::QueueId;
use super::index::{Counts, Index, Lookup, Message, StateSet};
use super::policy::{Overflow, Policy};
use super::record::{BIRTHS_MAX, DeadLetterReason, Record};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Draft, Output, Stop};

/// Messages are gone because their queue held more than it may.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dropped {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

/// How much messages are, in both measures of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    messages: u64,
    bytes: u64,
}

impl Size {
    fn of(counts: Counts) -> Self {
        Self { messages: counts.messages(), bytes: counts.bytes }
    }

    fn and(self, other: Self) -> Self {
        let Self { messages, bytes } = self;
        Self {
            messages: messages.saturating_add(other.messages),
            bytes: bytes.saturating_add(other.bytes),
        }
    }

    fn beyond(self, most: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(most.messages),
            bytes: self.bytes.saturating_sub(most.bytes),
        }
    }

    fn at_most(self, most: Self) -> Self {
        Self { messages: self.messages.min(most.messages), bytes: self.bytes.min(most.bytes) }
    }

    fn covers(self, need: Self) -> bool {
        need.beyond(self) == Self::default()
    }
}

/// What a policy allows a queue to hold.
fn most(policy: &Policy) -> Size {
    let (messages, bytes) = (policy.max_messages, policy.max_bytes);
    Size { messages: messages.unwrap_or(u64::MAX), bytes: bytes.unwrap_or(u64::MAX) }
}

/// A message that is about to be stored in a queue that is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewInQueue {
    /// Its position in the batch.
    pub(super) index: usize,
    pub(super) birth: Lsn,
    pub(super) bytes: usize,
    /// It is scheduled, or another message of the batch is a duplicate of it: it makes no room for those
    /// after it.
    pub(super) stays: bool,
}

impl NewInQueue {
    fn size(&self) -> Size {
        Size { messages: 1, bytes: self.bytes as u64 }
    }
}

/// What a batch puts into bounded queues; empty where it names none.
#[derive(Debug, Default)]
pub(super) struct Needs {
    new: BTreeMap<QueueId, Vec<NewInQueue>>,
    /// Messages that were there before and hold the keys of others of the batch: who is answered with one
    /// may count on it.
    named: BTreeSet<Lsn>,
}

impl Needs {
    pub(super) fn add(&mut self, queue: QueueId, message: NewInQueue) {
        self.new.entry(queue).or_default().push(message);
    }

    /// A message of the batch is a duplicate of this one, which may be one of the batch before it.
    pub(super) fn keep(&mut self, queue: QueueId, birth: Lsn) {
        let new = self.new.get_mut(&queue).map_or(&mut [][..], |new| new);
        match new.binary_search_by_key(&birth, |it| it.birth) {
            Ok(at) => new[at].stays = true,
            Err(_) => drop(self.named.insert(birth)),
        }
    }
}

/// A message that leaves its queue by the same commit: there is room for what comes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    queue: QueueId,
    size: Size,
}

impl Leaving {
    pub(super) fn new(message: &Message) -> Self {
        Self { queue: message.queue, size: Size { messages: 1, bytes: message.size.into() } }
    }
}

/// The oldest messages of a queue, which go.
#[derive(Debug)]
pub(super) struct Evicted {
    queue: QueueId,
    oldest: Vec<Lsn>,
}

/// Why a batch is not stored, and which of its messages is the cause.
type NoRoom = (usize, Stop);

impl<I: Index> Core<I> {
    /// The messages that must go for a batch to be stored, as if its messages came one after the other;
    /// refused where there cannot be room.
    pub(super) fn make_room(
        &self,
        leaving: Option<Leaving>,
        needs: &Needs,
    ) -> Result<Vec<Evicted>, NoRoom> {
        let mut evicted = Vec::new();
        for (&queue, new) in &needs.new {
            let of = self.catalog.get(queue).expect("what is bounded is there");
            let policy = &of.definition.policy;
            let freed = leaving.filter(|it| it.queue == queue).map(|it| it.size);
            let held = Size::of(self.index.counts(queue)).beyond(freed.unwrap_or_default());
            if let Some(large) = new.iter().find(|it| !most(policy).covers(it.size())) {
                return Err((large.index, larger_than_queue(of, large.size(), true).into()));
            }
            let oldest = match policy.overflow() {
                Overflow::RejectPublish => {
                    check_room(of, held, new, |_| true)?;
                    continue;
                }
                Overflow::DropOldest | Overflow::DeadLetterOldest => {
                    self.going_for(of, held, new, &needs.named)?
                }
            };
            if !oldest.is_empty() {
                evicted.push(Evicted { queue, oldest });
            }
        }
        Ok(evicted)
    }

    /// Whether a queue takes a message that comes from another one; `coming` are about to, in messages
    /// and bytes. Where the oldest make room, it does, and they go by themselves.
    pub(super) fn check_room_beside(
        &self,
        to: &Queue,
        coming: (u64, u64),
        bytes: u64,
    ) -> Result<(), Refused> {
        let policy = &to.definition.policy;
        if !policy.bounds_size() || policy.overflow() != Overflow::RejectPublish {
            return Ok(());
        }
        let (messages, bytes) = (coming.0 + 1, coming.1 + bytes);
        let held = Size::of(self.index.counts(to.id())).and(Size { messages, bytes });
        match held.beyond(most(policy)) {
            excess if excess == Size::default() => Ok(()),
            excess => Err(queue_full(to, excess)),
        }
    }

    /// The oldest that are ready, as far as it takes, of the batch itself last.
    fn going_for(
        &self,
        of: &Queue,
        held: Size,
        new: &[NewInQueue],
        named: &BTreeSet<Lsn>,
    ) -> Result<Vec<Lsn>, NoRoom> {
        let size = new.iter().fold(Size::default(), |size, it| size.and(it.size()));
        // What is beyond a bound for other reasons is not the publisher's to make up for.
        let excess = held.and(size).beyond(most(&of.definition.policy)).at_most(size);
        if excess == Size::default() {
            return Ok(Vec::new());
        }
        let first = new.first().map_or(0, |it| it.index);
        let found = self.oldest_of(of.id(), StateSet::READY, excess, usize::MAX, named);
        let (mut oldest, mut freed) = found.map_err(|missing| (first, missing.into()))?;
        if !freed.covers(excess) {
            // All that was ready goes, but for what is named.
            check_room(of, held.beyond(freed), new, |it| it.stays)?;
        }
        // The last one stays, whatever it does: there was room for it.
        for it in new.iter().take(new.len() - 1).filter(|it| !it.stays) {
            if freed.covers(excess) {
                break;
            }
            oldest.push(it.birth);
            freed = freed.and(it.size());
        }
        Ok(oldest)
    }

    /// Lets messages go that were looked up just now.
    pub(super) fn evict(&mut self, evicted: &[Evicted], now: Now, out: &mut Output) {
        if evicted.is_empty() {
            return;
        }
        let mut draft = self.draft();
        for evicted in evicted {
            self.draft_evicted(&mut draft, evicted, now);
        }
        out.effects.extend(self.dead_letters_of(&draft));
        // Each stands alone: what a crash keeps beyond a bound goes after it.
        self.commit_each(draft, out);
    }

    fn draft_evicted(&self, draft: &mut Draft, evicted: &Evicted, now: Now) {
        let of = self.catalog.get(evicted.queue).expect("a message's queue is there");
        let is_asked = of.definition.policy.overflow() == Overflow::DeadLetterOldest;
        if is_asked && of.dead_letter_queue_name().is_some() {
            for &birth in &evicted.oldest {
                let reason = DeadLetterReason::Overflow;
                let letter = Letter { call: None, reason, failure: None };
                self.draft_letter(draft, birth, &self.present(birth), letter, now);
            }
            return;
        }
        for oldest in evicted.oldest.chunks(BIRTHS_MAX) {
            let births = oldest.iter().map(|Lsn(birth)| *birth).collect();
            draft.fact(Record::Dropped(Dropped { births }));
        }
    }

    /// The oldest messages of a queue that free so much together, but for those that stay, and what they
    /// free: less where there are no more, or more than `max` would have to go.
    fn oldest_of(
        &self,
        queue: QueueId,
        states: StateSet,
        excess: Size,
        max: usize,
        staying: &BTreeSet<Lsn>,
    ) -> Lookup<(Vec<Lsn>, Size)> {
        let mut want = usize::try_from(excess.messages).unwrap_or(max).clamp(1, max);
        loop {
            let mut births = Vec::new();
            self.index.oldest(queue, states, want, &mut births)?;
            let found = births.len();
            births.retain(|birth| !staying.contains(birth));
            let mut freed = Size::default();
            for (count, &birth) in (1..).zip(&births) {
                let message = self.index.message(birth)?.expect("what is found is there");
                freed = freed.and(Size { messages: 1, bytes: message.size.into() });
                if freed.covers(excess) {
                    births.truncate(count);
                    return Ok((births, freed));
                }
            }
            if found < want || want == max {
                return Ok((births, freed));
            }
            want = want.saturating_mul(4).min(max);
        }
    }

    /// What of a queue may go, and should: beyond its bounds, and not with anybody.
    fn surplus(&self, of: &Queue) -> Option<(Size, StateSet)> {
        let policy = &of.definition.policy;
        if !policy.bounds_size() {
            return None;
        }
        let counts = self.index.counts(of.id());
        let retained = policy.retention_bytes.filter(|_| of.definition.is_dead_letter_queue);
        let bytes = retained.map_or(0, |most| counts.bytes.saturating_sub(most));
        if 0 < bytes && 0 < counts.ready + counts.parked {
            let states = StateSet::READY.with(StateSet::PARKED);
            return Some((Size { messages: 0, bytes }, states));
        }
        let excess = Size::of(counts).beyond(most(policy));
        let goes = policy.overflow() != Overflow::RejectPublish && excess != Size::default();
        (goes && 0 < counts.ready).then_some((excess, StateSet::READY))
    }

    /// Notes whether something of a queue must go. To be called where one holds more, or where more of
    /// it may go.
    pub(super) fn weigh(&mut self, queue: QueueId) {
        let is_overfull = self.catalog.get(queue).is_some_and(|of| self.surplus(of).is_some());
        if is_overfull {
            self.overfull.insert(queue);
        } else {
            self.overfull.remove(&queue);
        }
    }

    /// [`Self::weigh`] of every queue: which ones hold too much is not part of a checkpoint.
    pub(super) fn weigh_all(&mut self) {
        let queues: Vec<_> = self.catalog.ids().collect();
        queues.into_iter().for_each(|queue| self.weigh(queue));
    }

    /// Lets go what is beyond the bounds of one queue: a bounded step of it.
    pub(super) fn trim(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        let Some(&queue) = self.overfull.first() else { return Ok(()) };
        let surplus = self.catalog.get(queue).and_then(|of| self.surplus(of));
        let Some((excess, states)) = surplus else {
            // It was consumed, purged or deleted meanwhile.
            self.overfull.remove(&queue);
            return Ok(());
        };
        let (oldest, _) =
            self.oldest_of(queue, states, excess, self.limits.step_max, &BTreeSet::new())?;
        self.evict(&[Evicted { queue, oldest }], now, out);
        Ok(())
    }

    pub(super) fn apply_dropped(&mut self, dropped: &Dropped) {
        let mut queues = BTreeSet::new();
        for &birth in &dropped.births {
            let message = self.finish(Lsn(birth), None);
            self.catalog.totals(message.queue).dropped += 1;
            queues.insert(message.queue);
        }
        for queue in queues {
            self.weigh(queue);
            // What is behind it in the queue may have waited for it to go.
            self.consumers.touch(queue);
        }
    }
}

impl Policy {
    /// Whether it bounds what the queue may hold.
    pub(super) fn bounds_size(&self) -> bool {
        self.max_messages.is_some() || self.max_bytes.is_some() || self.retention_bytes.is_some()
    }
}

/// Whether each message of a batch finds room beside what there is and those before it that stay.
fn check_room(
    of: &Queue,
    held: Size,
    new: &[NewInQueue],
    stays: impl Fn(&NewInQueue) -> bool,
) -> Result<(), NoRoom> {
    let most = most(&of.definition.policy);
    let mut before = Size::default();
    let mut full = None;
    for it in new {
        let with = before.and(it.size());
        if !most.covers(with) {
            return Err((it.index, larger_than_queue(of, with, false).into()));
        }
        let excess = held.and(with).beyond(most);
        if full.is_none() && excess != Size::default() {
            full = Some((it.index, queue_full(of, excess).into()));
        }
        before = if stays(it) { with } else { before };
    }
    full.map_or(Ok(()), Err)
}

/// So much would not fit the queue were it empty.
fn larger_than_queue(of: &Queue, size: Size, is_one_message: bool) -> Refused {
    let policy = &of.definition.policy;
    let excess = size.beyond(most(policy));
    let (bound, max) = bound_of(policy, excess);
    let size = if excess.messages == 0 { size.bytes } else { size.messages };
    Refused::LargerThanQueue { queue: of.definition.name.clone(), bound, size, max, is_one_message }
}

/// There is no room for a batch, by so much.
fn queue_full(of: &Queue, excess: Size) -> Refused {
    let (bound, max) = bound_of(&of.definition.policy, excess);
    Refused::QueueFull { queue: of.definition.name.clone(), bound, max }
}

/// The bound beyond which so much is.
fn bound_of(policy: &Policy, excess: Size) -> (&'static str, u64) {
    let most = most(policy);
    if excess.messages == 0 { ("max_bytes", most.bytes) } else { ("max_messages", most.messages) }
}
