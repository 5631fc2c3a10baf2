//! Message ids seen lately, so that a publish tried again is stored once.

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::ids::QueueId;
use super::shared_map::SharedMap;

/// An id in a queue, as a keyed hash: nobody who does not know the key can make two ids collide.
pub(super) type Key = (QueueId, u128);

/// Ids by the end of their window, with their messages.
pub(super) type ByTime = SharedMap<(u64, Key), Lsn>;

/// Invariant: exactly one entry of `by_time` per entry of `seen`.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    seen: HashMap<Key, Seen, FxBuildHasher>,
    by_time: ByTime,
    /// How many went before their window was over, in this start.
    forgotten: u64,
}

/// How many message ids are remembered, over all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageIds {
    pub remembered: usize,
    /// Those that were too many, since the start: their windows were shorter than their queues say.
    pub forgotten: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    birth: Lsn,
    expire_ms: u64,
}

impl Dedup {
    /// The message that was stored with this id, if that was lately enough.
    pub(super) fn find(&self, queue: QueueId, hash: u128, wall_ms: u64) -> Option<Lsn> {
        self.seen.get(&(queue, hash)).filter(|seen| wall_ms < seen.expire_ms).map(|seen| seen.birth)
    }

    /// Remembers an id; beyond `max` the one that would be forgotten next goes.
    pub(super) fn remember(
        &mut self,
        queue: QueueId,
        hash: u128,
        birth: Lsn,
        expire_ms: u64,
        max: usize,
    ) {
        let key = (queue, hash);
        if let Some(older) = self.seen.insert(key, Seen { birth, expire_ms }) {
            self.by_time.remove(&(older.expire_ms, key));
        }
        self.by_time.insert((expire_ms, key), birth);
        while max < self.seen.len() {
            self.forget_first();
            self.forgotten += 1;
        }
    }

    /// Forgets what is out of its window.
    pub(super) fn prune(&mut self, wall_ms: u64) {
        while self.by_time.first().is_some_and(|(&(expire_ms, _), _)| expire_ms <= wall_ms) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(((_, key), _)) = self.by_time.pop_first() {
            self.seen.remove(&key);
        }
    }

    pub(super) fn figures(&self) -> MessageIds {
        MessageIds { remembered: self.seen.len(), forgotten: self.forgotten }
    }

    /// Every id, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> ByTime {
        self.by_time.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_too_early_is_counted_and_what_is_over_is_not() {
        let mut dedup = Dedup::default();
        for id in 0..5_u8 {
            dedup.remember(QueueId(1), id.into(), Lsn(1), 100 + u64::from(id), 3);
        }
        assert_eq!(dedup.figures(), MessageIds { remembered: 3, forgotten: 2 });
        assert_eq!(dedup.find(QueueId(1), 1, 50), None, "the first to be over goes first");
        assert_eq!(dedup.find(QueueId(1), 2, 50), Some(Lsn(1)));
        dedup.prune(103);
        assert_eq!(dedup.figures(), MessageIds { remembered: 1, forgotten: 2 });
    }
}
