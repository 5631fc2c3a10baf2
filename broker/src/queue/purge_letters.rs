//! Deleting the dead letters that came from one queue, in steps.
//!
//! Where a letter came from stands in its record's body, which the core does not read: it lists letters,
//! somebody reads their records, and it deletes those that are named.

use qbroker_storage::Lsn;

use super::catalog::Queue;
use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, StateSet};
use super::purge::{Course, Stretch};
use super::refused::Refused;
use super::{Core, Lost, Output, PurgeStep, Turn};

/// A purge of dead letters that was begun: whose, and how far it is.
#[derive(Clone, Debug)]
pub struct LettersPurge {
    letters: QueueId,
    course: Course,
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
    stretch: Stretch,
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
        let course = Course::new(states, self.next);
        Ok(letters.map(|letters| LettersPurge { letters, course }))
    }

    /// The letters that a purge comes to next.
    pub fn next_letters(&self, purge: &LettersPurge) -> Lookup<SomeLetters> {
        let course = &purge.course;
        let stretch = self.stretch(purge.letters, course)?;
        let mut letters = Vec::new();
        for &Cursor { birth, .. } in &stretch.listed {
            let message = self.index.message(birth)?.expect("what is listed is there");
            let record = message.dead_letter;
            let is_new = record == Lsn(0) || course.before <= record;
            if !is_new && !course.is_spared(&message, self.lease(birth)) {
                letters.push(LetterRecord { birth, record });
            }
        }
        Ok(SomeLetters { letters, stretch })
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
        let course = &mut purge.course;
        let mut meant = Vec::new();
        for &LetterRecord { birth, record } in from_queue {
            let message = self.index.message(birth)?.filter(|message| {
                let is_there = message.queue == purge.letters && message.dead_letter == record;
                let is_meant = is_there && course.states.contains(message.state.into());
                is_meant && !course.is_spared(message, self.lease(birth))
            });
            meant.extend(message.map(|message| (birth, message)));
        }
        Ok(self.delete_step(course, &looked_at.stretch, &meant, Lost::Purged, out))
    }
}
