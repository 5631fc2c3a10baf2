//! Clients that pull: what is there, or what comes while they wait.

use std::collections::BTreeMap;

use qbroker::engine::PullAnswer;
use qbroker::queue::ids::LeaseToken;
use qbroker::queue::{self, Delivery, PullId, Selector};
use qbroker_storage::Lsn;
use tokio::sync::oneshot;

use super::clients::{Pending, Told};
use super::model::{Delivered, Pull, dead_letter_queue};
use super::plan::{GRAVES, QUEUES};
use super::run::{Run, Stopped};

/// A pull that waits for something to come.
pub(super) struct Waiting {
    /// Our name for it.
    name: u64,
    id: PullId,
    answer: oneshot::Receiver<(Lsn, Vec<Delivery>)>,
}

/// What a pull that has waited gets.
pub(super) struct Answered {
    name: u64,
    deliveries: Vec<Delivery>,
}

/// As many as wait at once.
const WAITING_MAX: usize = 6;

/// How many rounds of a drain have no time between them, and how much passes then: no machine can have more
/// settlements than it has room to remember, and these would be.
const DRAINED_TOGETHER: u64 = 100;
const DRAINED_MS: u64 = 100_000;

/// A queue, or, beyond those, one of their dead-letter queues, or the one that policies name.
fn queue_of(queue: usize) -> &'static str {
    let of_letters = || dead_letter_queue(QUEUES.get(queue - QUEUES.len())?);
    QUEUES.get(queue).copied().or_else(of_letters).unwrap_or(GRAVES)
}

fn delivered(deliveries: &[Delivery]) -> Vec<Delivered> {
    let delivered = |it: &Delivery| Delivered {
        sequence: it.token.birth.0,
        token: it.token.to_bytes(),
        failures: it.failures,
        crashes: it.crashes,
        limit: it.failures_max,
    };
    deliveries.iter().map(delivered).collect()
}

impl Run {
    /// Takes what there is, and does not wait.
    pub(super) fn pull(&mut self, queue: usize, max: u32, lease_ms: u64) -> Result<(), Stopped> {
        if queue_of(queue) == GRAVES && !self.timeline.now().queues.contains_key(GRAVES) {
            // A pull would make it a queue like others.
            return Ok(());
        }
        self.pull_of(&[(queue_of(queue), 0)], max, lease_ms, false)
    }

    /// Takes what there is, or waits for some.
    pub(super) fn wait(&mut self, queue: usize, max: u32, lease_ms: u64) -> Result<(), Stopped> {
        self.pull_of(&[(queue_of(queue), 0)], max, lease_ms, self.may_wait())
    }

