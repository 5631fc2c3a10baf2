//! What happens by itself, because time passes.

use super::index::{Index, Lookup};
use super::record::{CameDue, Expired, Record};
use super::time::Now;
use super::{Core, Lost, Output, Turn, producer};

/// When the core wants to be called next, on each clock; `None`: not for its own sake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    pub boot_ms: Option<u64>,
    pub wall_ms: Option<u64>,
}

impl Deadlines {
    /// Whether one of them has come.
    pub fn is_over(self, now: Now) -> bool {
        self.boot_ms.is_some_and(|deadline| deadline <= now.boot_ms)
            || self.wall_ms.is_some_and(|deadline| deadline <= now.wall_ms)
    }
}

impl<I: Index> Core<I> {
    /// Does what is due by now: a bounded step of it. To be called while
    /// [`Self::deadlines`] are over.
    pub fn tick(&mut self, now: Now, out: &mut Output) -> Turn<()> {
        if self.frozen {
            return Ok(());
        }
        self.end_leases(now, out)?;
        if let Some(session) = self.sessions.lost(now.boot_ms) {
            self.lose_session(session, now, out)?;
        } else if let Some((session, stream)) = self.sessions.lost_stream(now.boot_ms) {
            self.lose_stream(session, stream, now, out)?;
        }
        // Before anything comes due: what outlived its delay is not ready any more.
        if self.is_any_ttl_over(now) {
            self.end_ttls(now, out)?;
        }
        self.come_due(now, out)?;
        self.expire(now, out)?;
        self.trim(now, out)?;
        self.end_state(now, out)?;
        self.forget_outcomes(now, out);
        self.forget_idle_producers(now, out);
        Ok(())
    }

    /// When the next thing happens by itself.
    pub fn deadlines(&self) -> Deadlines {
        if self.frozen {
            return Deadlines::default();
        }
        let (due_boot, due_wall) = self.index.next_due();
        let (ttl_boot, ttl_wall) = self.index.next_ttl_end();
        let (leases, sessions) = (self.leases.next_deadline(), self.sessions.next_deadline());
        // Between two turns nothing is left to be delivered, but where a look has found damage.
        let left = !self.overfull.is_empty() || self.consumers.is_any_hot();
        let left = left.then_some(0);
        let [(state_boot, state_wall), (barrier_boot, barrier_wall), (_, tick)] =
            self.state.next_end(self.disk_full);
        let boot = [due_boot, ttl_boot, leases, sessions, self.flow.next_deadline(), left];
        let boot = boot.into_iter().chain([state_boot, barrier_boot]);
        let idle = self.producers.first_idle_ms().map(|last_ms| last_ms + producer::IDLE_MS);
        let wall = [due_wall, ttl_wall, self.index.next_expiry(), idle];
        let outcomes = self.outcomes.next_expiry();
        let wall = wall.into_iter().chain([state_wall, barrier_wall, outcomes, tick]);
        Deadlines { boot_ms: boot.flatten().min(), wall_ms: wall.flatten().min() }
    }

    /// Whether something that time publishes waits for a disk with room.
    pub fn waits_for_room(&self) -> bool {
        let [_, (barrier_boot, barrier_wall), (_, tick)] = self.state.next_end(false);
        self.disk_full
            && !self.frozen
            && [barrier_boot, barrier_wall, tick].iter().any(Option::is_some)
    }

    fn end_leases(&mut self, now: Now, out: &mut Output) -> Turn<()> {
        let births = self.leases.over(now.boot_ms, self.limits.step_max);
        if births.is_empty() {
            return Ok(());
        }
        let mut draft = self.draft();
        self.draft_crashes(&mut draft, births.iter().copied(), now)?;
        out.effects.extend(self.lost_leases(births, Lost::Expired));
        self.commit_settlements(draft, out);
        Ok(())
    }

    fn come_due(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        let mut births = Vec::new();
        self.index.due(now, self.limits.step_max, &mut births)?;
        let mut due = Vec::with_capacity(births.len());
        for birth in births {
            let message = self.index.message(birth)?.expect("what is due is there");
            due.push((message.due(), birth.0));
        }
        let mut draft = self.draft();
        // Each moment has its place in the queue, however late it is seen.
        for moment in due.chunk_by(|a, b| a.0 == b.0) {
            let births = moment.iter().map(|&(_, birth)| birth).collect();
            draft.fact(Record::CameDue(CameDue { births }));
        }
        self.commit_each(draft, out);
        Ok(())
    }

    /// Deletes what is older than its queue's retention; what somebody holds stays until it is back.
    pub(super) fn expire(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        let mut births = Vec::new();
        self.index.expired(now.wall_ms, self.limits.step_max, &mut births)?;
        for &birth in &births {
            self.index.message(birth)?;
        }
        if !births.is_empty() {
            let mut draft = self.draft();
            let births = births.into_iter().map(|birth| birth.0).collect();
            draft.fact(Record::Expired(Expired { births, by_ttl: false }));
            self.commit(draft, out);
        }
        Ok(())
    }
}
