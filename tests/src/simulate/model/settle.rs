//! Settlements: what becomes of a lease, and what is said of it later.

use super::calls::Refusal;
use super::{Model, REMEMBERED_MS, Sequence, State, Time, Token, Why, Wrong};

/// What a client makes of a lease; failures are told by numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Ack,
    /// With the delay that was asked for, if any, the failure, and the limit that it names, if any.
    Nack(Option<u64>, u64, Option<i32>),
    Release(u64),
    DeadLetter(u64),
}

impl Outcome {
    fn kind(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack(..) => "nack",
            Self::Release(_) => "release",
            Self::DeadLetter(_) => "dead-letter",
        }
    }
}

impl Model {
    /// A settlement, and why it was refused. Each of a call stands alone.
    pub(crate) fn settle(
        &mut self,
        token: &Token,
        outcome: Outcome,
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        if let Some((sequence, _)) = self.lease(token) {
            if let Some(reason) = refused {
                return Err(format!("{sequence} is held, and {outcome:?} was refused: {reason}"));
            }
            self.doubted.remove(token);
            self.settled.insert(*token, (outcome.kind(), now.wall_ms));
            self.done(sequence, outcome, now);
            return Ok(());
        }
        let settled = self.settled.get(token);
        let expected = match settled {
            None => Some("LEASE_LOST"),
            Some((kind, _)) if *kind == outcome.kind() => None,
            Some(_) => Some("ALREADY_SETTLED"),
        };
        let is_old = settled.is_some_and(|(_, at_ms)| at_ms + REMEMBERED_MS <= self.latest_ms);
        let forgotten = is_old || self.doubted.contains(token);
        if refused == expected || (forgotten && refused == Some("LEASE_LOST")) {
            return Ok(());
        }
        Err(format!("{outcome:?} of an ended lease: {refused:?}, expected {expected:?}"))
    }

    /// A failure with which the message gets another content, by number and size.
    pub(crate) fn patch(
        &mut self,
        token: &Token,
        (number, bytes, failure): (u64, u64, u64),
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        if let Some((sequence, _)) = self.lease(token) {
            match (self.has_room, refused) {
                (true, None) => {}
                (false, Some("DISK_FULL")) => return Ok(()),
                _ => return Err(format!("{sequence} is held, and its patch: {refused:?}")),
            }
            let message = self.message(sequence);
            (message.number, message.bytes) = (number, bytes);
        }
        self.settle(token, Outcome::Nack(None, failure, None), refused, now)
    }

    fn done(&mut self, sequence: Sequence, outcome: Outcome, now: Time) {
        let place = self.next_place();
        match outcome {
            Outcome::Ack => drop(self.messages.remove(&sequence)),
            Outcome::Release(0) => self.make_ready(sequence, place),
            Outcome::Release(ms) => self.message(sequence).state = State::Scheduled(now.after(ms)),
            Outcome::DeadLetter(failure) => {
                self.message(sequence).failure = Some(failure);
                self.give_up(sequence, Why::ByConsumer, place);
            }
            Outcome::Nack(delay_ms, failure, named) => {
                let limit = self.limit(sequence, named);
                self.nack(sequence, (delay_ms, failure), limit, now);
            }
        }
    }

    /// The failures at which a message is given up: its own limit, else the one that a nack names, else
    /// its queue's; `None`: never.
    pub(crate) fn limit(&self, sequence: Sequence, named: Option<i32>) -> Option<u32> {
        let message = &self.messages[&sequence];
        match message.attempts.or(named) {
            Some(limit) => u32::try_from(limit).ok(),
            None => self.policy(message.queue).max_attempts,
        }
    }

    fn nack(
        &mut self,
        sequence: Sequence,
        (delay_ms, failure): (Option<u64>, u64),
        limit: Option<u32>,
        now: Time,
    ) {
        let policy = self.policy(self.messages[&sequence].queue);
        let place = self.next_place();
        let message = self.message(sequence);
        message.failure = Some(failure);
        if limit.is_some_and(|limit| limit <= message.failures + 1) {
            return self.give_up(sequence, Why::MaxAttempts, place);
        }
        message.failures += 1;
        // Doubled with each failure: the simulated clients leave nothing of it to chance.
        let backoff_ms = (policy.backoff_ms << (message.failures - 1).min(16)).min(3_600_000);
        match delay_ms.unwrap_or(backoff_ms) {
            0 => self.make_ready(sequence, place),
            ms => message.state = State::Scheduled(now.after(ms)),
        }
    }
}
