//! Messages come in: checked, told apart from those that came before, stored.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use qbroker_storage::{Body, Lsn};
use rustc_hash::FxBuildHasher;

use super::ids::QueueId;
use super::index::{Index, Lookup, unique_hash};
use super::overflow::{Evicted, Needs, NewInQueue};
use super::policy::{self, Policy};
use super::producer::{BatchOutcome, StreamId};
use super::record::{BatchRefused, BatchStored, Published, Record};
use super::refused::Refused;
use super::time::{Due, Now};
use super::{Core, Draft, Output, Stop, Turn};

/// A message as it is handed in: what decides over it, and its body.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    pub queue: Arc<str>,
    /// Empty: an id is made of the LSN.
    pub message_id: String,
    /// Keyed hash of the id; only where there is one.
    pub id_hash: Option<u128>,
    pub payload_bytes: u64,
    pub due: Option<NewDue>,
    /// Larger is more urgent; 0 is the least.
    pub priority: u8,
    /// How long it may wait; 0: for ever; `None`: as its queue says.
    pub ttl_ms: Option<u64>,
    /// Failures until dead-lettered, -1: no limit; `None`: as its queue says.
    pub max_attempts: Option<i32>,
    /// Keyed hash of its unique key; only where it has one.
    pub unique_hash: Option<u64>,
    /// Keyed hash of its ordering key; only where it has one.
    pub ordering_hash: Option<u64>,
    /// Keyed hash of its fairness key; only where it has one.
    pub fairness_hash: Option<u64>,
    pub body: Body,
}

/// When a message is to be delivered at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewDue {
    /// Milliseconds from now.
    After(u64),
    /// Milliseconds since 1970.
    At(u64),
}

impl NewDue {
    pub(super) fn from(self, now: Now) -> Due {
        match self {
            Self::After(delay_ms) => now.after(delay_ms),
            Self::At(wall_ms) => Due::at(wall_ms),
        }
    }
}

/// Stores messages, in order: all of them, or none.
#[derive(Clone, Debug)]
pub struct Publish {
    pub messages: Vec<NewMessage>,
}

/// A publish is one of a stream's numbered batches.
#[derive(Clone, Copy, Debug)]
pub struct OnStream {
    /// The producer's epoch.
    pub producer: u64,
    pub stream: StreamId,
    pub batch: u64,
    /// The client knows the outcomes of every batch up to this one.
    pub confirmed_through: u64,
}

/// A message is stored, or was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub birth: Lsn,
    pub duplicate: bool,
    /// The message of this birth holds the unique key; it may have another id.
    pub by_key: bool,
}

/// Why nothing of a batch is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedAt {
    /// Position of the message that caused it; `None` where the batch as a whole did.
    pub index: Option<usize>,
    pub refused: Refused,
}

/// What was seen earlier in the same batch.
#[derive(Default)]
struct Seen {
    /// Message ids.
    ids: HashSet<(QueueId, u128), FxBuildHasher>,
    /// Who holds which unique key.
    unique_keys: HashMap<(QueueId, u64), Lsn, FxBuildHasher>,
}
/// What a batch is answered, and what goes for it.
type Drafted = (Vec<Receipt>, Vec<Evicted>);

impl<I: Index> Core<I> {
    /// Stores a batch; one receipt for each message, in order.
    pub fn publish(&mut self, publish: &Publish, now: Now, out: &mut Output) -> Turn<Vec<Receipt>> {
        self.publish_whole(publish, now, out)?.map_err(|at| at.refused.into())
    }

    /// [`Self::publish`], where a refused batch is an answer: it says which message caused it.
    pub fn publish_whole(
        &mut self,
        publish: &Publish,
        now: Now,
        out: &mut Output,
    ) -> Turn<Result<Vec<Receipt>, RefusedAt>> {
        let mut draft = self.draft();
        match self.draft_messages(&mut draft, &publish.messages, now) {
            Ok((receipts, evicted)) => {
                self.commit(draft, out);
                self.evict(&evicted, now, out);
                Ok(Ok(receipts))
            }
            Err((index, Stop::Refused(refused))) => Ok(Err(RefusedAt { index, refused })),
            Err((_, missing)) => Err(missing),
        }
    }

