//! Values under keys, for as long as they live.

use qbroker_storage::{Body, Lsn};

use super::ends::Named;
use super::record::{Change, Removed, StateChanged, ValueStored};
use super::{Key, Kind, Room, State, cost, is_over};
use crate::queue::index::Index;
use crate::queue::record::Record;
use crate::queue::refused::Refused;
use crate::queue::time::{Due, Now};
use crate::queue::{Core, Draft, Output, Turn};

/// Stores a value.
#[derive(Clone, Debug)]
pub struct StoreValue {
    pub key: Key,
    pub value: Body,
    /// How long it is kept; `None`: until it is deleted.
    pub ttl_ms: Option<u64>,
    /// Leaves one that is there as it is.
    pub if_absent: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    /// The record that has it.
    pub(super) record: Lsn,
    pub(super) size: u32,
    pub(super) end: Option<Due>,
}

impl State {
    fn value(&self, key: &str, now: Now) -> Option<&Value> {
        self.values.get(key).filter(|value| !is_over(value.end, now))
    }

    pub(super) fn apply_value(&mut self, lsn: Lsn, stored: &ValueStored, retired: &mut Vec<Lsn>) {
        self.remove_value(&stored.key, retired);
        let value = Value { record: lsn, size: stored.size, end: stored.end.map(Into::into) };
        self.put_value(stored.key.as_str().into(), value);
    }

    pub(super) fn put_value(&mut self, key: Key, value: Value) {
        self.bytes += cost(&key);
        value.end.into_iter().for_each(|end| self.ends.insert(end, Named::Value(key.clone())));
        self.watch.touch(Kind::Value, &key);
        self.values.insert(key, value);
    }

    pub(super) fn remove_value(&mut self, key: &str, retired: &mut Vec<Lsn>) {
        let Some((key, value)) = self.values.remove_entry(key) else { return };
        self.bytes -= cost(&key);
        retired.push(value.record);
        value.end.into_iter().for_each(|end| self.ends.remove(end, Named::Value(key.clone())));
    }
}

impl<I: Index> Core<I> {
    /// Stores a value; whether it did.
    pub fn store_value(&mut self, store: &StoreValue, now: Now, out: &mut Output) -> Turn<bool> {
        let mut draft = self.draft();
        let stored = self.draft_value(&mut draft, &mut self.room()?, store, now)?;
        self.commit(draft, out);
        Ok(stored)
    }

    /// Deletes the value and the counter of a key; whether there was one. Takes place on a full disk
    /// too.
    pub fn delete_value(&mut self, key: &str, now: Now, out: &mut Output) -> Turn<bool> {
        let value = self.state.value(key, now).is_some();
        let counter = self.state.counter(key, now).is_some();
        if !value && !counter {
            return Ok(false);
        }
        let names = |is: bool| if is { vec![key.to_owned()] } else { Vec::new() };
        let removed =
            Removed { values: names(value), counters: names(counter), ..Removed::default() };
        let mut draft = self.draft();
        draft.state(Change::Removed(removed));
        self.commit(draft, out);
        Ok(true)
    }

    /// The record that has the value of a key in its body, and how large it is.
    pub fn value_at(&self, key: &str, now: Now) -> Option<(Lsn, u32)> {
        self.state.value(key, now).map(|value| (value.record, value.size))
    }

    pub(super) fn draft_value(
        &self,
        draft: &mut Draft,
        room: &mut Room,
        store: &StoreValue,
        now: Now,
    ) -> Result<bool, Refused> {
        let there = self.state.values.contains_key(&store.key);
        let before = if there { cost(&store.key) } else { 0 };
        room.take(Kind::Value, &store.key, before, cost(&store.key))?;
        let (bytes, max) = (store.value.len() as u64, self.limits.payload_bytes_max);
        if max < bytes {
            return Err(Refused::ValueTooLarge { bytes, max });
        }
        if store.if_absent && self.state.value(&store.key, now).is_some() {
            return Ok(false);
        }
        let stored = ValueStored {
            key: store.key.to_string(),
            size: u32::try_from(bytes).expect("a value is far below 4 GiB"),
            end: store.ttl_ms.map(|ms| now.after(ms).into()),
        };
        let change = Some(Change::ValueStored(stored));
        draft.push(Record::StateChanged(Box::new(StateChanged { change })), store.value.clone());
        Ok(true)
    }
}

impl Draft {
    /// Adds a change that needs no body.
    pub(super) fn state(&mut self, change: Change) -> Lsn {
        self.fact(Record::StateChanged(Box::new(StateChanged { change: Some(change) })))
    }
}
