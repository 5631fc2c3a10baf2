//! Deleting the messages of a queue: in steps, however many there are.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::{Cursor, Index, Message, StateSet};
use super::record::{Deleted, Record};
use super::refused::Refused;
use super::{Core, Lost, Output, Turn};

/// A purge that was begun: what it deletes, and how far it is.
#[derive(Clone, Debug)]
pub struct Purge {
    queue: QueueId,
    states: StateSet,
    why: Lost,
    /// Only messages that were there when it began.
    before: Lsn,
    lines: Lines,
    after: Option<Cursor>,
    /// Something was deleted since the listing was begun.
    deleted: bool,
}

/// Lines of ordering keys whose first ones a purge has deleted that is not to take those behind: whoever
/// is the first then was behind when it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(BTreeSet<u32>);

impl Lines {
    pub(super) fn was_behind(&self, message: &Message) -> bool {
        message.led_line().is_some_and(|line| self.0.contains(&line))
    }

    /// Notes whom a step in these states is about to delete.
    pub(super) fn note<'a>(
        &mut self,
        states: StateSet,
        deleted: impl IntoIterator<Item = &'a Message>,
    ) {
        if !states.contains(StateSet::BEHIND) {
            self.0.extend(deleted.into_iter().filter_map(Message::led_line));
        }
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
        let (before, lines) = (self.next, Lines::default());
        Ok(Purge { queue, states, why, before, lines, after: None, deleted: false })
    }

    /// Does the next step of a purge. A message that was settled otherwise meanwhile, or that was
    /// not there when the purge began, is none of its business.
    pub fn purge(&mut self, purge: &mut Purge, out: &mut Output) -> Turn<PurgeStep> {
        let (mut listed, most) = (Vec::new(), self.limits.step_max);
        self.index.list(purge.queue, purge.states, purge.after, most, &mut listed)?;
        let (mut births, mut messages) = (Vec::new(), Vec::new());
        for &Cursor { birth, .. } in &listed {
            let message = self.index.message(birth)?.expect("what is listed is there");
            let is_other = self.is_taken_instead(birth, purge.before, purge.states);
            if purge.means(birth, &message) && !is_other {
                births.push(birth);
                messages.push(message);
            }
        }
        let deleted = births.len() as u64;
        if !births.is_empty() {
            purge.lines.note(purge.states, &messages);
            out.effects.extend(self.lost_leases(births.iter().copied(), purge.why));
            let mut draft = self.draft();
            let births = births.into_iter().map(|birth| birth.0).collect();
            draft.fact(Record::Deleted(Deleted { births }));
            self.commit(draft, out);
        }
        Ok(PurgeStep {
            deleted,
            is_last: purge.step(listed.last(), listed.len() < most, 0 < deleted),
        })
    }

    /// Whether somebody took a message since a purge of these states began, which are not of its business
    /// before: consumers take others where leased ones go.
    pub(super) fn is_taken_instead(&self, birth: Lsn, before: Lsn, states: StateSet) -> bool {
        let is_taken = self.lease(birth).is_some_and(|lease| before <= lease.grant);
        is_taken && !states.contains(StateSet::READY)
    }

    pub(super) fn apply_deleted(&mut self, deleted: &Deleted) {
        for &birth in &deleted.births {
            let grant = self.end_lease(Lsn(birth)).map(|lease| lease.grant);
            let message = self.finish(Lsn(birth), grant);
            self.catalog.totals(message.queue).deleted += 1;
        }
    }
}

impl Purge {
    /// Whether a message was there when it began, as far as can be told: one that is ready by now may
    /// have been with a consumer then, or behind another one that is done.
    fn means(&self, birth: Lsn, message: &Message) -> bool {
        // Became ready, or was moved here, since: what was scheduled then has its place since, too.
        let is_new = !self.states.contains(StateSet::SCHEDULED) && self.before <= message.place;
        let came = birth.max(message.dead_letter);
        came < self.before && !is_new && !self.lines.was_behind(message)
    }

    /// Notes what a step has listed last, and whether that is the end of the listing; whether the step was
    /// the last one.
    fn step(&mut self, listed: Option<&Cursor>, is_end: bool, deleted: bool) -> bool {
        if is_end && self.after.is_none() {
            return true;
        }
        self.deleted |= deleted;
        self.after = if is_end { None } else { listed.copied() };
        // Between two steps a message may have moved to where the listing had been.
        is_end && !std::mem::take(&mut self.deleted)
    }
}
