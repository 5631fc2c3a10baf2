//! Which kept records are still needed, counted per segment.

mod bits;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use bits::Bits;
pub use kept::Kept;

use crate::cold::column::Column;
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

/// How many records are moved to a cold segment under one hold of the lock.
const ADOPTED_AT_ONCE: usize = 4096;

#[derive(Debug, Default)]
struct Segments {
    /// In the order of their LSNs. Those without records have an empty span.
    spans: Vec<Span>,
    /// What was copied out of segments that are gone.
    cold: Vec<ColdSpan>,
    /// Retired before the writer gave them a place.
    early: BTreeSet<u64>,
    /// LSNs from here on have no place yet.
    placed_to: u64,
    /// While recovering: kept by the owner, but their segment is not there.
    orphans: BTreeSet<u64>,
    /// While recovering: the first LSN retired that nothing kept.
    unkept: Option<u64>,
    recovering: bool,
    /// Facts are lost, so what was kept and what was retired need not fit.
    tolerant: bool,
}

#[derive(Debug)]
struct Span {
    seq: u64,
    first: u64,
    /// The LSN after its last.
    end: u64,
    bits: Bits,
}

#[derive(Debug)]
struct ColdSpan {
    seq: u64,
    column: Arc<Column>,
    bits: Bits,
    /// A repair could not save which records were here: what lives and is nowhere else was.
    given_up: BTreeSet<u64>,
}

impl Span {
    fn new(seq: u64, first: Lsn, end: Lsn) -> Self {
        Self { seq, first: first.0, end: end.0, bits: Bits::default() }
    }

    fn place(&self, lsn: u64) -> usize {
        usize::try_from(lsn - self.first).expect("a segment holds fewer records than bytes")
    }

    fn set(&mut self, lsn: u64, alive: bool) -> bool {
        let at = self.place(lsn);
        self.bits.set(at, alive)
    }

    fn live_lsns(&self) -> impl Iterator<Item = Lsn> {
        self.bits.iter().map(|at| Lsn(self.first + at as u64))
    }
}

impl ColdSpan {
    fn new(seq: u64, column: Arc<Column>) -> Self {
        Self { seq, column, bits: Bits::default(), given_up: BTreeSet::new() }
    }

    fn live(&self) -> u64 {
        self.bits.live + self.given_up.len() as u64
    }

