//! The queues: which messages are ready, scheduled, leased or dead, and who holds them.
//!
//! Pure and deterministic: no clock, disk, network, thread or randomness. A command is a method of
//! [`Core`]: it is told the time, decides on the state as it is, writes what it decided as records
//! into an [`Output`] and applies them; what somebody must be told comes out as its answer and as
//! [`Effect`]s. Nobody may be told before the log is durable up to the last of those records.
//! Recovery applies the records alone.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod policy;
pub mod refused;

pub mod ids;
pub mod time;

pub mod body;
pub mod filter;
pub mod event;
pub mod index;
pub mod record;

mod apply;
mod catalog;
mod pause;
mod publish;
mod purge;
mod purge_letters;

mod candidates;
mod delete;
mod moves;
mod names;
mod operation;
mod update;

mod connect;
mod consumer;
mod consumers;
mod disconnect;
mod dispatch;
mod fairness;
mod flow;
mod ordering;
mod pull;
mod pulled;
mod shares;
mod subscribe;

mod begun;
mod overflow;

mod effects;
mod lease;
mod patch;
mod settle;

mod gaps;
mod paging;
mod rebuild;
mod stored;

mod producer;
mod session;

pub mod outcomes;
mod trail;

mod dead_letter;
mod unreadable;

pub mod state;

mod dedup;
mod settled;
mod shared_map;
mod tick;
mod ttl;

mod snapshot;
pub mod told;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qbroker_storage::{Batch, Body, Lsn};

pub use candidates::{Candidate, Candidates, StepBounds};
pub use catalog::{CreateQueue, DeleteQueue, Expected, Queue, Totals, UpdateQueue};
pub use connect::{OpenConsumer, Opened};
pub use consumer::{Consumer, Window};
pub use dedup::MessageIds;
pub use dispatch::Delivery;
pub use effects::Effects;
pub use gaps::Gaps;
pub use lease::{Extend, Extended};
pub use names::{Found, MessageName, NamedBy, NotDone};
pub use operation::{Operation, OperationStep, Pace, StartOperation, Work};
pub use patch::Patch;
pub use pause::PauseQueue;
pub use producer::{BatchOutcome, OpenProducer, ProducerOpened, StreamId};
pub use publish::{NewDue, NewMessage, OnStream, Publish, Receipt, RefusedAt};
pub use pull::{Pull, PullId, Pulled};
pub use purge::{Purge, PurgeStep};
pub use purge_letters::{LetterRecord, LettersPurge, SomeLetters};
pub use rebuild::Rebuild;
pub use settle::{Outcome, Settle, Settlement};
pub use shares::Selector;
pub use snapshot::{Snapshot, SnapshotError};
pub use stored::page_messages;
pub use tick::Deadlines;
pub use update::UpdateMessages;

use index::{Index, Missing};
use record::Record;
use refused::Refused;

/// Bounds over all queues; each protects memory. What happens at one is said at its use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Payload bytes of a message, unless its queue says otherwise.
    pub payload_bytes_max: u64,
    /// Leases held at once; about 128 bytes each.
    pub leases_max: usize,
    /// Messages that the index keeps in memory; some 150 bytes each. The others are in pages.
    pub messages_in_memory: usize,
    pub queues_max: usize,
    pub sessions_max: usize,
    pub producers_max: usize,
    /// Message ids remembered at once, over all queues; the oldest are forgotten first.
    pub message_ids_max: usize,
    /// Settled leases remembered for a repeated call; the oldest are forgotten first.
    pub settled_max: usize,
    /// Operations that go on at once; each may hold a filter of 128 KiB.
    pub operations_max: usize,
    /// Operations that have ended and can still be asked for.
    pub operations_kept_max: usize,
    /// Leases of answered pulls remembered for a repeated call; the oldest are forgotten first.
    pub pulled_max: usize,
    /// Memory of values, counters, permits and barriers, about; what needs more is refused.
    pub state_bytes_max: usize,
    /// Batches of one stream whose outcomes the client may not have seen.
    pub unconfirmed_batches_max: usize,
    /// Outcomes that are kept, over all queues; 24 bytes each. Those that would be forgotten first go.
    pub outcomes_max: usize,
    /// Messages that are done and whose outcomes are not written yet; beyond it the first are given up.
    /// A replay must know the same number.
    pub unwritten_outcomes_max: usize,
    /// Messages that wait and whose last step is remembered, for traces; some 40 bytes each. A replay must
    /// know the same number.
    pub trail_max: usize,
    /// Bytes that the log takes of one commit. The configuration leaves room for a batch; a settlement
    /// may come with as much, and with what barriers publish.
    pub commit_bytes_max: usize,
    /// Messages that one step moves of what time does, or a purge, so that the lock is never held long.
    pub step_max: usize,
    /// Whether publishing to a queue, or consuming from one, makes it.
    pub auto_create_queues: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 4 << 20,
            leases_max: 1_000_000,
            messages_in_memory: 1 << 18,
            queues_max: 100_000,
            sessions_max: 100_000,
            producers_max: 100_000,
            message_ids_max: 4_000_000,
            settled_max: 1_000_000,
            operations_max: 20,
            operations_kept_max: 100,
            pulled_max: 100_000,
            state_bytes_max: 64 << 20,
            unconfirmed_batches_max: 8_192,
            outcomes_max: 1_000_000,
            unwritten_outcomes_max: 1 << 16,
            trail_max: 100_000,
            commit_bytes_max: usize::MAX,
            step_max: 1_000,
            auto_create_queues: true,
        }
    }
}

