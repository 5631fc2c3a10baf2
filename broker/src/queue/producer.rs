//! Producers: streams whose numbered batches are stored once, however often they are sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::body::prefix;
use super::index::Index;
use super::publish::{OnStream, Receipt};
use super::record::{
    BatchRefused, BatchStored, ProducerOpened as OpenedRecord, ProducersForgotten, Record,
};
use super::refused::Refused;
use super::shared_map::SharedMap;
use super::time::Now;
use super::{Core, Effect, MESSAGE_OVERHEAD_BYTES, Output, Turn};

/// A publishing stream of this start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamId(pub u64);

/// How long a producer without a batch is remembered.
pub(super) const IDLE_MS: u64 = 24 * 60 * 60 * 1_000;

/// Bytes of the refused batches that one producer's next stored batch is logged with.
pub(super) const REFUSED_BYTES_MAX: usize = 512 << 10;
/// Positions of duplicates that are remembered of one producer's batches, four bytes each: more than it can
/// have unanswered within its bytes.
const DUPLICATES_MAX: usize = 1 << 20;
/// Bytes of the sentence that tells why a batch is refused, and of each value of it; what is longer is
/// cut.
const REFUSAL_BYTES_MAX: usize = 256;

impl BatchRefused {
    /// A batch of which nothing is stored, and which of its messages is the cause. It is kept until the
    /// client knows, so its texts are cut.
    pub fn new(producer: u64, batch: u64, index: usize, why: &Refused) -> Self {
        let cut = |text: &str| prefix(text, REFUSAL_BYTES_MAX).to_owned();
        let values = why.values().into_iter();
        Self {
            producer,
            batch,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            reason: why.reason().to_owned(),
            message: cut(&why.to_string()),
            values: values.map(|(name, value)| (name.to_owned(), cut(&value))).collect(),
        }
    }

    /// About what its record takes.
    fn bytes(&self) -> usize {
        let values = self.values.iter().map(|(name, value)| name.len() + value.len() + 6);
        let texts = self.reason.len() + self.message.len() + values.sum::<usize>();
        MESSAGE_OVERHEAD_BYTES / 2 + texts
    }
}

/// Opens a producer on a stream, a new one or a known one.
#[derive(Clone, Debug)]
pub struct OpenProducer {
    pub name: String,
    /// What [`ProducerOpened`] gave; 0: new.
    pub epoch: u64,
    /// The client knows the outcomes of every batch up to this one.
    pub confirmed_through: u64,
    pub stream: StreamId,
}

/// A producer is open.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerOpened {
    pub epoch: u64,
    /// Every batch up to this one has its outcome.
    pub through: u64,
    /// Outcomes that the client does not know, ascending.
    pub missed: Vec<BatchOutcome>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOutcome {
    pub batch: u64,
    /// Of its first stored message; zero where none was stored.
    pub first: Lsn,
    /// Positions of messages that were stored before.
    pub duplicates: Vec<u32>,
    pub refused: Option<BatchRefused>,
}

impl BatchOutcome {
    /// The outcome of a batch whose messages are stored.
    pub fn stored(batch: u64, receipts: &[Receipt]) -> Self {
        let first = receipts.iter().find(|receipt| !receipt.duplicate);
        let first = first.map_or(Lsn(0), |receipt| receipt.birth);
        let duplicates = receipts.iter().zip(0..).filter(|(receipt, _)| receipt.duplicate);
        let duplicates = duplicates.map(|(_, position)| position).collect();
        Self { batch, first, duplicates, refused: None }
    }

    /// The outcome of a batch of which nothing is stored.
    pub fn refused(batch: BatchRefused) -> Self {
        Self { batch: batch.batch, first: Lsn(0), duplicates: Vec::new(), refused: Some(batch) }
    }
}

/// Invariant: one entry of `names` per producer; one of `by_idle` per producer without a stream.
#[derive(Debug, Default)]
pub(super) struct Producers {
    producers: ByEpoch,
    names: BTreeMap<String, u64>,
    /// The one idle the longest first.
    by_idle: BTreeSet<(u64, u64)>,
}

/// Producers by epoch.
pub(super) type ByEpoch = SharedMap<u64, Arc<Producer>>;