    fn live_lsns(&self) -> impl Iterator<Item = Lsn> {
        self.column.iter().enumerate().filter(|(at, _)| self.bits.is_set(*at)).map(|(_, lsn)| lsn)
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
            if segments.set(lsn, true).is_some() {
                continue;
            }
            assert!(segments.recovering, "LSN {lsn} is kept but not in the log");
            segments.orphans.insert(lsn.0);
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

    /// While recovering: says that facts are lost which told what is needed, so that what was kept
    /// and what was retired need not fit each other.
    pub fn tolerate(&self) {
        self.shared.lock().tolerant = true;
    }

    /// How many records are kept, in all segments; for figures.
    #[must_use]
    pub fn live_records(&self) -> u64 {
        let segments = self.shared.lock();
        let cold: u64 = segments.cold.iter().map(ColdSpan::live).sum();
        cold + segments.spans.iter().map(|span| span.bits.live).sum::<u64>()
    }

    /// Whether the record is kept.
    #[must_use]
    pub fn is_kept(&self, lsn: Lsn) -> bool {
        self.holder(lsn).is_some()
    }

    /// The segment that the record is kept in.
    pub(crate) fn holder(&self, lsn: Lsn) -> Option<u64> {
        let segments = self.shared.lock();
        let hot = segments.find(lsn.0).map(|at| &segments.spans[at]);
        if let Some(span) = hot.filter(|span| span.bits.is_set(span.place(lsn.0))) {
            return Some(span.seq);
        }
        let holds = |cold: &&ColdSpan| {
            let copied = cold.column.find(lsn).is_some_and(|(at, _)| cold.bits.is_set(at));
            copied || cold.given_up.contains(&lsn.0)
        };
        segments.cold.iter().find(holds).map(|cold| cold.seq)
    }

    /// LSNs from here on have no place in a segment yet.
    pub(crate) fn placed_to(&self) -> Lsn {
        Lsn(self.shared.lock().placed_to)
    }

    /// What is kept at this moment; `appended`, in order, is everything that has no place yet.
    pub(crate) fn kept<'a>(&self, appended: impl Iterator<Item = (Lsn, &'a FrozenBatch)>) -> Kept {
        let segments = self.shared.lock();
        let live = segments.spans.iter().filter(|span| 0 < span.bits.live);
        let mut kept = Kept {
            spans: live.map(|span| (Lsn(span.first), span.bits.words.clone())).collect(),
            cold: segments.cold.iter().map(|s| (Arc::clone(&s.column), s.bits.clone())).collect(),
            unplaced: Vec::new(),
        };
        for (first, batch) in appended {
            let kept_ones = (first.0..).zip(&batch.records).filter(|(lsn, record)| {
                record.retention == Retention::Keep
                    && segments.placed_to <= *lsn
                    && !segments.early.contains(lsn)
            });
            kept.unplaced.extend(kept_ones.map(|(lsn, _)| Lsn(lsn)));
        }
        kept
    }

    /// A liveness over the segments that a start found, taking what the replay says.
    pub(crate) fn recovering(spans: impl Iterator<Item = (u64, Lsn, Lsn)>) -> Self {
        let spans: Vec<_> = spans.map(|(seq, first, end)| Span::new(seq, first, end)).collect();
        let placed_to = spans.last().map_or(1, |span| span.end);
        let segments = Segments { spans, placed_to, recovering: true, ..Segments::default() };
        Self { shared: Arc::new(Mutex::new(segments)) }
    }

    /// Ends the recovery. The first LSN, if any, that is kept without a segment, or that was
    /// retired without having been kept.
    pub(crate) fn recovered(&self) -> (Option<Lsn>, Option<Lsn>) {
        let mut segments = self.shared.lock();
        segments.recovering = false;
        if segments.tolerant {
            segments.orphans.clear();
            segments.unkept = None;
        }
        (segments.orphans.first().copied().map(Lsn), segments.unkept.map(Lsn))
    }

    /// A segment begins; the records to come are in it.
    pub(crate) fn begin(&self, seq: u64, first: Lsn) {
        let mut segments = self.shared.lock();
        debug_assert_eq!(segments.placed_to, first.0, "segments follow each other");
        segments.placed_to = first.0;
        segments.spans.push(Span::new(seq, first, first));
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
        let cold = segments.cold.iter().find(|span| span.seq == seq).map(ColdSpan::live);
        let hot = || segments.spans.iter().find(|span| span.seq == seq).map(|span| span.bits.live);
        cold.or_else(hot).unwrap_or(0)
    }

    /// How many records live in each segment.
    pub(crate) fn live_counts(&self) -> BTreeMap<u64, u64> {
        let segments = self.shared.lock();
        let hot = segments.spans.iter().map(|span| (span.seq, span.bits.live));
        hot.chain(segments.cold.iter().map(|span| (span.seq, span.live()))).collect()
    }

    /// The records that live in a segment, in order.
    pub(crate) fn live_lsns(&self, seq: u64) -> Vec<Lsn> {
        let segments = self.shared.lock();
        if let Some(span) = segments.spans.iter().find(|span| span.seq == seq) {
            return span.live_lsns().collect();
        }
        let cold = segments.cold.iter().find(|span| span.seq == seq);
        cold.map(|span| span.live_lsns().collect()).unwrap_or_default()
    }

    /// A segment was dropped.
    pub(crate) fn forget(&self, seq: u64) {
        let mut segments = self.shared.lock();
        segments.spans.retain(|span| span.seq != seq);
        segments.cold.retain(|span| span.seq != seq);
    }

    /// A cold segment that a start found; what lives in it, the owner and the replay say.
    pub(crate) fn add_cold(&self, seq: u64, column: Arc<Column>) {
        self.shared.lock().cold.push(ColdSpan::new(seq, column));
    }

    /// A cold segment takes the place of `victims`: what lives in them lives in it now.
    ///
    /// While recovering, what lived in victims whose files are gone comes from the orphans, and
    /// what `column` does not have goes there: its retirement may follow.
    ///
    /// # Panics
    /// When something lives in a victim that was not copied, once recovered.
    pub(crate) fn adopt(&self, seq: u64, column: &Arc<Column>, victims: &[u64]) {
        {
            let mut segments = self.shared.lock();
            if segments.cold.iter().all(|span| span.seq != seq) {
                segments.cold.push(ColdSpan::new(seq, Arc::clone(column)));
            }
        }
        let lsns: Vec<(usize, Lsn)> = column.iter().enumerate().collect();
        // A few at a time: whoever retires records does so under a lock of his own. Each is alive in
        // one place at any moment.
        for lsns in lsns.chunks(ADOPTED_AT_ONCE) {
            self.shared.lock().take_over(seq, lsns);
        }
        self.shared.lock().release(victims);
    }

    /// While recovering: segments went whose successor is not there either.
    pub(crate) fn release(&self, seqs: &[u64]) {
        self.shared.lock().release(seqs);
    }

    /// While recovering: a repair could not save which records this cold segment held, so what is
    /// needed and nowhere else, between its first and its last, was there.
    pub(crate) fn give_up_in(&self, seq: u64, first: Lsn, last: Lsn) {
        let mut segments = self.shared.lock();
        let missing: BTreeSet<u64> = segments.orphans.range(first.0..=last.0).copied().collect();
        segments.orphans.retain(|lsn| !missing.contains(lsn));
        if let Some(span) = segments.cold.iter_mut().find(|span| span.seq == seq) {
            span.given_up.extend(missing);
        }
    }

    /// Whether a repair gave the record up together with where it was.
    pub(crate) fn is_given_up(&self, lsn: Lsn) -> bool {
        self.shared.lock().cold.iter().any(|cold| cold.given_up.contains(&lsn.0))
    }
}

