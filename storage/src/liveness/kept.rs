//! Which records were kept at one moment.

use std::sync::Arc;

use super::bits::Bits;
use crate::cold::column::Column;
use crate::lsn::Lsn;

/// The records that were kept at one moment; for the owner's checkpoint of that moment.
#[derive(Debug, Default)]
pub struct Kept {
    /// An LSN, and a bit for each from it on.
    pub(super) spans: Vec<(Lsn, Vec<u64>)>,
    /// The LSNs of cold segments, and a bit for each.
    pub(super) cold: Vec<(Arc<Column>, Bits)>,
    pub(super) unplaced: Vec<Lsn>,
}

/// Words of zeros that cost less than a new run.
const GAP_WORDS: u64 = 4;

impl Kept {
    /// Runs of LSNs as bits: the first LSN, and for each 64 from it on a word, the lowest bit
    /// first. Together they say which records are kept.
    pub fn runs(&self) -> impl Iterator<Item = (Lsn, Vec<u64>)> {
        let cold = self.cold.iter().flat_map(|(column, bits)| {
            as_runs(
                column.iter().enumerate().filter(|(at, _)| bits.is_set(*at)).map(|(_, lsn)| lsn),
            )
        });
        self.spans.iter().cloned().chain(cold).chain(as_runs(self.unplaced.iter().copied()))
    }
}

/// LSNs in ascending order as runs of bits.
fn as_runs(lsns: impl Iterator<Item = Lsn>) -> Vec<(Lsn, Vec<u64>)> {
    let mut runs: Vec<(Lsn, Vec<u64>)> = Vec::new();
    for lsn in lsns {
        let place = |(first, words): &(Lsn, Vec<u64>)| {
            let word = (lsn.0 - first.0) / 64;
            (word < words.len() as u64 + GAP_WORDS).then_some(word)
        };
        let word = runs.last().and_then(place).unwrap_or_else(|| {
            runs.push((lsn, Vec::new()));
            0
        });
        let (first, words) = runs.last_mut().expect("there is one by now");
        let word = usize::try_from(word).expect("near the end of a vector");
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << ((lsn.0 - first.0) % 64);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_of_every_part_which_lsns_are_kept() {
        let mut column = Column::default();
        column.push_block(0, [3, 70, 900].map(Lsn));
        let mut bits = Bits::default();
        assert!(bits.set(0, true) && bits.set(2, true));
        let kept = Kept {
            spans: vec![(Lsn(1_000), vec![0b101, 1])],
            cold: vec![(Arc::new(column), bits)],
            unplaced: [2_000, 2_063, 2_064, 9_999].map(Lsn).to_vec(),
        };
        let mut lsns = Vec::new();
        for (first, words) in kept.runs() {
            for (at, word) in (0..).zip(words) {
                let set = (0..64).filter(|bit| word >> bit & 1 == 1);
                lsns.extend(set.map(|bit| first.0 + at * 64 + bit));
            }
        }
        assert_eq!(lsns, [1_000, 1_002, 1_064, 3, 900, 2_000, 2_063, 2_064, 9_999]);
    }
}
