//! State whose time is over goes, and schedules tick.

use super::barriers::{BarrierState, REMEMBERED_MS, new_message};
use super::ends::Named;
use super::record::{BarrierExpired, Change, Removed, Template};
use super::{Key, State};
use crate::queue::index::{Index, Lookup};
use crate::queue::time::Now;
use crate::queue::{Core, Draft, Output, Turn};

/// Keys that one record names at most, so that its head stays below 64 KiB.
const KEYS_MAX: usize = 200;
/// Barriers that end in one step at most.
const BARRIERS_MAX: usize = 16;

impl State {
    /// When something is over next, on each clock. Barriers and schedules publish, which waits for a disk
    /// with room.
    pub(in crate::queue) fn next_end(&self, disk_full: bool) -> [(Option<u64>, Option<u64>); 3] {
        if disk_full {
            return [self.ends.first(), (None, None), (None, None)];
        }
        let tick = self.ticks.first().map(|(ms, _)| *ms);
        [self.ends.first(), self.barrier_ends.first(), (None, tick)]
    }
}

impl<I: Index> Core<I> {
    /// Removes what is over: a bounded step of it.
    pub(in crate::queue) fn end_state(&mut self, now: Now, out: &mut Output) -> Turn<()> {
        let over = self.state.ends.over(now, KEYS_MAX);
        if !over.is_empty() {
            let mut draft = self.draft();
            draft.state(Change::Removed(removed(over)));
            self.commit(draft, out);
        }
        if self.disk_full {
            return Ok(());
        }
        for named in self.state.barrier_ends.over(now, BARRIERS_MAX) {
            let Named::Barrier(key) = named else { unreachable!("only barriers are here") };
            let mut draft = self.draft();
            self.draft_end_of_barrier(&mut draft, &key, now)?;
            self.commit(draft, out);
        }
        self.tick_schedules(now, out)
    }

    fn draft_end_of_barrier(&self, draft: &mut Draft, key: &Key, now: Now) -> Lookup<()> {
        let barrier = self.state.barriers.get(key).expect("what ends is there");
        if barrier.view.state != BarrierState::Open {
            let barriers = vec![key.to_string()];
            draft.state(Change::Removed(Removed { barriers, ..Removed::default() }));
            return Ok(());
        }
        self.draft_templates(draft, &barrier.on_expire, now)?;
        let end = now.after(REMEMBERED_MS).into();
        draft.state(Change::BarrierExpired(BarrierExpired { key: key.to_string(), end }));
        Ok(())
    }

    /// What time publishes is not refused, as dead letters are not: nobody would hear of it.
    fn draft_templates(&self, draft: &mut Draft, templates: &[Template], now: Now) -> Lookup<()> {
        let messages: Vec<_> = templates.iter().map(new_message).collect();
        self.draft_unrefused(draft, &messages, now)
    }
}

fn removed(over: Vec<Named>) -> Removed {
    let mut removed = Removed::default();
    for named in over {
        match named {
            Named::Value(key) => removed.values.push(key.to_string()),
            Named::Counter(key) => removed.counters.push(key.to_string()),
            Named::Answer(key) => removed.answers.push(key.to_string()),
            Named::Permit(id) => removed.permits.push(id.0),
            Named::Barrier(key) => removed.barriers.push(key.to_string()),
        }
    }
    removed
}
