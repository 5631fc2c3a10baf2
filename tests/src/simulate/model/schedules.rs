//! Schedules: each tick publishes once or not at all, in their order, and what was missed is caught up.

use super::calls::{New, Refusal};
use super::{Model, Overflow, Sequence, Time, Wrong};

/// What becomes of ticks that were missed: the last one is published, none, or each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    Last,
    None,
    Each,
}

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    every_ms: u64,
    missed: Missed,
    new: New,
    paused: bool,
    /// The next tick, and the last one.
    next_ms: Option<u64>,
    tick_ms: Option<u64>,
    published: u64,
    skipped: u64,
}

/// What can be asked of it: whether it is paused, its next tick and the last one, and how many were
/// published and skipped.
pub(crate) type SeenSchedule = (bool, Option<u64>, Option<u64>, u64, u64);

/// What a schedule did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticked {
    pub(crate) schedule: u64,
    pub(crate) tick_ms: u64,
    pub(crate) next_ms: Option<u64>,
    /// It was not to be published.
    pub(crate) missed: bool,
    /// With its size.
    pub(crate) published: Option<(Sequence, u64)>,
}

/// Who cannot be published within this time was missed.
const MISSED_MS: u64 = 60_000;

impl Schedule {
    /// The first tick from now on, and after those that were.
    fn first_ms(&self, now: Time) -> Option<u64> {
        let from_ms = now.wall_ms.max(self.tick_ms.unwrap_or_default());
        (!self.paused).then(|| (from_ms / self.every_ms + 1) * self.every_ms)
    }

    /// The tick that is handled now, and whether it is to be published; `None` where none has come.
    fn tick(&self, now: Time) -> Option<(u64, bool)> {
        let next_ms = self.next_ms.filter(|next_ms| *next_ms <= now.wall_ms)?;
        let tick_ms = match self.missed {
            Missed::Each => next_ms,
            Missed::Last | Missed::None => now.wall_ms / self.every_ms * self.every_ms,
        };
        let is_missed = MISSED_MS < now.wall_ms - tick_ms;
        Some((tick_ms, !is_missed || self.missed != Missed::None))
    }
}

impl Model {
    /// A schedule is made, or changed: its next tick stays, unless it ticks otherwise.
    pub(crate) fn put_schedule(
        &mut self,
        schedule: u64,
        (every_ms, missed, new): (u64, Missed, New),
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        self.check_schedule(schedule, refused, None)?;
        if refused.is_some() {
            return Ok(());
        }
        let fresh = || Schedule {
            every_ms: 0,
            missed,
            new,
            paused: false,
            next_ms: None,
            tick_ms: None,
            published: 0,
            skipped: 0,
        };
        let it = self.schedules.entry(schedule).or_insert_with(fresh);
        let is_same = it.every_ms == every_ms;
        (it.every_ms, it.missed, it.new) = (every_ms, missed, new);
        if !is_same {
            it.next_ms = it.first_ms(now);
        }
        Ok(())
    }

    /// A schedule stands still, or goes on with its first tick after now.
    pub(crate) fn pause_schedule(
        &mut self,
        schedule: u64,
        paused: bool,
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        let Some(it) = self.schedules.get(&schedule) else {
            return self.check_schedule(schedule, refused, Some("SCHEDULE_NOT_FOUND"));
        };
        if it.paused == paused && refused.is_none() {
            return Ok(());
        }
        self.check_schedule(schedule, refused, None)?;
        if let Some(it) = self.schedules.get_mut(&schedule).filter(|_| refused.is_none()) {
            it.paused = paused;
            it.next_ms = it.first_ms(now);
        }
        Ok(())
    }

    pub(crate) fn drop_schedule(
        &mut self,
        schedule: u64,
        refused: Option<Refusal>,
    ) -> Result<(), Wrong> {
        match (self.schedules.remove(&schedule), refused) {
            (Some(_), None) | (None, Some("SCHEDULE_NOT_FOUND")) => Ok(()),
            (was, refused) => Err(format!("schedule {schedule} dropped, {was:?}: {refused:?}")),
        }
    }

    fn check_schedule(
        &self,
        schedule: u64,
        refused: Option<Refusal>,
        expected: Option<Refusal>,
    ) -> Result<(), Wrong> {
        let expected = expected.or_else(|| (!self.has_room).then_some("DISK_FULL"));
        match refused == expected {
            true => Ok(()),
            false => Err(format!("schedule {schedule}: {refused:?}, expected {expected:?}")),
        }
    }

    /// A schedule has done something about a tick.
    pub(crate) fn tick_schedule(&mut self, ticked: &Ticked, now: Time) -> Result<(), Wrong> {
        let it = self.schedules.get(&ticked.schedule).cloned();
        let it = it.ok_or_else(|| format!("nobody made it: {ticked:?}"))?;
        let expected = it.tick(now).filter(|_| self.has_room);
        let next_ms = Some((ticked.tick_ms / it.every_ms + 1) * it.every_ms);
        if expected != Some((ticked.tick_ms, !ticked.missed)) || ticked.next_ms != next_ms {
            return Err(format!("{ticked:?} of {it:?} at {now:?}, expected {expected:?}"));
        }
        if !ticked.missed {
            let refused = self.refusal(&[it.new], now);
            let holders = self.holders(it.new.queue, it.new.unique);
            let is_stored = refused.is_none() && holders.is_empty();
            // Whether a queue had let go by then of what it holds beyond its bounds is not said.
            let lets_go = self.policy(it.new.queue).overflow != Overflow::Reject;
            let is_right = is_stored == ticked.published.is_some() || (is_stored && lets_go);
            if !is_right {
                return Err(format!("{ticked:?} of {it:?}: {refused:?}, {holders:?}"));
            }
        }
        if let Some((sequence, bytes)) = ticked.published {
            if bytes != it.new.bytes {
                return Err(format!("{ticked:?} of {it:?} has {bytes} bytes"));
            }
            self.publish(&[it.new], Ok(&[(sequence, false)]), now)?;
        }
        let to = self.schedules.get_mut(&ticked.schedule).expect("it was found just now");
        (to.next_ms, to.tick_ms) = (next_ms, Some(ticked.tick_ms));
        to.published += u64::from(ticked.published.is_some());
        to.skipped += u64::from(!ticked.missed && ticked.published.is_none());
        Ok(())
    }

    /// No tick waits that has come.
    pub(crate) fn check_schedules(&self, now: Time) -> Result<(), Wrong> {
        let due = self.schedules.values().find(|it| self.has_room && it.tick(now).is_some());
        due.map_or(Ok(()), |it| Err(format!("{it:?} has not ticked at {now:?}")))
    }

    pub(crate) fn seen_schedules(&self) -> impl Iterator<Item = (u64, SeenSchedule)> {
        let seen = |it: &Schedule| (it.paused, it.next_ms, it.tick_ms, it.published, it.skipped);
        self.schedules.iter().map(move |(schedule, it)| (*schedule, seen(it)))
    }
}
