//! Message ids seen lately, so that a publish tried again is stored once.

mod ids;
mod line;

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::ids::QueueId;
use ids::Ids;

pub(super) use ids::{Frozen, SeenId};

/// The ids of all queues.
///
/// What a queue remembered first it forgets first: it may keep an id for longer than it needs to, where its
/// window has become shorter since. Of too many, the oldest goes, whatever its window: else the queues
/// whose windows are over first would make room for such ones.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    /// None is empty.
    queues: BTreeMap<QueueId, Ids>,
    /// By the end of the window of the first id of each.
    by_end: BTreeSet<(u64, QueueId)>,
    /// By the message of the first id of each.
    by_birth: BTreeSet<(Lsn, QueueId)>,
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

    /// Remembers an id; beyond `max` the oldest one goes.
    pub(super) fn remember(&mut self, queue: QueueId, seen: SeenId, max: usize) {
        let ids = self.queues.entry(queue).or_default();
        if ids.len() == 0 {
            self.by_end.insert((seen.end_ms, queue));
            self.by_birth.insert((seen.birth, queue));
        }
        ids.push(seen);
        self.remembered += 1;
        while max < self.remembered
            && let Some(&(_, queue)) = self.by_birth.first()
        {
            self.forget(queue, None);
            self.forgotten += 1;
        }
    }

    /// Forgets what is out of its window.
    pub(super) fn prune(&mut self, wall_ms: u64) {
        while let Some(&(end_ms, queue)) = self.by_end.first()
            && end_ms <= wall_ms
        {
            self.forget(queue, Some(wall_ms));
        }
    }

    /// Forgets the first id of a queue, and those behind it whose windows are over by then.
    fn forget(&mut self, queue: QueueId, over_ms: Option<u64>) {
        let ids = self.queues.get_mut(&queue).expect("a queue in an order has ids");
        let first = ids.first().expect("no queue has none");
        self.by_end.remove(&(first.end_ms, queue));
        self.by_birth.remove(&(first.birth, queue));
        loop {
            ids.forget_first();
            self.remembered -= 1;
            match ids.first() {
                None => {
                    self.queues.remove(&queue);
                    return;
                }
                Some(seen) if over_ms.is_some_and(|over_ms| seen.end_ms <= over_ms) => {}
                Some(seen) => {
                    self.by_end.insert((seen.end_ms, queue));
                    self.by_birth.insert((seen.birth, queue));
                    return;
                }
            }
        }
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
            let seen = SeenId { hash: id.into(), birth: Lsn(10 + id), end_ms: 100 + id };
            dedup.remember(QueueId(u32::from(id == 1)), seen, 3);
        }
        assert_eq!(dedup.figures(), MessageIds { remembered: 3, forgotten: 2 });
        assert_eq!(dedup.find(QueueId(1), 1, 50), None, "the oldest goes first");
        assert_eq!(dedup.find(QueueId(0), 2, 50), Some(Lsn(12)));
        dedup.prune(103);
        assert_eq!(dedup.figures(), MessageIds { remembered: 1, forgotten: 2 });
        dedup.prune(104);
        assert!(dedup.queues.is_empty() && dedup.by_end.is_empty() && dedup.by_birth.is_empty());
    }

    #[test]
    fn an_id_of_a_window_that_became_shorter_is_out_of_it_in_time() {
        let mut dedup = Dedup::default();
        for (id, end_ms) in [(1, 500), (2, 200), (3, 600)] {
            dedup.remember(QueueId(1), SeenId { hash: id, birth: Lsn(1), end_ms }, 9);
        }
        dedup.prune(300);
        assert_eq!(dedup.find(QueueId(1), 1, 300), Some(Lsn(1)));
        assert_eq!(dedup.find(QueueId(1), 2, 300), None);
        assert_eq!(dedup.figures().remembered, 3, "it goes with the one before it");
        dedup.prune(500);
        assert_eq!(dedup.figures().remembered, 1);
    }

    #[test]
    fn ids_that_stay_behind_a_long_window_cost_no_other_queue_its_own() {
        let mut dedup = Dedup::default();
        let ends = [(1, 10_000), (1, 100), (1, 100), (2, 200), (2, 200)];
        for (birth, (queue, end_ms)) in (1..).zip(ends) {
            let seen = SeenId { hash: birth.into(), birth: Lsn(birth), end_ms };
            dedup.remember(QueueId(queue), seen, 4);
        }
        assert_eq!(dedup.find(QueueId(1), 1, 150), None);
        dedup.prune(150);
        assert_eq!(dedup.figures(), MessageIds { remembered: 2, forgotten: 1 });
        assert_eq!(dedup.find(QueueId(2), 4, 150), Some(Lsn(4)));
    }
}
