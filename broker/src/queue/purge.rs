//! Deleting the messages of a queue: in steps, however many there are.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, Message, StateSet};
use super::record::{Deleted, Record};
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
    /// What is listed now: first those behind others, who would be ready when those are gone.
    pass: StateSet,
    after: Option<Cursor>,
    /// Something was deleted since the listing was begun.
    deleted: bool,
    /// Lines of ordering keys whose first ones it has deleted, and not those behind: whoever is the first
    /// then was behind when it began.
    lines: BTreeSet<u32>,
}

/// What a step of a purge looks at.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) listed: Vec<Cursor>,
    pass: StateSet,
    /// Where it goes on; `None`: there are no more.
    last: Option<Cursor>,
}

impl Course {
    pub(super) fn new(states: StateSet, before: Lsn) -> Self {
        let pass = if states.contains(StateSet::BEHIND) { StateSet::BEHIND } else { states };
        let (after, deleted, lines) = (None, false, BTreeSet::new());
        Self { states, before, pass, after, deleted, lines }
    }

    pub(super) fn was_behind(&self, message: &Message) -> bool {
        message.led_line().is_some_and(|line| self.lines.contains(&line))
    }

    /// Notes whom a step is about to delete.
    pub(super) fn note<'a>(&mut self, deleted: impl IntoIterator<Item = &'a Message>) {
        let mut deleted = deleted.into_iter().peekable();
        self.deleted |= deleted.peek().is_some();
        if !self.states.contains(StateSet::BEHIND) {
            self.lines.extend(deleted.filter_map(Message::led_line));
        }
    }

    /// Notes what was looked at; whether that was the last step.
    pub(super) fn step(&mut self, looked_at: &Stretch) -> bool {
        let is_all = self.after.is_none() && looked_at.last.is_none();
        (self.pass, self.after) = (looked_at.pass, looked_at.last);
        // Between two steps a message may have moved to where the listing had been.
        is_all || (self.after.is_none() && !std::mem::take(&mut self.deleted))
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
        let (mut births, mut messages) = (Vec::new(), Vec::new());
        for &Cursor { birth, .. } in &looked_at.listed {
            let message = self.index.message(birth)?.expect("what is listed is there");
            if course.means(birth, &message) && !self.is_taken_instead(birth, course) {
                births.push(birth);
                messages.push(message);
            }
        }
        course.note(&messages);
        let deleted = self.delete_purged(births, purge.why, out);
        Ok(PurgeStep { deleted, is_last: course.step(&looked_at) })
    }

    /// What a purge of a queue looks at next.
    pub(super) fn stretch(&self, queue: QueueId, course: &Course) -> Lookup<Stretch> {
        let (mut listed, most) = (Vec::new(), self.limits.step_max);
        let mut pass = course.pass;
        self.index.list(queue, pass, course.after, most, &mut listed)?;
        let others = course.states.without(StateSet::BEHIND);
        if listed.len() < most && pass == StateSet::BEHIND && others != StateSet(0) {
            pass = others;
            self.index.list(queue, pass, None, most - listed.len(), &mut listed)?;
        }
        let last = listed.last().copied().filter(|_| listed.len() == most);
        Ok(Stretch { listed, pass, last })
    }

    /// Whether somebody took a message since a purge began that is not about ready ones: consumers take
    /// others where leased ones go.
    pub(super) fn is_taken_instead(&self, birth: Lsn, course: &Course) -> bool {
        let is_taken = self.lease(birth).is_some_and(|lease| course.before <= lease.grant);
        is_taken && !course.states.contains(StateSet::READY)
    }

    /// Deletes these; how many they are.
    pub(super) fn delete_purged(&mut self, births: Vec<Lsn>, why: Lost, out: &mut Output) -> u64 {
        let deleted = births.len() as u64;
        if !births.is_empty() {
            out.effects.extend(self.lost_leases(births.iter().copied(), why));
            let mut draft = self.draft();
            let births = births.into_iter().map(|Lsn(birth)| birth).collect();
            draft.fact(Record::Deleted(Deleted { births }));
            self.commit(draft, out);
        }
        deleted
    }

    pub(super) fn apply_deleted(&mut self, deleted: &Deleted) {
        for &birth in &deleted.births {
            let grant = self.end_lease(Lsn(birth)).map(|lease| lease.grant);
            let message = self.finish(Lsn(birth), grant);
            self.catalog.totals(message.queue).deleted += 1;
        }
    }
}

impl Course {
    /// Whether a message was there when it began, as far as can be told: one that is ready by now may
    /// have been with a consumer then, or behind another one that is done.
    fn means(&self, birth: Lsn, message: &Message) -> bool {
        // Became ready, or was moved here, since: what was scheduled then has its place since, too.
        let is_new = !self.states.contains(StateSet::SCHEDULED) && self.before <= message.place;
        let came = birth.max(message.dead_letter);
        came < self.before && !is_new && !self.was_behind(message)
    }
}
