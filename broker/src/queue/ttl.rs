//! Times to live: what was not done in time is given up.
//!
//! A message whose time to live is over is never delivered again. It goes to its queue's dead-letter
//! queue; where there is none, because it is in one or because the queue discards, it is gone. What
//! somebody holds may still be done, and is looked at when it comes back.

use qbroker_storage::Lsn;

use super::dead_letter::Letter;
use super::ids::QueueId;
use super::index::{Index, Lane, Lookup};
use super::record::{DeadLetterReason, Expired, Record};
use super::tick::STEP_MAX;
use super::time::Now;
use super::{Core, Deadlines, Output};

impl<I: Index> Core<I> {
    /// Whether the time to live of anything that waits is over.
    pub(super) fn is_any_ttl_over(&self, now: Now) -> bool {
        let (boot_ms, wall_ms) = self.index.next_ttl_end();
        Deadlines { boot_ms, wall_ms }.is_over(now)
    }

    /// Whether the message that would be delivered next must not be.
    pub(super) fn is_first_outlived(&self, queue: QueueId, now: Now) -> Lookup<bool> {
        if !self.is_any_ttl_over(now) {
            return Ok(false);
        }
        if self.index.has_lanes(queue) {
            // Which is next is not known before it is chosen.
            return Ok(true);
        }
        let mut births = Vec::new();
        self.index.ready(queue, Lane::default(), 1, &mut births)?;
        let Some(&first) = births.first() else { return Ok(false) };
        let first = self.index.message(first)?.expect("a ready message is there");
        Ok(first.is_outlived(now))
    }

    /// Gives up what waits and whose time to live is over: a bounded step of it.
    pub(super) fn end_ttls(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        let mut births = Vec::new();
        self.index.ttl_over(now, STEP_MAX, &mut births)?;
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
            if expired.by_ttl {
                totals.expired += 1;
                self.consumers.touch(message.queue);
            } else {
                totals.deleted += 1;
            }
        }
    }
}
