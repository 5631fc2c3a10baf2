//! Outcomes: what became of messages that are done, for as long as their queue says.
//!
//! A message of such a queue that is done leaves the index at once; its records stay, and it is
//! *unwritten*. The engine reads what they tell, beside everybody's way, and gives it back as an outcome: a
//! record whose body tells it all, for which the message's own records go. So an outcome costs no
//! more than it tells, whatever the payload was, and nothing waits for it.

mod item;
mod kept;
mod stored;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qbroker_storage::{Body, Lsn};

pub use item::{FinishedItem, OutcomesItem};
pub use kept::{Entry as KeptOutcome, FrozenOutcomes, Kept};
pub use stored::{OutcomeWritten, OutcomesForgotten, StoredEvent, StoredOutcome};

use super::ids::QueueId;
use super::index::{Index, Message};
use super::record::Record;
use super::time::Now;
use super::{Core, Output, Turn};

/// A message that is done, and whose outcome is not written yet. Its records are still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub birth: Lsn,
    /// Where it ended.
    pub queue: QueueId,
    /// The record that ended it.
    pub end: Lsn,
    /// The grant of the lease that ended with it; zero: nobody had it.
    pub grant: Lsn,
    /// What it was by then; its birth, unless it was patched.
    pub content: Lsn,
    pub last_failure: Lsn,
    pub dead_letter: Lsn,
    /// What happened to it before, and is not known from the grant; zero: nothing.
    pub step: Lsn,
}

impl Finished {
    /// The records that it needs until its outcome is written.
    pub(super) fn records(&self) -> impl Iterator<Item = Lsn> {
        let records = [self.content, self.last_failure, self.dead_letter];
        records.into_iter().filter(|lsn| *lsn != Lsn(0))
    }
}

/// Invariant: `expiries` has the first outcome of each queue that has any.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// The queues that ask for outcomes, and for how long.
    retentions: BTreeMap<QueueId, u64>,
    /// In the order in which they ended.
    unwritten: VecDeque<Finished>,
    kept: BTreeMap<QueueId, Kept>,
    expiries: BTreeSet<(u64, QueueId)>,
    count: usize,
    /// Since this start: outcomes that were never written.
    given_up: u64,
}

impl Outcomes {
    /// Whether outcomes of this queue are asked for.
    pub(super) fn are_wanted(&self, queue: QueueId) -> bool {
        !self.retentions.is_empty() && self.retentions.contains_key(&queue)
    }

