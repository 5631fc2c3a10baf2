//! What pulls get, at once or later, and what somebody could have.

use std::collections::BTreeMap;

use super::{Lease, Message, Model, Policy, Sequence, State, Token, Wrong};

/// A message as it is delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    pub(crate) sequence: Sequence,
    pub(crate) token: Token,
    pub(crate) failures: u32,
    pub(crate) crashes: u32,
}

/// Asks for messages of a queue once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull {
    pub(crate) queue: &'static str,
    pub(crate) max: usize,
    pub(crate) duration_ms: u64,
}

impl Model {
    /// A pull that does not wait, and what it got.
    pub(crate) fn pull(&mut self, pull: Pull, got: &[Delivered]) -> Result<(), Wrong> {
        let paused = self.queue_or_new(pull.queue, Policy::DEFAULT).paused;
        let max = if paused { 0 } else { pull.max.min(self.quota(pull.queue)) };
        let is_more = self.check_next(pull.queue, &sequences(got))?;
        if max < got.len() || (got.len() < max && is_more) {
            return Err(format!("{pull:?} gets {got:?}, and might have {max}"));
        }
        self.deliver_to(pull, got)
    }

    /// A pull has got nothing, and waits.
    pub(crate) fn wait(&mut self, name: u64, pull: Pull) {
        self.waits.insert(name, pull);
    }

    /// Whoever waited has gone.
    pub(crate) fn stop_waiting(&mut self, name: u64) {
        self.waits.remove(&name);
    }

    /// A pull that has waited gets something.
    pub(crate) fn answer(&mut self, name: u64, got: &[Delivered]) -> Result<(), Wrong> {
        let pull = self.waits.remove(&name).ok_or("an answer to nobody")?;
        let max = pull.max.min(self.quota(pull.queue));
        self.check_next(pull.queue, &sequences(got))?;
        if got.is_empty() || max < got.len() || self.queues[pull.queue].paused {
            return Err(format!("{pull:?} gets {got:?}, and may have {max}"));
        }
        self.deliver_to(pull, got)
    }

    fn deliver_to(&mut self, pull: Pull, got: &[Delivered]) -> Result<(), Wrong> {
        for it in got {
            let message = &self.messages[&it.sequence];
            if (it.failures, it.crashes) != (message.failures, message.crashes) {
                return Err(format!("{it:?} is told of {message:?}"));
            }
        }
        let of_nobody = Lease {
            token: [0; 20],
            duration_ms: pull.duration_ms,
            deadline: None,
            stream: 0,
            session: None,
            timed: true,
            unstarted: false,
        };
        let got: Vec<_> = got.iter().map(|it| (it.sequence, it.token)).collect();
        self.lease_out(pull.queue, &got, of_nobody)
    }

    /// Messages of a queue that were checked are with somebody, each under its token.
    pub(super) fn lease_out(
        &mut self,
        queue: &'static str,
        got: &[(Sequence, Token)],
        lease: Lease,
    ) -> Result<(), Wrong> {
        if got.is_empty() {
            return Ok(());
        }
        let (before, mut counts) = (self.waiting_keys(queue), BTreeMap::new());
        for &(sequence, token) in got {
            let message = self.message(sequence);
            message.state = State::Leased(Lease { token, ..lease });
            *counts.entry(message.fairness).or_default() += 1;
        }
        self.delivered.insert(queue, self.now.boot_ms);
        let after = self.waiting_keys(queue);
        self.turns.served(queue, (before, after), &counts)
    }

    /// Whether a queue has something to deliver.
    pub(crate) fn has_some(&self, queue: &str) -> bool {
        self.first_waiting(queue).is_some()
    }

    /// A message of a queue that somebody who has room could have now.
    pub(super) fn first_waiting(&self, queue: &str) -> Option<Sequence> {
        let is_paused = self.queues.get(queue).is_none_or(|queue| queue.paused);
        if is_paused || self.quota(queue) == 0 {
            return None;
        }
        let mut ready = self.messages.iter();
        let goes = |it: &Message| {
            it.queue == queue
                && it.state == State::Ready
                && self.is_key_open(queue, it.fairness, &BTreeMap::new())
        };
        ready.find(|(_, it)| goes(it)).map(|(sequence, _)| *sequence)
    }

    /// Waits where there is something that it may have.
    pub(super) fn check_no_pull_waits(&self) -> Result<(), (Sequence, Wrong)> {
        let of = |pull: &Pull| Some((self.first_waiting(pull.queue)?, *pull));
        self.waits.values().find_map(of).map_or(Ok(()), |(sequence, pull)| {
            Err((sequence, format!("{sequence} is ready, and {pull:?} waits")))
        })
    }

    /// Whether a pull waits for something of a queue.
    pub(super) fn is_pulled(&self, queue: &str) -> bool {
        self.waits.values().any(|pull| pull.queue == queue)
    }
}

fn sequences(got: &[Delivered]) -> Vec<Sequence> {
    got.iter().map(|it| it.sequence).collect()
}