#[derive(Clone, Debug, Default)]
pub(super) struct Producer {
    pub(super) name: String,
    pub(super) last_ms: u64,
    /// Last batch that was stored.
    pub(super) stored: u64,
    /// Outcomes that the client may not have seen, by batch.
    pub(super) outcomes: VecDeque<BatchOutcome>,
    /// Positions of duplicates in all of them.
    duplicates: usize,
    /// Last batch that has an outcome. Of this start: a crash may take the refused ones back.
    through: u64,
    /// Batches refused since the last stored one. Of this start.
    refused: VecDeque<BatchRefused>,
    refused_bytes: usize,
    /// Of this start.
    stream: Option<StreamId>,
}

impl Producers {
    pub(super) fn open(&mut self, lsn: Lsn, opened: &OpenedRecord) {
        let producer =
            Producer { name: opened.name.clone(), last_ms: opened.wall_ms, ..Producer::default() };
        self.names.insert(opened.name.clone(), lsn.0);
        self.by_idle.insert((opened.wall_ms, lsn.0));
        self.producers.insert(lsn.0, Arc::new(producer));
    }

    pub(super) fn stored(&mut self, stored: &BatchStored, outcomes_max: usize) {
        let epoch = stored.producer;
        let producer = self.known(epoch).expect("a batch is stored for a known producer");
        let idle_ms = producer.stream.is_none().then_some(producer.last_ms);
        producer.last_ms = stored.wall_ms;
        producer.stored = stored.batch;
        producer.through = stored.batch;
        producer.refused.clear();
        producer.refused_bytes = 0;
        let outcome = BatchOutcome {
            batch: stored.batch,
            first: Lsn(stored.first),
            duplicates: stored.duplicates.clone(),
            refused: None,
        };
        producer.add_outcome(outcome);
        producer.forget_through(stored.confirmed_through);
        while outcomes_max < producer.outcomes.len() || DUPLICATES_MAX < producer.duplicates {
            producer.forget_first();
        }
        if let Some(before_ms) = idle_ms {
            self.by_idle.remove(&(before_ms, epoch));
            self.by_idle.insert((stored.wall_ms, epoch));
        }
    }

    /// The producer of an epoch, to be changed.
    fn known(&mut self, epoch: u64) -> Option<&mut Producer> {
        self.producers.get_mut(&epoch).map(Arc::make_mut)
    }

    /// Whether there is a producer with this epoch.
    pub(super) fn knows(&self, epoch: u64) -> bool {
        self.producers.contains_key(&epoch)
    }

    pub(super) fn refused(&mut self, refused: &BatchRefused) {
        if let Some(producer) = self.known(refused.producer) {
            producer.add_outcome(BatchOutcome::refused(refused.clone()));
        }
    }

    pub(super) fn forget(&mut self, epochs: &[u64]) {
        for epoch in epochs {
            if let Some(producer) = self.producers.remove(epoch) {
                self.names.remove(&producer.name);
                self.by_idle.remove(&(producer.last_ms, *epoch));
            }
        }
    }

    /// The outcome of a batch that has one already, or `None` for the batch that is next.
    pub(super) fn answered_before(&self, on: OnStream) -> Result<Option<BatchOutcome>, Refused> {
        let producer = self
            .producers
            .get(&on.producer)
            .ok_or_else(|| Refused::ProducerUnknown(on.producer.to_string()))?;
        if producer.stream != Some(on.stream) {
            return Err(Refused::ProducerFenced(producer.name.clone()));
        }
        let expected = producer.through + 1;
        if on.batch <= on.confirmed_through {
            // Its outcome would be forgotten before it is told.
            return Err(Refused::BatchOutOfOrder { expected, got: on.batch });
        }
        if on.batch == expected {
            return Ok(None);
        }
        match producer.outcome(on.batch) {
            Some(outcome) => Ok(Some(outcome)),
            None => Err(Refused::BatchOutOfOrder { expected, got: on.batch }),
        }
    }

    /// Refused batches since the last stored one, of which the client may not know.
    pub(super) fn refused_since_stored(&self, on: OnStream) -> Vec<BatchRefused> {
        let refused = self.producers.get(&on.producer).map(|producer| &producer.refused);
        let unknown = |refused: &&BatchRefused| on.confirmed_through < refused.batch;
        refused.into_iter().flatten().filter(unknown).cloned().collect()
    }