    /// Says how long outcomes of a queue are kept; `None`: there are none.
    pub(super) fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>) {
        match retention_ms {
            Some(retention_ms) => self.retentions.insert(queue, retention_ms),
            None => self.retentions.remove(&queue),
        };
        self.note_expiry(queue);
    }

    /// A message is done; returns one that is given up because too many are unwritten.
    fn finish(&mut self, finished: Finished, unwritten_max: usize) -> Option<Finished> {
        self.unwritten.push_back(finished);
        if self.unwritten.len() <= unwritten_max {
            return None;
        }
        self.given_up += 1;
        self.unwritten.pop_front()
    }

    pub(super) fn restore_unwritten(&mut self, finished: Finished) {
        self.unwritten.push_back(finished);
    }

    /// What is not written yet, as it is at this moment.
    pub(super) fn frozen_unwritten(&self) -> VecDeque<Finished> {
        self.unwritten.clone()
    }

    pub(super) fn unwritten(&self) -> impl Iterator<Item = &Finished> {
        self.unwritten.iter()
    }

    fn place(&self, birth: Lsn) -> Option<usize> {
        self.unwritten.iter().position(|finished| finished.birth == birth)
    }

    fn take_unwritten(&mut self, birth: Lsn) -> Option<Finished> {
        self.place(birth).and_then(|place| self.unwritten.remove(place))
    }

    pub(super) fn keep(&mut self, queue: QueueId, outcome: KeptOutcome) {
        self.kept.entry(queue).or_default().push(outcome);
        self.count += 1;
        self.note_expiry(queue);
    }

    /// Forgets the oldest outcome of a queue; its record.
    fn forget_first(&mut self, queue: QueueId) -> Option<Lsn> {
        let first = self.kept.get_mut(&queue)?.pop()?;
        self.count -= 1;
        self.note_expiry(queue);
        Some(first.record)
    }

    /// The queue's first outcome, or its retention, may be another one.
    fn note_expiry(&mut self, queue: QueueId) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let retention_ms = self.retentions.get(&queue);
        let expiry = kept.first().map(|first| {
            retention_ms.map_or(0, |retention_ms| first.wall_ms.saturating_add(*retention_ms))
        });
        if let Some(before) = std::mem::replace(&mut kept.expiry, expiry) {
            self.expiries.remove(&(before, queue));
        }
        match expiry {
            Some(expiry) => drop(self.expiries.insert((expiry, queue))),
            None => drop(self.kept.remove(&queue)),
        }
    }

    /// When the first of them is to be forgotten.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|&(expiry, _)| expiry)
    }

    /// A queue with outcomes that are over, and how many of them; a bounded step of it.
    fn over(&self, wall_ms: u64, max: usize) -> Option<(QueueId, u64)> {
        let &(expiry, queue) = self.expiries.first()?;
        if wall_ms < expiry {
            return None;
        }
        let retention_ms = self.retentions.get(&queue).copied().unwrap_or_default();
        let kept = self.kept.get(&queue)?;
        let over = kept.iter().take(max).take_while(|outcome| {
            outcome.wall_ms.saturating_add(retention_ms) <= wall_ms || retention_ms == 0
        });
        Some((queue, over.count() as u64))
    }

    /// Which outcomes go so that there is room for `more`: of the queues whose turn comes first.
    fn make_room(&self, more: usize, max: usize) -> Vec<(QueueId, u64)> {
        let mut excess = (self.count + more).saturating_sub(max) as u64;
        let mut gone = Vec::new();
        for &(_, queue) in &self.expiries {
            if excess == 0 {
                break;
            }
            let count = (self.kept[&queue].len() as u64).min(excess);
            gone.push((queue, count));
            excess -= count;
        }
        gone
    }

    pub(super) fn frozen(&self) -> FrozenOutcomes {
        let queues = self.kept.iter().map(|(queue, kept)| (*queue, kept.frozen()));
        FrozenOutcomes::new(queues.collect())
    }
}

impl<I: Index> Core<I> {
    /// Takes a message out for good, with the lease that ends with it. Its records go too, unless its
    /// outcome is to be written.
    pub(super) fn finish(&mut self, birth: Lsn, grant: Option<Lsn>) -> Message {
        self.finish_with(birth, grant, Lsn(0))
    }

    /// [`Self::finish`] of a message that is discarded by this record, which tells why.
    pub(super) fn finish_with(&mut self, birth: Lsn, grant: Option<Lsn>, letter: Lsn) -> Message {
        let message = self.index.remove(birth);
        let step = self.take_step(message.queue, birth);
        // Nothing comes after it: what was before is known from here.
        self.telling.message(&message);
        self.look_after_line(&message);
        self.first_may_be_another(message.queue);
        let finished = Finished {
            birth,
            queue: message.queue,
            // The record that is applied just now.
            end: self.last_lsn(),
            grant: grant.unwrap_or_default(),
            content: message.content(birth),
            last_failure: message.last_failure,
            dead_letter: if letter == Lsn(0) { message.dead_letter } else { letter },
            step,
        };
        if letter != Lsn(0) {
            self.retire(message.dead_letter);
        }
        if !self.outcomes.are_wanted(message.queue) {
            self.retire_all(&finished);
            return message;
        }
        if let Some(oldest) = self.outcomes.finish(finished, self.limits.unwritten_outcomes_max) {
            self.retire_all(&oldest);
        }
        message
    }

