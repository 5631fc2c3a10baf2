//! Counters under keys: added to within bounds, for as long as they live.

use std::collections::BTreeSet;

use super::ends::Named;
use super::record::{Change, CounterSet};
use super::{Key, Kind, Room, State, cost, is_over};
use crate::queue::index::Index;
use crate::queue::refused::Refused;
use crate::queue::time::{Due, Now};
use crate::queue::{Core, Draft, Output, Turn};

/// How long a request that changed a counter is known.
const ANSWERED_MS: u64 = 5 * 60 * 1_000;

/// Adds to a counter unless that would pass its bounds.
#[derive(Clone, Debug, Default)]
pub struct AddToCounter {
    pub key: Key,
    pub amount: i64,
    /// What it starts from where it is absent.
    pub initial: i64,
    /// Not where it is there already.
    pub if_absent: bool,
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
    /// The bounds hold for the sum of the counter and these, each counted once.
    pub sum_with: Vec<Key>,
    /// Runs anew from each change; `None`: until it is deleted.
    pub ttl_ms: Option<u64>,
}

/// A change of a counter that may be asked for again.
#[derive(Clone, Debug, Default)]
pub struct ChangeCounter {
    pub add: AddToCounter,
    /// Empty: it is not asked for again.
    pub request_id: String,
}

/// What became of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Otherwise a bound would have been passed, or it was there already: nothing was changed.
    pub applied: bool,
    /// Its value now; 0 where there is none.
    pub value: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    pub(super) value: i64,
    pub(super) end: Option<Due>,
}

/// What a request was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) value: i64,
    pub(super) end: Due,
}

impl State {
    pub(super) fn counter(&self, key: &str, now: Now) -> Option<i64> {
        let counter = self.counters.get(key).filter(|counter| !is_over(counter.end, now));
        counter.map(|counter| counter.value)
    }

    pub(super) fn apply_counter(&mut self, set: &CounterSet) {
        self.remove_counter(&set.key);
        let counter = Counter { value: set.value, end: set.end.map(Into::into) };
        self.put_counter(set.key.as_str().into(), counter);
        if let Some(end) = set.request_end {
            self.remove_answer(&set.request_id);
            let answer = Answer { value: set.value, end: end.into() };
            self.put_answer(set.request_id.as_str().into(), answer);
        }
    }

    pub(super) fn put_counter(&mut self, key: Key, counter: Counter) {
        self.bytes += cost(&key);
        counter.end.into_iter().for_each(|end| self.ends.insert(end, Named::Counter(key.clone())));
        self.watch.touch(Kind::Counter, &key);
        self.counters.insert(key, counter);
    }

    pub(super) fn remove_counter(&mut self, key: &str) {
        let Some((key, counter)) = self.counters.remove_entry(key) else { return };
        self.bytes -= cost(&key);
        counter.end.into_iter().for_each(|end| self.ends.remove(end, Named::Counter(key.clone())));
    }

    pub(super) fn put_answer(&mut self, request_id: Key, answer: Answer) {
        self.bytes += cost(&request_id);
        self.ends.insert(answer.end, Named::Answer(request_id.clone()));
        self.answers.insert(request_id, answer);
    }

    pub(super) fn remove_answer(&mut self, request_id: &str) {
        let Some((request_id, answer)) = self.answers.remove_entry(request_id) else { return };
        self.bytes -= cost(&request_id);
        self.ends.remove(answer.end, Named::Answer(request_id));
    }
}

impl<I: Index> Core<I> {
    /// Changes a counter, once for each request.
    pub fn change_counter(
        &mut self,
        change: &ChangeCounter,
        now: Now,
        out: &mut Output,
    ) -> Turn<Changed> {
        let answered = self.state.answers.get(change.request_id.as_str());
        if let Some(answer) = answered.filter(|answer| !answer.end.is_over(now)) {
            return Ok(Changed { applied: true, value: answer.value });
        }
        let mut draft = self.draft();
        let (add, request_id) = (&change.add, change.request_id.as_str());
        let changed = self.draft_counter(&mut draft, &mut self.room()?, add, request_id, now)?;
        self.commit(draft, out);
        Ok(changed)
    }

    /// A counter as it is.
    pub fn counter(&self, key: &str, now: Now) -> Option<i64> {
        self.state.counter(key, now)
    }

    pub(super) fn draft_counter(
        &self,
        draft: &mut Draft,
        room: &mut Room,
        add: &AddToCounter,
        request_id: &str,
        now: Now,
    ) -> Result<Changed, Refused> {
        let there = self.state.counters.contains_key(&add.key);
        let before = if there { cost(&add.key) } else { 0 };
        let answer = if request_id.is_empty() { 0 } else { cost(request_id) };
        room.take(Kind::Counter, &add.key, before, cost(&add.key) + answer)?;
        let present = self.state.counter(&add.key, now);
        let refused = Changed { applied: false, value: present.unwrap_or_default() };
        if add.if_absent && present.is_some() {
            return Ok(refused);
        }
        let Some(value) = present.unwrap_or(add.initial).checked_add(add.amount) else {
            return Ok(refused);
        };
        if !self.is_within(add, value, now) {
            return Ok(refused);
        }
        let set = CounterSet {
            key: add.key.to_string(),
            value,
            end: add.ttl_ms.map(|ms| now.after(ms).into()),
            request_id: request_id.to_owned(),
            request_end: (answer != 0).then(|| now.after(ANSWERED_MS).into()),
        };
        draft.state(Change::CounterSet(set));
        Ok(Changed { applied: true, value })
    }

    fn is_within(&self, add: &AddToCounter, value: i64, now: Now) -> bool {
        let mut others: BTreeSet<&Key> = add.sum_with.iter().collect();
        others.remove(&add.key);
        let others = others.into_iter().filter_map(|key| self.state.counter(key, now));
        let sum = others.map(i128::from).sum::<i128>() + i128::from(value);
        add.minimum.is_none_or(|minimum| i128::from(minimum) <= sum)
            && add.maximum.is_none_or(|maximum| sum <= i128::from(maximum))
    }
}