    /// Stores a batch of a producer's stream once, however often it comes.
    ///
    /// A refused batch is an outcome here, not a refusal of the call.
    pub fn publish_batch(
        &mut self,
        publish: &Publish,
        on: OnStream,
        now: Now,
        out: &mut Output,
    ) -> Turn<BatchOutcome> {
        if let Some(outcome) = self.producers.answered_before(on)? {
            return Ok(outcome);
        }
        let mut draft = self.draft();
        match self.draft_messages(&mut draft, &publish.messages, now) {
            Ok((receipts, evicted)) => {
                let outcome = BatchOutcome::stored(on.batch, &receipts);
                for refused in self.producers.refused_since_stored(on) {
                    draft.fact(Record::BatchRefused(refused));
                }
                draft.fact(Record::BatchStored(BatchStored {
                    producer: on.producer,
                    batch: on.batch,
                    wall_ms: now.wall_ms,
                    confirmed_through: on.confirmed_through,
                    first: outcome.first.0,
                    duplicates: outcome.duplicates.clone(),
                }));
                self.commit(draft, out);
                self.evict(&evicted, now, out);
                Ok(outcome)
            }
            Err((_, Stop::Missing(missing))) => Err(missing.into()),
            Err((index, Stop::Refused(refused))) => {
                let index = index.unwrap_or_default();
                let batch = BatchRefused::new(on.producer, on.batch, index, &refused);
                let outcomes_max = self.limits.unconfirmed_batches_max;
                self.producers.refuse(on, batch.clone(), outcomes_max);
                Ok(BatchOutcome::refused(batch))
            }
        }
    }

    pub(super) fn draft_messages(
        &self,
        draft: &mut Draft,
        messages: &[NewMessage],
        now: Now,
    ) -> Result<Drafted, (Option<usize>, Stop)> {
        if messages.is_empty() {
            return Err((None, Refused::EmptyBatch.into()));
        }
        if self.disk_full {
            return Err((None, Refused::DiskFull.into()));
        }
        // All queues first: the messages of a batch have neighbouring LSNs.
        let queues = self.draft_queues(draft, messages, now)?;
        let (mut seen, mut needs) = (Seen::default(), Needs::default());
        let mut receipts = Vec::with_capacity(messages.len());
        // And one that tells of the batch.
        draft.records.reserve_exact(messages.len() + 1);
        for (index, (message, queue)) in messages.iter().zip(queues).enumerate() {
            let policy = self.catalog.get(queue).map(|queue| &queue.definition.policy);
            let receipt = self
                .check_message(policy, index, message)
                .map_err(Stop::from)
                .and_then(|()| self.draft_message(draft, &mut seen, (queue, policy), message, now))
                .map_err(|stop| (Some(index), stop))?;
            receipts.push(receipt);
            if !policy.is_some_and(Policy::bounds_size) {
                continue;
            }
            if receipt.by_key {
                needs.keep(queue, receipt.birth);
            } else if !receipt.duplicate {
                // Of those that share an ordering key, most are behind.
                let waits = message.ordering_hash.is_some()
                    || message.due.is_some_and(|due| !due.from(now).is_over(now));
                let (birth, bytes) = (receipt.birth, message.body.len());
                needs.add(queue, NewInQueue { index, birth, bytes, stays: waits });
            }
        }
        let evicted = self.make_room(draft.leaving, &needs);
        let evicted = evicted.map_err(|(index, stop)| (Some(index), stop))?;
        Ok((receipts, evicted))
    }

    /// Stores messages whatever the queues say, for what happens by itself: nobody would hear of a
    /// refusal. Their queues have names that may be.
    pub(super) fn draft_unrefused(
        &self,
        draft: &mut Draft,
        messages: &[NewMessage],
        now: Now,
    ) -> Lookup<()> {
        let mut seen = Seen::default();
        for message in messages {
            let queue = self.queue_or_draft_unbounded(draft, &message.queue, now);
            let policy = self.catalog.get(queue).map(|queue| &queue.definition.policy);
            match self.draft_message(draft, &mut seen, (queue, policy), message, now) {
                Err(Stop::Missing(page)) => return Err(page),
                // An id that is there twice is a duplicate like any other.
                Ok(_) | Err(Stop::Refused(_)) => {}
            }
        }
        Ok(())
    }

