//! The whole lasting state as bytes, for checkpoints.
//!
//! A sequence of length-delimited [`Item`]s, each a protocol buffer; the header first, then what
//! others refer to before what refers to it. The same state gives the same bytes.

mod items;

use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, key_len};
use prost::{Message as _, Oneof, length_delimiter_len};
use qbroker_storage::Lsn;

use items::{
    HeaderItem, KeptItem, LeaderlessItem, LeaseItem, MessageIdItem, PageBackItem, ProducerItem,
    PulledItem, QueueItem, SessionItem, SettledItem,
};

use super::ids::{ConsumerId, QueueId, SessionId};
use super::index::{Frozen, Index, Page};
use super::lease::Lease;
use super::operation::OperationItem;
use super::outcomes::{Finished, FinishedItem, FrozenOutcomes, OutcomesItem};
use super::producer::BatchOutcome;
use super::record::{BatchStored, QueueDefinition, SessionOpened};
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
}

/// Bytes per piece of a snapshot.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(
        oneof = "Item",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 32, 34, 38, 40, 41, 42, 61"
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

/// Words of [`KeptItem`] per item: none grows large.
const KEPT_WORDS: usize = 4_096;

/// Collects items into pieces, so that nothing large is ever moved.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    piece: BytesMut,
}

impl Pieces {
    fn add(&mut self, item: Item) {
        let envelope = Envelope { item: Some(item) };
        let bytes = envelope.encoded_len();
        self.make_room(bytes);
        encode_varint(bytes as u64, &mut self.piece);
        envelope.encode_raw(&mut self.piece);
    }

    /// As `add(Item::Page(page))`, but for the order of fields: the births, most of a page, are shared
    /// with it and not copied.
    fn add_page(&mut self, page: &Page) {
        const PAGE_TAG: u32 = 9;
        let (head, births) = page.split_births();
        let before_births = key_len(Page::BIRTHS_TAG) + length_delimiter_len(births.len());
        let page_bytes = head.encoded_len() + before_births + births.len();
        let bytes = key_len(PAGE_TAG) + length_delimiter_len(page_bytes) + page_bytes;
        self.make_room(bytes - births.len());
        let piece = &mut self.piece;
        encode_varint(bytes as u64, piece);
        encode_key(PAGE_TAG, WireType::LengthDelimited, piece);
        encode_varint(page_bytes as u64, piece);
        head.encode_raw(piece);
        encode_key(Page::BIRTHS_TAG, WireType::LengthDelimited, piece);
        encode_varint(births.len() as u64, piece);
        self.cut();
        self.full.push(births);
    }

    /// For an item of so many bytes and its length.
    fn make_room(&mut self, bytes: usize) {
        let bytes = bytes + length_delimiter_len(usize::MAX);
        if self.piece.capacity() - self.piece.len() < bytes {
            self.cut();
            self.piece.reserve(PIECE_BYTES.max(bytes));
        }
    }

    fn cut(&mut self) {
        if !self.piece.is_empty() {
            self.full.push(self.piece.split().freeze());
        }
    }

    fn add_kept(&mut self, first: Lsn, words: &[u64]) {
        if words.iter().any(|word| *word != 0) {
            let bits = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.add(Item::Kept(KeptItem { first: first.0, bits }));
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.full
    }
}

/// The state of one moment, not yet encoded.
#[allow(missing_debug_implementations, reason = "it may hold millions of messages")]
pub struct Snapshot {
    pieces: Pieces,
    outcomes: FrozenOutcomes,
    messages: Box<dyn Frozen>,
}

impl Snapshot {
    /// The bytes that [`Core::restore`] reads. `kept` says which records the log keeps at this
    /// moment, as in [`qbroker_storage::Kept::runs`].
    pub fn encode(self, kept: impl Iterator<Item = (Lsn, Vec<u64>)>) -> Vec<Bytes> {
        let Self { mut pieces, outcomes, messages } = self;
        for (queue, entries) in outcomes.pieces() {
            pieces.add(Item::Outcomes(OutcomesItem::new(queue, &entries)));
        }
        for (first, words) in kept {
            for (at, words) in (0..).step_by(KEPT_WORDS).zip(words.chunks(KEPT_WORDS)) {
                pieces.add_kept(Lsn(first.0 + at * 64), words);
            }
        }
        for page in messages.pages() {
            pieces.add_page(page);
        }
        messages.for_each(&mut |birth, message| {
            pieces.add(Item::Message(StoredState::new(birth, message)));
        });
        pieces.finish()
    }
}

impl<I: Index> Core<I> {
    /// The state after the last applied record.
    ///
    /// What grows with the backlog is only pinned here, so that the engine's lock is let go at
    /// once; [`Snapshot::encode`] does the work.
    pub fn snapshot(&self) -> Snapshot {
        let mut pieces = Pieces::default();
        pieces.add(Item::Header(HeaderItem {
            epoch: self.epoch,
            boot_id: self.boot_id.clone(),
            next: self.next.0,
            last_queue: self.catalog.last().0,
        }));
        for queue in self.catalog.after("") {
            let item = queue_item(&queue.definition, queue.totals);
            pieces.add(Item::Queue(Box::new(item)));
        }
        for (id, session) in self.sessions.iter() {
            let opened = SessionOpened { name: session.name.clone(), grace_ms: session.grace_ms };
            let (streams, known_as) =
                session.known_as.iter().map(|(stream, name)| (stream.0, name.0)).unzip();
            pieces.add(Item::Session(SessionItem { id: id.0, opened, streams, known_as }));
        }
        for (birth, lease) in self.leases.sorted() {
            pieces.add(Item::Lease(lease_item(birth, &lease)));
        }
        for (page, since) in &self.pages_back {
            pieces.add(Item::PageBack(PageBackItem { page: page.0, since: since.0 }));
        }
        self.operations.items().for_each(|item| pieces.add(Item::Operation(item)));
        for &(queue, line) in &self.leaderless {
            pieces.add(Item::Leaderless(LeaderlessItem { queue: queue.0, line }));
        }
        self.snapshot_memories(&mut pieces);
        for finished in self.outcomes.unwritten() {
            pieces.add(Item::Finished(finished.into()));
        }
        for item in self.trail.items() {
            pieces.add(Item::Trail(item));
        }
        Snapshot { pieces, outcomes: self.outcomes(), messages: self.index.frozen() }
    }

