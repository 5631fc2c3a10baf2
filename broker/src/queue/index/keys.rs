//! The keys of a message, as the index finds it by them: hashes, and what it does under each.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::{Message, State};
use crate::queue::ids::QueueId;
use crate::queue::record::Published;

/// Hashes of a message's keys; zero: it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// While it is unfinished, its queue takes no other message of this key.
    pub unique: u64,
    /// Those of one ordering key stand in a line. Two keys of one hash share theirs.
    pub ordering: u32,
    /// It is the first of its line: nobody else of the line is delivered before it is done.
    pub leads: bool,
    /// Those of different fairness keys share their queue.
    pub fairness: u32,
}

impl Keys {
    /// Of a message without any.
    pub const NONE: Self = Self { unique: 0, ordering: 0, leads: false, fairness: 0 };
}

impl From<&Published> for Keys {
    fn from(published: &Published) -> Self {
        Self {
            unique: published.unique_hash.map_or(0, unique_hash),
            ordering: published.ordering_hash.map_or(0, ordering_hash),
            leads: false,
            fairness: published.fairness_hash.map_or(0, fairness_hash),
        }
    }
}

/// The hash of a key for [`Keys::unique`].
pub fn unique_hash(hash: u64) -> u64 {
    hash.max(1)
}

/// Messages of a queue that wait for each other only: those of some fairness keys, or of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(pub u8);

/// The lane of those without a fairness key.
const NO_KEY: Lane = Lane(0);

/// The hash of a key for [`Keys::fairness`].
#[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
pub fn fairness_hash(hash: u64) -> u32 {
    (hash as u32).max(1)
}

/// The hash of a key for [`Keys::ordering`].
#[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
fn ordering_hash(hash: u64) -> u32 {
    (hash as u32).max(1)
}

impl Message {
    /// The lane in which it is ready.
    pub(in crate::queue) fn lane(&self) -> Lane {
        match self.keys.fairness {
            0 => NO_KEY,
            key => Lane(1 + u8::try_from(key % u32::from(u8::MAX)).expect("below 255")),
        }
    }

    /// As it stands in its line, doing what it does: what is ready or leased is the first, what comes
    /// back from a lease later stays it, and what is given up leaves.
    pub(in crate::queue) fn in_line(self) -> Self {
        let has_line = self.keys.ordering != 0;
        let leads = match self.state {
            State::Ready | State::Leased => has_line,
            State::Scheduled(_) => has_line && self.keys.leads,
            State::Parked | State::Behind => false,
        };
        Self { keys: Keys { leads, ..self.keys }, ..self }
    }

    /// The line that it is the first of.
    pub(in crate::queue) fn led_line(&self) -> Option<u32> {
        self.keys.leads.then_some(self.keys.ordering)
    }

    /// The line that it waits in.
    pub(super) fn line_before(&self) -> Option<u32> {
        (self.state == State::Behind).then_some(self.keys.ordering)
    }

    /// The unique key that it holds. What was given up keeps nobody from trying anew.
    pub(super) fn held_key(&self) -> Option<u64> {
        let holds = self.keys.unique != 0 && self.state != State::Parked;
        holds.then_some(self.keys.unique)
    }
}

/// The messages in memory that have keys, by what they do under them.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    /// Mostly one of each: a dead letter may meet another one.
    holders: BTreeSet<(QueueId, u64, Lsn)>,
    /// The first of each line. Only behind a gap of the log there may be more than one.
    leaders: BTreeSet<(QueueId, u32, Lsn)>,
    /// Those that wait in a line, by their places in it.
    behind: BTreeSet<(QueueId, u32, Lsn, Lsn)>,
    /// How many have a fairness key.
    in_lanes: usize,
}

impl Keyed {
    pub(super) fn add(&mut self, birth: Lsn, message: &Message) {
        let queue = message.queue;
        self.holders.extend(message.held_key().map(|key| (queue, key, birth)));
        self.leaders.extend(message.led_line().map(|line| (queue, line, birth)));
        let place = message.place;
        self.in_lanes += usize::from(message.keys.fairness != 0);
        self.behind.extend(message.line_before().map(|line| (queue, line, place, birth)));
    }

    pub(super) fn take(&mut self, birth: Lsn, message: &Message) {
        let queue = message.queue;
        message.held_key().map(|key| self.holders.remove(&(queue, key, birth)));
        message.led_line().map(|line| self.leaders.remove(&(queue, line, birth)));
        let place = message.place;
        self.in_lanes -= usize::from(message.keys.fairness != 0);
        message.line_before().map(|line| self.behind.remove(&(queue, line, place, birth)));
    }

    /// Whether any message here has a fairness key.
    pub(super) fn has_lanes(&self) -> bool {
        0 < self.in_lanes
    }

    /// The first message that holds a unique key.
    pub(super) fn holder(&self, queue: QueueId, key: u64) -> Option<Lsn> {
        let holders = self.holders.range((queue, key, Lsn(0))..=(queue, key, Lsn(u64::MAX)));
        holders.map(|&(.., birth)| birth).next()
    }

    /// Whether a line has a first one here.
    pub(super) fn has_leader(&self, queue: QueueId, line: u32) -> bool {
        let leaders = (queue, line, Lsn(0))..=(queue, line, Lsn(u64::MAX));
        self.leaders.range(leaders).next().is_some()
    }

    /// Who of those here is next in a line.
    pub(super) fn first_behind(&self, queue: QueueId, line: u32) -> Option<Lsn> {
        let (first, last) = (Lsn(0), Lsn(u64::MAX));
        let behind = self.behind.range((queue, line, first, first)..=(queue, line, last, last));
        behind.map(|&(.., birth)| birth).next()
    }
}
