//! Deleting the messages of a queue: in steps, however many there are.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, Message, StateSet};
use super::lease::Lease;
use super::record::Deleted;
use super::refused::Refused;
use super::{Core, Lost, Output, Turn};

/// A purge that was begun: what it deletes, and how far it is.
#[derive(Clone, Debug)]
pub struct Purge {
    queue: QueueId,
    why: Lost,
    course: Course,
}

/// Which messages a purge deletes, and how far it has looked for them.
#[derive(Clone, Debug)]
pub(super) struct Course {
    pub(super) states: StateSet,
    /// Only messages that were there when it began.
    pub(super) before: Lsn,
    /// What is listed now: at first those behind others, who would be ready when those are gone.
    pass: StateSet,
    after: Option<Cursor>,
    /// Everything is to be listed once more: between two steps a message may have moved to where the
    /// listing had been.
    again: bool,
    /// Lines of ordering keys whose first ones it has deleted, and not those behind: whoever is the first
    /// then was behind when it began.
    lines: BTreeSet<u32>,
}

/// What a step of a purge looks at.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) listed: Vec<Cursor>,
    /// What is listed in the next step, and after whom; `None`: this was the end.
    pass: StateSet,
    next: Option<Cursor>,
}

impl Course {
    pub(super) fn new(states: StateSet, before: Lsn) -> Self {
        let pass = if states.contains(StateSet::BEHIND) { StateSet::BEHIND } else { states };
        Self { states, before, pass, after: None, again: true, lines: BTreeSet::new() }
    }

    /// Whether a message is what it is since others are gone: it was behind one that this purge has deleted,
    /// or ready, and a consumer took it instead.
    pub(super) fn is_spared(&self, message: &Message, lease: Option<&Lease>) -> bool {
        let is_taken = lease.is_some_and(|lease| self.before <= lease.grant);
        // What came due for the first time since was behind nobody.
        let was_behind = message.place < self.before
            && message.led_line().is_some_and(|line| self.lines.contains(&line));
        was_behind || (is_taken && !self.states.contains(StateSet::READY))
    }

    /// Whether a message was there when it began, as far as can be told: one that is ready by now may
    /// have been with a consumer then, or behind another one that is done.
    fn means(&self, birth: Lsn, message: &Message) -> bool {
        // Became ready, or was moved here, since: what was scheduled then has its place since, too.
        let is_new = !self.states.contains(StateSet::SCHEDULED) && self.before <= message.place;
        birth.max(message.dead_letter) < self.before && !is_new
    }

    /// Notes what was looked at, and what of it is about to be deleted; whether that was the last step.
    fn step(&mut self, looked_at: &Stretch, deleted: &[(Lsn, Message)]) -> bool {
        if !self.states.contains(StateSet::BEHIND) {
            self.lines.extend(deleted.iter().filter_map(|(_, message)| message.led_line()));
        }
        let is_all = self.after.is_none() && looked_at.next.is_none();
        (self.pass, self.after) = (looked_at.pass, looked_at.next);
        self.again |= !deleted.is_empty();
        is_all || (self.after.is_none() && !std::mem::take(&mut self.again))
    }
}

/// What a step of a purge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeStep {
    /// Messages that it deleted.
    pub deleted: u64,
    /// There is nothing left to do.
    pub is_last: bool,
}

impl<I: Index> Core<I> {
    /// Begins to delete the messages of a queue that are in these states; `why` is what those are
    /// told who hold one of them.
    pub fn begin_purge(&self, queue: &str, states: StateSet, why: Lost) -> Result<Purge, Refused> {
        let queue = self.queue(queue)?.id();
        Ok(Purge { queue, why, course: Course::new(states, self.next) })
    }

    /// Does the next step of a purge. A message that was settled otherwise meanwhile, or that was
    /// not there when the purge began, is none of its business.
    pub fn purge(&mut self, purge: &mut Purge, out: &mut Output) -> Turn<PurgeStep> {
        let course = &mut purge.course;
        let looked_at = self.stretch(purge.queue, course)?;
        let mut meant = Vec::new();
        for &Cursor { birth, .. } in &looked_at.listed {
            let message = self.index.message(birth)?.expect("what is listed is there");
            if course.means(birth, &message) && !course.is_spared(&message, self.lease(birth)) {
                meant.push((birth, message));
            }
        }
        Ok(self.delete_step(course, &looked_at, &meant, purge.why, out))
    }

    /// What a purge of a queue looks at next.
    pub(super) fn stretch(&self, queue: QueueId, course: &Course) -> Lookup<Stretch> {
        let (mut listed, most) = (Vec::new(), self.limits.step_max);
        self.index.list(queue, course.pass, course.after, most, &mut listed)?;
        let mut pass = course.pass;
        if listed.len() < most {
            pass = course.states;
            if course.pass == StateSet::BEHIND {
                let others = pass.without(StateSet::BEHIND);
                self.index.list(queue, others, None, most - listed.len(), &mut listed)?;
            }
        }
        let next = listed.last().copied().filter(|_| listed.len() == most);
        Ok(Stretch { listed, pass, next })
    }

    /// Deletes what a step of a purge has met and means.
    pub(super) fn delete_step(
        &mut self,
        course: &mut Course,
        looked_at: &Stretch,
        meant: &[(Lsn, Message)],
        why: Lost,
        out: &mut Output,
    ) -> PurgeStep {
        self.delete_births(meant.iter().map(|(birth, _)| *birth), why, out);
        PurgeStep { deleted: meant.len() as u64, is_last: course.step(looked_at, meant) }
    }

    pub(super) fn apply_deleted(&mut self, deleted: &Deleted) {
        for &birth in &deleted.births {
            let grant = self.end_lease(Lsn(birth)).map(|lease| lease.grant);
            let message = self.finish(Lsn(birth), grant);
            self.catalog.totals(message.queue).deleted += 1;
        }
    }
}
