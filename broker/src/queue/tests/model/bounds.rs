//! What a queue may hold, in the plainest words.

use super::settle::limit;
use super::{Asked, Model, What};
use crate::queue::Outcome;
use crate::queue::policy::Overflow;
use crate::queue::record::QueueDefinition;

impl Model {
    /// Whether so many messages of this size may be published to a queue, one after the other, when what
    /// is ready goes for them; those that wait for their time do not go. One message may leave with them.
    pub(in crate::queue::tests) fn has_room(
        &self,
        queue: &str,
        (count, size): (u64, u64),
        wait: bool,
        leaving: Option<u64>,
    ) -> bool {
        let Some(queue) = self.queue_named(queue) else { return true };
        let policy = &queue.policy;
        let fits = |(messages, bytes): (u64, u64), count| {
            policy.max_messages.is_none_or(|max| messages + count <= max)
                && policy.max_bytes.is_none_or(|max| bytes + count * size <= max)
        };
        let stays = |does: fn(&What) -> bool| {
            let left =
                leaving.map(|birth| &self.messages[&birth]).filter(|it| it.queue == queue.id);
            let (messages, bytes) = self.held_by(queue.id, does);
            left.map_or((messages, bytes), |left| (messages - 1, bytes - left.size))
        };
        if policy.overflow() == Overflow::RejectPublish {
            return fits(stays(|_| true), count);
        }
        let stays = stays(|what| *what != What::Ready);
        fits(stays, if wait { count } else { 1 })
    }

    /// Whether a message that is held is no longer in its queue once it is settled so.
    pub(in crate::queue::tests) fn leaves_queue(&self, birth: u64, outcome: &Outcome) -> bool {
        let message = &self.messages[&birth];
        let queue = &self.queues[&message.queue];
        match outcome {
            Outcome::Ack => true,
            Outcome::Release { .. } => false,
            _ if queue.is_dead_letter_queue => false,
            Outcome::DeadLetter { .. } => true,
            Outcome::Nack { .. } => {
                let limit = limit(message.max_attempts, outcome);
                self.was_last(queue, limit, message.failures + 1)
            }
        }
    }

    /// Messages go because their queue holds too much: each is the oldest that may.
    pub(super) fn check_dropped(&mut self, births: &[u64], asked: &Asked) {
        for &birth in births {
            self.check_evicted(birth, asked);
            let queue = &self.queues[&self.messages[&birth].queue];
            let is_kept = queue.policy.overflow() == Overflow::DeadLetterOldest;
            let stays_nowhere = queue.policy.discards_dead_letters() || queue.is_dead_letter_queue;
            assert!(!is_kept || stays_nowhere, "{birth} should be a dead letter");
            self.messages.remove(&birth);
        }
    }

    /// A message may go for its queue to hold no more than it may.
    pub(super) fn check_evicted(&self, birth: u64, asked: &Asked) {
        assert!(asked.publish || asked.tick, "nobody lacks room for which {birth} goes");
        let message = &self.messages[&birth];
        let first = self.first_to_go(&self.queues[&message.queue]);
        assert_eq!(first, Some(birth), "it is not the one that goes");
    }

    /// Nothing is left that should have gone.
    pub(super) fn check_nothing_is_beyond_bounds(&self) {
        for queue in self.queues.values() {
            assert_eq!(self.first_to_go(queue), None, "{} holds too much", queue.name);
        }
    }

    fn first_to_go(&self, queue: &QueueDefinition) -> Option<u64> {
        let policy = &queue.policy;
        let (messages, bytes) = self.held_by(queue.id, |_| true);
        let retained = policy.retention_bytes.filter(|_| queue.is_dead_letter_queue);
        let oldest = |goes: fn(&What) -> bool| {
            let of_queue = self.messages.iter().filter(|(_, it)| it.queue == queue.id);
            let going = of_queue.filter(|(_, it)| goes(&it.what));
            going.map(|(&birth, it)| (it.place, birth)).min().map(|(_, birth)| birth)
        };
        if retained.is_some_and(|max| max < bytes) {
            return oldest(|what| matches!(what, What::Ready | What::Parked));
        }
        let is_over = policy.max_messages.is_some_and(|max| max < messages)
            || policy.max_bytes.is_some_and(|max| max < bytes);
        let goes = is_over && policy.overflow() != Overflow::RejectPublish;
        goes.then(|| oldest(|what| *what == What::Ready)).flatten()
    }

    /// How many messages of a queue do one of these, and their bytes.
    fn held_by(&self, queue: u32, does: impl Fn(&What) -> bool) -> (u64, u64) {
        let held = self.messages.values().filter(|it| it.queue == queue && does(&it.what));
        held.fold((0, 0), |(messages, bytes), it| (messages + 1, bytes + it.size))
    }
}