/// Why a command gave no answer.
#[derive(Debug)]
pub enum Stop {
    /// A page has to be loaded; the command is then given again. Nothing has changed.
    Missing(Missing),
    /// The command is refused. Nothing has changed, and nothing was logged.
    Refused(Refused),
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The answer to a command.
pub type Turn<T> = Result<T, Stop>;

/// What a command wants done, beside its own answer.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Hand these to the consumer's stream.
    Deliver { consumer: ids::ConsumerId, deliveries: Vec<Delivery> },
    /// Answer a waiting pull.
    AnswerPull { pull: PullId, deliveries: Vec<Delivery> },
    /// Tell the consumer that these leases are no longer its own.
    LeasesLost { consumer: ids::ConsumerId, leases: Vec<ids::LeaseToken>, why: Lost },
    /// The consumer's stream was replaced by another one.
    Replaced { consumer: ids::ConsumerId },
    /// An operator ended the consumer's stream.
    Disconnected { consumer: ids::ConsumerId },
    /// The producer's stream was replaced by another one.
    Fenced { stream: StreamId, producer: String },
    /// What is under this key, which somebody watches, has changed.
    StateChanged { kind: state::Kind, key: state::Key },
    /// Messages of this queue were dead-lettered.
    DeadLetters { queue: String, count: u64 },
}

/// How a consumer lost leases that it did not settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its time was over.
    Expired,
    /// The queue was purged.
    Purged,
    /// The queue was deleted.
    Deleted,
    /// The message was deleted.
    MessageDeleted,
    /// The session was begun anew.
    SessionReset,
    /// An operator ended the session.
    Disconnected,
}

/// What a turn leaves behind: records for the log, effects to hold until they are durable, and
/// records that nothing needs any more.
#[derive(Debug, Default)]
pub struct Output {
    /// Batches that were full; they come before `batch`.
    pub full: Vec<Batch>,
    pub batch: Batch,
    pub effects: Vec<Effect>,
    pub retired: Vec<Lsn>,
    /// Heads and bodies as the log gets them, for tests: a batch cannot be read.
    #[cfg(test)]
    logged: Vec<(Vec<u8>, Body)>,
}

/// Bytes after which a batch takes no further commit, so that a turn of many commits takes several
/// frames where it must.
pub const BATCH_BYTES: usize = 256 << 10;

/// What the log must take at once: a batch that is not full yet, and the largest commit after it,
/// which is on disk as a whole or not at all. That is a publish batch of these bounds with the
/// outcomes of its stream; what else is committed at once is smaller than
/// `OTHER_COMMIT_BYTES_MAX`.
pub fn turn_bytes_max(batch_bytes_max: usize, batch_messages_max: usize) -> usize {
    let heads = batch_messages_max.saturating_mul(MESSAGE_OVERHEAD_BYTES);
    let publish = batch_bytes_max.saturating_add(heads).saturating_add(producer::REFUSED_BYTES_MAX);
    BATCH_BYTES + publish.max(OTHER_COMMIT_BYTES_MAX)
}

