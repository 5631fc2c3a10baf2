//! What a queue may hold: what is refused then, and what goes.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{New, Refusal};
use super::{Model, Overflow, Sequence, State, Time, Why};

/// A message of a batch that is not a duplicate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) new: &'a New,
    /// It is not ready once it is stored, or may not be, or another one of the batch is its duplicate.
    pub(super) stays: bool,
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

impl Model {
    /// Of each queue, how many of its ready messages go for a batch, and how many of the batch's first
    /// ones that are ready.
    pub(super) fn make_room(
        &self,
        batch: &Storing<'_>,
    ) -> Result<BTreeMap<&'static str, (usize, usize)>, Refusal> {
        let mut queues = BTreeMap::<&'static str, Vec<&Stored<'_>>>::new();
        for stored in &batch.stored {
            queues.entry(stored.new.queue).or_default().push(stored);
        }
        let mut going = BTreeMap::new();
        for (queue, new) in queues {
            let policy = self.policy(queue);
            let Some(max) = policy.max_messages else { continue };
            let held = self.held_by(queue);
            let excess = (held + new.len()).saturating_sub(max).min(new.len());
            if excess == 0 {
                continue;
            }
            if policy.overflow == Overflow::Reject {
                return Err("QUEUE_FULL");
            }
            let ready = self.oldest_but(queue, &batch.named).len().min(excess);
            let mut of_batch = 0;
            if ready < excess {
                let mut staying = 0;
                for stored in &new {
                    if max < held - ready + staying + 1 {
                        return Err("QUEUE_FULL");
                    }
                    staying += usize::from(stored.stays);
                }
                let may_go = new[..new.len() - 1].iter().filter(|it| !it.stays).count();
                of_batch = may_go.min(excess - ready);
            }
            going.insert(queue, (ready, of_batch));
        }
        Ok(going)
    }

    fn held_by(&self, queue: &str) -> usize {
        self.messages.values().filter(|message| message.queue == queue).count()
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
    pub(super) fn trim_one(&mut self, is_there: impl Fn(Sequence) -> bool) -> bool {
        let surplus = |name: &&'static str| {
            if let Some(going) = self.beyond_retention(name, &is_there) {
                return Some((self.queues[name].number, going));
            }
            let policy = self.policy(name);
            let goes = policy.overflow != Overflow::Reject;
            let most = policy.max_messages.filter(|_| goes)?;
            let excess = self.held_by(name).saturating_sub(most);
            let mut ready = self.oldest_ready(name);
            ready.truncate(excess);
            (!ready.is_empty()).then_some((self.queues[name].number, ready))
        };
        let first = self.queues.keys().filter_map(surplus).min();
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
