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
    /// Failures at which a nack is its last.
    pub(crate) limit: Option<u32>,
}

/// Asks for messages of some queues once.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// With their ranks: the smaller one first.
    pub(crate) queues: BTreeMap<&'static str, i32>,
    pub(crate) max: usize,
    pub(crate) duration_ms: u64,
}

impl Model {
    /// A pull that does not wait, and what it got.
    pub(crate) fn pull(&mut self, pull: &Pull, got: &[Delivered]) -> Result<(), Wrong> {
        for queue in pull.queues.keys() {
            self.queue_or_new(queue, Policy::DEFAULT);
        }
        let left = self.left_for(pull, got)?;
        if got.len() < pull.max && left.is_some() {
            return Err(format!("{pull:?} gets {got:?}, and might have more of rank {left:?}"));
        }
        self.deliver_to(pull, got)
    }

    /// Checks what a pull gets: of each queue the next ones, as many as may be delivered, and nothing of a
    /// queue while one of a better rank has more. The best rank that has.
    fn left_for(&self, pull: &Pull, got: &[Delivered]) -> Result<Option<i32>, Wrong> {
        let (mut left, mut worst, mut count) = (None::<i32>, None::<i32>, 0);
        for (queue, &rank) in &pull.queues {
            let of_queue = self.of_queue(queue, got);
            count += of_queue.len();
            // One that waited may wait for a queue that is gone.
            let is_paused = self.queues.get(queue).is_none_or(|queue| queue.paused);
            let most = if is_paused { 0 } else { self.quota(queue) };
            let is_more = self.check_next(queue, &of_queue)?;
            if most < of_queue.len() {
                return Err(format!("{pull:?} gets {got:?}, and may have {most} of {queue}"));
            }
            if is_more && of_queue.len() < most {
                left = Some(left.map_or(rank, |left| left.min(rank)));
            }
            if !of_queue.is_empty() {
                worst = worst.max(Some(rank));
            }
        }
        let is_passed_over = left.zip(worst).is_some_and(|(left, worst)| left < worst);
        if count < got.len() || pull.max < got.len() || is_passed_over {
            return Err(format!("{pull:?} gets {got:?}, and {left:?} has more than {worst:?}"));
        }
        Ok(left)
    }

    /// What is of this queue.
    fn of_queue(&self, queue: &str, got: &[Delivered]) -> Vec<Sequence> {
        let is_of = |it: &&Delivered| {
            self.messages.get(&it.sequence).is_some_and(|message| message.queue == queue)
        };
        got.iter().filter(is_of).map(|it| it.sequence).collect()
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
        self.left_for(&pull, got)?;
        if got.is_empty() {
            return Err(format!("{pull:?} gets nothing"));
        }
        self.deliver_to(&pull, got)
    }

    fn deliver_to(&mut self, pull: &Pull, got: &[Delivered]) -> Result<(), Wrong> {
        for it in got {
            let message = &self.messages[&it.sequence];
            let limit = self.limit(it.sequence, None);
            if (it.failures, it.crashes, it.limit) != (message.failures, message.crashes, limit) {
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
        let mut queues = BTreeMap::<&'static str, Vec<(Sequence, Token)>>::new();
        for it in got {
            let queue = self.messages[&it.sequence].queue;
            queues.entry(queue).or_default().push((it.sequence, it.token));
        }
        queues.iter().try_for_each(|(queue, got)| self.lease_out(queue, got, of_nobody))
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
        if self.policy(queue).interval_ms.is_some() {
            self.delivered.insert(queue, self.now.boot_ms);
        }
        let after = self.waiting_keys(queue);
        let weights = self.policy(queue).weights;
        self.turns.served(queue, (before, after), &counts, weights)
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
        let first = |pull: &Pull| pull.queues.keys().find_map(|it| self.first_waiting(it));
        let of = |pull| Some((first(pull)?, pull));
        self.waits.values().find_map(of).map_or(Ok(()), |(sequence, pull)| {
            Err((sequence, format!("{sequence} is ready, and {pull:?} waits")))
        })
    }

    /// Whether a pull waits for something of a queue.
    pub(super) fn is_pulled(&self, queue: &str) -> bool {
        self.waits.values().any(|pull| pull.queues.contains_key(queue))
    }
}