/// Bytes that the log needs for a message beside what its publisher sent: its head, and the making
/// of its queue.
pub const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// A stream that comes back with all its leases, and makes all its queues.
const OTHER_COMMIT_BYTES_MAX: usize = 1_600 << 10;

impl Output {
    /// The batch that takes the next record that may stand apart from those before it.
    fn close_full_batch(&mut self) {
        if BATCH_BYTES <= self.batch.bytes() {
            self.full.push(std::mem::take(&mut self.batch));
        }
    }
}

#[cfg(test)]
impl Output {
    fn log(&mut self, record: &Record, body: &Body) {
        let mut head = Vec::new();
        record.encode_head(&mut head);
        self.logged.push((head, body.clone()));
    }
}

/// Records that were decided and not yet applied.
#[derive(Debug)]
struct Draft {
    next: Lsn,
    records: Vec<(Record, Body)>,
    /// Queues made or changed by the records, by name.
    queues: BTreeMap<String, ids::QueueId>,
    /// Id of the queue made last, here or before.
    last_queue: ids::QueueId,
    /// What makes room for the messages among the records.
    leaving: Option<overflow::Leaving>,
}

impl Draft {
    /// Adds a record and says which LSN it will have.
    fn push(&mut self, record: Record, body: Body) -> Lsn {
        let lsn = self.next_lsn();
        self.records.push((record, body));
        lsn
    }

    fn fact(&mut self, record: Record) -> Lsn {
        self.push(record, Body::default())
    }

    /// What the log gets of it, at most.
    fn bytes(&self) -> usize {
        let bytes = |(record, body): &(Record, Body)| {
            MESSAGE_OVERHEAD_BYTES + record.encoded_len() + body.len()
        };
        self.records.iter().map(bytes).sum()
    }

    /// LSN of the record that is added next.
    fn next_lsn(&self) -> Lsn {
        Lsn(self.next.0 + self.records.len() as u64)
    }
}

/// All queues and everybody who uses them.
///
/// The log's records say what all fields are, but for the consumers, the waiting pulls, the
/// deadlines and the streams: those belong to this start.
#[derive(Debug)]
pub struct Core<I> {
    limits: Limits,
    /// Epoch of this start, as the last [`record::Started`] says.
    epoch: u32,
    boot_id: String,
    /// LSN of the next record.
    next: Lsn,
    catalog: catalog::Catalog,
    index: I,
    leases: lease::Leases,
    settled: settled::Settled,
    pulled: pulled::PulledLately,
    sessions: session::Sessions,
    producers: producer::Producers,
    dedup: dedup::Dedup,
    outcomes: outcomes::Outcomes,
    trail: trail::Trail,
    consumers: consumers::Consumers,
    flow: flow::Flow,
    operations: operation::Operations,
    leaderless: ordering::Leaderless,
    fairness: fairness::Fairness,
    /// Queues that deliver nothing before more of what is outlived has been given up. Of this start.
    waiting_for_ends: BTreeSet<ids::QueueId>,
    /// Queues that hold more than they may, and of which something may go. Of this start.
    overfull: BTreeSet<ids::QueueId>,
    state: state::State,
    calendar: state::Calendar,
    /// No publish is taken while the disk is at its reserve.
    disk_full: bool,
    /// The wall clock as it was last told; for what is told, not for what is decided.
    seen_ms: u64,
    telling: told::Telling,
    /// The last record that makes a message worth finding.
    searchable: Lsn,
    /// Deadlines stand still: the broker is stopping, and may take the leases along.
    frozen: bool,
    retired: Vec<Lsn>,
    /// Pages that are in memory again, each with the next LSN by then: an older checkpoint may
    /// still need the record.
    pages_back: VecDeque<(Lsn, Lsn)>,
}

impl<I: Index> Core<I> {
    /// A broker without a queue, before its first record.
    pub fn new(index: I, limits: Limits) -> Self {
        Self {
            limits,
            epoch: 0,
            boot_id: String::new(),
            next: Lsn(1),
            catalog: catalog::Catalog::default(),
            index,
            leases: lease::Leases::default(),
            settled: settled::Settled::default(),
            pulled: pulled::PulledLately::default(),
            sessions: session::Sessions::default(),
            producers: producer::Producers::default(),
            dedup: dedup::Dedup::default(),
            outcomes: outcomes::Outcomes::default(),
            trail: trail::Trail::default(),
            consumers: consumers::Consumers::default(),
            flow: flow::Flow::default(),
            operations: operation::Operations::default(),
            leaderless: ordering::Leaderless::default(),
            fairness: fairness::Fairness::default(),
            waiting_for_ends: BTreeSet::new(),
            overfull: BTreeSet::new(),
            state: state::State::default(),
            calendar: state::Calendar::default(),
            disk_full: false,
            seen_ms: 0,
            telling: told::Telling::default(),
            searchable: Lsn(0),
            frozen: false,
            retired: Vec::new(),
            pages_back: VecDeque::new(),
        }
    }