    /// A batch is refused; of `max` outcomes, and of [`REFUSED_BYTES_MAX`], the oldest go.
    pub(super) fn refuse(&mut self, on: OnStream, batch: BatchRefused, max: usize) {
        let Some(producer) = self.known(on.producer) else { return };
        producer.through = batch.batch;
        producer.refused_bytes += batch.bytes();
        producer.refused.push_back(batch);
        while producer.refused.front().is_some_and(|first| {
            first.batch <= on.confirmed_through
                || max < producer.refused.len()
                || REFUSED_BYTES_MAX < producer.refused_bytes
        }) {
            let first = producer.refused.pop_front();
            producer.refused_bytes -= first.map_or(0, |first| first.bytes());
        }
    }

    /// Whether every outcome that the client does not know is known here.
    fn knows_all(&self, open: &OpenProducer) -> bool {
        self.producers.get(&open.epoch).is_some_and(|producer| {
            let unseen = producer.through.saturating_sub(open.confirmed_through);
            producer.outcomes_after(open.confirmed_through).len() as u64 == unseen
        })
    }

    fn named(&mut self, name: &str) -> Option<(u64, &mut Producer)> {
        let epoch = *self.names.get(name)?;
        Some((epoch, self.known(epoch)?))
    }

    /// The producer, which is about to get a stream.
    fn attach(&mut self, name: &str) -> (u64, &mut Producer) {
        let epoch = self.names[name];
        let idle_ms = self.producers.get(&epoch).map_or(0, |producer| producer.last_ms);
        self.by_idle.remove(&(idle_ms, epoch));
        (epoch, self.known(epoch).expect("a name belongs to a producer"))
    }

    /// Up to `max` producers without a stream that were idle since `idle_ms`, the longest first.
    fn idle(&self, idle_ms: u64, max: usize) -> Vec<u64> {
        let idle = self.by_idle.range(..=(idle_ms, u64::MAX));
        idle.take(max).map(|&(_, epoch)| epoch).collect()
    }

    /// When the one idle the longest was last seen.
    pub(super) fn first_idle_ms(&self) -> Option<u64> {
        self.by_idle.first().map(|&(last_ms, _)| last_ms)
    }

    /// Every producer, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> ByEpoch {
        self.producers.clone()
    }

    pub(super) fn restore(
        &mut self,
        epoch: u64,
        name: String,
        last_ms: u64,
        stored: u64,
        outcomes: Vec<BatchOutcome>,
    ) {
        self.open(Lsn(epoch), &OpenedRecord { name, wall_ms: last_ms });
        let producer = self.known(epoch).expect("it was opened just now");
        producer.stored = stored;
        producer.through = stored;
        outcomes.into_iter().for_each(|outcome| producer.add_outcome(outcome));
    }
}

impl Producer {
    fn place(&self, batch: u64) -> Result<usize, usize> {
        self.outcomes.binary_search_by_key(&batch, |outcome| outcome.batch)
    }

    fn add_outcome(&mut self, outcome: BatchOutcome) {
        self.duplicates += outcome.duplicates.len();
        match self.place(outcome.batch) {
            Ok(at) => {
                let before = std::mem::replace(&mut self.outcomes[at], outcome);
                self.duplicates -= before.duplicates.len();
            }
            Err(at) => self.outcomes.insert(at, outcome),
        }
    }

    fn forget_first(&mut self) {
        let first = self.outcomes.pop_front();
        self.duplicates -= first.map_or(0, |first| first.duplicates.len());
    }

    fn outcome(&self, batch: u64) -> Option<BatchOutcome> {
        let refused = || {
            let refused = self.refused.iter().find(|refused| refused.batch == batch)?;
            Some(BatchOutcome::refused(refused.clone()))
        };
        self.place(batch).ok().map(|at| self.outcomes[at].clone()).or_else(refused)
    }

    /// Outcomes of the batches after this one, ascending.
    fn outcomes_after(&self, batch: u64) -> Vec<BatchOutcome> {
        let after = batch.saturating_add(1);
        let at = self.place(after).unwrap_or_else(|at| at);
        let stored = self.outcomes.range(at..).cloned();
        // Refused since the last stored one: they come after it.
        let refused = self.refused.iter().filter(|refused| after <= refused.batch);
        stored.chain(refused.cloned().map(BatchOutcome::refused)).collect()
    }

    fn forget_through(&mut self, batch: u64) {
        while self.outcomes.front().is_some_and(|first| first.batch <= batch) {
            self.forget_first();
        }
        // A producer that was far ahead once may be idle for a day.
        if self.outcomes.len() < self.outcomes.capacity() / 8 {
            self.outcomes.shrink_to(2 * self.outcomes.len());
        }
    }
}

