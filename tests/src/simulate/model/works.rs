//! Operations: what they delete and move, and how far they are.

use std::collections::BTreeMap;

use super::calls::Refusal;
use super::{Filter, Message, Model, Sequence, State, Time, Wrong, is_dead};

/// Work on the messages of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    queue: &'static str,
    /// The number of the queue: one that is made again is another one.
    number: u64,
    /// Deletes; otherwise moves.
    deletes: bool,
    /// Where to; `None`: dead letters, each to where it came from.
    to: Option<&'static str>,
    filter: Filter,
    /// What a deletion has to meet, if nothing is done to it before: as it was when it was begun.
    owed: BTreeMap<Sequence, Message>,
    pub(crate) done: u64,
    pub(crate) goes_on: bool,
}

/// A message that is there after a step, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) sequence: Sequence,
    pub(crate) queue: &'static str,
    /// Those of one number have one place.
    pub(crate) group: u64,
}

impl Model {
    /// An operation was begun, with its number, or why it was not.
    pub(crate) fn operate(
        &mut self,
        queue: &'static str,
        (is_move, to): (bool, Option<&'static str>),
        filter: Filter,
        answer: Result<u64, Refusal>,
    ) -> Result<(), Wrong> {
        let closed = |name: &str| match self.queues.get(name) {
            None => Some("QUEUE_NOT_FOUND"),
            Some(queue) if queue.publishing_paused => Some("QUEUE_PAUSED"),
            Some(_) => None,
        };
        let found = self.queues.get(queue).map(|queue| queue.number);
        let expected = match found {
            None => Some("QUEUE_NOT_FOUND"),
            Some(_) => to.and_then(closed),
        };
        let expected = expected.or_else(|| (is_move && !self.has_room).then_some("DISK_FULL"));
        match (answer, expected, found) {
            (Err(why), Some(expected), _) if why == expected => Ok(()),
            // Others go on.
            (Err("LIMIT_REACHED"), None, _) => Ok(()),
            (Ok(id), None, Some(number)) => {
                let (deletes, done, goes_on) = (!is_move, 0, true);
                let owed = self.messages.iter().filter(|(sequence, it)| {
                    // When it was moved here is told by the wall clock alone, which may be set back.
                    let is_certain = it.place != 0 || it.since_ms == it.published_ms;
                    deletes && is_certain && it.queue == queue && filter.means(**sequence, it)
                });
                let owed = owed.map(|(sequence, it)| (*sequence, it.clone())).collect();
                let work = Work { queue, number, deletes, to, filter, owed, done, goes_on };
                self.works.insert(id, work);
                Ok(())
            }
            other => Err(format!("operation on {queue}: {other:?}")),
        }
    }

    /// A step of an operation looked at these messages; where those are now that are still there, and
    /// what it says that it has done.
    pub(crate) fn work(
        &mut self,
        id: u64,
        looked_at: &[Sequence],
        after: &[Moved],
        (done, goes_on): (u64, bool),
        now: Time,
    ) -> Result<(), Wrong> {
        let work = self.works.get(&id).cloned();
        let work = work.ok_or_else(|| format!("nobody began operation {id}"))?;
        let mut count = 0;
        for &sequence in looked_at {
            let is_gone = after.iter().all(|it| it.sequence != sequence);
            if is_gone && self.messages.contains_key(&sequence) {
                self.check_work(&work, id, sequence, work.deletes)?;
                self.messages.remove(&sequence);
                count += 1;
            }
        }
        let (mut last, mut place) = (None, 0);
        for &Moved { sequence, queue, group } in after {
            let Some(message) = self.messages.get(&sequence) else {
                return Err(format!("{sequence} is there again"));
            };
            if message.queue == queue {
                continue;
            }
            let own = message.letter.as_ref().map(|letter| letter.from);
            self.check_work(&work, id, sequence, work.to.or(own) == Some(queue))?;
            if last.replace(group) != Some(group) {
                place = self.next_place();
            }
            self.move_to(&work, (sequence, place), queue, now);
            count += 1;
        }
        if let Some((left, as_before)) = self.left(&work).filter(|_| work.goes_on && !goes_on) {
            return Err(format!("operation {id} has ended and left {left}: {as_before:?}"));
        }
        let expected = work.done + count;
        if done != expected {
            return Err(format!("operation {id} says that {done} are done, not {expected}"));
        }
        self.works.insert(id, Work { done, goes_on, ..work });
        Ok(())
    }

    /// A message of which nothing but this work wanted anything since it was begun.
    fn left<'a>(&self, work: &'a Work) -> Option<(&'a Sequence, &'a Message)> {
        work.owed.iter().find(|(sequence, it)| self.messages.get(sequence) == Some(it))
    }

    fn check_work(&self, work: &Work, id: u64, sequence: Sequence, may: bool) -> Result<(), Wrong> {
        let message = &self.messages[&sequence];
        let is_same = self.queues.get(work.queue).is_some_and(|it| it.number == work.number);
        let is_held = matches!(message.state, State::Leased(_));
        if may
            && is_same
            && work.goes_on
            && message.queue == work.queue
            && work.filter.means(sequence, message)
            && sequence < id
            && !is_held
        {
            return Ok(());
        }
        Err(format!("operation {id}, {work:?}, does something to {sequence}: {message:?}"))
    }

    fn move_to(
        &mut self,
        work: &Work,
        (sequence, place): (Sequence, u64),
        queue: &'static str,
        now: Time,
    ) {
        let is_dead = is_dead(queue);
        let message = self.message(sequence);
        message.queue = queue;
        message.since_ms = now.wall_ms;
        message.leads = false;
        message.letter = message.letter.take().filter(|_| is_dead);
        if work.to.is_none() {
            (message.failures, message.crashes) = (0, 0);
        }
        if message.place != 0 {
            message.place = place;
        }
        if !matches!(message.state, State::Scheduled(_)) {
            self.join_line(sequence);
        }
    }
}
