//! Messages that are there get another priority, or another time.

use qbroker_storage::Lsn;

use super::index::{Index, Message, State};
use super::names::{MessageName, NotDone};
use super::record::{Record, Updated};
use super::refused::Refused;
use super::time::Now;
use super::{Core, NewDue, Output, Turn};

/// What becomes of messages.
#[derive(Clone, Debug)]
pub struct UpdateMessages {
    /// Where they are; empty: anywhere.
    pub queue: String,
    /// Unset: as it is.
    pub priority: Option<u8>,
    /// When they are delivered at the earliest, from now on; unset: as it is.
    pub due: Option<NewDue>,
}

impl<I: Index> Core<I> {
    /// Changes messages, each by itself; returns those that were refused, the others are changed.
    pub fn update_messages(
        &mut self,
        update: &UpdateMessages,
        messages: &[MessageName],
        now: Now,
        out: &mut Output,
    ) -> Turn<NotDone> {
        if self.disk_full {
            return Err(Refused::DiskFull.into());
        }
        let queue = self.queue_of_names(&update.queue)?;
        let check = |name: &_, message: &_| self.check_update(update, name, message);
        let (births, refused) = self.messages_named(queue, messages, now, check)?;
        if !births.is_empty() {
            let due = update.due.map(|due| due.from(now));
            let later = due.filter(|due| !due.is_over(now));
            let mut draft = self.draft();
            draft.fact(Record::Updated(Updated {
                births: births.into_iter().map(|Lsn(birth)| birth).collect(),
                priority: update.priority.map(u32::from),
                due: later.map(Into::into),
                at_once: due.is_some() && later.is_none(),
            }));
            self.commit(draft, out);
        }
        Ok(refused)
    }

    /// Whether a message can be changed so.
    fn check_update(
        &self,
        update: &UpdateMessages,
        name: &MessageName,
        message: &Message,
    ) -> Result<(), Refused> {
        let queue = self.catalog.get(message.queue).expect("a message's queue is there");
        let max = queue.definition.policy.priority_max();
        if let Some(priority) = update.priority.filter(|priority| max < *priority) {
            let queue = queue.definition.name.clone();
            return Err(Refused::Priority { priority, max, queue });
        }
        if update.due.is_some() && message.state == State::Leased {
            return Err(Refused::MessageLeased(name.id.clone()));
        }
        Ok(())
    }

    pub(super) fn apply_updated(&mut self, lsn: Lsn, updated: &Updated) {
        let priority = updated.priority.and_then(|priority| u8::try_from(priority).ok());
        for &birth in &updated.births {
            let birth = Lsn(birth);
            let before = self.present(birth);
            self.tell_step(birth, &before, None);
            self.note_step(before.queue, birth);
            let message = Message { priority: priority.unwrap_or(before.priority), ..before };
            match updated.due {
                Some(due) => self.schedule(birth, out_of_line(message), due),
                None if updated.at_once => {
                    let place = if message.place == Lsn(0) { lsn } else { message.place };
                    self.make_ready(birth, Message { place, ..message });
                }
                None => self.change(birth, message),
            }
        }
    }
}

/// Whoever gives a waiting message another time lets those behind it pass; a retry that has its time
/// already keeps them waiting, whenever it comes.
fn out_of_line(mut message: Message) -> Message {
    message.keys.leads &= matches!(message.state, State::Scheduled(_));
    message
}
