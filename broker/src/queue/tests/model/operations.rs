//! What operations may do, in the model.

use qbroker_storage::Lsn;

use super::{Asked, Model, What};
use crate::queue::policy::Overflow;
use crate::queue::record::Moved;

impl Model {
    pub(super) fn check_moved(&mut self, lsn: Lsn, it: &Moved, asked: &Asked) {
        let (from, anew) = asked.moving.expect("nobody moves anything");
        assert_eq!(it.reset_attempts, anew);
        let to = &self.queues[&it.to_queue];
        assert!(!to.publishing_paused, "{} takes nothing", to.name);
        assert_eq!(it.is_to_dead_letters, to.is_dead_letter_queue);
        for birth in &it.births {
            self.check_is_taken(*birth, it.to_queue);
            let message = self.message(*birth);
            assert!(message.queue == from && from != it.to_queue, "{birth} is elsewhere");
            assert!(message.lease().is_none(), "{birth} is held");
            message.queue = it.to_queue;
            if !matches!(message.what, What::Scheduled(_)) {
                message.what = What::Ready;
            }
            if message.place != 0 {
                message.place = lsn.0;
            }
            if anew {
                (message.failures, message.crashes) = (0, 0);
            }
            message.leads = false;
            self.join_line(*birth);
        }
    }

    /// A queue takes one that has room and whose unique key nobody has there.
    fn check_is_taken(&self, birth: u64, to: u32) {
        let (message, queue) = (&self.messages[&birth], &self.queues[&to]);
        let size = (1, message.size);
        let refuses = queue.policy.overflow() == Overflow::RejectPublish;
        assert!(!refuses || self.has_room(&queue.name, size, true, None), "no room for {birth}");
        let holders = message.unique.map(|key| self.key_holders(to, key)).unwrap_or_default();
        assert!(queue.is_dead_letter_queue || holders.is_empty(), "{holders:?} have its key");
    }
}
