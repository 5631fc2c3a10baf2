//! How attempts end, in the plainest words.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::{Asked, Message, Model, What};
use crate::queue::record::{DeadLetterReason, DeadLettered, Nacked, QueueDefinition, Released};
use crate::queue::refused::Refused;
use crate::queue::settled::REMEMBERED_MS;
use crate::queue::time::{Due, Now};
use crate::queue::{Outcome, Settlement};

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ack => "ack",
        Outcome::Nack { .. } => "nack",
        Outcome::Release { .. } => "release",
        Outcome::DeadLetter { .. } => "dead-letter",
    }
}

impl Model {
    /// What a settlement must be answered; `Ok(true)` where it changes something. What is long ago
    /// may have been forgotten.
    pub(in crate::queue::tests) fn expected(
        &self,
        settlement: &Settlement,
        seen: &mut BTreeSet<u64>,
        now: Now,
    ) -> Vec<Result<bool, Refused>> {
        let token = settlement.token;
        let lease = self.messages.get(&token.birth.0).and_then(Message::lease);
        if lease.is_some_and(|lease| lease.token == token) {
            let first = seen.insert(token.birth.0);
            return vec![if first { Ok(true) } else { Err(Refused::TokenTwice) }];
        }
        match self.settled.get(&(token.birth.0, token.grant.0)) {
            None => vec![Err(Refused::LeaseLost)],
            Some((before, wall_ms)) => {
                let same = *before == kind(&settlement.outcome);
                let answer = if same { Ok(false) } else { Err(Refused::AlreadySettled(before)) };
                let forgotten = wall_ms + REMEMBERED_MS < now.wall_ms;
                if forgotten { vec![answer, Err(Refused::LeaseLost)] } else { vec![answer] }
            }
        }
    }

    pub(super) fn settle(&mut self, birth: u64, kind: &'static str, now: Now) {
        let token = self.message(birth).lease().expect("only a lease is settled").token;
        self.settled.insert((birth, token.grant.0), (kind, now.wall_ms));
    }

    pub(super) fn check_released(&mut self, it: &Released, asked: &mut Asked, now: Now) {
        let Some(Outcome::Release { delay_ms }) = asked.settle.remove(&it.birth) else { panic!() };
        self.settle(it.birth, "release", now);
        self.message(it.birth).what = after(it.due.map(Into::into), delay_ms, now);
        self.join_line(it.birth);
    }

    pub(super) fn check_nacked(&mut self, it: &Nacked, asked: &mut Asked, now: Now) {
        let outcome = asked.settle.remove(&it.birth).expect("somebody nacked it");
        self.settle(it.birth, kind(&outcome), now);
        let message = self.message(it.birth);
        assert_eq!(it.attempt, 1 + message.failures + message.crashes);
        message.failures += 1;
        let (queue, failures, own) = (message.queue, message.failures, message.max_attempts);
        let queue = &self.queues[&queue];
        let was_last = self.was_last(queue, limit(own, &outcome), failures);
        let what = match outcome {
            Outcome::DeadLetter { .. } => What::Parked,
            Outcome::Nack { .. } if was_last => What::Parked,
            Outcome::Nack { delay_ms, chance, .. } => {
                let delay_ms =
                    delay_ms.unwrap_or_else(|| queue.policy.backoff_ms(failures, chance));
                after(it.due.map(Into::into), delay_ms, now)
            }
            Outcome::Ack | Outcome::Release { .. } => panic!("{outcome:?} is no nack"),
        };
        assert_eq!(what == What::Parked, it.parked);
        assert!(!it.parked || queue.is_dead_letter_queue, "only a dead letter is parked");
        self.message(it.birth).leads &= what != What::Parked;
        self.message(it.birth).what = what;
    }

    pub(super) fn check_dead(&mut self, lsn: Lsn, it: &DeadLettered, asked: &mut Asked, now: Now) {
        match asked.settle.remove(&it.birth) {
            Some(outcome) => {
                self.settle(it.birth, kind(&outcome), now);
                let message = &self.messages[&it.birth];
                let queue = &self.queues[&message.queue];
                let limit = limit(message.max_attempts, &outcome);
                let was_last = self.was_last(queue, limit, message.failures + 1);
                let given_up = matches!(outcome, Outcome::DeadLetter { .. });
                assert!(given_up || was_last, "{} may fail once more", it.birth);
            }
            None if it.reason() == DeadLetterReason::Expired => self.check_outlived(it.birth, now),
            None if it.reason() == DeadLetterReason::Overflow => {
                self.check_evicted(it.birth, asked);
            }
            None => self.check_crash(it.birth, asked, now, true),
        }
        let source = &self.queues[&self.messages[&it.birth].queue];
        assert!(!source.is_dead_letter_queue, "a dead letter stays");
        if it.to_queue == 0 {
            assert!(source.policy.discards_dead_letters());
            self.messages.remove(&it.birth);
            return;
        }
        assert!(self.queues[&it.to_queue].is_dead_letter_queue);
        let letter = Some((it.reason, source.name.clone()));
        let (queue, place) = (it.to_queue, lsn.0);
        let message = self.message(it.birth);
        let (failures, crashes) = (0, 0);
        *message = Message {
            queue,
            what: What::Ready,
            place,
            failures,
            crashes,
            ttl_end: None,
            leads: false,
            letter,
            ..message.clone()
        };
        self.join_line(it.birth);
    }

    /// Whether a message may not fail more often: by this limit, or where that is 0 by the queue's.
    pub(super) fn was_last(&self, queue: &QueueDefinition, limit: i32, failures: u32) -> bool {
        let max = if limit == 0 { queue.policy.max_attempts.unwrap_or(20) } else { limit };
        u32::try_from(max).is_ok_and(|max| max <= failures)
    }

    /// A message is given up for its age only once it is over, and nobody holds it.
    pub(super) fn check_outlived(&self, birth: u64, now: Now) {
        let message = &self.messages[&birth];
        assert!(message.lease().is_none(), "{birth} is held");
        assert!(message.ttl_end.is_some_and(|end| end.is_over(now)), "{birth} has time");
    }
}

/// The limit of a message: its own, or what the nack names; 0: its queue's.
pub(super) fn limit(own: i32, outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Nack { max_attempts: Some(named), .. } if own == 0 => *named,
        _ => own,
    }
}

/// Ready or scheduled, as the delay asked for.
fn after(due: Option<Due>, delay_ms: u64, now: Now) -> What {
    assert_eq!(due, (0 < delay_ms).then(|| now.after(delay_ms)));
    due.map_or(What::Ready, What::Scheduled)
}
