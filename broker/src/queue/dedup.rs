//! Message ids seen lately, so that a publish tried again is stored once.

mod ids;
mod line;

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::ids::QueueId;
use ids::Ids;

pub(super) use ids::{Frozen, Seen};

/// The ids of all queues.
///
/// What a queue remembered first it forgets first: it may keep an id for longer than it needs to, where its
/// window has become shorter since.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    /// None is empty.
    queues: BTreeMap<QueueId, Ids>,
    /// By the end of the window of the first id of each.
    by_end: BTreeSet<(u64, QueueId)>,
    remembered: usize,
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

impl Dedup {
    /// The message that was stored with this id, if that was lately enough.
    pub(super) fn find(&self, queue: QueueId, hash: u128, wall_ms: u64) -> Option<Lsn> {
        let seen = self.queues.get(&queue)?.find(hash)?;
        (wall_ms < seen.end_ms).then_some(seen.birth)
    }

    /// Remembers an id; beyond `max` the one that would be forgotten next goes.
    pub(super) fn remember(&mut self, queue: QueueId, seen: Seen, max: usize) {
        let ids = self.queues.entry(queue).or_default();
        if ids.len() == 0 {
            self.by_end.insert((seen.end_ms, queue));
        }
        ids.push(seen);
        self.remembered += 1;
        while max < self.remembered {
            let Some(&(_, queue)) = self.by_end.first() else { return };
            self.forget(queue, |at, _| at == 0);
            self.forgotten += 1;
        }
    }

    /// Forgets what is out of its window.
    pub(super) fn prune(&mut self, wall_ms: u64) {
        while let Some(&(end_ms, queue)) = self.by_end.first()
            && end_ms <= wall_ms
        {
            self.forget(queue, |_, seen| seen.end_ms <= wall_ms);
        }
    }

    /// Forgets the first ids of a queue, as long as `goes` says so of the next.
    fn forget(&mut self, queue: QueueId, goes: impl Fn(usize, Seen) -> bool) {
        self.by_end.pop_first();
        let ids = self.queues.get_mut(&queue).expect("a queue in the order has ids");
        let before = ids.len();
        while ids.first().is_some_and(|seen| goes(before - ids.len(), seen)) {
            ids.forget_first();
        }
        self.remembered -= before - ids.len();
        match ids.first() {
            Some(seen) => self.by_end.insert((seen.end_ms, queue)),
            None => self.queues.remove(&queue).is_some(),
        };
    }

    pub(super) fn figures(&self) -> MessageIds {
        MessageIds { remembered: self.remembered, forgotten: self.forgotten }
    }

    /// Every id, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> Vec<(QueueId, Frozen)> {
        self.queues.iter().map(|(&queue, ids)| (queue, ids.frozen())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_too_early_is_counted_and_what_is_over_is_not() {
        let mut dedup = Dedup::default();
        for id in 0..5 {
            let seen = Seen { hash: id.into(), birth: Lsn(1), end_ms: 100 + id };
            dedup.remember(QueueId(u32::from(id == 1)), seen, 3);
        }
        assert_eq!(dedup.figures(), MessageIds { remembered: 3, forgotten: 2 });
        assert_eq!(dedup.find(QueueId(1), 1, 50), None, "the first to be over goes first");
        assert_eq!(dedup.find(QueueId(0), 2, 50), Some(Lsn(1)));
        dedup.prune(103);
        assert_eq!(dedup.figures(), MessageIds { remembered: 1, forgotten: 2 });
        dedup.prune(104);
        assert!(dedup.queues.is_empty() && dedup.by_end.is_empty());
    }

    #[test]
    fn an_id_of_a_window_that_became_shorter_is_out_of_it_in_time() {
        let mut dedup = Dedup::default();
        for (id, end_ms) in [(1, 500), (2, 200), (3, 600)] {
            dedup.remember(QueueId(1), Seen { hash: id, birth: Lsn(1), end_ms }, 9);
        }
        dedup.prune(300);
        assert_eq!(dedup.find(QueueId(1), 1, 300), Some(Lsn(1)));
        assert_eq!(dedup.find(QueueId(1), 2, 300), None);
        assert_eq!(dedup.figures().remembered, 3, "it goes with the one before it");
        dedup.prune(500);
        assert_eq!(dedup.figures().remembered, 1);
    }
}
