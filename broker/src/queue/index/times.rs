//! Messages by a time of each, on the clock that the time is of.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use crate::queue::time::{Due, Now};

/// Invariant: a message is in one of both at most.
#[derive(Debug, Default)]
pub(super) struct Times {
    boot: BTreeSet<(u64, Lsn)>,
    wall: BTreeSet<(u64, Lsn)>,
}

impl Times {
    pub(super) fn insert(&mut self, time: Due, birth: Lsn) {
        match time.boot_ms {
            Some(boot_ms) => self.boot.insert((boot_ms, birth)),
            None => self.wall.insert((time.wall_ms, birth)),
        };
    }

    pub(super) fn remove(&mut self, time: Due, birth: Lsn) {
        match time.boot_ms {
            Some(boot_ms) => self.boot.remove(&(boot_ms, birth)),
            None => self.wall.remove(&(time.wall_ms, birth)),
        };
    }

    /// Adds up to `max` messages whose time has come, the earliest first.
    pub(super) fn over(&self, now: Now, max: usize, births: &mut Vec<Lsn>) {
        let over = self.over_by_clock(now).into_iter().flatten();
        births.extend(over.take(max).map(|(_, birth)| birth));
    }

    /// Messages whose time has come, on each clock, the earliest first.
    pub(super) fn over_by_clock(&self, now: Now) -> [impl Iterator<Item = (u64, Lsn)>; 2] {
        [(&self.boot, now.boot_ms), (&self.wall, now.wall_ms)]
            .map(|(order, time)| order.range(..=(time, Lsn(u64::MAX))).copied())
    }

    /// The earliest time on each clock.
    pub(super) fn first(&self) -> (Option<u64>, Option<u64>) {
        let first = |order: &BTreeSet<(u64, Lsn)>| order.first().map(|&(time, _)| time);
        (first(&self.boot), first(&self.wall))
    }

    /// Takes out the messages whose time is the boot clock's.
    pub(super) fn take_boot(&mut self) -> impl Iterator<Item = Lsn> + use<> {
        std::mem::take(&mut self.boot).into_iter().map(|(_, birth)| birth)
    }
}
