//! Times to live: what was not done in time is given up.
//!
//! A message whose time to live is over is never delivered again. It goes to its queue's dead-letter
//! queue; where there is none, because it is in one or because the queue discards, it is gone. What
//! somebody holds may still be done, and is looked at when it comes back.

use qbroker_storage::Lsn;

use super::dead_letter::Letter;
use super::ids::QueueId;
use super::index::{Index, Lookup, Message};
use super::record::{DeadLetterReason, Expired, Record};
use super::time::Now;
use super::{Core, Deadlines, Output};

impl<I: Index> Core<I> {
    /// Whether the time to live of anything that waits is over.
    pub(super) fn is_any_ttl_over(&self, now: Now) -> bool {
        let (boot_ms, wall_ms) = self.index.next_ttl_end();
        Deadlines { boot_ms, wall_ms }.is_over(now)
    }

    /// Whether anything that waits is older than its queue's retention.
    pub(super) fn is_any_retention_over(&self, now: Now) -> bool {
        self.index.next_expiry().is_some_and(|expiry| expiry <= now.wall_ms)
    }

    /// Tells which messages of a queue must not be delivered any more: the time to live of such a one is
    /// over, or it is older than the queue's retention.
    pub(super) fn outlived(&self, queue: QueueId, now: Now) -> impl Fn(&Message) -> bool + use<I> {
        let definition = self.catalog.get(queue).map(|queue| &queue.definition);
        let stays_ms = definition.and_then(|it| it.policy.stays_ms(it.is_dead_letter_queue));
        move |message| {
            let is_over = |ms| message.since_ms.saturating_add(ms) <= now.wall_ms;
            message.is_outlived(now) || stays_ms.is_some_and(is_over)
        }
    }

    /// Gives up what waits and whose time to live is over: a bounded step of it.
    pub(super) fn end_ttls(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        let mut births = Vec::new();
        self.index.ttl_over(now, self.limits.step_max, &mut births)?;
        // Those of one ordering key come to the dead-letter queue in their order, whatever clocks they go by.
        births.sort_unstable();
        let (mut draft, mut gone) = (self.draft(), Vec::new());
        for birth in births {
            let message = self.index.message(birth)?.expect("what expires is there");
            let queue = self.catalog.get(message.queue).expect("a message's queue is there");
            if queue.dead_letter_queue_name().is_none() {
                gone.push(birth.0);
                continue;
            }
            let letter = Letter { call: None, reason: DeadLetterReason::Expired, failure: None };
            self.draft_letter(&mut draft, birth, &message, letter, now);
        }
        if !gone.is_empty() {
            draft.fact(Record::Expired(Expired { births: gone, by_ttl: true }));
        }
        out.effects.extend(self.dead_letters_of(&draft));
        // Each stands alone.
        self.commit_each(draft, out);
        Ok(())
    }

    pub(super) fn apply_expired(&mut self, expired: &Expired) {
        for &birth in &expired.births {
            let message = self.finish(Lsn(birth), None);
            let totals = self.catalog.totals(message.queue);
            match expired.by_ttl {
                true => totals.expired += 1,
                false => totals.deleted += 1,
            }
            self.consumers.touch(message.queue);
        }
    }
}
