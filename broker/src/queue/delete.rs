//! Messages are deleted by their names, whatever they are doing.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::index::Index;
use super::names::MessageName;
use super::record::{Deleted, Record};
use super::time::Now;
use super::update::NotDone;
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
        let (mut births, mut refused) = (BTreeSet::new(), Vec::new());
        for (position, name) in messages.iter().enumerate() {
            match self.message_named(queue, name, now)? {
                Ok((birth, _)) => drop(births.insert(birth)),
                Err(why) => refused.push((position, why)),
            }
        }
        if !births.is_empty() {
            out.effects.extend(self.lost_leases(births.iter().copied(), Lost::MessageDeleted));
            let mut draft = self.draft();
            let births = births.into_iter().map(|Lsn(birth)| birth).collect();
            draft.fact(Record::Deleted(Deleted { births }));
            self.commit(draft, out);
        }
        Ok(refused)
    }
}
