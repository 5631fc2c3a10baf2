//! Which kept records are still needed, counted per segment.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::lsn::Lsn;
use crate::record::{FrozenBatch, Retention};

/// Which kept records are still needed, one bit each, counted per segment.
///
/// Appended [`Retention::Keep`] records count by themselves, also in replay. The owner says
/// [`Liveness::keep`] for what its checkpoint holds, and [`Liveness::retire`] for what nothing
/// needs any more. A segment in which nothing lives can be dropped.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    shared: Arc<Mutex<Segments>>,
}

#[derive(Debug, Default)]
struct Segments {
    /// In the order of their LSNs. Those without records have an empty span.
    spans: Vec<Span>,
    /// Retired before the writer gave them a place.
    early: BTreeSet<u64>,
    /// LSNs from here on have no place yet.
    placed_to: u64,
    /// While recovering: kept by the owner, but their segment is not there.
    orphans: BTreeSet<u64>,
    /// While recovering: the first LSN retired that nothing kept.
    unkept: Option<u64>,
    recovering: bool,
}

#[derive(Debug)]
struct Span {
    seq: u64,
    first: u64,
    /// The LSN after its last.
    end: u64,
    live: u64,
    bits: Vec<u64>,
}

impl Span {
    /// Sets or clears a bit; whether that changed it.
    fn set(&mut self, lsn: u64, alive: bool) -> bool {
        let at = lsn - self.first;
        let word = usize::try_from(at / 64).expect("a segment holds fewer records than bytes");
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let mask = 1 << (at % 64);
        let was = self.bits[word] & mask != 0;
        if was == alive {
            return false;
        }
        self.bits[word] ^= mask;
        if alive {
            self.live += 1;
        } else {
            self.live -= 1;
        }
        true
    }
}

impl Liveness {
    /// Says that these records are needed; one that is kept already stays so.
    ///
    /// While recovering, a record whose segment is missing may be kept: its retirement may follow.
    ///
    /// # Panics
    /// When a record is not in the log any more, once recovered: a bug of the owner.
    pub fn keep(&self, lsns: &[Lsn]) {
        let mut segments = self.shared.lock();
        for &lsn in lsns {
            match segments.find(lsn.0) {
                Some(at) => {
                    segments.spans[at].set(lsn.0, true);
                }
                None if segments.recovering => {
                    segments.orphans.insert(lsn.0);
                }
                None => panic!("LSN {lsn} is kept but not in the log"),
            }
        }
    }

    /// Says that nothing needs these records any more, each once.
    ///
    /// # Panics
    /// When a record is not kept, once recovered: a bug of the owner that would let a segment go
    /// while something lives in it.
    pub fn retire(&self, lsns: &[Lsn]) {
        let mut segments = self.shared.lock();
        for &lsn in lsns {
            if !segments.retire(lsn.0) {
                assert!(segments.recovering, "LSN {lsn} is retired but nothing kept it");
                segments.unkept.get_or_insert(lsn.0);
            }
        }
    }

    /// How many records are kept, in all segments; for figures.
    #[must_use]
    pub fn live_records(&self) -> u64 {
        self.shared.lock().spans.iter().map(|span| span.live).sum()
    }

    /// Whether the record is kept.
    #[must_use]
    pub fn is_kept(&self, lsn: Lsn) -> bool {
        let segments = self.shared.lock();
        segments.find(lsn.0).is_some_and(|at| {
            let span = &segments.spans[at];
            let place = lsn.0 - span.first;
            let word = usize::try_from(place / 64).unwrap_or(usize::MAX);
            span.bits.get(word).is_some_and(|bits| bits & (1 << (place % 64)) != 0)
        })
    }

    /// What is kept at this moment, `appended` being what may have no place yet, in order.
    pub(crate) fn kept<'a>(&self, appended: impl Iterator<Item = (Lsn, &'a FrozenBatch)>) -> Kept {
        let segments = self.shared.lock();
        let spans = segments.spans.iter().filter(|span| 0 < span.live);
        let spans = spans.map(|span| (Lsn(span.first), span.bits.clone())).collect();
        let mut rest = Vec::new();
        for (first, batch) in appended {
            for (lsn, record) in (first.0..).zip(&batch.records) {
                let is_placed = lsn < segments.placed_to;
                let is_retired = segments.early.contains(&lsn);
                if record.retention == Retention::Keep && !is_placed && !is_retired {
                    rest.push(Lsn(lsn));
                }
            }
        }
        Kept { spans, rest }
    }

    /// A liveness over the segments that a start found, taking what the replay says.
    pub(crate) fn recovering(spans: impl Iterator<Item = (u64, Lsn, Lsn)>) -> Self {
        let spans: Vec<_> = spans
            .map(|(seq, first, end)| Span {
                seq,
                first: first.0,
                end: end.0,
                live: 0,
                bits: Vec::new(),
            })
            .collect();
        let placed_to = spans.last().map_or(1, |span| span.end);
        let segments = Segments { spans, placed_to, recovering: true, ..Segments::default() };
        Self { shared: Arc::new(Mutex::new(segments)) }
    }

    /// Ends the recovery. The first LSN, if any, that is kept without a segment, or that was
    /// retired without having been kept.
    pub(crate) fn recovered(&self) -> (Option<Lsn>, Option<Lsn>) {
        let mut segments = self.shared.lock();
        segments.recovering = false;
        (segments.orphans.first().copied().map(Lsn), segments.unkept.map(Lsn))
    }

    /// Forgets what a repair has accepted to be inconsistent.
    pub(crate) fn forgive(&self) {
        let mut segments = self.shared.lock();
        segments.orphans.clear();
        segments.unkept = None;
    }

    /// A segment begins; the records to come are in it.
    pub(crate) fn begin(&self, seq: u64, first: Lsn) {
        let mut segments = self.shared.lock();
        debug_assert_eq!(segments.placed_to, first.0, "segments follow each other");
        segments.placed_to = first.0;
        segments.spans.push(Span { seq, first: first.0, end: first.0, live: 0, bits: Vec::new() });
    }

    /// Batches got their place in the newest segment.
    pub(crate) fn place<'a>(&self, batches: impl Iterator<Item = (Lsn, &'a FrozenBatch)>) {
        let mut segments = self.shared.lock();
        let Segments { spans, early, placed_to, .. } = &mut *segments;
        let span = spans.last_mut().expect("a segment begins before records are placed");
        for (first, batch) in batches {
            span.end = first.0 + batch.records.len() as u64;
            *placed_to = span.end;
            if batch.keeps == 0 && early.is_empty() {
                continue;
            }
            for (lsn, record) in (first.0..).zip(&batch.records) {
                let retired = !early.is_empty() && early.remove(&lsn);
                match record.retention {
                    Retention::Keep if !retired => {
                        span.set(lsn, true);
                    }
                    Retention::Keep => {}
                    Retention::Passing => {
                        assert!(!retired, "LSN {lsn} is retired but was not to be kept");
                    }
                }
            }
        }
    }

    /// How many records live in a segment.
    pub(crate) fn live(&self, seq: u64) -> u64 {
        let segments = self.shared.lock();
        segments.spans.iter().find(|span| span.seq == seq).map_or(0, |span| span.live)
    }

    /// A segment was dropped.
    pub(crate) fn forget(&self, seq: u64) {
        self.shared.lock().spans.retain(|span| span.seq != seq);
    }
}

