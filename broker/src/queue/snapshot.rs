//! The whole lasting state as bytes, for checkpoints.
//!
//! [`Core::snapshot`] pins it as it is, [`Snapshot::encode`] makes the bytes, [`Core::restore`] reads them.
//!
//! A sequence of length-delimited [`Item`]s, each a protocol buffer; the header first, then what
//! others refer to before what refers to it. The same state gives the same bytes.

mod frozen;
mod items;
mod pieces;

use bytes::Buf;
use prost::{Message as _, Oneof};
use qbroker_storage::Lsn;

pub use frozen::Snapshot;

use items::{
    HeaderItem, KeptItem, LeaderlessItem, LeaseItem, MessageIdItem, MessageIdsItem, PageBackItem,
    ProducerItem, PulledItem, QueueItem, SessionItem, SettledItem,
};

use super::dedup::SeenId;
use super::ids::{ConsumerId, QueueId, SessionId};
use super::index::{Index, Page};
use super::lease::Lease;
use super::operation::OperationItem;
use super::outcomes::{Finished, FinishedItem, OutcomesItem};
use super::producer::BatchOutcome;
use super::record::BatchStored;
use super::settled::Kind;
use super::state::StateItem;
use super::stored::StoredState;
use super::trail::TrailItem;
use super::{Core, Limits, Totals};

/// A snapshot that cannot be read. Its bytes were checked: another version wrote them.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the checkpoint's state cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the checkpoint's state holds an item of an unknown kind; a newer version wrote it")]
    UnknownItem,
    #[error(
        "the checkpoint's state says that the next record is the 0th; there is none before the 1st"
    )]
    NoRecord,
    #[error("the checkpoint's state names message {0} twice")]
    MessageTwice(Lsn),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(
        oneof = "Item",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 32, 34, 38, 40, 41, 42, 61"
    )]
    item: Option<Item>,
}

#[derive(Clone, PartialEq, Oneof)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and most are messages")]
enum Item {
    #[prost(message, tag = "1")]
    Header(HeaderItem),
    #[prost(message, tag = "2")]
    Queue(Box<QueueItem>),
    #[prost(message, tag = "3")]
    Session(SessionItem),
    #[prost(message, tag = "4")]
    Message(StoredState),
    #[prost(message, tag = "5")]
    Lease(LeaseItem),
    #[prost(message, tag = "6")]
    Settled(SettledItem),
    #[prost(message, tag = "7")]
    Producer(ProducerItem),
    #[prost(message, tag = "8")]
    MessageId(MessageIdItem),
    #[prost(message, tag = "9")]
    Page(Page),
    #[prost(message, tag = "10")]
    PageBack(PageBackItem),
    #[prost(message, tag = "11")]
    Kept(KeptItem),
    #[prost(message, tag = "12")]
    MessageIds(MessageIdsItem),
    #[prost(message, tag = "32")]
    Operation(Box<OperationItem>),
    #[prost(message, tag = "34")]
    Leaderless(LeaderlessItem),
    #[prost(message, tag = "38")]
    Pulled(PulledItem),
    #[prost(message, tag = "42")]
    State(Box<StateItem>),
    #[prost(message, tag = "40")]
    Finished(FinishedItem),
    #[prost(message, tag = "41")]
    Outcomes(OutcomesItem),
    #[prost(message, tag = "61")]
    Trail(TrailItem),
}

impl<I: Index> Core<I> {
    /// Reads a snapshot; `keep` is told every record that the log must keep.
    pub fn restore(
        index: I,
        limits: Limits,
        mut snapshot: impl Buf,
        mut keep: impl FnMut(Lsn),
    ) -> Result<Self, SnapshotError> {
        let mut core = Self::new(index, limits);
        let mut pages = Vec::new();
        while snapshot.has_remaining() {
            let envelope = Envelope::decode_length_delimited(&mut snapshot)?;
            let item = envelope.item.ok_or(SnapshotError::UnknownItem)?;
            core.restore_item(item, &mut pages, &mut keep)?;
        }
        core.index.put_back(pages);
        core.retired.clear();
        // What was before is not told.
        core.searchable = core.last_lsn();
        Ok(core)
    }

