//! The order in which the ready messages of a queue are delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qbroker_storage::Lsn;

/// Where a message stands: its place, and its birth among those that share it.
type Stand = (Lsn, Lsn);

/// By rank, the most urgent first; within a rank by place, then birth.
#[derive(Debug, Default)]
pub(super) struct ReadyOrder {
    lines: BTreeMap<u8, Line>,
    len: usize,
}

/// Nearly everything joins at the end and leaves at the front; what comes back to an earlier place is
/// kept apart. Invariant: `joined` is sorted, and no message is in both.
#[derive(Debug, Default)]
struct Line {
    joined: VecDeque<Stand>,
    returned: BTreeSet<Stand>,
}

impl ReadyOrder {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, rank: u8, place: Lsn, birth: Lsn) {
        let line = self.lines.entry(rank).or_default();
        let stand = (place, birth);
        if line.joined.back().is_none_or(|last| *last < stand) {
            line.joined.push_back(stand);
        } else {
            line.returned.insert(stand);
        }
        self.len += 1;
    }

    /// Takes a message out; whether it was there.
    pub(super) fn remove(&mut self, rank: u8, place: Lsn, birth: Lsn) -> bool {
        let was_there = self.lines.get_mut(&rank).is_some_and(|line| line.remove((place, birth)));
        self.len -= usize::from(was_there);
        was_there
    }

    /// The births of up to `max` messages that are wanted last, the last first: of the least urgent
    /// line that has `least` of them, so that what goes into a page comes back together; of all lines
    /// where none has so many.
    pub(super) fn wanted_last(&self, max: usize, least: usize) -> Vec<Lsn> {
        let mut lines = self.lines.values().rev();
        let births = |line: &Line| line.backwards().take(max).map(|(_, birth)| birth).collect();
        lines.find(|line| least <= line.len()).map_or_else(
            || {
                let all = self.lines.values().rev().flat_map(Line::backwards);
                all.take(max).map(|(_, birth)| birth).collect()
            },
            births,
        )
    }

    /// Rank, place and birth of every message, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, Lsn, Lsn)> {
        self.after(None)
    }

    /// [`Self::iter`], from behind this one on.
    pub(super) fn after(
        &self,
        last: Option<(u8, Lsn, Lsn)>,
    ) -> impl Iterator<Item = (u8, Lsn, Lsn)> {
        let first_rank = last.map_or(0, |(rank, ..)| rank);
        self.lines.range(first_rank..).flat_map(move |(&rank, line)| {
            let last = last.filter(|(of, ..)| *of == rank).map(|(_, place, birth)| (place, birth));
            line.after(last).map(move |(place, birth)| (rank, place, birth))
        })
    }
}

impl Line {
    fn remove(&mut self, stand: Stand) -> bool {
        if self.joined.front() == Some(&stand) {
            self.joined.pop_front();
            return true;
        }
        if self.joined.back() == Some(&stand) {
            self.joined.pop_back();
            return true;
        }
        if self.returned.remove(&stand) {
            return true;
        }
        let found = self.joined.binary_search(&stand);
        found.is_ok_and(|at| self.joined.remove(at).is_some())
    }

    fn len(&self) -> usize {
        self.joined.len() + self.returned.len()
    }

    /// Both parts as one order, from its end.
    fn backwards(&self) -> impl Iterator<Item = Stand> {
        let mut joined = self.joined.iter().rev().copied().peekable();
        let mut returned = self.returned.iter().rev().copied().peekable();
        std::iter::from_fn(move || match (joined.peek(), returned.peek()) {
            (Some(a), Some(b)) if a < b => returned.next(),
            (Some(_), _) => joined.next(),
            (None, _) => returned.next(),
        })
    }

    /// Both parts as one order.
    fn after(&self, stand: Option<Stand>) -> impl Iterator<Item = Stand> {
        let from = stand.map_or(0, |stand| self.joined.partition_point(|other| *other <= stand));
        let mut joined = self.joined.range(from..).copied().peekable();
        let begin = stand.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut returned =
            self.returned.range((begin, std::ops::Bound::Unbounded)).copied().peekable();
        std::iter::from_fn(move || match (joined.peek(), returned.peek()) {
            (Some(a), Some(b)) if b < a => returned.next(),
            (Some(_), _) => joined.next(),
            (None, _) => returned.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_returns_to_an_earlier_place_comes_first_again() {
        let mut order = ReadyOrder::default();
        let births = |order: &ReadyOrder| order.iter().map(|(_, _, b)| b.0).collect::<Vec<_>>();
        for lsn in [1, 2, 3, 9] {
            order.insert(5, Lsn(lsn), Lsn(lsn));
        }
        assert!(order.remove(5, Lsn(1), Lsn(1)));
        assert!(order.remove(5, Lsn(3), Lsn(3)), "from the middle");
        assert!(!order.remove(5, Lsn(3), Lsn(3)));
        order.insert(5, Lsn(1), Lsn(1));
        order.insert(4, Lsn(20), Lsn(20));
        order.insert(5, Lsn(9), Lsn(4));
        assert_eq!(births(&order), [20, 1, 2, 4, 9]);
        assert_eq!(order.len(), 5);
        let rest: Vec<u64> = order.after(Some((5, Lsn(1), Lsn(1)))).map(|(_, _, b)| b.0).collect();
        assert_eq!(rest, [2, 4, 9]);
        let last = |max, least| {
            order.wanted_last(max, least).iter().map(|birth| birth.0).collect::<Vec<_>>()
        };
        assert_eq!(last(3, 1), [9, 4, 2]);
        assert_eq!(last(9, 4), [9, 4, 2, 1], "of one line");
        assert_eq!(last(9, 5), [9, 4, 2, 1, 20], "of all, where none has so many");
    }
}
