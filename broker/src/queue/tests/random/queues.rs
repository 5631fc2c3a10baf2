//! Random commands about queues as such.

use super::{Asked, Play, QUEUES};
use crate::queue::body::small_body;
use crate::queue::index::fairness_hash;
use crate::queue::outcomes::StoredOutcome;
use crate::queue::policy::FairnessWeight;
use crate::queue::tests::stage::StageIndex;
use crate::queue::{DeleteQueue, PauseQueue, UpdateQueue};

impl<I: StageIndex> Play<I> {
    /// Changes something in the policy of a queue, whatever waits in it.
    pub(super) fn change_policy(&mut self, queue: u8, what: u8, most: u8) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()].to_owned();
        let before = self.model.queue_named(&name).map(|queue| queue.policy.clone());
        let exists = before.is_some();
        let mut policy = before.unwrap_or_default();
        let some = (0 < most).then_some(most);
        match what {
            0 => policy.max_attempts = some.map(Into::into),
            1 => policy.max_crashes = some.map(Into::into),
            2 => policy.max_leased = some.map(Into::into),
            3 => policy.max_leased_per_fairness_key = some.map(Into::into),
            4 => policy.max_messages = some.map(|most| u64::from(most) * 3),
            5 => policy.max_bytes = some.map(|most| u64::from(most) * 60),
            6 => policy.overflow = Some(i32::from(most % 3)),
            7 => {
                let lease_ms = some.map(|most| 1_000 * u64::from(most));
                policy.lease_duration_ms = lease_ms;
            }
            8 => policy.discard_dead_letters = Some(most.is_multiple_of(2)),
            _ => {
                let weight = |hash: u64| FairnessWeight {
                    key: hash.to_string(),
                    hash: fairness_hash(hash),
                    weight: u32::from(most) + 1,
                };
                policy.fairness_weights = (1..3).map(weight).collect();
            }
        }
        let update = UpdateQueue { name, policy, ..UpdateQueue::default() };
        let heard = self.stage.turn(|core, now, out| core.update_queue(&update, now, out));
        self.heard(&heard, Asked::default());
        assert_eq!(heard.answer.is_ok(), exists, "{:?}", heard.answer);
        if let Some(queue) = self.model.queue_named(&update.name) {
            assert_eq!(queue.policy, update.policy);
        }
    }

    pub(super) fn delete(&mut self, queue: u8) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()];
        let id = self.model.queue_named(name).map(|queue| queue.id);
        let delete = DeleteQueue { name: name.to_owned(), force: true, allow_missing: true };
        let heard = self.stage.turn(|core, _, out| core.delete_queue(&delete, out));
        self.heard(&heard, Asked { delete: id, ..Asked::default() });
        assert!(self.model.queue_named(name).is_none());
    }

    /// Outcomes are written, of those that were done first.
    pub(super) fn write_outcomes(&mut self, max: usize) {
        let finished = self.stage.core.unwritten_outcomes(max);
        let body = || small_body(&StoredOutcome::default());
        let outcomes: Vec<_> = finished.iter().map(|it| (it.birth, body())).collect();
        let heard = self.stage.turn(|core, now, out| core.write_outcomes(&outcomes, now, out));
        self.heard(&heard, Asked::default());
        let left = self.stage.core.unwritten_outcomes(usize::MAX);
        assert!(finished.iter().all(|it| !left.contains(it)), "each is written, or given up");
    }

    pub(super) fn pause(&mut self, queue: u8, how: u8) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()];
        let pause = PauseQueue { name: name.to_owned(), publishing: how == 0 };
        let heard = self.stage.turn(|core, _, out| match how {
            0 | 1 => core.pause_queue(&pause, out),
            _ => core.resume_queue(name, out),
        });
        self.heard(&heard, Asked::default());
        let Some(queue) = self.model.queue_named(name) else {
            return assert!(heard.answer.is_err());
        };
        assert_eq!((queue.paused, queue.publishing_paused), (how <= 1, how == 0));
    }
}
