//! What operations may do, in the model.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::{Asked, Message, Model, What};
use crate::queue::filter::{Filter, Is};
use crate::queue::index::StateSet;
use crate::queue::policy::Overflow;
use crate::queue::record::Moved;

impl Asked {
    /// Whether a filter, where there is one, means this message.
    pub(super) fn means(&self, birth: u64) -> bool {
        self.meant.as_ref().is_none_or(|meant| meant.contains(&birth))
    }
}

impl Model {
    /// The messages of a queue that a filter means.
    pub(in crate::queue::tests) fn meant(&self, queue: u32, filter: &Filter) -> BTreeSet<u64> {
        let of_queue = self.messages.iter().filter(|(_, message)| message.queue == queue);
        let is = |birth: u64, message: &Message, is: &Is| match is {
            Is::In(states) => StateSet(*states).contains(message.state_bit()),
            Is::Named(names) => names.births.contains(&birth),
            Is::PublishedAfter(ms) => *ms <= message.publish_ms,
            Is::PublishedBefore(ms) => message.publish_ms < *ms,
            Is::Reason(wanted) => message.letter.as_ref().is_some_and(|(it, _)| it == wanted),
            Is::Source(wanted) => message.letter.as_ref().is_some_and(|(_, it)| it == wanted),
            other => panic!("no random filter asks for {other:?}"),
        };
        let all = |(birth, message): &(&u64, &Message)| {
            let mut terms = filter.terms.iter().filter_map(|term| term.is.as_ref());
            terms.all(|term| is(**birth, message, term))
        };
        of_queue.filter(all).map(|(birth, _)| *birth).collect()
    }

    pub(super) fn check_moved(&mut self, lsn: Lsn, it: &Moved, asked: &Asked) {
        let (from, anew) = asked.moving.expect("nobody moves anything");
        assert_eq!(it.reset_attempts, anew);
        let to = &self.queues[&it.to_queue];
        assert!(!to.publishing_paused, "{} takes nothing", to.name);
        assert_eq!(it.is_to_dead_letters, to.is_dead_letter_queue);
        for birth in &it.births {
            assert!(asked.means(*birth), "{birth} is not meant");
            self.check_is_taken(*birth, it.to_queue);
            let message = self.message(*birth);
            assert!(message.queue == from && from != it.to_queue, "{birth} is elsewhere");
            assert!(message.lease().is_none(), "{birth} is held");
            message.queue = it.to_queue;
            message.letter.take_if(|_| !it.is_to_dead_letters);
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
