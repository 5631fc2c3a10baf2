//! Deleting the dead letters that came from one queue, in steps.
//!
//! Where a letter came from stands in its record's body, which the core does not read: it lists letters,
//! somebody reads their records, and it deletes those that are named.

use qbroker_storage::Lsn;

use super::catalog::Queue;
use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, StateSet};
use super::purge::Lines;
use super::record::{Deleted, Record};
use super::refused::Refused;
use super::{Core, Lost, Output, PurgeStep, Turn};

/// A purge of dead letters that was begun: whose, and how far it is.
#[derive(Clone, Debug)]
pub struct LettersPurge {
    letters: QueueId,
    states: StateSet,
    /// Only letters that were there when it began.
    before: Lsn,
    lines: Lines,
    after: Option<Cursor>,
    /// Something was deleted since the listing was begun.
    deleted: bool,
}

/// A dead letter, and the record that made it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterRecord {
    pub birth: Lsn,
    pub record: Lsn,
}

/// Letters to look at, and where the next ones are.
#[derive(Clone, Debug)]
pub struct SomeLetters {
    pub letters: Vec<LetterRecord>,
    last: Option<Cursor>,
}

impl<I: Index> Core<I> {
    /// Begins to delete what a queue has in its dead-letter queue, in these states; `None` where it has
    /// no such queue.
    pub fn begin_letters_purge(
        &self,
        queue: &str,
        states: StateSet,
    ) -> Result<Option<LettersPurge>, Refused> {
        let name = self.queue(queue)?.dead_letter_queue_name();
        let letters = name.and_then(|name| self.catalog.named(&name)).map(Queue::id);
        let (before, lines) = (self.next, Lines::default());
        let (after, deleted) = (None, false);
        Ok(letters.map(|letters| LettersPurge { letters, states, before, lines, after, deleted }))
    }

    /// The letters that a purge comes to next.
    pub fn next_letters(&self, purge: &LettersPurge) -> Lookup<SomeLetters> {
        let mut listed = Vec::new();
        self.index.list(
            purge.letters,
            purge.states,
            purge.after,
            self.limits.step_max,
            &mut listed,
        )?;
        let last = listed.last().copied().filter(|_| listed.len() == self.limits.step_max);
        let mut letters = Vec::new();
        for Cursor { birth, .. } in listed {
            let message = self.index.message(birth)?.expect("what is listed is there");
            let record = message.dead_letter;
            let is_new = record == Lsn(0) || purge.before <= record;
            let is_other = self.is_taken_instead(birth, purge.before, purge.states);
            if !is_new && !is_other && !purge.lines.was_behind(&message) {
                letters.push(LetterRecord { birth, record });
            }
        }
        Ok(SomeLetters { letters, last })
    }

    /// Deletes those of the letters that are still what they were, and notes that the others have been
    /// looked at.
    pub fn purge_letters(
        &mut self,
        purge: &mut LettersPurge,
        looked_at: &SomeLetters,
        from_queue: &[LetterRecord],
        out: &mut Output,
    ) -> Turn<PurgeStep> {
        let (mut births, mut messages) = (Vec::new(), Vec::new());
        for &LetterRecord { birth, record } in from_queue {
            let message = self.index.message(birth)?.filter(|message| {
                let is_there = message.queue == purge.letters && message.dead_letter == record;
                let is_other = self.is_taken_instead(birth, purge.before, purge.states);
                is_there && !is_other && purge.states.contains(message.state.into())
            });
            births.extend(message.map(|_| birth));
            messages.extend(message);
        }
        let deleted = births.len() as u64;
        if !births.is_empty() {
            purge.lines.note(purge.states, &messages);
            out.effects.extend(self.lost_leases(births.iter().copied(), Lost::Purged));
            let mut draft = self.draft();
            let births = births.into_iter().map(|Lsn(birth)| birth).collect();
            draft.fact(Record::Deleted(Deleted { births }));
            self.commit(draft, out);
        }
        purge.deleted |= 0 < deleted;
        purge.after = looked_at.last;
        // While the listing went on, a letter may have moved to where it had been.
        let is_last = purge.after.is_none() && !std::mem::take(&mut purge.deleted);
        Ok(PurgeStep { deleted, is_last })
    }
}
