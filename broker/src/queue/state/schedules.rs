//! Schedules: messages that are published again and again, each tick once.
//!
//! When the next tick is, is a fact in the record of the one before, and that record is one commit with
//! the message that the tick publishes: a crash leaves both or neither, so no tick is published twice, and
//! none is forgotten. What a cron expression means is told by a [`Calendar`], from outside.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use prost::Message as _;

use super::barriers::{new_message, template};
use super::record::{Change, Removed, ScheduleStored, ScheduleTicked, Template};
use super::{Key, Kind, State, cost};
use crate::queue::body::StoredMessage;
use crate::queue::index::Index;
use crate::queue::policy;
use crate::queue::publish::Receipt;
use crate::queue::refused::Refused;
use crate::queue::time::Now;
use crate::queue::{Core, NewDue, NewMessage, Output, Stop, Turn};

/// Schedules that there are at most.
pub const SCHEDULES_MAX: usize = 10_000;
/// Bytes of a schedule's message: it is in memory.
pub const SCHEDULE_BYTES_MAX: usize = 256 << 10;
/// A tick that is this late was missed.
const MISSED_MS: u64 = 60_000;
/// Ticks that one step handles at most.
const TICKS_MAX: usize = 16;
/// The headers that a tick's message has beside its own: whose tick it is, and its time, in
/// milliseconds since 1970.
const SCHEDULE_HEADER: &str = "schedule";
const TICK_HEADER: &str = "schedule-tick-ms";

/// What says when schedules tick, by expression and time zone; pure. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    /// The first tick after a time.
    pub after: fn(&str, &str, u64) -> Option<u64>,
    /// The last tick at or before a time.
    pub until: fn(&str, &str, u64) -> Option<u64>,
}

impl Default for Calendar {
    /// One that knows no tick.
    fn default() -> Self {
        Self { after: |_, _, _| None, until: |_, _, _| None }
    }
}

/// What becomes of ticks that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum CatchUp {
    /// The last one is published, late.
    Last = 0,
    /// None is.
    Skip = 1,
    /// Each is, one after the other.
    All = 2,
}

/// Makes a schedule, or changes it.
#[derive(Clone, Debug)]
pub struct PutSchedule {
    pub name: Key,
    /// A cron expression, or `@every` and a duration; checked by whoever hands it in.
    pub cron: String,
    pub time_zone: String,
    pub message: NewMessage,
    pub catch_up: CatchUp,
    /// Each message is delayed by up to this.
    pub jitter_ms: u64,
    pub skip_if_unfinished: bool,
    /// `None`: as it is.
    pub paused: Option<bool>,
}

/// A schedule as it is, for whoever looks.
pub type Schedule = ScheduleStored;

impl State {
    pub(super) fn apply_schedule(&mut self, schedule: &ScheduleStored) {
        self.put_schedule(schedule.clone());
    }

    pub(super) fn apply_tick(&mut self, ticked: &ScheduleTicked) {
        let Some(mut schedule) = self.take_schedule(&ticked.name) else { return };
        schedule.next_ms = ticked.next_ms;
        schedule.tick_ms = Some(ticked.tick_ms);
        // What was missed was not to be published.
        if !ticked.missed {
            schedule.skipped.clone_from(&ticked.skipped);
            if ticked.skipped.is_empty() {
                schedule.published_total += 1;
                schedule.publish_ms = Some(ticked.wall_ms);
            } else {
                schedule.skipped_total += 1;
            }
        }
        self.put_schedule(schedule);
    }

    pub(super) fn put_schedule(&mut self, schedule: ScheduleStored) {
        self.remove_schedule(&schedule.name);
        let name: Key = schedule.name.as_str().into();
        self.bytes += size(&schedule);
        if let Some(next_ms) = schedule.next_ms {
            self.ticks.insert((next_ms, name.clone()));
        }
        self.schedules.insert(name, Arc::new(schedule));
    }

    pub(super) fn remove_schedule(&mut self, name: &str) {
        drop(self.take_schedule(name));
    }

    fn take_schedule(&mut self, name: &str) -> Option<ScheduleStored> {
        let (name, schedule) = self.schedules.remove_entry(name)?;
        self.bytes -= size(&schedule);
        if let Some(next_ms) = schedule.next_ms {
            self.ticks.remove(&(next_ms, name));
        }
        Some(Arc::unwrap_or_clone(schedule))
    }
}

/// Memory of a schedule, about.
fn size(schedule: &ScheduleStored) -> usize {
    cost(&schedule.name) + schedule.definition_bytes()
}

impl ScheduleStored {
    /// Bytes of what it was given, which its ticks do not change.
    fn definition_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, Template::encoded_len);
        message + self.cron.len() + self.time_zone.len()
    }

    /// Whether it ticks as another one does.
    fn ticks_as(&self, other: &Self) -> bool {
        (&self.cron, &self.time_zone, self.paused) == (&other.cron, &other.time_zone, other.paused)
    }

    /// The times of its next ticks, at most so many.
    pub fn next_ticks(&self, calendar: Calendar, count: usize) -> Vec<u64> {
        let following = |ms: &u64| (calendar.after)(&self.cron, &self.time_zone, *ms);
        std::iter::successors(self.next_ms, following).take(count).collect()
    }
}

