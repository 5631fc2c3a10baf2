//! What a queue may hold: what is refused then, and what goes.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{New, Refusal};
use super::{Model, Overflow, Policy, Sequence, State, Time, Why};

/// A message of a batch that is not a duplicate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) new: &'a New,
    /// It is not ready once it is stored, or may not be, or another one of the batch is its duplicate.
    pub(super) stays: bool,
}

impl Stored<'_> {
    fn size(&self) -> Size {
        Size::one(self.new.bytes)
    }
}

/// What is stored of a batch, and what was there before and stays for it.
#[derive(Debug, Default)]
pub(super) struct Storing<'a> {
    pub(super) stored: Vec<Stored<'a>>,
    /// The holders of the keys of its duplicates.
    pub(super) named: BTreeSet<Sequence>,
}

impl<'a> Storing<'a> {
    pub(super) fn add(&mut self, new: &'a New, now: Time) {
        let is_later = new.due.is_some_and(|due| !due.is_over(now));
        self.stored.push(Stored { new, stays: is_later || new.ordering.is_some() });
    }

    /// A message whose key another one of the batch or this one of before has.
    pub(super) fn add_duplicate(&mut self, new: &New, holder: Option<Sequence>) {
        let of_key =
            |it: &&mut Stored<'_>| (it.new.queue, it.new.unique) == (new.queue, new.unique);
        match self.stored.iter_mut().find(of_key) {
            Some(stored) => stored.stays = true,
            None => self.named.extend(holder),
        }
    }
}

/// Of a queue, how many of its ready messages go for a batch, and how many of the batch's first ones that
/// are ready.
pub(super) type Leaving = (&'static str, (usize, usize));

/// How much messages are, by both measures of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    messages: usize,
    bytes: u64,
}

impl Size {
    fn one(bytes: u64) -> Self {
        Self { messages: 1, bytes }
    }

    /// What a queue may hold.
    fn most(policy: &Policy) -> Self {
        let (messages, bytes) = (policy.max_messages, policy.max_bytes);
        Self { messages: messages.unwrap_or(usize::MAX), bytes: bytes.unwrap_or(u64::MAX) }
    }

    fn and(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    /// What of it is more than the other one.
    fn beyond(self, most: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(most.messages),
            bytes: self.bytes.saturating_sub(most.bytes),
        }
    }

    fn at_most(self, most: Self) -> Self {
        Self { messages: self.messages.min(most.messages), bytes: self.bytes.min(most.bytes) }
    }

    fn is_within(self, most: Self) -> bool {
        self.beyond(most) == Self::default()
    }
}

impl Model {
    /// What goes for a batch, the oldest queue first.
    pub(super) fn make_room(&self, batch: &Storing<'_>) -> Result<Vec<Leaving>, Refusal> {
        let mut queues = BTreeMap::<(u64, &'static str), Vec<&Stored<'_>>>::new();
        for stored in &batch.stored {
            let name = stored.new.queue;
            // One that is not there yet has no bounds.
            let number = self.queues.get(name).map_or(u64::MAX, |queue| queue.number);
            queues.entry((number, name)).or_default().push(stored);
        }
        let mut going = Vec::new();
        for ((_, queue), new) in queues {
            let (ready, of_batch) = self.going_of(queue, &new, &batch.named)?;
            if 0 < ready + of_batch {
                going.push((queue, (ready, of_batch)));
            }
        }
        Ok(going)
    }

    /// [`Self::make_room`] of one queue.
    fn going_of(
        &self,
        queue: &str,
        new: &[&Stored<'_>],
        named: &BTreeSet<Sequence>,
    ) -> Result<(usize, usize), Refusal> {
        let policy = self.policy(queue);
        let (held, most) = (self.held_by(queue), Size::most(&policy));
        if new.iter().any(|it| !it.size().is_within(most)) {
            return Err("MESSAGE_TOO_LARGE");
        }
        let all = new.iter().fold(Size::default(), |all, it| all.and(it.size()));
        if policy.overflow == Overflow::Reject {
            return check_room(held, most, new, |_| true).map(|()| (0, 0));
        }
        // What is beyond a bound for another reason goes by itself.
        let excess = held.and(all).beyond(most).at_most(all);
        let mut freed = Size::default();
        let oldest = self.oldest_but(queue, named);
        let mut ready = 0;
        while !excess.is_within(freed)
            && let Some(next) = oldest.get(ready)
        {
            freed = freed.and(Size::one(self.messages[next].bytes));
            ready += 1;
        }
        if !excess.is_within(freed) {
            check_room(held.beyond(freed), most, new, |it| it.stays)?;
        }
        let mut of_batch = 0;
        let may_go = new.split_last().map_or(&[][..], |(_, before)| before);
        for it in may_go.iter().filter(|it| !it.stays) {
            if excess.is_within(freed) {
                break;
            }
            freed = freed.and(it.size());
            of_batch += 1;
        }
        Ok((ready, of_batch))
    }

    fn held_by(&self, queue: &str) -> Size {
        let held = self.messages.values().filter(|message| message.queue == queue);
        held.fold(Size::default(), |held, it| held.and(Size::one(it.bytes)))
    }

    /// How many messages each queue has that has some, with those that are `born` of late barriers and
    /// unknown yet, and with the `letters` of one queue that a tick is yet to bring there.
    pub(crate) fn counts(
        &self,
        now: Time,
        born: impl Fn(u64) -> Option<Sequence>,
        (queue, letters): (&'static str, &BTreeSet<Sequence>),
    ) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for message in self.messages.values() {
            *counts.entry(message.queue).or_default() += 1;
        }
        let late = self.late(now).filter(|(_, late)| born(late.number).is_some());
        let is_elsewhere =
            |it: &&Sequence| self.messages.get(it).is_some_and(|it| it.queue != queue);
        let coming = letters.iter().filter(is_elsewhere).map(|_| queue);
        for queue in late.map(|(_, late)| late.queue).chain(coming) {
            counts.entry(queue).and_modify(|count| *count += 1);
        }
        counts
    }

    /// The ready messages of a queue, by their places.
    pub(super) fn oldest_ready(&self, queue: &str) -> Vec<Sequence> {
        let ready = self.messages.iter();
        let ready = ready.filter(|(_, it)| it.queue == queue && it.state == State::Ready);
        let mut ready: Vec<_> = ready.map(|(sequence, it)| (it.place, *sequence)).collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, sequence)| sequence).collect()
    }