    fn restore_item(
        &mut self,
        item: Item,
        pages: &mut Vec<Page>,
        keep: &mut impl FnMut(Lsn),
    ) -> Result<(), SnapshotError> {
        match item {
            Item::Header(HeaderItem { next: 0, .. }) => return Err(SnapshotError::NoRecord),
            Item::Header(header) => {
                self.epoch = header.epoch;
                self.boot_id = header.boot_id;
                self.next = Lsn(header.next);
                self.catalog.restore_last(QueueId(header.last_queue));
            }
            Item::Queue(item) => self.restore_queue(*item),
            Item::Session(item) => self.restore_session(item),
            Item::Message(item) => {
                let (birth, message) = item.restore()?;
                if self.index.message(birth).is_ok_and(|there| there.is_some()) {
                    return Err(SnapshotError::MessageTwice(birth));
                }
                let content = message.content(birth);
                let needed = [content, message.last_failure, message.dead_letter];
                needed.into_iter().filter(|lsn| *lsn != Lsn(0)).for_each(keep);
                self.index.insert(birth, message);
            }
            Item::Page(page) => {
                keep(Lsn(page.lsn));
                pages.push(page);
            }
            Item::PageBack(item) => {
                keep(Lsn(item.page));
                self.pages_back.push_back((Lsn(item.page), Lsn(item.since)));
            }
            Item::Kept(item) => {
                for (at, byte) in (0..).zip(&item.bits) {
                    let bits = (0..8).filter(|bit| byte >> bit & 1 == 1);
                    bits.for_each(|bit| keep(Lsn(item.first + at * 8 + bit)));
                }
            }
            Item::Operation(item) => self.operations.restore(*item),
            Item::Finished(item) => {
                let finished = Finished::from(&item);
                finished.records().for_each(keep);
                self.outcomes.restore_unwritten(finished);
            }
            Item::Trail(item) => self.trail.restore(&item),
            Item::Outcomes(item) => {
                for outcome in item.entries() {
                    keep(outcome.record);
                    self.outcomes.keep(QueueId(item.queue), outcome);
                }
            }
            Item::State(item) => self.state.restore(*item, keep)?,
            Item::Lease(item) => self.restore_lease(&item),
            Item::Leaderless(item) => {
                self.leaderless.insert((QueueId(item.queue), item.line));
            }
            Item::Settled(item) => {
                let keys = item.births.into_iter().zip(item.grants).zip(item.kinds);
                for ((birth, grant), kind) in keys {
                    let kind = Kind::from_number(kind).ok_or(SnapshotError::UnknownItem)?;
                    let (session, lease) = (SessionId(item.session), (Lsn(birth), Lsn(grant)));
                    self.settled.remember(&item.call, session, [lease], kind);
                }
            }
            Item::Pulled(item) => {
                let key = (SessionId(item.session), item.request);
                let leases = item.births.into_iter().map(Lsn).zip(item.grants.into_iter().map(Lsn));
                self.pulled.remember(key, item.wall_ms, leases, usize::MAX);
            }
            Item::Producer(item) => {
                let stored = item.stored_outcomes.into_iter().map(restore_outcome);
                let refused = item.refused_outcomes.into_iter().map(BatchOutcome::refused);
                let outcomes = stored.chain(refused).collect();
                self.producers.restore(item.epoch, item.name, item.last_ms, item.stored, outcomes);
            }
            Item::MessageId(item) => {
                let hash = u128::from(item.hash_high) << 64 | u128::from(item.hash_low);
                let seen = SeenId { hash, birth: Lsn(item.birth), end_ms: item.expire_ms };
                self.dedup.remember(QueueId(item.queue), seen, self.limits.message_ids_max);
            }
            Item::MessageIds(item) => {
                let all = SeenId::read(&item.entries).ok_or(SnapshotError::UnknownItem)?;
                for seen in all {
                    self.dedup.remember(QueueId(item.queue), seen, self.limits.message_ids_max);
                }
            }
        }
        Ok(())
    }