impl<I: Index> Core<I> {
    /// Says what schedules' expressions mean; to be called before the first tick.
    pub fn set_calendar(&mut self, calendar: Calendar) {
        self.calendar = calendar;
    }

    /// Makes a schedule, or changes the one of its name, which keeps its figures and, where it ticks as
    /// before, its next tick.
    pub fn put_schedule(
        &mut self,
        put: &PutSchedule,
        now: Now,
        out: &mut Output,
    ) -> Turn<Schedule> {
        policy::check_name(&put.name)?;
        policy::check_name(&put.message.queue)?;
        let before = self.state.schedules.get(&put.name).map(|it| &**it);
        if before.is_none() && SCHEDULES_MAX <= self.state.schedules.len() {
            return Err(Refused::Limit { what: "schedules", max: SCHEDULES_MAX }.into());
        }
        let mut schedule = before.cloned().unwrap_or_else(|| ScheduleStored {
            name: put.name.to_string(),
            create_ms: now.wall_ms,
            ..ScheduleStored::default()
        });
        schedule.cron.clone_from(&put.cron);
        schedule.time_zone.clone_from(&put.time_zone);
        schedule.message = Some(template(&put.message));
        schedule.set_catch_up(put.catch_up);
        schedule.jitter_ms = put.jitter_ms;
        schedule.skip_if_unfinished = put.skip_if_unfinished;
        schedule.paused = put.paused.unwrap_or(schedule.paused);
        if SCHEDULE_BYTES_MAX < schedule.definition_bytes() {
            return Err(Refused::Limit { what: "schedule_bytes", max: SCHEDULE_BYTES_MAX }.into());
        }
        let goes_on = before.is_some_and(|before| before.ticks_as(&schedule));
        if !goes_on {
            schedule.next_ms = self.first_tick(&schedule, now);
        }
        let size_before = before.map_or(0, size);
        self.room()?.take(Kind::Schedule, &put.name, size_before, size(&schedule))?;
        Ok(self.store_schedule(schedule, out))
    }

    /// Lets a schedule stand still, or go on with its first tick after now.
    pub fn pause_schedule(
        &mut self,
        name: &str,
        paused: bool,
        now: Now,
        out: &mut Output,
    ) -> Turn<Schedule> {
        let schedule = self.schedule_named(name)?;
        if schedule.paused == paused {
            return Ok(schedule.clone());
        }
        // Its record has the message, for which a full disk has no room.
        self.room()?;
        let mut schedule = schedule.clone();
        schedule.paused = paused;
        schedule.next_ms = self.first_tick(&schedule, now);
        Ok(self.store_schedule(schedule, out))
    }

    /// Deletes a schedule; what it published stays.
    pub fn delete_schedule(&mut self, name: &str, out: &mut Output) -> Turn<()> {
        let schedules = vec![self.schedule_named(name)?.name.clone()];
        let mut draft = self.draft();
        draft.state(Change::Removed(Removed { schedules, ..Removed::default() }));
        self.commit(draft, out);
        Ok(())
    }

    /// Publishes a schedule's message now, beside its ticks.
    pub fn trigger_schedule(&mut self, name: &str, now: Now, out: &mut Output) -> Turn<Receipt> {
        let message = with_headers(self.schedule_named(name)?, now.wall_ms);
        let mut draft = self.draft();
        let drafted = self.draft_messages(&mut draft, &[message], now);
        let (receipts, evicted) = drafted.map_err(|(_, stop)| stop)?;
        self.commit(draft, out);
        self.evict(&evicted, now, out);
        Ok(receipts[0])
    }

    /// The schedule of this name.
    pub fn schedule_named(&self, name: &str) -> Result<&Schedule, Refused> {
        let schedule = self.state.schedules.get(name);
        schedule.map(|it| &**it).ok_or_else(|| Refused::ScheduleNotFound(name.to_owned()))
    }

    /// The schedules after this name, in the order of their names.
    pub fn schedules_after<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Schedule> {
        self.state.schedules.from(Bound::Excluded(name)).map(|(_, it)| &**it)
    }

    /// Handles ticks that have come: a bounded step of it. They publish, which waits for a disk with
    /// room.
    pub(super) fn tick_schedules(&mut self, now: Now, out: &mut Output) -> Turn<()> {
        let due = self.state.ticks.iter().take_while(|(ms, _)| *ms <= now.wall_ms);
        let due: Vec<Key> = due.take(TICKS_MAX).map(|(_, name)| name.clone()).collect();
        for name in due {
            self.tick_schedule(&name, now, out)?;
        }
        Ok(())
    }