impl Segments {
    /// The span of an LSN.
    fn find(&self, lsn: u64) -> Option<usize> {
        let after = self.spans.partition_point(|span| span.first <= lsn);
        let at = after.checked_sub(1)?;
        (lsn < self.spans[at].end).then_some(at)
    }

    /// Makes a record live or not; whether that changed anything, `None` where it is not in the
    /// log.
    fn set(&mut self, lsn: Lsn, alive: bool) -> Option<bool> {
        let mut known = None;
        if let Some(at) = self.find(lsn.0) {
            let changed = self.spans[at].set(lsn.0, alive);
            known = Some(changed);
            if alive || changed {
                return known;
            }
        }
        for cold in &mut self.cold {
            let changed = match cold.column.find(lsn) {
                Some((at, _)) => cold.bits.set(at, alive),
                None if alive || !cold.given_up.remove(&lsn.0) => continue,
                None => true,
            };
            known = Some(known.unwrap_or(false) || changed);
            // The copy being adopted, or one that a crash left, may be beside it: one of them lives.
            if alive || changed {
                break;
            }
        }
        known
    }

    /// Moves what lives among these of a cold segment's records to it.
    fn take_over(&mut self, seq: u64, lsns: &[(usize, Lsn)]) {
        let cold = self.cold.iter().position(|span| span.seq == seq);
        let cold = cold.expect("it was added before");
        for &(at, lsn) in lsns {
            let alive = self.set(lsn, false) == Some(true) || self.orphans.remove(&lsn.0);
            if alive {
                self.cold[cold].bits.set(at, true);
            }
        }
    }

    /// Whether there was something to retire.
    fn retire(&mut self, lsn: u64) -> bool {
        match self.set(Lsn(lsn), false) {
            Some(changed) if changed || !self.recovering => changed,
            _ if self.recovering => self.orphans.remove(&lsn),
            _ => self.placed_to <= lsn && self.early.insert(lsn),
        }
    }

    fn release(&mut self, seqs: &[u64]) {
        let gone = |seq: &u64| seqs.contains(seq);
        let mut left: Vec<Lsn> = Vec::new();
        for span in self.spans.extract_if(.., |span| gone(&span.seq)) {
            left.extend(span.live_lsns());
        }
        for span in self.cold.extract_if(.., |span| gone(&span.seq)) {
            left.extend(span.live_lsns());
            left.extend(span.given_up.iter().copied().map(Lsn));
        }
        assert!(left.is_empty() || self.recovering, "LSN {left:?} lives but was not copied");
        self.orphans.extend(left.iter().map(|lsn| lsn.0));
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
