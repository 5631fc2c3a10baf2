//! Applying a log in which a repair gave records up: what they made is not there.
//!
//! A record behind a gap may name queues, messages, sessions and producers of which nothing is
//! known. Messages are what matters: a queue that is not known is made anew for them, under another
//! name; what a record says of a message that is not known is passed over; a lease whose end is
//! lost ends by itself. Everything else a record says is applied as ever. The same log gives the same
//! state each time, so the records that come after the repair were decided on that very state.

use qbroker_storage::{Lsn, Retention};

use super::Core;
use super::catalog::Queue;
use super::ids::{QueueId, SessionId};
use super::index::{Index, Message};
use super::policy::Policy;
use super::record::{QueueDefinition, Record, SessionOpened};

/// How long a session of which only the leases are known may be away.
const GRACE_MS: u64 = 15_000;

/// What was made up, and what was passed over, to apply what is behind the gaps of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Queues whose making is lost, by the names that they have now.
    pub queues: Vec<String>,
    /// Records that only told of what is lost.
    pub passed_over: u64,
}

impl<I: Index> Core<I> {
    /// The next record is this one: those before it were given up.
    pub fn pass_over(&mut self, next: Lsn) {
        debug_assert!(self.next <= next, "LSNs ascend");
        self.next = next;
    }

    /// [`Self::apply`] of a record that is behind a gap; what it names was looked up. `page` are the
    /// messages of a [`Record::PagedOut`], where its body can be read.
    pub fn apply_behind_gap(
        &mut self,
        lsn: Lsn,
        mut record: Record,
        page: Option<&[(Lsn, Message)]>,
        gaps: &mut Gaps,
    ) {
        self.make_up_for(lsn, &record, gaps);
        if let Some(births) = record.births_mut() {
            births.retain(|&birth| self.is_known(birth));
        }
        if let Record::Patched(patched) = &record
            && !self.is_known(patched.birth)
        {
            self.make_up_patched(lsn, patched);
            self.next = lsn.next();
            return;
        }
        let makes_sense = match &record {
            Record::Released(released) => self.is_known(released.birth),
            Record::Nacked(nacked) => self.is_known(nacked.birth),
            Record::DeadLettered(letter) => self.is_known(letter.birth),
            Record::BatchStored(stored) => self.producers.knows(stored.producer),
            Record::PagedOut(_) => page.is_some_and(|page| self.is_as_known(page)),
            _ => true,
        };
        if makes_sense {
            return self.apply(lsn, &record);
        }
        gaps.passed_over += 1;
        self.next = lsn.next();
        let has_body = matches!(&record, Record::Nacked(nacked) if nacked.has_failure);
        if record.retention(has_body) == Retention::Keep {
            self.retire(lsn);
        }
    }

    /// Does what the records before this one must have done.
    fn make_up_for(&mut self, lsn: Lsn, record: &Record, gaps: &mut Gaps) {
        match record {
            Record::Published(published) => self.need_queue(published.queue, false, gaps),
            Record::DeadLettered(letter) if letter.to_queue != 0 => {
                self.need_queue(letter.to_queue, true, gaps);
                self.need_place(letter.birth, lsn);
            }
            Record::Moved(moved) => {
                self.need_queue(moved.to_queue, moved.is_to_dead_letters, gaps);
                self.end_any_leases(&moved.births);
            }
            Record::Patched(patched) => self.need_queue(patched.published.queue, false, gaps),
            Record::QueuePut(definition) => self.free_name_of(definition),
            Record::Granted(granted) => {
                self.need_session(SessionId(granted.session));
                self.end_any_leases(&granted.births);
                granted.births.iter().for_each(|&birth| self.need_place(birth, lsn));
            }
            Record::CameDue(due) => self.end_any_leases(&due.births),
            Record::Updated(updated) if updated.at_once || updated.due.is_some() => {
                self.end_any_leases(&updated.births);
            }
            Record::Expired(expired) => self.end_any_leases(&expired.births),
            Record::Dropped(dropped) => self.end_any_leases(&dropped.births),
            Record::LeasesEnded(ended) => {
                ended.births.iter().for_each(|&birth| self.need_place(birth, lsn));
            }
            Record::Parked(parked) => {
                parked.births.iter().for_each(|&birth| self.need_place(birth, lsn));
            }
            Record::Released(released) => self.need_place(released.birth, lsn),
            Record::Nacked(nacked) => self.need_place(nacked.birth, lsn),
            Record::SessionEnded(ended) => self.end_leases_of(SessionId(ended.session)),
            _ => {}
        }
    }