    /// Begins this start: relative delays of another uptime become absolute, and every session
    /// and timed lease has its whole time from now on.
    pub fn start(&mut self, epoch: u32, boot_id: String, now: time::Now, out: &mut Output) {
        let mut draft = self.draft();
        let started = record::Started { epoch, boot_id, wall_ms: now.wall_ms };
        draft.fact(Record::Started(started));
        self.commit(draft, out);
        self.restart_deadlines(now);
        self.weigh_all();
    }

    /// The epoch of the last start.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// LSN of the next record; an effect waits for [`Self::last_lsn`].
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// LSN of the last record that makes a message worth finding, or of a later one.
    pub fn last_searchable(&self) -> Lsn {
        self.searchable
    }

    /// LSN of the last record.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    /// Says what time it is, for those who are told what happens.
    pub fn see(&mut self, now: time::Now) {
        self.seen_ms = now.wall_ms;
    }

    /// Says whether the disk is at its reserve: publishes are then refused.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// Stops the deadlines: nobody loses a lease because the broker is stopping.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The bounds that this core was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where messages are looked up; for listings and counts.
    pub fn index(&self) -> &I {
        &self.index
    }

    /// The queues after this name, in the order of their names.
    pub fn queues_after<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Queue> {
        self.catalog.after(name)
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.catalog.len()
    }

    /// The queue of this name.
    pub fn queue(&self, name: &str) -> Result<&Queue, Refused> {
        self.catalog.named(name).ok_or_else(|| Refused::QueueNotFound(name.to_owned()))
    }

    /// The queue with this id, unless it was deleted.
    pub fn queue_by_id(&self, queue: ids::QueueId) -> Option<&Queue> {
        self.catalog.get(queue)
    }

    /// What is known of a lease, unless it ended.
    pub fn lease(&self, birth: Lsn) -> Option<&lease::Lease> {
        self.leases.get(birth)
    }

    /// Whether a lease still holds.
    pub fn is_held(&self, token: ids::LeaseToken) -> bool {
        self.held(token).is_ok()
    }

    /// Messages that connected streams hold.
    pub fn held_by_streams(&self) -> u64 {
        self.consumers.outstanding()
    }

    /// How many streams consume from a queue.
    pub fn consumers_of(&self, queue: &str) -> usize {
        self.consumers.count_of(queue)
    }

    /// How many message ids are remembered.
    pub fn message_ids(&self) -> MessageIds {
        self.dedup.figures()
    }

    /// How many leases are held.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    fn draft(&self) -> Draft {
        let last_queue = self.catalog.last();
        Draft {
            next: self.next,
            records: Vec::new(),
            queues: BTreeMap::new(),
            last_queue,
            leaving: None,
        }
    }

    /// Applies what was decided and hands it to the log: a crash leaves all of it or nothing.
    fn commit(&mut self, draft: Draft, out: &mut Output) {
        out.close_full_batch();
        self.hand_over(draft, out, |_| {});
    }

    /// [`Self::commit`] of records that each stand alone: a crash may part them.
    fn commit_each(&mut self, draft: Draft, out: &mut Output) {
        self.hand_over(draft, out, Output::close_full_batch);
    }

    fn hand_over(&mut self, draft: Draft, out: &mut Output, before_each: impl Fn(&mut Output)) {
        debug_assert_eq!(draft.next, self.next, "a draft is committed before another one is made");
        for (record, body) in draft.records {
            before_each(out);
            self.apply(self.next, &record);
            #[cfg(test)]
            out.log(&record, &body);
            out.batch.push(record.retention(!body.is_empty()), body, |head| {
                record.encode_head(head);
                self.telling.encode(self.seen_ms, head);
            });
        }
        out.retired.append(&mut self.retired);
        self.tell_watchers(out);
    }
}