    fn tick_schedule(&mut self, name: &Key, now: Now, out: &mut Output) -> Turn<()> {
        let schedule = self.state.schedules.get(name).expect("what ticks is there");
        let Ticking { tick_ms, next_ms, is_published } = self.ticking(schedule, now);
        let mut ticked = ScheduleTicked {
            name: name.to_string(),
            tick_ms,
            next_ms,
            wall_ms: now.wall_ms,
            missed: !is_published,
            skipped: String::new(),
        };
        if is_published {
            let mut draft = self.draft();
            let message = with_headers(schedule, tick_ms);
            match self.draft_messages(&mut draft, &[message], now) {
                Ok((receipts, _)) if receipts[0].duplicate => {
                    "the message before it is not finished".clone_into(&mut ticked.skipped);
                }
                Ok((_, evicted)) => {
                    draft.state(Change::ScheduleTicked(ticked));
                    self.commit(draft, out);
                    self.evict(&evicted, now, out);
                    return Ok(());
                }
                Err((_, Stop::Missing(page))) => return Err(page.into()),
                // Nobody waits for it: it is told to whoever looks at the schedule.
                Err((_, Stop::Refused(refused))) => ticked.skipped = refused.to_string(),
            }
        }
        let mut draft = self.draft();
        draft.state(Change::ScheduleTicked(ticked));
        self.commit(draft, out);
        Ok(())
    }

    /// What a schedule whose tick has come does about that, and about those after it that have come too.
    fn ticking(&self, schedule: &ScheduleStored, now: Now) -> Ticking {
        let Calendar { after, until } = self.calendar;
        let (cron, zone) = (&*schedule.cron, &*schedule.time_zone);
        let first_ms = schedule.next_ms.expect("it is among those that tick");
        let second_ms = after(cron, zone, first_ms);
        let has_second = second_ms.is_some_and(|ms| ms <= now.wall_ms);
        if schedule.catch_up() == CatchUp::All || !has_second {
            let is_late = MISSED_MS < now.wall_ms - first_ms;
            let is_published = schedule.catch_up() != CatchUp::Skip || !is_late;
            return Ticking { tick_ms: first_ms, next_ms: second_ms, is_published };
        }
        let last_ms = until(cron, zone, now.wall_ms).unwrap_or(first_ms).max(first_ms);
        let is_late = MISSED_MS < now.wall_ms.saturating_sub(last_ms);
        Ticking {
            tick_ms: last_ms,
            next_ms: after(cron, zone, now.wall_ms.max(last_ms)),
            is_published: schedule.catch_up() == CatchUp::Last || !is_late,
        }
    }

    /// The first tick from now on, and after those that were: no tick comes twice because the clock was
    /// set back.
    fn first_tick(&self, schedule: &ScheduleStored, now: Now) -> Option<u64> {
        if schedule.paused {
            return None;
        }
        let from_ms = now.wall_ms.max(schedule.tick_ms.unwrap_or_default());
        (self.calendar.after)(&schedule.cron, &schedule.time_zone, from_ms)
    }

    fn store_schedule(&mut self, schedule: ScheduleStored, out: &mut Output) -> Schedule {
        let mut draft = self.draft();
        draft.state(Change::ScheduleStored(Box::new(schedule.clone())));
        self.commit(draft, out);
        schedule
    }
}

/// What is done about a tick.
struct Ticking {
    tick_ms: u64,
    /// The one after it.
    next_ms: Option<u64>,
    /// Otherwise it was missed.
    is_published: bool,
}

/// The message of a tick.
fn with_headers(schedule: &ScheduleStored, tick_ms: u64) -> NewMessage {
    let template = schedule.message.as_ref().expect("a schedule has a message");
    let message = new_message(template);
    let [prefix, rest] = message.body.parts().clone();
    let mut stored = StoredMessage::decode(prefix.chain(rest)).expect("it was encoded here");
    stored.headers.insert(SCHEDULE_HEADER.to_owned(), schedule.name.clone());
    stored.headers.insert(TICK_HEADER.to_owned(), tick_ms.to_string());
    let due = match jitter_ms(schedule, tick_ms) {
        0 => message.due,
        jitter_ms => match message.due {
            Some(NewDue::After(delay_ms)) => {
                Some(NewDue::After(delay_ms.saturating_add(jitter_ms)))
            }
            _ => Some(NewDue::After(jitter_ms)),
        },
    };
    NewMessage { due, body: stored.into_body(&mut BytesMut::new()), ..message }
}

/// By how much a tick's message is delayed: the same for the same tick, different for others.
fn jitter_ms(schedule: &ScheduleStored, tick_ms: u64) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    if schedule.jitter_ms == 0 {
        return 0;
    }
    let mut hasher = rustc_hash::FxHasher::default();
    (schedule.name.as_str(), tick_ms).hash(&mut hasher);
    // The upper half is the better mixed one.
    (hasher.finish() >> 32) % (schedule.jitter_ms + 1)
}