    fn is_known(&self, birth: u64) -> bool {
        self.known(Lsn(birth)).is_some()
    }

    fn known(&self, birth: Lsn) -> Option<Message> {
        self.index.message(birth).expect("what is applied was looked up")
    }

    /// Whether a page holds what is known, and nothing else: otherwise its messages stay in memory.
    fn is_as_known(&self, page: &[(Lsn, Message)]) -> bool {
        page.iter().all(|&(birth, message)| self.known(birth) == Some(message))
    }

    /// A queue of which nothing is known is there all the same, with the defaults.
    fn need_queue(&mut self, id: u32, is_dead_letter_queue: bool, gaps: &mut Gaps) {
        if self.catalog.get(QueueId(id)).is_some() {
            return;
        }
        let name = self.free_name(id);
        gaps.queues.push(name.clone());
        // What is in it stays until somebody has looked, and says otherwise.
        let policy = Policy { retention_ms: Some(0), ..Policy::default() };
        let definition =
            QueueDefinition { id, name, policy, is_dead_letter_queue, ..Default::default() };
        self.put_queue(definition);
    }

    /// Another queue had this name, and its deletion is lost. It keeps what is in it.
    fn free_name_of(&mut self, definition: &QueueDefinition) {
        let named = self.catalog.named(&definition.name).map(Queue::id);
        let Some(other) = named.filter(|other| *other != definition.queue_id()) else { return };
        let name = self.free_name(other.0);
        let other = self.catalog.get(other).expect("a name belongs to a queue");
        self.catalog.put(QueueDefinition { name, ..QueueDefinition::clone(&other.definition) });
    }

    fn free_name(&self, id: u32) -> String {
        let mut name = format!("recovered-{id}");
        while self.catalog.named(&name).is_some() {
            name.push('x');
        }
        name
    }

    /// A session that only its leases tell of: it is lost unless it comes back, and they with it.
    fn need_session(&mut self, id: SessionId) {
        if id != SessionId::NONE && self.sessions.get(id).is_none() {
            self.sessions.open(id, &SessionOpened { name: String::new(), grace_ms: GRACE_MS });
        }
    }

    fn end_any_leases(&mut self, births: &[u64]) {
        for &birth in births {
            self.end_lease(Lsn(birth));
        }
    }

    fn end_leases_of(&mut self, session: SessionId) {
        let leases = self.sessions.get(session).map(|session| session.leases.clone());
        let births: Vec<u64> = leases.into_iter().flatten().map(|birth| birth.0).collect();
        self.apply_leases_ended(&births, false);
    }

    /// A message that has been ready has a place, wherever the end of its delay was told.
    fn need_place(&mut self, birth: u64, lsn: Lsn) {
        if let Some(message) = self.known(Lsn(birth)).filter(|message| message.place == Lsn(0)) {
            self.change(Lsn(birth), Message { place: lsn, ..message });
        }
    }
}

impl Record {
    /// The messages that the record names, where it may name some of them alone. Not those of a
    /// page: it is what it is as a whole.
    pub(super) fn births_mut(&mut self) -> Option<&mut Vec<u64>> {
        match self {
            Self::Granted(granted) => Some(&mut granted.births),
            Self::LeasesEnded(ended) => Some(&mut ended.births),
            Self::Acked(acked) => Some(&mut acked.births),
            Self::CameDue(due) => Some(&mut due.births),
            Self::Expired(expired) => Some(&mut expired.births),
            Self::Parked(parked) => Some(&mut parked.births),
            Self::Deleted(deleted) => Some(&mut deleted.births),
            Self::Moved(moved) => Some(&mut moved.births),
            Self::Dropped(dropped) => Some(&mut dropped.births),
            Self::Updated(updated) => Some(&mut updated.births),
            Self::Advanced(advanced) => Some(&mut advanced.births),
            _ => None,
        }
    }
}
