//! Small state beside the messages: values, counters, permits, barriers and schedules, each under a
//! key.
//!
//! A result, a rate limit, a group of jobs: what would need a second server otherwise. It changes by
//! records like everything else, and so in one commit with a settlement. Keys and all that decides is
//! in memory, within one bound over everything; a value itself is in its record's body, and read when
//! somebody asks. What has a time to live ends as a delay does.

mod barriers;
mod counters;
mod ends;
mod expiry;
mod permits;
mod schedules;
mod snapshot;
mod values;
mod watch;

pub mod record;

use std::collections::BTreeSet;
use std::sync::Arc;

use qbroker_storage::Lsn;

pub use barriers::{
    Arrive, Arrived, BARRIER_BYTES_MAX, BarrierState, BarrierView, COLLECTING_MESSAGES_MAX,
    CreateBarrier,
};
pub use counters::{AddToCounter, ChangeCounter, Changed};
pub use permits::{AcquirePermit, Holder, PermitId};
pub use schedules::{Calendar, CatchUp, PutSchedule, SCHEDULE_BYTES_MAX, SCHEDULES_MAX, Schedule};
pub(super) use snapshot::{FrozenState, StateItem};
pub use values::StoreValue;
pub use watch::Waiter;

use super::index::Index;
use super::publish::NewMessage;
use super::refused::Refused;
use super::shared_map::SharedMap;
use super::time::Due;
use super::{Core, Draft};
use ends::{Ends, Named};
use record::{Change, StateChanged};

/// The name of a value, a counter, a semaphore or a barrier; each has names of its own.
pub type Key = Arc<str>;

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Value,
    Counter,
    Permit,
    Barrier,
    Schedule,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateFigures {
    pub values: usize,
    pub counters: usize,
    pub permits: usize,
    pub barriers: usize,
    pub schedules: usize,
    /// Memory of all of it, about.
    pub bytes: usize,
}

/// A change that is made together with a settlement.
#[derive(Clone, Debug)]
pub enum StateChange {
    Store(StoreValue),
    Add(AddToCounter),
    Arrive(Arrive),
}

impl StateChange {
    /// What the log gets of it, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Store(store) => cost(&store.key) + store.value.len(),
            Self::Add(add) => cost(&add.key),
            Self::Arrive(arrive) => cost(&arrive.key) + arrive.value.len(),
        }
    }
}

/// Memory of an entry beside its key, which it has in two places, about.
const ENTRY_BYTES: usize = 256;

fn cost(key: &str) -> usize {
    ENTRY_BYTES + 2 * key.len()
}

/// Invariant: every time to live is in `ends` once, those of barriers in `barrier_ends`; `bytes` is
/// the cost of everything.
#[derive(Debug, Default)]
pub(super) struct State {
    values: SharedMap<Key, values::Value>,
    counters: SharedMap<Key, counters::Counter>,
    /// What became of changes that may be asked for again.
    answers: SharedMap<Key, counters::Answer>,
    permits: permits::Permits,
    barriers: SharedMap<Key, Arc<barriers::Barrier>>,
    schedules: SharedMap<Key, Arc<record::ScheduleStored>>,
    /// The next tick of each schedule that has one.
    ticks: BTreeSet<(u64, Key)>,
    ends: Ends,
    barrier_ends: Ends,
    bytes: usize,
    watch: watch::Watch,
}

impl State {
    pub(super) fn figures(&self) -> StateFigures {
        StateFigures {
            values: self.values.len(),
            counters: self.counters.len(),
            permits: self.permits.len(),
            barriers: self.barriers.len(),
            schedules: self.schedules.len(),
            bytes: self.bytes,
        }
    }

