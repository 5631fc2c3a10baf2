//! Clients that number their batches: they send again what was not answered, and nothing is stored
//! twice.

use std::collections::BTreeMap;

use qbroker::queue::refused::Refused;
use qbroker::queue::{BatchOutcome, OnStream, OpenProducer, ProducerOpened, Publish, StreamId};

use super::clients::Told;
use super::model::{Fate, New, OpenedProducer, Opening};
use super::plan::{Offer, PRODUCERS};
use super::run::{Run, Stopped};

/// What a client knows.
#[derive(Debug, Default)]
pub(super) struct Producer {
    epoch: u64,
    /// Its stream, once it was told that it is open.
    stream: Option<StreamId>,
    /// It has opened a stream, and was not told yet.
    opening: Option<StreamId>,
    confirmed: u64,
    /// Batches without an answer.
    sent: BTreeMap<u64, Vec<(Offer, New)>>,
}

/// What it is told.
#[derive(Debug)]
pub(super) enum ToldProducer {
    Opened(StreamId, OpenedProducer),
    /// A batch has its outcome.
    Answered(u64),
}

fn fate(outcome: &BatchOutcome) -> Fate {
    match &outcome.refused {
        Some(refused) => Fate::Refused(refused.reason.clone()),
        None => Fate::Stored(outcome.first.0, outcome.duplicates.clone()),
    }
}

fn opened(it: &ProducerOpened) -> OpenedProducer {
    let missed = it.missed.iter().map(|outcome| (outcome.batch, fate(outcome))).collect();
    OpenedProducer { epoch: it.epoch, through: it.through, missed }
}

impl Run {
    fn saying(&self, producer: usize) -> Opening {
        let Producer { epoch, confirmed, .. } = self.producers[producer];
        Opening { name: PRODUCERS[producer], epoch, confirmed }
    }

