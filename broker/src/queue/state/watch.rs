//! Who waits for something to change: of this start alone, and never part of a decision.

use std::collections::BTreeMap;

use super::{Key, Kind};
use crate::queue::index::Index;
use crate::queue::{Core, Effect, Output};

/// Keys that somebody waits for, and those of them that changed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watched: BTreeMap<(Kind, Key), usize>,
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
}

impl<I: Index> Core<I> {
    /// Says what was changed of what is watched.
    pub(in crate::queue) fn tell_watchers(&mut self, out: &mut Output) {
        if !self.state.watch.changed.is_empty() {
            let changed = std::mem::take(&mut self.state.watch.changed).into_iter();
            out.effects.extend(changed.map(|(kind, key)| Effect::StateChanged { kind, key }));
        }
    }

    /// From now on an effect says when something under the key has changed.
    pub fn watch_state(&mut self, kind: Kind, key: &Key) {
        *self.state.watch.watched.entry((kind, key.clone())).or_default() += 1;
    }

    /// One who waited waits no more.
    pub fn unwatch_state(&mut self, kind: Kind, key: &Key) {
        let name = (kind, key.clone());
        if let Some(count) = self.state.watch.watched.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.state.watch.watched.remove(&name);
            }
        }
    }
}
