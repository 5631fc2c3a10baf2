//! Making a page anew that cannot be read, of what else is known of its messages.
//!
//! Which they are, whose queue they are in and what they do, ready, scheduled or parked, is in
//! memory, so none is lost, none that is done comes back, and a dead letter stays one. The rest, the
//! attempts, the exact place or time and the last failure, is what the log still tells: the records
//! since the first of them was born are applied to an empty core, as behind a gap. Where they tell
//! less than all, a place or a time is the last one of the page, so that no delay ends early, and
//! attempts are forgotten, so that no message is given up too soon. A message whose way to the dead
//! letters and back is no longer in the log would be as old as its publish, and have its time to live
//! again: so each came into its queue when the last of the page did, for which operations may pass over
//! it, and a time to live is believed unless it is over before any of the page.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::{Lsn, LsnRange};

use super::ids::QueueId;
use super::index::memory::MemoryIndex;
use super::index::{Index, Keys, Message, Missing, Page};
use super::record::Record;
use super::{Core, Gaps, Limits};

/// A page that is being made anew.
#[derive(Debug)]
pub struct Rebuild {
    page: Arc<Page>,
    births: Vec<Lsn>,
    /// What the log tells of its messages.
    records: BTreeMap<Lsn, Record>,
}

impl<I: Index> Core<I> {
    /// Begins to make a page anew; `None` where somebody has it in memory.
    pub fn rebuild(&self, page: Missing) -> Option<Rebuild> {
        let page = self.index.page(page)?;
        let births = page.births().collect();
        Some(Rebuild { page, births, records: BTreeMap::new() })
    }
}

impl Rebuild {
    /// The queue of the messages.
    pub fn queue(&self) -> QueueId {
        self.page.queue()
    }

    /// The records that may tell of them.
    pub fn lsns(&self) -> LsnRange {
        let first = self.births.first().copied().unwrap_or(Lsn(self.page.lsn));
        LsnRange { first, last: Lsn(self.page.lsn) }
    }

    /// Takes what the log tells, in any order.
    pub fn take_in(&mut self, lsn: Lsn, head: &[u8]) {
        let Ok(mut record) = Record::decode_head(head) else { return };
        let is_ours = |birth: u64| self.births.binary_search(&Lsn(birth)).is_ok();
        let tells = match &mut record {
            Record::Published(_) => is_ours(lsn.0),
            Record::Nacked(nacked) => is_ours(nacked.birth),
            Record::Released(released) => is_ours(released.birth),
            Record::DeadLettered(letter) => is_ours(letter.birth),
            Record::Patched(patched) => is_ours(patched.birth),
            // What else ends a message has not ended these.
            Record::CameDue(_)
            | Record::Granted(_)
            | Record::LeasesEnded(_)
            | Record::Moved(_)
            | Record::Updated(_)
            | Record::Advanced(_)
            | Record::Parked(_) => {
                let births = record.births_mut().expect("they name messages");
                births.retain(|&birth| is_ours(birth));
                !births.is_empty()
            }
            _ => false,
        };
        if tells {
            self.records.insert(lsn, record);
        }
    }

    /// The messages, each as far as it is known. What names a record must name one that the log
    /// keeps; who came into the queue at an unknown time did so now.
    pub fn finish(self, is_kept: impl Fn(Lsn) -> bool, wall_ms: u64) -> Vec<(Lsn, Message)> {
        let Self { page, births, records } = self;
        let mut told = Core::new(MemoryIndex::default(), Limits::default());
        for (lsn, record) in records {
            told.pass_over(lsn);
            told.apply_behind_gap(lsn, record, None, &mut Gaps::default());
        }
        let message = |birth: Lsn| {
            let told = told.index.message(birth).expect("it is all in memory");
            let known = match told {
                Some(told) if told.queue == page.queue() => told,
                // How it came into this queue is lost.
                told => Message {
                    size: told.map_or(0, |told| told.size),
                    priority: told.map_or(0, |told| told.priority),
                    keys: told.map_or(Keys::NONE, |told| told.keys),
                    patched: told.map_or(Lsn(0), |told| told.patched),
                    ..Message::unknown(page.queue(), wall_ms)
                },
            };
            let kept = |record| if is_kept(record) { record } else { Lsn(0) };
            let (last_failure, dead_letter) = (kept(known.last_failure), kept(known.dead_letter));
            let patched = kept(known.patched);
            (birth, page.fit(Message { last_failure, dead_letter, patched, ..known }))
        };
        births.into_iter().map(message).collect()
    }
}
