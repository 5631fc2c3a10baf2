//! What goes with a settlement or with time, in the plainest words.

use super::{Asked, Model};
use crate::queue::patch::Patched;
use crate::queue::record::Expired;
use crate::queue::time::Now;

impl Model {
    pub(super) fn check_patched(&mut self, it: &Patched, asked: &mut Asked) {
        let (birth, size, priority) = asked.patch.take().expect("nobody patched it");
        assert_eq!(it.birth, birth);
        let message = self.message(birth);
        assert!(message.lease().is_some(), "{birth} is held by nobody");
        message.size = size;
        message.priority = priority.map_or(message.priority, u32::from);
        let (queue, ttl_end) = (message.queue, message.ttl_end);
        assert_eq!(u64::from(it.published.size), size);
        assert_eq!((it.published.queue, it.published.ttl_end()), (queue, ttl_end));
    }

    pub(super) fn check_expired(&mut self, it: &Expired, now: Now) {
        assert!(it.by_ttl, "no queue has a retention");
        for birth in &it.births {
            self.check_outlived(*birth, now);
            let queue = &self.queues[&self.messages[birth].queue];
            let stays_nowhere = queue.policy.discards_dead_letters();
            assert!(queue.is_dead_letter_queue || stays_nowhere, "{birth} is a dead letter");
            self.messages.remove(birth);
        }
    }
}