/// The records that were kept at one moment; for the owner's checkpoint of that moment.
#[derive(Debug, Default)]
pub struct Kept {
    /// An LSN, and a bit for each from it on.
    spans: Vec<(Lsn, Vec<u64>)>,
    /// Those that had no place yet.
    rest: Vec<Lsn>,
}

impl Kept {
    /// Runs of LSNs as bits: the first LSN, and for each 64 from it on a word, the lowest bit
    /// first. Together they say which records are kept.
    pub fn runs(&self) -> impl Iterator<Item = (Lsn, &[u64])> {
        const ONE: &[u64] = &[1];
        let spans = self.spans.iter().map(|(first, bits)| (*first, bits.as_slice()));
        spans.chain(self.rest.iter().map(|&lsn| (lsn, ONE)))
    }
}

impl Segments {
    /// The span of an LSN.
    fn find(&self, lsn: u64) -> Option<usize> {
        let after = self.spans.partition_point(|span| span.first <= lsn);
        let at = after.checked_sub(1)?;
        (lsn < self.spans[at].end).then_some(at)
    }

    /// Whether there was something to retire.
    fn retire(&mut self, lsn: u64) -> bool {
        match self.find(lsn) {
            Some(at) => self.spans[at].set(lsn, false),
            None if self.recovering => self.orphans.remove(&lsn),
            None => self.placed_to <= lsn && self.early.insert(lsn),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{Batch, Body};

    fn batch(retentions: &[Retention]) -> FrozenBatch {
        let mut batch = Batch::default();
        for &retention in retentions {
            batch.push(retention, Body::new(Bytes::new(), Bytes::new()), |_| ());
        }
        batch.freeze()
    }

    fn lsns(numbers: &[u64]) -> Vec<Lsn> {
        numbers.iter().copied().map(Lsn).collect()
    }

    #[test]
    fn a_record_retired_before_it_has_a_place_never_counts() {
        let liveness = Liveness::recovering(std::iter::empty());
        liveness.recovered();
        liveness.begin(1, Lsn(1));
        liveness.retire(&lsns(&[2]));
        let batch = batch(&[Retention::Keep, Retention::Keep, Retention::Passing]);
        liveness.place([(Lsn(1), &batch)].into_iter());
        assert_eq!((liveness.live(1), liveness.live_records()), (1, 1));
        liveness.begin(2, Lsn(4));
        liveness.place([(Lsn(4), &batch)].into_iter());
        liveness.retire(&lsns(&[1, 4]));
        assert_eq!((liveness.live(1), liveness.live(2)), (0, 1));
        liveness.forget(1);
        assert!(liveness.is_kept(Lsn(5)) && !liveness.is_kept(Lsn(4)));
    }

    #[test]
    #[should_panic(expected = "LSN 2 is retired but nothing kept it")]
    fn a_record_retired_twice_is_a_bug() {
        let liveness = Liveness::recovering([(1, Lsn(1), Lsn(9))].into_iter());
        liveness.keep(&lsns(&[2]));
        liveness.recovered();
        liveness.retire(&lsns(&[2, 2]));
    }

    #[test]
    fn while_recovering_a_missing_segment_may_be_kept_and_must_be_retired() {
        let liveness = Liveness::recovering([(3, Lsn(50), Lsn(90))].into_iter());
        liveness.keep(&lsns(&[7, 8, 60]));
        liveness.retire(&lsns(&[7]));
        assert_eq!(liveness.recovered(), (Some(Lsn(8)), None));
        let liveness = Liveness::recovering([(3, Lsn(50), Lsn(90))].into_iter());
        liveness.retire(&lsns(&[61]));
        assert_eq!(liveness.recovered(), (None, Some(Lsn(61))));
    }
}
