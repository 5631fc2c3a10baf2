//! The last step of messages that wait, so that the next one can name it: a trace follows them back.
//!
//! Kept where a queue asks for outcomes, and for what somebody had already or has changed, never for
//! what was only published. Whoever holds a message has its steps in the lease's record.

use std::ops::Bound;

use qbroker_storage::Lsn;

use super::Core;
use super::ids::QueueId;
use super::index::{Index, Message};
use super::shared_map::SharedMap;

/// Steps in one item of a checkpoint.
const ITEM_STEPS: usize = 1_024;

/// Messages by their queues, and the record of each one's last step.
#[derive(Debug, Default)]
pub(super) struct Trail(Steps);

/// The last step of each message.
pub(super) type Steps = SharedMap<(QueueId, Lsn), Lsn>;

/// Steps of messages of one queue, side by side, as a checkpoint has them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TrailItem {
    #[prost(uint32, tag = "1")]
    queue: u32,
    #[prost(uint64, repeated, tag = "2")]
    births: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    steps: Vec<u64>,
}

impl Trail {
    fn take(&mut self, queue: QueueId, birth: Lsn) -> Lsn {
        if self.0.is_empty() { Lsn(0) } else { self.0.remove(&(queue, birth)).unwrap_or_default() }
    }

    fn note(&mut self, queue: QueueId, birth: Lsn, step: Lsn, max: usize) {
        self.0.insert((queue, birth), step);
        if max < self.0.len() {
            self.0.pop_first();
        }
    }

    /// A queue does not ask any more.
    pub(super) fn forget(&mut self, queue: QueueId) {
        let from = self.0.from(Bound::Included(&(queue, Lsn(0))));
        let of_queue = from.map(|(key, _)| *key).take_while(|(other, _)| *other == queue);
        let keys: Vec<_> = of_queue.collect();
        for key in keys {
            self.0.remove(&key);
        }
    }

    /// Every step, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> Steps {
        self.0.clone()
    }

    pub(super) fn restore(&mut self, item: &TrailItem) {
        for (&birth, &step) in item.births.iter().zip(&item.steps) {
            self.0.insert((QueueId(item.queue), Lsn(birth)), Lsn(step));
        }
    }
}

/// Steps as a checkpoint has them.
pub(super) fn items(steps: &Steps) -> Vec<TrailItem> {
    let steps: Vec<_> = steps.iter().collect();
    let of_queues = steps.chunk_by(|((one, _), _), ((other, _), _)| one == other);
    let pieces = of_queues.flat_map(|of_queue| of_queue.chunks(ITEM_STEPS));
    pieces.map(item).collect()
}

fn item(steps: &[(&(QueueId, Lsn), &Lsn)]) -> TrailItem {
    TrailItem {
        queue: steps.first().map_or(0, |((queue, _), _)| queue.0),
        births: steps.iter().map(|((_, birth), _)| birth.0).collect(),
        steps: steps.iter().map(|(_, step)| step.0).collect(),
    }
}

impl<I: Index> Core<I> {
    /// The record that is applied just now happens to this message, which was so before, and which loses
    /// this lease by it.
    pub(super) fn tell_step(&mut self, birth: Lsn, before: &Message, grant: Option<Lsn>) {
        let previous = self.take_step(before.queue, birth);
        self.telling.step(before, grant, previous);
    }

    /// The last step of a message; it is not remembered any more.
    pub(super) fn take_step(&mut self, queue: QueueId, birth: Lsn) -> Lsn {
        if self.outcomes.are_wanted(queue) { self.trail.take(queue, birth) } else { Lsn(0) }
    }

    /// The record that is applied just now is the last step of this message, which is in this queue.
    pub(super) fn note_step(&mut self, queue: QueueId, birth: Lsn) {
        if self.outcomes.are_wanted(queue) {
            let (step, max) = (self.last_lsn(), self.limits.trail_max);
            self.trail.note(queue, birth, step, max);
        }
    }

    /// The record of the last step of a message that waits, as far as it is known.
    pub fn last_step(&self, queue: QueueId, birth: Lsn) -> Lsn {
        self.trail.0.get(&(queue, birth)).copied().unwrap_or_default()
    }
}
