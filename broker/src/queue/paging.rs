//! What waits long goes out of memory into a record of the log, and comes back when it is looked up.
//!
//! Only going out is a fact of the log. Coming back is not: it changes where the index finds a
//! message, and nothing that anybody could tell. So a replay may find in a page what was in memory
//! before the crash, and looks every record's messages up before it applies it.

use std::collections::VecDeque;

use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::{Index, Lookup, Message, Missing, StateSet};
use super::record::{PagedOut, Record};
use super::stored::page_body;
use super::{Core, Output};

impl<I: Index> Core<I> {
    /// Puts a page of messages away, where there are more in memory than there should be; returns
    /// whether it did. To be called after a turn, until it does not.
    pub fn page_out(&mut self, out: &mut Output) -> bool {
        // What the disk has room for is needed to settle what is there.
        let births = if self.disk_full { None } else { self.index.surplus() };
        let Some(births) = births else { return false };
        let messages: Vec<_> = births.iter().map(|&birth| (birth, self.present(birth))).collect();
        let mut draft = self.draft();
        let births = births.iter().map(|birth| birth.0).collect();
        draft.push(Record::PagedOut(PagedOut { births }), page_body(&messages));
        self.commit(draft, out);
        true
    }

    /// Brings a page that was missing into memory, unless somebody else did meanwhile. `messages`
    /// are those of the body of the record that it names. Whether it was still missing.
    pub fn load(&mut self, page: Missing, messages: Vec<(Lsn, Message)>) -> bool {
        let loaded = self.index.load(page, messages);
        if loaded {
            self.pages_back.push_back((page.0, self.next));
        }
        loaded
    }

    /// [`Self::load`] of a page that was made anew. What its messages are now need not be what they were:
    /// the next turn, for which time is over at once, looks after the queue and its lines.
    pub fn load_anew(&mut self, page: Missing, messages: Vec<(Lsn, Message)>) -> bool {
        let before = self.index.page(page);
        let loaded = self.load(page, messages);
        if let Some(before) = before.filter(|_| loaded) {
            // Nobody may be known to lead them any more.
            before.led_lines().for_each(|line| self.look_for_leader(before.queue(), line));
            self.consumers.touch(before.queue());
        }
        loaded
    }

    /// Whether a page is still not in memory.
    pub fn is_missing(&self, page: Missing) -> bool {
        self.index.is_missing(page)
    }

    /// A checkpoint is in place, and the one before it is of this LSN: the pages that only older
    /// ones needed are not needed any more.
    pub fn forget_pages_back(&mut self, previous_checkpoint: Lsn) -> Vec<Lsn> {
        let count = self.pages_back.partition_point(|&(_, since)| since <= previous_checkpoint);
        self.pages_back.drain(..count).map(|(page, _)| page).collect()
    }

    /// Forgets the pages that only an older checkpoint needed, and that went meanwhile: letting them go
    /// is no record of the log. For recovery, after the replay.
    pub fn forget_gone_pages(&mut self, is_gone: impl Fn(Lsn) -> bool) -> Vec<Lsn> {
        let (gone, here) = self.pages_back.drain(..).partition(|&(page, _)| is_gone(page));
        self.pages_back = here;
        let gone: VecDeque<(Lsn, Lsn)> = gone;
        gone.into_iter().map(|(page, _)| page).collect()
    }

    /// Looks up every message that applying the record will touch. For recovery: what was decided
    /// live was looked up then.
    pub fn look_up(&self, record: &Record) -> Lookup<()> {
        let all = |births: &[u64]| births.iter().try_for_each(|&birth| self.look_up_birth(birth));
        match record {
            Record::QueueDeleted(deleted) => self.look_up_all(deleted.queue, StateSet::ALL),
            Record::Purged(purged) => self.look_up_all(purged.queue, StateSet(purged.states)),
            Record::Granted(granted) => all(&granted.births),
            Record::LeasesEnded(ended) => all(&ended.births),
            Record::Acked(acked) => all(&acked.births),
            Record::Released(released) => self.look_up_birth(released.birth),
            Record::Nacked(nacked) => self.look_up_birth(nacked.birth),
            Record::DeadLettered(letter) => self.look_up_birth(letter.birth),
            Record::CameDue(due) => all(&due.births),
            Record::Expired(expired) => all(&expired.births),
            Record::Parked(parked) => all(&parked.births),
            Record::Deleted(deleted) => all(&deleted.births),
            Record::Dropped(dropped) => all(&dropped.births),
            Record::Updated(updated) => all(&updated.births),
            Record::Moved(moved) => all(&moved.births),
            Record::Advanced(advanced) => all(&advanced.births),
            Record::Patched(patched) => self.look_up_birth(patched.birth),
            Record::PagedOut(paged) => all(&paged.births),
            Record::Started(_)
            | Record::QueuePut(_)
            | Record::ProducerOpened(_)
            | Record::ProducersForgotten(_)
            | Record::BatchStored(_)
            | Record::BatchRefused(_)
            | Record::Published(_)
            | Record::SessionOpened(_)
            | Record::SessionChanged(_)
            | Record::SessionEnded(_)
            | Record::Extended(_)
            | Record::Begun(_)
            | Record::OperationStarted(_)
            | Record::OperationStepped(_)
            | Record::Resumed(_)
            | Record::OutcomeWritten(_)
            | Record::OutcomesForgotten(_)
            | Record::StateChanged(_) => Ok(()),
        }
    }

    fn look_up_birth(&self, birth: u64) -> Lookup<()> {
        self.index.message(Lsn(birth)).map(drop)
    }

    fn look_up_all(&self, queue: u32, states: StateSet) -> Lookup<()> {
        self.index.list(QueueId(queue), states, None, usize::MAX, &mut Vec::new())
    }
}