    fn may_wait(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Takes what there is of several queues, by their bits, those of a worse rank last.
    pub(super) fn pull_of_several(
        &mut self,
        (queues, worse): (usize, usize),
        max: u32,
        lease_ms: u64,
        waits: bool,
    ) -> Result<(), Stopped> {
        let of = |at: usize| (QUEUES[at], i32::from(worse >> at & 1 == 1));
        let queues: Vec<_> = (0..QUEUES.len()).filter(|at| queues >> at & 1 == 1).map(of).collect();
        self.pull_of(&queues, max, lease_ms, waits && self.may_wait())
    }

    fn pull_of(
        &mut self,
        queues: &[(&'static str, i32)],
        max: u32,
        lease_ms: u64,
        waits: bool,
    ) -> Result<(), Stopped> {
        let selector = |(at, (queue, rank)): (u32, &(&'static str, i32))| Selector {
            rank: *rank,
            weight: 1 + at % 3,
            ..Selector::plain(*queue)
        };
        let asked = queue::Pull {
            queues: (0..).zip(queues).map(selector).collect(),
            messages_max: max,
            lease_duration_ms: Some(lease_ms),
            session: String::new(),
            request_id: String::new(),
        };
        let (lsn, answer) = self.world.engine.pull(&asked)?;
        let (deliveries, waiting) = match answer {
            Ok(PullAnswer::Now(deliveries)) => (deliveries, None),
            Ok(PullAnswer::Waiting(id, answer)) if waits => (Vec::new(), Some((id, answer))),
            Ok(PullAnswer::Waiting(id, answer)) => {
                self.world.engine.cancel_pull(id, answer);
                (Vec::new(), None)
            }
            Err(refused) => return Err(self.wrong(format!("pull of {queues:?}: {refused}"))),
        };
        let got = delivered(&deliveries);
        let sequences: Vec<_> = got.iter().map(|it| it.sequence).collect();
        self.note(format!("pull {max} of {queues:?} for {lease_ms} ms: {sequences:?}"));
        let (queues, max) = (queues.iter().copied().collect(), max.try_into().expect("small"));
        let pull = Pull { queues, max, duration_ms: lease_ms };
        self.done(|model| model.pull(&pull, &got))?;
        if let Some((id, answer)) = waiting {
            self.last_number += 1;
            let name = self.last_number;
            self.note(format!("it waits as {name}"));
            self.waiting.push(Waiting { name, id, answer });
            self.done(|model| {
                model.wait(name, pull.clone());
                Ok(())
            })?;
        }
        let told = self.told_of(deliveries);
        self.later(lsn, told)
    }

    fn told_of(&self, deliveries: Vec<Delivery>) -> Told {
        let messages = &self.timeline.now().messages;
        let number = |it: &Delivery| messages[&it.token.birth.0].number;
        let numbers: Vec<_> = deliveries.iter().map(number).collect();
        Told::Delivered(deliveries.into_iter().zip(numbers).collect())
    }

    /// One of those that wait goes away.
    pub(super) fn give_up(&mut self, pick: u64) -> Result<(), Stopped> {
        let at = usize::try_from(pick >> 8).unwrap_or(usize::MAX);
        let Some(at) = at.checked_rem(self.waiting.len()) else { return Ok(()) };
        let Waiting { name, id, answer } = self.waiting.remove(at);
        self.world.engine.cancel_pull(id, answer);
        self.note(format!("{name} waits no more"));
        self.done(|model| {
            model.stop_waiting(name);
            Ok(())
        })
    }

    /// What those that waited were given in the turn that is just over, by the record that says so.
    pub(super) fn take_answers(&mut self) -> BTreeMap<Lsn, Answered> {
        let mut answers = BTreeMap::new();
        self.waiting.retain_mut(|waiting| match waiting.answer.try_recv() {
            Ok((_, deliveries)) => {
                let grant = deliveries.first().map_or(Lsn(0), |first| first.token.grant);
                answers.insert(grant, Answered { name: waiting.name, deliveries });
                false
            }
            Err(_) => true,
        });
        answers
    }

    pub(super) fn note_answer(&mut self, lsn: Lsn, answered: Answered) -> Result<(), Stopped> {
        let Answered { name, deliveries } = answered;
        let got = delivered(&deliveries);
        let sequences: Vec<_> = got.iter().map(|it| it.sequence).collect();
        self.note(format!("{name}, who waited, gets {sequences:?}"));
        self.done(|model| model.answer(name, &got))?;
        let (moment, what) = (self.timeline.moment(), self.told_of(deliveries));
        self.pending.push_back(Pending { lsn, moment, what });
        Ok(())
    }

    /// Takes messages and returns them, again and again, while others have the whole disk: all of it
    /// must go into the room that is kept for that.
    pub(super) fn drain(&mut self, rounds: u64) -> Result<(), Stopped> {
        for round in 1..=rounds {
            let model = self.timeline.now();
            let mut queues = model.queues.keys().copied();
            let Some(queue) = queues.find(|queue| model.has_some(queue)) else { return Ok(()) };
            if !self.world.is_full() {
                return Ok(());
            }
            if round % DRAINED_TOGETHER == 0 {
                self.world.pass(DRAINED_MS);
                self.tick()?;
            }
            let before = self.held.clone();
            self.pull_of(&[(queue, 0)], 5, 30_000, false)?;
            self.world.write()?;
            self.tell()?;
            let new = |token: &&LeaseToken| !before.contains(token);
            let taken: Vec<_> = self.held.iter().filter(new).copied().collect();
            if !taken.is_empty() {
                self.release(&taken)?;
            }
            self.world.write()?;
            self.tell()?;
        }
        Ok(())
    }
}
