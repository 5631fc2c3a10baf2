//! The state of one moment: pinned under the engine's lock, made bytes of without it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use qbroker_storage::Lsn;

use super::Item;
use super::items::{
    HeaderItem, LeaderlessItem, LeaseItem, PageBackItem, ProducerItem, PulledItem, QueueItem,
    SessionItem, SettledItem,
};
use super::pieces::{KEPT_WORDS, Pieces};
use crate::queue::dedup;
use crate::queue::ids::{QueueId, SessionId};
use crate::queue::index::{Frozen, Index, Pages};
use crate::queue::lease::Lease;
use crate::queue::operation::OperationItem;
use crate::queue::ordering::Leaderless;
use crate::queue::outcomes::{Finished, FrozenOutcomes, OutcomesItem};
use crate::queue::producer::{self, BatchOutcome, Producer};
use crate::queue::pulled::{Pulled, Pulls};
use crate::queue::record::{BatchStored, Call, QueueDefinition, SessionOpened};
use crate::queue::session::Session;
use crate::queue::settled::{SettledCall, SettledCalls};
use crate::queue::state::FrozenState;
use crate::queue::stored::StoredState;
use crate::queue::trail::{self, Steps};
use crate::queue::{Core, Totals};

/// The state of one moment, not yet encoded. What may be much is shared with the core, which copies a part
/// of it when it changes that part.
#[allow(missing_debug_implementations, reason = "it may hold millions of messages")]
pub struct Snapshot {
    header: HeaderItem,
    queues: Vec<(Arc<QueueDefinition>, Totals)>,
    sessions: Vec<SessionItem>,
    leases: Pages<Lease>,
    pages_back: VecDeque<(Lsn, Lsn)>,
    operations: Vec<OperationItem>,
    leaderless: Leaderless,
    settled: SettledCalls,
    pulled: Pulls,
    producers: producer::ByEpoch,
    state: FrozenState,
    message_ids: Vec<(QueueId, dedup::Frozen)>,
    unwritten: VecDeque<Finished>,
    trail: Steps,
    outcomes: FrozenOutcomes,
    messages: Box<dyn Frozen>,
}

impl<I: Index> Core<I> {
    /// The state after the last applied record.
    ///
    /// It is only pinned here, so that the engine's lock is let go at once; [`Snapshot::encode`] does the
    /// work.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            header: HeaderItem {
                epoch: self.epoch,
                boot_id: self.boot_id.clone(),
                next: self.next.0,
                last_queue: self.catalog.last().0,
            },
            queues: self.catalog.frozen(),
            sessions: self.sessions.iter().map(session_item).collect(),
            leases: self.leases.frozen(),
            pages_back: self.pages_back.clone(),
            operations: self.operations.items().collect(),
            leaderless: self.leaderless.clone(),
            settled: self.settled.frozen(),
            pulled: self.pulled.frozen(),
            producers: self.producers.frozen(),
            state: self.state.frozen(),
            message_ids: self.dedup.frozen(),
            unwritten: self.outcomes.frozen_unwritten(),
            trail: self.trail.frozen(),
            outcomes: self.outcomes(),
            messages: self.index.frozen(),
        }
    }
}

impl Snapshot {
    /// The bytes that [`Core::restore`] reads. `kept` says which records the log keeps at this
    /// moment, as in [`qbroker_storage::Kept::runs`].
    pub fn encode(mut self, kept: impl Iterator<Item = (Lsn, Vec<u64>)>) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        pieces.add(Item::Header(std::mem::take(&mut self.header)));
        self.queues.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        for (definition, totals) in &self.queues {
            pieces.add(Item::Queue(Box::new(queue_item(definition, *totals))));
        }
        for session in std::mem::take(&mut self.sessions) {
            pieces.add(Item::Session(session));
        }
        self.leases.for_each(&mut |birth, lease| pieces.add(Item::Lease(lease_item(birth, lease))));
        for (page, since) in &self.pages_back {
            pieces.add(Item::PageBack(PageBackItem { page: page.0, since: since.0 }));
        }
        for operation in std::mem::take(&mut self.operations) {
            pieces.add(Item::Operation(Box::new(operation)));
        }
        for &(queue, line) in &self.leaderless {
            pieces.add(Item::Leaderless(LeaderlessItem { queue: queue.0, line }));
        }
        self.encode_memories(&mut pieces);
        for finished in &self.unwritten {
            pieces.add(Item::Finished(finished.into()));
        }
        for item in trail::items(&self.trail) {
            pieces.add(Item::Trail(item));
        }
        for (queue, entries) in self.outcomes.pieces() {
            pieces.add(Item::Outcomes(OutcomesItem::new(queue, &entries)));
        }
        for (first, words) in kept {
            for (at, words) in (0..).step_by(KEPT_WORDS).zip(words.chunks(KEPT_WORDS)) {
                pieces.add_kept(Lsn(first.0 + at * 64), words);
            }
        }
        for page in self.messages.pages() {
            pieces.add_page(page);
        }
        self.messages.for_each(&mut |birth, message| {
            pieces.add(Item::Message(StoredState::new(birth, message)));
        });
        pieces.finish()
    }

    fn encode_memories(&self, pieces: &mut Pieces) {
        for (&(consumer, number), settled) in self.settled.iter() {
            pieces.add(Item::Settled(settled_item(consumer, number, settled)));
        }
        for (_, pulled) in self.pulled.iter() {
            pieces.add(Item::Pulled(pulled_item(pulled)));
        }
        for (&epoch, producer) in self.producers.iter() {
            pieces.add(Item::Producer(producer_item(epoch, producer)));
        }
        for item in self.state.items() {
            pieces.add(Item::State(Box::new(item)));
        }
        for (queue, ids) in &self.message_ids {
            for group in ids.groups() {
                pieces.add_message_ids(*queue, group);
            }
        }
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

fn session_item((id, session): (SessionId, &Session)) -> SessionItem {
    let opened = SessionOpened { name: session.name.clone(), grace_ms: session.grace_ms };
    let (streams, known_as) =
        session.known_as.iter().map(|(stream, name)| (stream.0, name.0)).unzip();
    SessionItem { id: id.0, opened, streams, known_as }
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
        start_ms: lease.start_ms,
    }
}

fn settled_item(consumer: u64, number: u64, settled: &SettledCall) -> SettledItem {
    let call = Call { consumer, number, wall_ms: settled.wall_ms };
    let mut item = SettledItem {
        call,
        births: Vec::new(),
        grants: Vec::new(),
        kinds: Vec::new(),
        session: settled.session.0,
    };
    for &((birth, grant), kind) in settled.leases.iter() {
        item.births.push(birth.0);
        item.grants.push(grant.0);
        item.kinds.push(kind as u32);
    }
    item
}

fn pulled_item(pulled: &Pulled) -> PulledItem {
    let (session, request) = &*pulled.key;
    let (births, grants) = pulled.leases.iter().map(|(birth, grant)| (birth.0, grant.0)).unzip();
    let (session, request) = (session.0, request.clone());
    PulledItem { session, request, wall_ms: pulled.wall_ms, births, grants }
}

fn producer_item(epoch: u64, producer: &Producer) -> ProducerItem {
    let outcomes = || producer.outcomes.iter();
    ProducerItem {
        epoch,
        name: producer.name.clone(),
        last_ms: producer.last_ms,
        stored: producer.stored,
        stored_outcomes: outcomes().filter_map(stored_outcome).collect(),
        refused_outcomes: outcomes().filter_map(|outcome| outcome.refused.clone()).collect(),
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