    /// Applies a change; what its record makes needless goes to `retired`. Whatever it names may be
    /// unknown: a repair may have given up the record that made it.
    pub(super) fn apply(&mut self, lsn: Lsn, changed: &StateChanged, retired: &mut Vec<Lsn>) {
        match changed.change.as_ref().expect("a record of no known change is refused") {
            Change::ValueStored(stored) => self.apply_value(lsn, stored, retired),
            Change::CounterSet(set) => self.apply_counter(set),
            Change::PermitTaken(taken) => self.apply_permit(lsn, taken),
            Change::BarrierCreated(created) => self.apply_barrier(created),
            Change::Arrived(arrived) => self.apply_arrived(arrived),
            Change::BarrierExpired(expired) => self.apply_barrier_expired(expired),
            Change::ScheduleStored(schedule) => self.apply_schedule(schedule),
            Change::ScheduleTicked(ticked) => self.apply_tick(ticked),
            Change::Removed(removed) => {
                removed.values.iter().for_each(|key| self.remove_value(key, retired));
                removed.counters.iter().for_each(|key| self.remove_counter(key));
                removed.answers.iter().for_each(|key| self.remove_answer(key));
                removed.permits.iter().for_each(|&id| self.remove_permit(Lsn(id)));
                removed.barriers.iter().for_each(|key| self.remove_barrier(key));
                removed.schedules.iter().for_each(|name| self.remove_schedule(name));
            }
        }
    }

    /// The machine was rebooted: times are the wall clock's from now on.
    pub(super) fn forget_boot_clock(&mut self) {
        let values = self.values.values_mut().filter_map(|value| value.end.as_mut());
        let counters = self.counters.values_mut().filter_map(|counter| counter.end.as_mut());
        let answers = self.answers.values_mut().map(|answer| &mut answer.end);
        let permits = self.permits.ends_mut();
        let barriers = self.barriers.values_mut().map(|it| &mut Arc::make_mut(it).end);
        let all = values.chain(counters).chain(answers).chain(permits).chain(barriers);
        all.for_each(|end| end.boot_ms = None);
        self.ends.forget_boot_clock(|named| match named {
            Named::Value(key) => self.values.get(key).and_then(|value| value.end),
            Named::Counter(key) => self.counters.get(key).and_then(|counter| counter.end),
            Named::Answer(key) => self.answers.get(key).map(|answer| answer.end),
            Named::Permit(id) => self.permits.end_of(*id),
            Named::Barrier(_) => None,
        });
        self.barrier_ends.forget_boot_clock(|named| match named {
            Named::Barrier(key) => self.barriers.get(key).map(|barrier| barrier.end),
            _ => None,
        });
    }
}

/// The room that the changes of one commit take, and what they name.
#[derive(Debug)]
struct Room {
    used: usize,
    max: usize,
    named: BTreeSet<(Kind, Key)>,
}

impl Room {
    /// Takes room for what was `before` bytes and will be `after`. Each key is changed once in a
    /// commit: what is decided looks at the state before it.
    fn take(&mut self, kind: Kind, key: &Key, before: usize, after: usize) -> Result<(), Refused> {
        if !self.named.insert((kind, key.clone())) {
            return Err(Refused::KeyTwice(key.to_string()));
        }
        let used = self.used.saturating_sub(before) + after;
        if before < after && self.max < used {
            return Err(Refused::Limit { what: "state_bytes", max: self.max });
        }
        self.used = used;
        Ok(())
    }
}

impl<I: Index> Core<I> {
    /// How much state there is.
    pub fn state_figures(&self) -> StateFigures {
        self.state.figures()
    }

    fn room(&self) -> Result<Room, Refused> {
        if self.disk_full {
            return Err(Refused::DiskFull);
        }
        let (used, max) = (self.state.bytes, self.limits.state_bytes_max);
        Ok(Room { used, max, named: BTreeSet::new() })
    }

    /// Drafts the changes that go with a settlement; one that is refused refuses it. Returns what the
    /// barriers that they complete publish.
    pub(super) fn draft_changes(
        &self,
        draft: &mut Draft,
        changes: &[StateChange],
        now: super::time::Now,
    ) -> super::Turn<Vec<NewMessage>> {
        let mut room = self.room()?;
        let mut completions = Vec::new();
        for change in changes {
            match change {
                StateChange::Store(store) => {
                    self.draft_value(draft, &mut room, store, now)?;
                }
                StateChange::Add(add) => {
                    let Changed { applied, value } =
                        self.draft_counter(draft, &mut room, add, "", now)?;
                    if !applied {
                        return Err(Refused::Counter { key: add.key.to_string(), value }.into());
                    }
                }
                StateChange::Arrive(arrive) => {
                    completions.extend(self.draft_arrival(draft, &mut room, arrive, now)?.1);
                }
            }
        }
        Ok(completions)
    }
}

/// Whether a time to live is over.
fn is_over(end: Option<Due>, now: super::time::Now) -> bool {
    end.is_some_and(|end| end.is_over(now))
}
