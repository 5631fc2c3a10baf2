//! Who waits for something to change: of this start alone. Nothing is decided by it, but who of those that
//! wait for a permit gets the next one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Kind};
use crate::queue::index::Index;
use crate::queue::{Core, Effect, Output};

/// One who waits; who came first is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter(u64);

/// Keys that somebody waits for, and those of them that changed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watched: BTreeMap<(Kind, Key), BTreeSet<Waiter>>,
    last: u64,
    changed: Vec<(Kind, Key)>,
}

impl Watch {
    /// What is under the key has changed.
    pub(super) fn touch(&mut self, kind: Kind, key: &Key) {
        // Nobody waits, mostly.
        if !self.watched.is_empty() && self.watched.contains_key(&(kind, key.clone())) {
            self.changed.push((kind, key.clone()));
        }
    }

    /// Whether fewer than `free` of those that wait came before this one: before somebody who does not
    /// wait, all of them.
    pub(super) fn is_among_first(
        &self,
        kind: Kind,
        key: &Key,
        waiter: Option<Waiter>,
        free: usize,
    ) -> bool {
        let waiting = self.watched.get(&(kind, key.clone())).into_iter().flatten();
        let ahead = waiting.take_while(|other| waiter.is_none_or(|waiter| **other < waiter));
        ahead.take(free).count() < free
    }

    /// One who waited for something under this key waits for it no more.
    pub(super) fn leave(&mut self, kind: Kind, key: &Key, waiter: Waiter) {
        let name = (kind, key.clone());
        if let Some(waiting) = self.watched.get_mut(&name) {
            waiting.remove(&waiter);
            if waiting.is_empty() {
                self.watched.remove(&name);
            }
        }
    }
}

impl<I: Index> Core<I> {
    /// Says what was changed of what is watched.
    pub(in crate::queue) fn tell_watchers(&mut self, out: &mut Output) {
        if !self.state.watch.changed.is_empty() {
            let changed = std::mem::take(&mut self.state.watch.changed).into_iter();
            out.effects.extend(changed.map(|(kind, key)| Effect::StateChanged { kind, key }));
        }
    }

    /// From now on an effect says when something under one of the keys has changed.
    pub fn watch_state(&mut self, kind: Kind, keys: &[Key]) -> Waiter {
        let watch = &mut self.state.watch;
        watch.last += 1;
        let waiter = Waiter(watch.last);
        for key in keys {
            watch.watched.entry((kind, key.clone())).or_default().insert(waiter);
        }
        waiter
    }

    /// One who waited waits no more.
    pub fn unwatch_state(&mut self, kind: Kind, keys: &[Key], waiter: Waiter) {
        keys.iter().for_each(|key| self.state.watch.leave(kind, key, waiter));
    }
}