    fn snapshot_memories(&self, pieces: &mut Pieces) {
        for (call, leases) in self.settled.iter() {
            let mut item =
                SettledItem { call, births: Vec::new(), grants: Vec::new(), kinds: Vec::new() };
            for ((birth, grant), kind) in leases {
                item.births.push(birth.0);
                item.grants.push(grant.0);
                item.kinds.push(kind as u32);
            }
            pieces.add(Item::Settled(item));
        }
        for ((session, request), wall_ms, leases) in self.pulled.iter() {
            let (births, grants) = leases.iter().map(|(birth, grant)| (birth.0, grant.0)).unzip();
            let (session, request) = (session.0, request.clone());
            pieces.add(Item::Pulled(PulledItem { session, request, wall_ms, births, grants }));
        }
        for (epoch, producer) in self.producers.iter() {
            let outcomes: Vec<_> = producer.outcomes.values().collect();
            pieces.add(Item::Producer(ProducerItem {
                epoch,
                name: producer.name.clone(),
                last_ms: producer.last_ms,
                stored: producer.stored,
                stored_outcomes: outcomes.iter().copied().filter_map(stored_outcome).collect(),
                refused_outcomes: outcomes
                    .iter()
                    .filter_map(|outcome| outcome.refused.clone())
                    .collect(),
            }));
        }
        for item in self.state.items() {
            pieces.add(Item::State(Box::new(item)));
        }
        for (queue, hash, birth, expire_ms) in self.dedup.iter() {
            #[expect(clippy::cast_possible_truncation, reason = "halves of a hash")]
            let (hash_high, hash_low) = ((hash >> 64) as u64, hash as u64);
            let (queue, birth) = (queue.0, birth.0);
            pieces.add(Item::MessageId(MessageIdItem {
                queue,
                hash_high,
                hash_low,
                birth,
                expire_ms,
            }));
        }
    }

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
                    self.settled.remember(&item.call, [(Lsn(birth), Lsn(grant))], kind);
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
                let (queue, birth) = (QueueId(item.queue), Lsn(item.birth));
                self.dedup.remember(
                    queue,
                    hash,
                    birth,
                    item.expire_ms,
                    self.limits.message_ids_max,
                );
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
            told_again: false,
        };
        if lease.fairness != 0 {
            self.fairness.lease_begins(lease.queue, lease.fairness);
        }
        self.leases.insert(birth, lease);
    }
}

fn queue_item(definition: &QueueDefinition, totals: Totals) -> QueueItem {
    QueueItem {
        definition: definition.clone(),
        published: totals.published,
        delivered: totals.delivered,
        acked: totals.acked,
        retried: totals.retried,
        dead_lettered: totals.dead_lettered,
        expired_leases: totals.expired_leases,
        expired: totals.expired,
        deleted: totals.deleted,
        moved: totals.moved,
        dropped: totals.dropped,
    }
}

fn lease_item(birth: Lsn, lease: &Lease) -> LeaseItem {
    LeaseItem {
        birth: birth.0,
        grant: lease.grant.0,
        epoch: lease.epoch,
        session: lease.session.0,
        consumer: lease.consumer.0,
        duration_ms: lease.duration_ms,
        timed: lease.timed,
        extension_ms_max: lease.extension_ms_max,
        size: lease.size,
        unstarted: lease.unstarted,
        queue: if lease.fairness == 0 { 0 } else { lease.queue.0 },
        fairness: lease.fairness,
    }
}

fn stored_outcome(outcome: &BatchOutcome) -> Option<BatchStored> {
    outcome.refused.is_none().then(|| BatchStored {
        batch: outcome.batch,
        first: outcome.first.0,
        duplicates: outcome.duplicates.clone(),
        ..BatchStored::default()
    })
}

fn restore_outcome(stored: BatchStored) -> BatchOutcome {
    BatchOutcome {
        batch: stored.batch,
        first: Lsn(stored.first),
        duplicates: stored.duplicates,
        refused: None,
    }
}