    /// Opens a stream; an older one of it is fenced.
    pub(super) fn open_producer(&mut self, producer: usize) -> Result<(), Stopped> {
        let saying = self.saying(producer);
        let stream = self.world.engine.open_publisher().0;
        let open = OpenProducer {
            name: saying.name.to_owned(),
            epoch: saying.epoch,
            confirmed_through: saying.confirmed,
            stream,
        };
        let turn = self.world.engine.turn(|core, now, out| core.open_producer(&open, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("open producer {saying:?}: {answer:?}"));
        let answer = answer.as_ref().map(opened).map_err(Refused::reason);
        self.done(|model| model.open_producer(saying, answer.as_ref().map_err(|it| *it)))?;
        let Ok(opened) = answer else {
            return Err(self.wrong(format!("{saying:?} is forgotten")));
        };
        let epoch = opened.epoch;
        let before = self.producers[producer].opening.replace(stream);
        let fenced = self.producers[producer].stream.take().or(before);
        self.later(lsn, Told::Producer(producer, ToldProducer::Opened(stream, opened)))?;
        fenced.map_or(Ok(()), |fenced| self.check_fenced(epoch, fenced))
    }

    /// Nothing is taken on a stream that another one has taken the place of.
    fn check_fenced(&self, epoch: u64, stream: StreamId) -> Result<(), Stopped> {
        let on = OnStream { producer: epoch, stream, batch: u64::MAX, confirmed_through: 0 };
        let publish = Publish { messages: Vec::new() };
        let turn =
            self.world.engine.turn(|core, now, out| core.publish_batch(&publish, on, now, out))?;
        match turn.1.map_err(|refused| refused.reason()) {
            Err("PRODUCER_FENCED") => Ok(()),
            other => Err(self.wrong(format!("on a stream that was replaced: {other:?}"))),
        }
    }

    fn on(&self, producer: usize, stream: StreamId, batch: u64) -> OnStream {
        let Producer { epoch, confirmed, .. } = self.producers[producer];
        OnStream { producer: epoch, stream, batch, confirmed_through: confirmed }
    }

    /// Sends the next batch.
    pub(super) fn publish_numbered(
        &mut self,
        producer: usize,
        offers: &[Offer],
    ) -> Result<(), Stopped> {
        let it = &self.producers[producer];
        if it.stream.is_none() {
            return self.open_producer(producer);
        }
        if self.has_enough() || 5 < it.sent.len() {
            return Ok(());
        }
        let last = it.sent.last_key_value().map_or(0, |(batch, _)| *batch);
        let batch = 1 + last.max(it.confirmed);
        let messages: Vec<_> = offers.iter().map(|offer| (*offer, self.offered(offer).1)).collect();
        self.producers[producer].sent.insert(batch, messages);
        self.send_batch(producer, batch)
    }

    /// Sends a batch again that may have been answered.
    pub(super) fn repeat_batch(&mut self, producer: usize) -> Result<(), Stopped> {
        let it = &self.producers[producer];
        let last = it.sent.last_key_value().map(|(batch, _)| *batch);
        match last.filter(|_| it.stream.is_some()) {
            Some(batch) => self.send_batch(producer, batch),
            None => Ok(()),
        }
    }

    fn send_batch(&mut self, producer: usize, batch: u64) -> Result<(), Stopped> {
        let it = &self.producers[producer];
        let Some(stream) = it.stream else { return Ok(()) };
        let (offers, mut news): (Vec<Offer>, Vec<New>) = it.sent[&batch].iter().copied().unzip();
        // Delays run from now on.
        let messages = offers.iter().zip(&mut news).map(|(offer, new)| {
            let (message, now) = self.message(offer, new.number);
            *new = now;
            message
        });
        let publish = Publish { messages: messages.collect() };
        let on = self.on(producer, stream, batch);
        let turn =
            self.world.engine.turn(|core, now, out| core.publish_batch(&publish, on, now, out));
        let (lsn, answer) = turn?;
        let outcome =
            answer.map_err(|refused| self.wrong(format!("{on:?} is refused: {refused}")))?;
        self.note(format!("publish {on:?} {news:?}: {outcome:?}"));
        if outcome.first.0 != 0
            && outcome.first.0 <= self.last_told
            && self.is_first(producer, batch)
        {
            return Err(self.wrong(format!("{outcome:?} is not after {}", self.last_told)));
        }
        let (saying, now) = (self.saying(producer), self.world.time());
        let fate = fate(&outcome);
        self.done(|model| model.publish_numbered((saying, batch), &news, &fate, now))?;
        self.later(lsn, Told::Producer(producer, ToldProducer::Answered(batch)))
    }

    /// Whether nobody can have taken this batch before.
    fn is_first(&self, producer: usize, batch: u64) -> bool {
        self.timeline.now().has_no_fate(PRODUCERS[producer], batch)
    }

    /// What a client does when it is told.
    pub(super) fn producer_hears(
        &mut self,
        producer: usize,
        told: ToldProducer,
    ) -> Result<(), Stopped> {
        let it = &mut self.producers[producer];
        match told {
            ToldProducer::Opened(stream, opened) => {
                if it.opening != Some(stream) {
                    return Ok(());
                }
                (it.opening, it.stream, it.epoch) = (None, Some(stream), opened.epoch);
                it.confirmed = it.confirmed.max(opened.through);
                it.sent.retain(|batch, _| opened.through < *batch);
                // The others again, in order.
                let again: Vec<u64> = it.sent.keys().copied().collect();
                again.into_iter().try_for_each(|batch| self.send_batch(producer, batch))
            }
            ToldProducer::Answered(batch) => {
                it.confirmed = it.confirmed.max(batch);
                it.sent.retain(|other, _| batch < *other);
                Ok(())
            }
        }
    }

    /// The broker went down: streams are gone.
    pub(super) fn lose_producers(&mut self) {
        for producer in &mut self.producers {
            (producer.stream, producer.opening) = (None, None);
        }
    }
}