    fn retire_all(&mut self, finished: &Finished) {
        finished.records().for_each(|lsn| self.retire(lsn));
    }

    /// The first messages that are done and whose outcomes are to be written.
    pub fn unwritten_outcomes(&self, max: usize) -> Vec<Finished> {
        self.outcomes.unwritten().take(max).copied().collect()
    }

    /// A message that is done and whose outcome is not written yet.
    pub fn unwritten_outcome(&self, birth: Lsn) -> Option<Finished> {
        self.outcomes.place(birth).map(|place| self.outcomes.unwritten[place])
    }

    /// The outcomes that are kept, to be looked at without the core.
    pub fn outcomes(&self) -> FrozenOutcomes {
        self.outcomes.frozen()
    }

    /// How many outcomes are kept, and how many were never written since this start: because they came
    /// faster than they were written, or the disk was full.
    pub fn outcome_counts(&self) -> (usize, u64) {
        (self.outcomes.count, self.outcomes.given_up)
    }

    /// Writes outcomes, each as the body that tells it. What is not wanted any more, and everything
    /// while the disk is at its reserve, is given up instead: its records take room.
    pub fn write_outcomes(
        &mut self,
        outcomes: &[(Lsn, Body)],
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        let (mut written, mut given_up) = (Vec::new(), Vec::new());
        for (birth, body) in outcomes {
            let Some(finished) = self.unwritten_outcome(*birth) else { continue };
            if self.disk_full || !self.outcomes.are_wanted(finished.queue) {
                given_up.push(birth.0);
                continue;
            }
            let (queue, wall_ms) = (finished.queue.0, now.wall_ms);
            let record = OutcomeWritten { birth: birth.0, queue, wall_ms };
            written.push((Record::OutcomeWritten(record), body));
        }
        let mut draft = self.draft();
        let gone = self.outcomes.make_room(written.len(), self.limits.outcomes_max);
        for (QueueId(queue), count) in gone {
            let forgotten = OutcomesForgotten { queue, count, unwritten: Vec::new() };
            draft.fact(Record::OutcomesForgotten(forgotten));
        }
        for (record, body) in written {
            draft.push(record, body.clone());
        }
        if !given_up.is_empty() {
            self.outcomes.given_up += given_up.len() as u64;
            let forgotten = OutcomesForgotten { queue: 0, count: 0, unwritten: given_up };
            draft.fact(Record::OutcomesForgotten(forgotten));
        }
        // Each stands alone.
        self.commit_each(draft, out);
        Ok(())
    }

    /// Forgets outcomes that were kept for long enough: a bounded step of it.
    pub(super) fn forget_outcomes(&mut self, now: Now, out: &mut Output) {
        if let Some((QueueId(queue), count)) = self.outcomes.over(now.wall_ms, self.limits.step_max)
        {
            let mut draft = self.draft();
            let forgotten = OutcomesForgotten { queue, count, unwritten: Vec::new() };
            draft.fact(Record::OutcomesForgotten(forgotten));
            self.commit(draft, out);
        }
    }

    pub(super) fn apply_outcome(&mut self, lsn: Lsn, outcome: &OutcomeWritten) {
        let birth = Lsn(outcome.birth);
        if let Some(finished) = self.outcomes.take_unwritten(birth) {
            self.retire_all(&finished);
        }
        self.searchable = lsn;
        let entry = KeptOutcome { birth, record: lsn, wall_ms: outcome.wall_ms };
        self.outcomes.keep(QueueId(outcome.queue), entry);
    }

    pub(super) fn apply_outcomes_forgotten(&mut self, forgotten: &OutcomesForgotten) {
        for &birth in &forgotten.unwritten {
            if let Some(finished) = self.outcomes.take_unwritten(Lsn(birth)) {
                self.retire_all(&finished);
            }
        }
        for _ in 0..forgotten.count {
            // Behind a gap there may be fewer.
            let Some(record) = self.outcomes.forget_first(QueueId(forgotten.queue)) else { break };
            self.retire(record);
        }
    }
}
