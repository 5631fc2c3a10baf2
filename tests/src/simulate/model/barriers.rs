//! Barriers: so many members, each counted once; the last one publishes.

use std::collections::BTreeSet;

use super::calls::{New, Refusal};
use super::{Due, Model, Policy, Sequence, Time, Wrong};

/// How far a barrier is: how many have arrived, and what it does.
pub(crate) type Gathered = (usize, Gathering);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gathering {
    Open,
    Complete,
    Expired,
}

/// What a member was answered: the barrier, where one is known, and whether it was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) barrier: Option<Gathered>,
    pub(crate) last: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Barrier {
    parties: usize,
    members: BTreeSet<u64>,
    arrived: usize,
    gathering: Gathering,
    end: Due,
    publish: New,
    /// Published where it is too late for the other one.
    late: New,
}

/// How long a barrier is known whose time was over.
const KNOWN_MS: u64 = 60 * 60 * 1_000;

impl Barrier {
    fn at(&self, now: Time) -> Gathered {
        let is_over = self.gathering == Gathering::Open && self.end.is_over(now);
        (self.arrived, if is_over { Gathering::Expired } else { self.gathering })
    }
}

impl Model {
    /// A barrier is made unless there is one of its name; whether it was.
    pub(crate) fn gather(
        &mut self,
        (key, parties, ttl_ms): (u64, usize, u64),
        (publish, late): (New, New),
        answer: Result<bool, Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        let expected = match (self.barriers.contains_key(&key), self.has_room) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err("DISK_FULL"),
        };
        if answer != expected {
            return Err(format!("barrier {key} made: {answer:?}, expected {expected:?}"));
        }
        if answer == Ok(true) {
            let (members, arrived, gathering) = (BTreeSet::new(), 0, Gathering::Open);
            let end = now.after(ttl_ms);
            let barrier = Barrier { parties, members, arrived, gathering, end, publish, late };
            self.barriers.insert(key, barrier);
        }
        Ok(())
    }

    /// A member arrives, and what was published by it.
    pub(crate) fn arrive(
        &mut self,
        (key, member): (u64, u64),
        answer: Result<Arrival, Refusal>,
        published: Option<Sequence>,
        now: Time,
    ) -> Result<(), Wrong> {
        let expected = self.arrival(key, member, now);
        if answer != expected || published.is_some() != expected.is_ok_and(|it| it.last) {
            return Err(format!(
                "{member} arrives at {key}: {answer:?}, {published:?}, expected {expected:?}"
            ));
        }
        let Ok(Arrival { barrier: Some((arrived, gathering)), last }) = answer else {
            return Ok(());
        };
        let barrier = self.barriers.get_mut(&key).expect("it was found just now");
        if barrier.arrived == arrived {
            return Ok(());
        }
        barrier.members.insert(member);
        (barrier.arrived, barrier.gathering) = (arrived, gathering);
        let publish = barrier.publish;
        match published.filter(|_| last) {
            Some(sequence) => self.publish(&[publish], Ok(&[(sequence, false)]), now),
            None => Ok(()),
        }
    }

    fn arrival(&self, key: u64, member: u64, now: Time) -> Result<Arrival, Refusal> {
        if !self.has_room {
            return Err("DISK_FULL");
        }
        let Some(barrier) = self.barriers.get(&key) else {
            return Ok(Arrival { barrier: None, last: false });
        };
        let (arrived, gathering) = barrier.at(now);
        if gathering != Gathering::Open || barrier.members.contains(&member) {
            return Ok(Arrival { barrier: Some((arrived, gathering)), last: false });
        }
        let last = arrived + 1 == barrier.parties;
        if let Some(refused) = self.refusal(&[barrier.publish], now).filter(|_| last) {
            return Err(refused);
        }
        let gathering = if last { Gathering::Complete } else { Gathering::Open };
        Ok(Arrival { barrier: Some((arrived + 1, gathering)), last })
    }

    pub(super) fn gathered(&self, now: Time) -> impl Iterator<Item = (u64, Gathered)> {
        self.barriers.iter().map(move |(key, barrier)| (*key, barrier.at(now)))
    }

    /// Whose time is over is known to be late for a while, and publishes, refused by nothing; that waits for
    /// a disk with room. Whether one has published.
    pub(super) fn end_barriers(
        &mut self,
        now: Time,
        born: impl Fn(u64) -> Option<Sequence>,
        mut each: impl FnMut(&Self),
    ) -> bool {
        if !self.has_room {
            return false;
        }
        self.barriers.retain(|_, it| it.gathering == Gathering::Open || !it.end.is_over(now));
        // One that was not published is missed by whoever looks at everything.
        let sequence = |late: &New| born(late.number).unwrap_or(u64::MAX);
        let mut late: Vec<_> =
            self.late(now).map(|(key, late)| (sequence(&late), key, late)).collect();
        late.sort_unstable_by_key(|(sequence, ..)| *sequence);
        let is_any = !late.is_empty();
        for (sequence, key, new) in late {
            each(self);
            self.queue_or_new(new.queue, Policy::DEFAULT);
            self.insert(&new, sequence, now);
            let barrier = self.barriers.get_mut(&key).expect("it was found just now");
            (barrier.gathering, barrier.end) = (Gathering::Expired, now.after(KNOWN_MS));
        }
        is_any
    }

    /// What barriers whose time is over publish.
    pub(super) fn late(&self, now: Time) -> impl Iterator<Item = (u64, New)> {
        let is_late = move |it: &Barrier| it.gathering == Gathering::Open && it.end.is_over(now);
        let late = self.barriers.iter().filter(move |(_, it)| is_late(it));
        late.map(|(key, it)| (*key, it.late))
    }

    /// After a reboot the wall clock is believed.
    pub(super) fn reboot_barriers(&mut self) {
        self.barriers.values_mut().for_each(|barrier| barrier.end.boot_ms = None);
    }
}
