//! The order in which the ready messages of a queue are delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter::Peekable;

use qbroker_storage::Lsn;

use super::keys::Lane;

/// Where a message stands: its place, and its birth among those that share it.
pub(super) type Stand = (Lsn, Lsn);

/// A place in the order: rank, place, birth.
type Place = (u8, Lsn, Lsn);

/// A line may go into pages from so many on, where a queue has many of them.
const LINE_MIN: usize = 16;

/// By lane; in each by rank, the most urgent first; within a rank by place, then birth.
#[derive(Debug, Default)]
pub(super) struct ReadyOrder {
    lines: BTreeMap<(Lane, u8), Line>,
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

    pub(super) fn insert(&mut self, lane: Lane, (rank, place, birth): Place) {
        let line = self.lines.entry((lane, rank)).or_default();
        let stand = (place, birth);
        if line.joined.back().is_none_or(|last| *last < stand) {
            line.joined.push_back(stand);
        } else {
            line.returned.insert(stand);
        }
        self.len += 1;
    }

    /// Takes a message out; whether it was there.
    pub(super) fn remove(&mut self, lane: Lane, (rank, place, birth): Place) -> bool {
        let Some(line) = self.lines.get_mut(&(lane, rank)) else { return false };
        let was_there = line.remove((place, birth));
        self.len -= usize::from(was_there);
        // There may be very many, and what one has held in memory at a time it would keep.
        if lane != Lane::default() && line.len() == 0 {
            self.lines.remove(&(lane, rank));
        }
        was_there
    }

    /// The births of up to `max` messages of one lane that are wanted last, the last first: of the
    /// least urgent line that has `least` of them, so that what goes into a page comes back together;
    /// of all lines where none has so many.
    ///
    /// Where lanes take turns, it is the longest line, and half of it stays: the fronts of all are
    /// wanted soon.
    pub(super) fn wanted_last(&self, max: usize, least: usize) -> Vec<Lsn> {
        let births =
            |line: &Line, max| line.backwards().take(max).map(|(_, birth)| birth).collect();
        if self.lanes() {
            let enough = self.lines.iter().filter(|(_, line)| least.min(LINE_MIN) <= line.len());
            let longest = enough.max_by_key(|((_, rank), line)| (*rank, line.len()));
            return longest
                .map_or_else(Vec::new, |(_, line)| births(line, max.min(line.len().div_ceil(2))));
        }
        let mut lines = self.lines.values().rev();
        lines.find(|line| least <= line.len()).map_or_else(
            || {
                let all = self.lines.values().rev().flat_map(Line::backwards);
                all.take(max).map(|(_, birth)| birth).collect()
            },
            |line| births(line, max),
        )
    }

    /// Whether the messages are in more than one lane.
    fn lanes(&self) -> bool {
        let first = self.lines.first_key_value().map(|((lane, _), _)| *lane);
        first != self.lines.last_key_value().map(|((lane, _), _)| *lane)
    }

    /// The first rank of each lane that has messages.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (Lane, u8)> {
        let mut last = None;
        let filled = self.lines.iter().filter(|(_, line)| 0 < line.len());
        filled.filter_map(move |(&(lane, rank), _)| {
            let is_first = last.replace(lane) != Some(lane);
            is_first.then_some((lane, rank))
        })
    }

    /// Rank, place and birth of the messages of a lane, in order.
    pub(super) fn of_lane(&self, lane: Lane) -> impl Iterator<Item = Place> {
        self.lane_after(lane, None)
    }

    /// The births of all messages, in no order.
    pub(super) fn births(&self) -> impl Iterator<Item = Lsn> {
        self.lines.values().flat_map(Line::backwards).map(|(_, birth)| birth)
    }

    /// The birth of the first message of each line.
    pub(super) fn firsts(&self) -> impl Iterator<Item = Lsn> {
        self.first_of_lines(1).map(|(_, birth)| birth)
    }

    /// The `max` that have the first places, at most, and some more: so many of each line.
    pub(super) fn first_of_lines(&self, max: usize) -> impl Iterator<Item = Stand> {
        self.lines.values().flat_map(move |line| line.after(None).take(max))
    }

    /// Rank, place and birth of every message, from behind this one on: by rank, whichever lane it is in.
    pub(super) fn after(&self, last: Option<Place>) -> impl Iterator<Item = Place> {
        let mut lanes: Vec<Peekable<_>> =
            self.fronts().map(|(lane, _)| self.lane_after(lane, last).peekable()).collect();
        std::iter::from_fn(move || {
            let first = lanes.iter_mut().filter_map(|lane| lane.peek().copied()).min()?;
            lanes.iter_mut().find_map(|lane| lane.next_if_eq(&first))
        })
    }

    fn lane_after(&self, lane: Lane, last: Option<Place>) -> impl Iterator<Item = Place> {
        let first_rank = last.map_or(0, |(rank, ..)| rank);
        self.lines.range((lane, first_rank)..=(lane, u8::MAX)).flat_map(
            move |(&(_, rank), line)| {
                let last =
                    last.filter(|(of, ..)| *of == rank).map(|(_, place, birth)| (place, birth));
                line.after(last).map(move |(place, birth)| (rank, place, birth))
            },
        )
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

    const LANE: Lane = Lane(0);

    #[test]
    fn what_returns_to_an_earlier_place_comes_first_again() {
        let mut order = ReadyOrder::default();
        let births =
            |order: &ReadyOrder| order.after(None).map(|(_, _, b)| b.0).collect::<Vec<_>>();
        for lsn in [1, 2, 3, 9] {
            order.insert(LANE, (5, Lsn(lsn), Lsn(lsn)));
        }
        assert!(order.remove(LANE, (5, Lsn(1), Lsn(1))));
        assert!(order.remove(LANE, (5, Lsn(3), Lsn(3))), "from the middle");
        assert!(!order.remove(LANE, (5, Lsn(3), Lsn(3))));
        order.insert(LANE, (5, Lsn(1), Lsn(1)));
        order.insert(LANE, (4, Lsn(20), Lsn(20)));
        order.insert(LANE, (5, Lsn(9), Lsn(4)));
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

    #[test]
    fn lanes_have_their_own_order_and_are_listed_as_one() {
        let mut order = ReadyOrder::default();
        for lsn in 1..100 {
            let lane = Lane(u8::try_from(lsn % 3).unwrap());
            order.insert(lane, (5, Lsn(lsn), Lsn(lsn)));
        }
        order.insert(Lane(2), (4, Lsn(100), Lsn(100)));
        let births = |births: &mut dyn Iterator<Item = Place>, count| {
            births.take(count).map(|(_, _, birth)| birth.0).collect::<Vec<_>>()
        };
        assert_eq!(births(&mut order.after(None), 5), [100, 1, 2, 3, 4]);
        assert_eq!(births(&mut order.after(Some((5, Lsn(3), Lsn(3)))), 3), [4, 5, 6]);
        assert_eq!(births(&mut order.of_lane(Lane(2)), 3), [100, 2, 5]);
        let fronts: Vec<_> = order.fronts().collect();
        assert_eq!(fronts, [(Lane(0), 5), (Lane(1), 5), (Lane(2), 4)]);
        let last: Vec<u64> = order.wanted_last(99, 50).iter().map(|birth| birth.0).collect();
        assert_eq!(last.len(), 17, "half of the longest line");
        assert!(last.iter().all(|lsn| lsn % 3 == last[0] % 3), "of one lane: {last:?}");
    }
}
