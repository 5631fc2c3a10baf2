//! Numbered batches of producers: each is stored once, and answered as it was.

use std::collections::BTreeMap;

use super::calls::{New, Refusal};
use super::{Model, Sequence, Time, Wrong};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The first message that was stored, zero where none was, and the positions of duplicates.
    Stored(Sequence, Vec<u32>),
    Refused(String),
}

/// A producer as the broker knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producer {
    pub(crate) epoch: u64,
    /// The last batch that was stored.
    stored: u64,
    /// The last one that has a fate.
    through: u64,
    /// Of those whose answer the client may not have.
    fates: BTreeMap<u64, Fate>,
}

/// What a client says when it opens a producer, and when it sends a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) name: &'static str,
    pub(crate) epoch: u64,
    /// It has the answers of all batches up to this one.
    pub(crate) confirmed: u64,
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) epoch: u64,
    pub(crate) through: u64,
    pub(crate) missed: BTreeMap<u64, Fate>,
}

impl Model {
    /// A producer is opened, new or again.
    pub(crate) fn open_producer(
        &mut self,
        opening: Opening,
        answer: Result<&Opened, Refusal>,
    ) -> Result<(), Wrong> {
        let Opening { name, epoch, confirmed } = opening;
        let known = self.producers.get(name);
        let is_known = match known {
            None => epoch == 0,
            Some(it) if epoch == 0 => it.through == 0,
            Some(it) => {
                let unseen = it.through.saturating_sub(confirmed);
                it.epoch == epoch && it.fates.range(confirmed + 1..).count() as u64 == unseen
            }
        };
        let opened = match answer {
            Err("PRODUCER_UNKNOWN") if !is_known => return Ok(()),
            Ok(opened) if is_known => opened,
            other => return Err(format!("opening {opening:?}: {other:?}, and it is {known:?}")),
        };
        let producer = self
            .producers
            .entry(name)
            .or_insert_with(|| Producer { epoch: opened.epoch, ..Producer::default() });
        producer.through = producer.through.max(confirmed);
        let missed: BTreeMap<_, _> =
            producer.fates.range(confirmed + 1..).map(|(at, fate)| (*at, fate.clone())).collect();
        let expected = (producer.epoch, producer.through, &missed);
        if (opened.epoch, opened.through, &opened.missed) == expected {
            return Ok(());
        }
        Err(format!("opening {opening:?}: {opened:?}, expected {expected:?}"))
    }

    /// A batch of a producer's stream, and what it was answered; its messages in full where they were
    /// stored.
    pub(crate) fn publish_numbered(
        &mut self,
        (opening, batch): (Opening, u64),
        messages: &[New],
        fate: &Fate,
        now: Time,
    ) -> Result<(), Wrong> {
        let name = opening.name;
        let producer = &self.producers[name];
        if batch <= producer.through {
            return match producer.fates.get(&batch) {
                Some(before) if before == fate => Ok(()),
                before => Err(format!("{name} {batch}: {fate:?}, and it was {before:?}")),
            };
        }
        if batch != producer.through + 1 {
            return Err(format!("{name} {batch} is taken after {}", producer.through));
        }
        match fate {
            Fate::Refused(reason) => self.publish(messages, Err(reason), now)?,
            Fate::Stored(first, duplicates) => {
                let mut next = *first;
                let receipts = (0..).zip(messages).map(|(at, _)| {
                    let is_duplicate = duplicates.contains(&at);
                    let sequence = if is_duplicate { 0 } else { next };
                    next += u64::from(!is_duplicate);
                    (sequence, is_duplicate)
                });
                let receipts: Vec<_> = receipts.collect();
                self.publish(messages, Ok(&receipts), now)?;
            }
        }
        let producer = self.producers.get_mut(name).expect("it was there just now");
        producer.through = batch;
        producer.fates.insert(batch, fate.clone());
        if matches!(fate, Fate::Stored(..)) {
            producer.stored = batch;
            producer.fates.retain(|at, _| opening.confirmed < *at);
        }
        Ok(())
    }

    /// Whether a batch is the next one.
    pub(crate) fn has_no_fate(&self, name: &str, batch: u64) -> bool {
        self.producers.get(name).is_none_or(|producer| producer.through < batch)
    }

    /// A start knows no refusals that nothing stored has followed.
    pub(super) fn forget_refusals(&mut self) {
        for producer in self.producers.values_mut() {
            producer.through = producer.stored;
            producer.fates.retain(|at, _| *at <= producer.stored);
        }
    }
}