    /// [`Self::oldest_ready`] but for those that stay.
    pub(super) fn oldest_but(&self, queue: &str, staying: &BTreeSet<Sequence>) -> Vec<Sequence> {
        let mut ready = self.oldest_ready(queue);
        ready.retain(|sequence| !staying.contains(sequence));
        ready
    }

    /// These go because their queue holds too much.
    pub(super) fn evict(&mut self, sequences: &[Sequence]) {
        for &sequence in sequences {
            let place = self.next_place();
            let queue = self.messages[&sequence].queue;
            match self.policy(queue).overflow {
                Overflow::DeadLetterOldest => self.give_up(sequence, Why::Overflow, place),
                Overflow::DropOldest | Overflow::Reject => drop(self.messages.remove(&sequence)),
            }
        }
    }

    /// One queue that holds too much lets go of it; whether there was one.
    pub(super) fn trim_one(
        &mut self,
        queues: &BTreeSet<&'static str>,
        is_there: impl Fn(Sequence) -> bool,
    ) -> bool {
        let surplus = |name: &&'static str| {
            if let Some(going) = self.beyond_retention(name, &is_there) {
                return Some((self.queues[name].number, going));
            }
            let policy = self.policy(name);
            if policy.overflow == Overflow::Reject {
                return None;
            }
            let excess = self.held_by(name).beyond(Size::most(&policy));
            let (mut freed, mut ready) = (Size::default(), self.oldest_ready(name));
            let goes = |sequence: &Sequence| {
                let is_more = !excess.is_within(freed);
                freed = freed.and(Size::one(self.messages[sequence].bytes));
                is_more
            };
            let count = ready.iter().copied().take_while(goes).count();
            ready.truncate(count);
            (!ready.is_empty()).then_some((self.queues[name].number, ready))
        };
        let there = self.queues.keys().filter(|name| queues.contains(*name));
        let first = there.filter_map(surplus).min();
        let is_any = first.is_some();
        self.evict(&first.map(|(_, ready)| ready).unwrap_or_default());
        is_any
    }

    /// What goes of a queue that keeps more bytes than it should: what came first, unless it is held or
    /// waits for its time. Of what came in one moment, what is not there any more.
    fn beyond_retention(
        &self,
        queue: &str,
        is_there: impl Fn(Sequence) -> bool,
    ) -> Option<Vec<Sequence>> {
        let of_queue = self.messages.iter().filter(|(_, it)| it.queue == queue);
        let held: u64 = of_queue.clone().map(|(_, it)| it.bytes).sum();
        let mut excess = held.saturating_sub(self.policy(queue).retention_bytes?);
        let goes = of_queue.filter(|(_, it)| matches!(it.state, State::Ready | State::Parked));
        let mut oldest: Vec<_> =
            goes.map(|(it, of)| (of.place, is_there(*it), *it, of.bytes)).collect();
        oldest.sort_unstable();
        let (mut going, mut last) = (Vec::new(), None);
        for (place, is_there, sequence, bytes) in oldest {
            let went_before = last.replace(place) == Some(place) && !is_there;
            if excess == 0 && !went_before {
                break;
            }
            excess = excess.saturating_sub(bytes);
            going.push(sequence);
        }
        (!going.is_empty()).then_some(going)
    }

    /// What is in a queue for longer than its retention is gone, unless somebody holds it.
    pub(super) fn end_retentions(&mut self, now: Time) {
        let over = |(_, it): &(&Sequence, &super::Message)| {
            let retention = self.policy(it.queue).retention_ms;
            let is_over = retention.is_some_and(|ms| it.since_ms + ms <= now.wall_ms);
            is_over && !matches!(it.state, State::Leased(_))
        };
        let over: Vec<_> = self.messages.iter().filter(over).map(|(it, _)| *it).collect();
        for sequence in over {
            self.messages.remove(&sequence);
        }
    }
}

/// Whether each message of a batch finds room beside what is held and those before it that stay.
fn check_room(
    held: Size,
    most: Size,
    new: &[&Stored<'_>],
    stays: impl Fn(&Stored<'_>) -> bool,
) -> Result<(), Refusal> {
    let (mut before, mut is_full) = (Size::default(), false);
    for it in new {
        let with = before.and(it.size());
        if !with.is_within(most) {
            return Err("BATCH_TOO_LARGE");
        }
        is_full |= !held.and(with).is_within(most);
        before = if stays(it) { with } else { before };
    }
    if is_full { Err("QUEUE_FULL") } else { Ok(()) }
}
