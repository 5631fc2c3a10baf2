//! The keys of a message, as the index finds it by them: hashes, and what it does under each.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::{Message, State};
use crate::queue::ids::QueueId;

/// Hashes of a message's keys; zero: it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// While it is unfinished, its queue takes no other message of this key.
    pub unique: u64,
}

impl Keys {
    /// Of a message without any.
    pub const NONE: Self = Self { unique: 0 };
}

/// The hash of a key for [`Keys::unique`].
pub fn unique_hash(hash: u64) -> u64 {
    hash.max(1)
}

impl Message {
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
}

impl Keyed {
    pub(super) fn add(&mut self, birth: Lsn, message: &Message) {
        let queue = message.queue;
        self.holders.extend(message.held_key().map(|key| (queue, key, birth)));
    }

    pub(super) fn take(&mut self, birth: Lsn, message: &Message) {
        let queue = message.queue;
        message.held_key().map(|key| self.holders.remove(&(queue, key, birth)));
    }

    /// The first message that holds a unique key.
    pub(super) fn holder(&self, queue: QueueId, key: u64) -> Option<Lsn> {
        let holders = self.holders.range((queue, key, Lsn(0))..=(queue, key, Lsn(u64::MAX)));
        holders.map(|&(.., birth)| birth).next()
    }
}
