//! Small state beside the messages, and settlements that change it, publish and settle as one.

use std::collections::BTreeMap;

use super::barriers::Gathered;
use super::calls::{New, Refusal};
use super::{Due, Model, Outcome, Sequence, Time, Token, Wrong};

/// Values and counters, each for as long as it lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    values: BTreeMap<u64, (u64, Option<Due>)>,
    counters: BTreeMap<u64, (i64, Option<Due>)>,
}

/// What can be asked of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) values: BTreeMap<u64, u64>,
    pub(crate) counters: BTreeMap<u64, i64>,
    pub(crate) barriers: BTreeMap<u64, Gathered>,
    pub(crate) permits: usize,
}

/// What is done together with an ack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    pub(crate) publish: New,
    /// Names the value that is stored, and the counter that goes up by one.
    pub(crate) key: u64,
    pub(crate) value: u64,
}

fn lives<T: Copy>(it: Option<&(T, Option<Due>)>, now: Time) -> Option<T> {
    it.filter(|(_, end)| !end.is_some_and(|end| end.is_over(now))).map(|(it, _)| *it)
}

impl Kept {
    fn store(&mut self, key: u64, value: u64, end: Option<Due>) {
        self.values.insert(key, (value, end));
    }

    fn add(&mut self, key: u64, amount: i64, now: Time) -> i64 {
        let value = lives(self.counters.get(&key), now).unwrap_or_default() + amount;
        self.counters.insert(key, (value, None));
        value
    }

    fn seen(&self, now: Time) -> Seen {
        let values = self.values.iter();
        let values = values.filter_map(|(key, it)| Some((*key, lives(Some(it), now)?)));
        let counters = self.counters.iter();
        let counters = counters.filter_map(|(key, it)| Some((*key, lives(Some(it), now)?)));
        let (values, counters) = (values.collect(), counters.collect());
        Seen { values, counters, ..Seen::default() }
    }

    /// What is over is gone.
    pub(super) fn end(&mut self, now: Time) {
        self.values.retain(|_, it| lives(Some(it), now).is_some());
        self.counters.retain(|_, it| lives(Some(it), now).is_some());
    }

    /// After a reboot the wall clock is believed.
    pub(super) fn forget_boot_clock(&mut self) {
        let ends = self.values.values_mut().map(|(_, end)| end);
        let ends = ends.chain(self.counters.values_mut().map(|(_, end)| end));
        ends.flatten().for_each(|end| end.boot_ms = None);
    }
}

impl Model {
    pub(crate) fn seen_state(&self, now: Time) -> Seen {
        let barriers = self.gathered(now).collect();
        Seen { barriers, permits: self.permits_taken().count(), ..self.kept.seen(now) }
    }

    /// A value is stored, for a time or until it is deleted; whether that was refused.
    pub(crate) fn store(
        &mut self,
        (key, value, ttl_ms): (u64, u64, Option<u64>),
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        self.check_kept(refused)?;
        if refused.is_none() {
            self.kept.store(key, value, ttl_ms.map(|ms| now.after(ms)));
        }
        Ok(())
    }

    /// A counter is added to; its value then, or why it was refused.
    pub(crate) fn add(
        &mut self,
        (key, amount): (u64, i64),
        answer: Result<i64, Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        self.check_kept(answer.err())?;
        let Ok(answer) = answer else { return Ok(()) };
        match self.kept.add(key, amount, now) {
            value if value == answer => Ok(()),
            value => Err(format!("counter {key} is said to be {answer}, and should be {value}")),
        }
    }

    /// The value and the counter of a key are deleted; whether there was one.
    pub(crate) fn forget(&mut self, key: u64, was_there: bool, now: Time) -> Result<(), Wrong> {
        let seen = self.kept.seen(now);
        let is_there = seen.values.contains_key(&key) || seen.counters.contains_key(&key);
        self.kept.values.remove(&key);
        self.kept.counters.remove(&key);
        match is_there == was_there {
            true => Ok(()),
            false => Err(format!("{key} deleted: {was_there}, expected {is_there}")),
        }
    }

    fn check_kept(&self, refused: Option<Refusal>) -> Result<(), Wrong> {
        let expected = (!self.has_room).then_some("DISK_FULL");
        match refused == expected {
            true => Ok(()),
            false => Err(format!("a change of the state: {refused:?}, expected {expected:?}")),
        }
    }

    /// An ack with its effects, whether it was refused, and what was published by it.
    pub(crate) fn finish(
        &mut self,
        token: &Token,
        finish: &Finish,
        (refused, published): (Option<Refusal>, Option<Sequence>),
        now: Time,
    ) -> Result<(), Wrong> {
        if !self.is_held(token) {
            return match published {
                None => self.settle(token, Outcome::Ack, refused, now),
                Some(it) => Err(format!("{it} is published by an ack of an ended lease")),
            };
        }
        // What leaves its queue makes room for what is published with it.
        let mut done = self.clone();
        done.settle(token, Outcome::Ack, None, now)?;
        let expected = done.refusal(&[finish.publish], now);
        let receipt = match (refused, published) {
            (None, Some(published)) if expected.is_none() => [(published, false)],
            (Some(refused), None) if Some(refused) == expected => return Ok(()),
            other => return Err(format!("{finish:?}: {other:?}, expected {expected:?}")),
        };
        done.publish(&[finish.publish], Ok(&receipt), now)?;
        done.kept.store(finish.key, finish.value, None);
        done.kept.add(finish.key, 1, now);
        *self = done;
        Ok(())
    }
}