    fn restore_session(&mut self, item: SessionItem) {
        let id = SessionId(item.id);
        self.sessions.open(id, &item.opened);
        let session = self.sessions.get_mut(id).expect("it was opened just now");
        let names = item.known_as.into_iter().map(ConsumerId);
        session.known_as = item.streams.into_iter().map(ConsumerId).zip(names).collect();
    }

    fn restore_queue(&mut self, item: QueueItem) {
        let queue = item.definition.queue_id();
        let is_dead_letter_queue = item.definition.is_dead_letter_queue;
        let retention = item.definition.policy.stays_ms(is_dead_letter_queue);
        self.outcomes.set_retention(queue, item.definition.policy.outcomes_ms());
        self.catalog.put(item.definition);
        self.index.set_retention(queue, retention);
        *self.catalog.totals(queue) = Totals {
            published: item.published,
            delivered: item.delivered,
            acked: item.acked,
            retried: item.retried,
            dead_lettered: item.dead_lettered,
            expired_leases: item.expired_leases,
            expired: item.expired,
            deleted: item.deleted,
            moved: item.moved,
            dropped: item.dropped,
        };
    }

    fn restore_lease(&mut self, item: &LeaseItem) {
        let birth = Lsn(item.birth);
        let session = SessionId(item.session);
        if let Some(session) = self.sessions.get_mut(session) {
            session.leases.insert(birth);
        }
        let lease = Lease {
            grant: Lsn(item.grant),
            epoch: item.epoch,
            session,
            consumer: ConsumerId(item.consumer),
            duration_ms: item.duration_ms,
            timed: item.timed,
            extension_ms_max: item.extension_ms_max,
            deadline: None,
            size: item.size,
            unstarted: item.unstarted,
            queue: QueueId(item.queue),
            fairness: item.fairness,
            start_ms: item.start_ms,
            calls: 1,
        };
        if lease.fairness != 0 {
            self.fairness.lease_begins(lease.queue, lease.fairness);
        }
        self.leases.insert(birth, lease);
    }
}

fn restore_outcome(stored: BatchStored) -> BatchOutcome {
    BatchOutcome {
        batch: stored.batch,
        first: Lsn(stored.first),
        duplicates: stored.duplicates,
        refused: None,
    }
}

#[cfg(test)]
mod tests {
    use super::pieces::Pieces;
    use super::*;
    use crate::queue::index::memory::MemoryIndex;

    #[test]
    fn a_state_before_the_first_record_is_refused() {
        let restore = |next| {
            let mut pieces = Pieces::default();
            pieces.add(Item::Header(HeaderItem { next, ..HeaderItem::default() }));
            let state = pieces.finish().concat();
            Core::restore(MemoryIndex::default(), Limits::default(), &state[..], |_| {})
        };
        assert_eq!(restore(1).unwrap().last_lsn(), Lsn(0));
        assert!(matches!(restore(0), Err(SnapshotError::NoRecord)));
    }

    #[test]
    fn a_state_that_names_a_message_twice_is_refused() {
        let mut pieces = Pieces::default();
        // Its birth, the first field, is 7.
        let message = StoredState::decode(&[0x08, 7][..]).unwrap();
        pieces.add(Item::Message(message.clone()));
        pieces.add(Item::Message(message));
        let state = pieces.finish().concat();
        let restored = Core::restore(MemoryIndex::default(), Limits::default(), &state[..], |_| {});
        assert!(matches!(restored, Err(SnapshotError::MessageTwice(Lsn(7)))));
    }
}
