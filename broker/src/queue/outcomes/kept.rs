//! The outcomes of a queue, the oldest first: where the record of each is, and when it was written.

use std::collections::VecDeque;
use std::sync::Arc;

use qbroker_storage::Lsn;

use crate::queue::ids::QueueId;

/// Outcomes that are shared as one piece with whoever looks at them.
const CHUNK: usize = 1_024;

/// Where an outcome is. Twenty-four bytes are all the memory that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The message.
    pub birth: Lsn,
    /// The record that tells the outcome.
    pub record: Lsn,
    /// When it was written.
    pub wall_ms: u64,
}

/// A queue's outcomes, in the order of their records.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// None is empty; all but the last were full.
    chunks: VecDeque<Arc<Vec<Entry>>>,
    /// Of the first chunk, how many are forgotten.
    forgotten: usize,
    len: usize,
    /// When the first is to be forgotten, as it was noted.
    pub(super) expiry: Option<u64>,
}

impl Kept {
    pub(super) fn push(&mut self, entry: Entry) {
        match self.chunks.back_mut().filter(|last| last.len() < CHUNK) {
            // Copied, where somebody looks at it just now.
            Some(last) => Arc::make_mut(last).push(entry),
            None => self.chunks.push_back(Arc::new(vec![entry])),
        }
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let first = *self.first()?;
        self.forgotten += 1;
        self.len -= 1;
        if self.chunks.front().is_some_and(|chunk| chunk.len() == self.forgotten) {
            self.chunks.pop_front();
            self.forgotten = 0;
        }
        Some(first)
    }

    pub(super) fn first(&self) -> Option<&Entry> {
        self.chunks.front()?.get(self.forgotten)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What there is, to be looked at later. Cheap.
    pub(super) fn frozen(&self) -> Self {
        self.clone()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).skip(self.forgotten)
    }
}

/// The outcomes of one moment, by queue.
#[derive(Debug)]
pub struct FrozenOutcomes {
    queues: Vec<(QueueId, Kept)>,
}

impl FrozenOutcomes {
    pub(super) fn new(queues: Vec<(QueueId, Kept)>) -> Self {
        Self { queues }
    }

    /// The record of a message's outcome. Looks through all of them: a few milliseconds for a million.
    pub fn find(&self, birth: Lsn) -> Option<Lsn> {
        let mut all = self.queues.iter().flat_map(|(_, kept)| kept.iter());
        all.find(|entry| entry.birth == birth).map(|entry| entry.record)
    }

    /// The outcomes of each queue, in pieces of a size that depends on nothing else.
    pub fn pieces(&self) -> impl Iterator<Item = (QueueId, Vec<Entry>)> {
        self.queues.iter().flat_map(|(queue, kept)| {
            let all: Vec<&Entry> = kept.iter().collect();
            let pieces: Vec<_> =
                all.chunks(CHUNK).map(|piece| piece.iter().copied().copied().collect()).collect();
            pieces.into_iter().map(|piece| (*queue, piece))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry { birth: Lsn(number), record: Lsn(number + 1), wall_ms: number }
    }

    #[test]
    fn what_somebody_looks_at_stays_as_it_was() {
        let mut kept = Kept::default();
        (0..2_500).for_each(|number| kept.push(entry(number)));
        (0..1_500).for_each(|number| assert_eq!(kept.pop(), Some(entry(number))));
        let frozen = kept.frozen();
        (2_500..2_600).for_each(|number| kept.push(entry(number)));
        (1_500..2_600).for_each(|number| assert_eq!(kept.pop(), Some(entry(number))));
        assert_eq!((kept.pop(), kept.len(), kept.first()), (None, 0, None));
        assert!(frozen.iter().copied().eq((1_500..2_500).map(entry)));
        let frozen = FrozenOutcomes::new(vec![(QueueId(1), frozen)]);
        assert_eq!(frozen.find(Lsn(2_000)), Some(Lsn(2_001)));
        assert_eq!((frozen.find(Lsn(1_499)), frozen.find(Lsn(2_500))), (None, None));
        let sizes: Vec<usize> = frozen.pieces().map(|(_, piece)| piece.len()).collect();
        assert_eq!(sizes, [1_000]);
    }
}
