//! Messages are deleted by their names, whatever they are doing.

use qbroker_storage::Lsn;

use super::index::Index;
use super::names::{MessageName, NotDone};
use super::record::{Deleted, Record};
use super::time::Now;
use super::{Core, Lost, Output, Turn};

impl<I: Index> Core<I> {
    /// Deletes messages, of this queue or, where its name is empty, of any; whoever holds one is told.
    /// Returns those that were not there, the others are gone. Takes place on a full disk too.
    pub fn delete_messages(
        &mut self,
        queue: &str,
        messages: &[MessageName],
        now: Now,
        out: &mut Output,
    ) -> Turn<NotDone> {
        let queue = self.queue_of_names(queue)?;
        let (births, refused) = self.messages_named(queue, messages, now, |_, _| Ok(()))?;
        self.delete_births(births, Lost::MessageDeleted, out);
        Ok(refused)
    }

    /// Deletes these, whose holders are told why.
    pub(super) fn delete_births(
        &mut self,
        births: impl IntoIterator<Item = Lsn>,
        why: Lost,
        out: &mut Output,
    ) {
        let births: Vec<u64> = births.into_iter().map(|Lsn(birth)| birth).collect();
        if births.is_empty() {
            return;
        }
        out.effects.extend(self.lost_leases(births.iter().copied().map(Lsn), why));
        let mut draft = self.draft();
        draft.fact(Record::Deleted(Deleted { births }));
        self.commit(draft, out);
    }
}