impl<I: Index> Core<I> {
    /// Opens a producer; an older stream of it ends.
    pub fn open_producer(
        &mut self,
        open: &OpenProducer,
        now: Now,
        out: &mut Output,
    ) -> Turn<ProducerOpened> {
        let known =
            self.producers.named(&open.name).map(|(epoch, producer)| (epoch, producer.through));
        match known {
            None if open.epoch != 0 => {
                return Err(Refused::ProducerUnknown(open.name.clone()).into());
            }
            None => self.open_new_producer(open, now, out)?,
            // Epoch 0 where PublishOpened was lost: nothing can have been sent.
            Some((_, 0)) if open.epoch == 0 => {}
            Some((epoch, _)) if epoch == open.epoch && self.producers.knows_all(open) => {}
            Some(_) => return Err(Refused::ProducerUnknown(open.name.clone()).into()),
        }
        let (epoch, producer) = self.producers.attach(&open.name);
        if let Some(older) = producer.stream.replace(open.stream) {
            let producer = open.name.clone();
            out.effects.push(Effect::Fenced { stream: older, producer });
        }
        // Refused batches at the end may have been taken back by a crash; the client knows better.
        producer.through = producer.through.max(open.confirmed_through);
        let missed = producer.outcomes_after(open.confirmed_through);
        Ok(ProducerOpened { epoch, through: producer.through, missed })
    }

    /// Refuses a batch that is malformed: it uses its number up like any other.
    pub fn refuse_batch(&mut self, on: OnStream, refused: BatchRefused) -> Turn<BatchOutcome> {
        if let Some(outcome) = self.producers.answered_before(on)? {
            return Ok(outcome);
        }
        self.producers.refuse(on, refused.clone(), self.limits.unconfirmed_batches_max);
        Ok(BatchOutcome::refused(refused))
    }

    /// A stream is gone; its producer may be opened again.
    pub fn close_producer(&mut self, epoch: u64, stream: StreamId) {
        if let Some(producer) = self.producers.known(epoch)
            && producer.stream == Some(stream)
        {
            producer.stream = None;
            let idle_ms = producer.last_ms;
            self.producers.by_idle.insert((idle_ms, epoch));
        }
    }

    /// Makes room among the idle ones where there are too many, and opens the new one.
    fn open_new_producer(&mut self, open: &OpenProducer, now: Now, out: &mut Output) -> Turn<()> {
        let max = self.limits.producers_max;
        let mut draft = self.draft();
        if max <= self.producers.producers.len() {
            let producers = self.producers.idle(u64::MAX, 1);
            if producers.is_empty() {
                return Err(Refused::Limit { what: "producers", max }.into());
            }
            draft.fact(Record::ProducersForgotten(ProducersForgotten { producers }));
        }
        let opened = OpenedRecord { name: open.name.clone(), wall_ms: now.wall_ms };
        draft.fact(Record::ProducerOpened(opened));
        self.commit(draft, out);
        Ok(())
    }

    /// Forgets producers that sent nothing for too long.
    pub(super) fn forget_idle_producers(&mut self, now: Now, out: &mut Output) {
        let Some(idle_ms) = now.wall_ms.checked_sub(IDLE_MS) else { return };
        let producers = self.producers.idle(idle_ms, 1_000);
        if producers.is_empty() {
            return;
        }
        let mut draft = self.draft();
        draft.fact(Record::ProducersForgotten(ProducersForgotten { producers }));
        self.commit(draft, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that never says what it knows could take hundreds of megabytes for a day.
    #[test]
    fn of_a_producer_so_many_duplicates_are_remembered() {
        let mut producers = Producers::default();
        producers.open(Lsn(1), &OpenedRecord::default());
        let mut stored = |batch: u64, confirmed_through: u64| {
            let duplicates = (0..1_000).collect();
            let stored = BatchStored {
                producer: 1,
                batch,
                confirmed_through,
                duplicates,
                ..BatchStored::default()
            };
            producers.stored(&stored, 8_192);
            let producer = &producers.producers.get(&1).unwrap();
            let counted: usize = producer.outcomes.iter().map(|it| it.duplicates.len()).sum();
            assert_eq!(counted, producer.duplicates);
            producer.outcomes.len()
        };
        let most = (1..=2_000).map(|batch| stored(batch, 0)).max();
        assert_eq!(most, Some(DUPLICATES_MAX / 1_000));
        assert_eq!(stored(2_001, 1_999), 2);
    }
}