    /// The queue of each message.
    fn draft_queues(
        &self,
        draft: &mut Draft,
        messages: &[NewMessage],
        now: Now,
    ) -> Result<Vec<QueueId>, (Option<usize>, Stop)> {
        let mut queues = Vec::with_capacity(messages.len());
        let mut last: Option<(&Arc<str>, QueueId)> = None;
        for (index, message) in messages.iter().enumerate() {
            // Neighbours mostly share their queue, and its name's allocation.
            let queue = match last {
                Some((name, queue)) if Arc::ptr_eq(name, &message.queue) => queue,
                _ => {
                    let of = self.queue_or_draft(draft, &message.queue, now);
                    let of = of.and_then(|of| self.check_not_paused(of).map(|()| of));
                    of.map_err(|stop| (Some(index), stop))?
                }
            };
            last = Some((&message.queue, queue));
            queues.push(queue);
        }
        Ok(queues)
    }

    fn check_not_paused(&self, queue: QueueId) -> Result<(), Stop> {
        match self.catalog.get(queue).map(|queue| &*queue.definition) {
            Some(it) if it.publishing_paused => Err(Refused::QueuePaused(it.name.clone()).into()),
            _ => Ok(()),
        }
    }

    /// Whether the queue takes such a message.
    fn check_message(
        &self,
        policy: Option<&Policy>,
        index: usize,
        message: &NewMessage,
    ) -> Result<(), Refused> {
        let of_queue = policy.and_then(|policy| policy.max_payload_bytes);
        let max = of_queue.unwrap_or(u64::MAX).min(self.limits.payload_bytes_max);
        if max < message.payload_bytes {
            let queue = message.queue.to_string();
            return Err(Refused::MessageTooLarge {
                index,
                bytes: message.payload_bytes,
                max,
                queue,
            });
        }
        let max = policy.map_or(policy::PRIORITY_MAX, Policy::priority_max);
        if max < message.priority {
            let queue = message.queue.to_string();
            return Err(Refused::Priority { priority: message.priority, max, queue });
        }
        Ok(())
    }

    fn draft_message(
        &self,
        draft: &mut Draft,
        seen: &mut Seen,
        (queue, policy): (QueueId, Option<&Policy>),
        message: &NewMessage,
        now: Now,
    ) -> Result<Receipt, Stop> {
        if let Some(hash) = message.id_hash {
            if let Some(birth) = self.dedup.find(queue, hash, now.wall_ms) {
                return Ok(Receipt { birth, duplicate: true, by_key: false });
            }
            if !seen.ids.insert((queue, hash)) {
                return Err(Refused::DuplicateInBatch { id: message.message_id.clone() }.into());
            }
        }
        if let Some(hash) = message.unique_hash
            && let Some(birth) = self.key_holder(draft, seen, queue, hash)?
        {
            return Ok(Receipt { birth, duplicate: true, by_key: true });
        }
        let due = message.due.map(|due| due.from(now)).filter(|due| !due.is_over(now));
        let ttl_ms = message.ttl_ms.or_else(|| policy?.message_ttl_ms).filter(|ms| *ms != 0);
        let ttl_end = ttl_ms.map(|ms| now.after(ms));
        let (id_hash_high, id_hash_low) = message.id_hash.map(halves).unzip();
        let published = Published {
            queue: queue.0,
            wall_ms: now.wall_ms,
            size: u32::try_from(message.body.len()).expect("a payload is far below 4 GiB"),
            due: due.map(Into::into),
            id_hash_high,
            id_hash_low,
            priority: message.priority.into(),
            expire_ms: ttl_end.map_or(0, |end| end.wall_ms),
            expire_boot_ms: ttl_end.and_then(|end| end.boot_ms),
            max_attempts: message.max_attempts,
            unique_hash: message.unique_hash,
            ordering_hash: message.ordering_hash,
            fairness_hash: message.fairness_hash,
        };
        let birth = draft.push(Record::Published(published), message.body.clone());
        Ok(Receipt { birth, duplicate: false, by_key: false })
    }

    /// The unfinished message that holds a unique key; where there is none, the one that comes next
    /// holds it.
    fn key_holder(
        &self,
        draft: &Draft,
        seen: &mut Seen,
        queue: QueueId,
        hash: u64,
    ) -> Lookup<Option<Lsn>> {
        let key = unique_hash(hash);
        if let Some(&birth) = seen.unique_keys.get(&(queue, key)) {
            return Ok(Some(birth));
        }
        let holder = self.index.holder(queue, key)?;
        if holder.is_none() {
            seen.unique_keys.insert((queue, key), draft.next_lsn());
        }
        Ok(holder)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "halves of a hash")]
fn halves(hash: u128) -> (u64, u64) {
    ((hash >> 64) as u64, hash as u64)
}
