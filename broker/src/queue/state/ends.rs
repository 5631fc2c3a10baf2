//! When what has a time to live is over, on whichever clock it runs.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::Key;
use crate::queue::time::{Due, Now};

/// Something that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    Value(Key),
    Counter(Key),
    Answer(Key),
    Permit(Lsn),
    Barrier(Key),
}

/// Ends in order, on each clock.
#[derive(Debug, Default)]
pub(super) struct Ends {
    boot: BTreeSet<(u64, Named)>,
    wall: BTreeSet<(u64, Named)>,
}

impl Ends {
    pub(super) fn insert(&mut self, end: Due, named: Named) {
        match end.boot_ms {
            Some(boot_ms) => self.boot.insert((boot_ms, named)),
            None => self.wall.insert((end.wall_ms, named)),
        };
    }

    pub(super) fn remove(&mut self, end: Due, named: Named) {
        match end.boot_ms {
            Some(boot_ms) => self.boot.remove(&(boot_ms, named)),
            None => self.wall.remove(&(end.wall_ms, named)),
        };
    }

    /// Up to `max` that are over.
    pub(super) fn over(&self, now: Now, max: usize) -> Vec<Named> {
        let boot = self.boot.iter().take_while(|(boot_ms, _)| *boot_ms <= now.boot_ms);
        let wall = self.wall.iter().take_while(|(wall_ms, _)| *wall_ms <= now.wall_ms);
        boot.chain(wall).take(max).map(|(_, named)| named.clone()).collect()
    }

    /// When the next one is over, on each clock.
    pub(super) fn first(&self) -> (Option<u64>, Option<u64>) {
        (self.boot.first().map(|(ms, _)| *ms), self.wall.first().map(|(ms, _)| *ms))
    }

    /// The wall clock is believed from now on: `end` says when each is over there.
    pub(super) fn forget_boot_clock(&mut self, end: impl Fn(&Named) -> Option<Due>) {
        for (_, named) in std::mem::take(&mut self.boot) {
            if let Some(end) = end(&named) {
                self.insert(end, named);
            }
        }
    }
}
