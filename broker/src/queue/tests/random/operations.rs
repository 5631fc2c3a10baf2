//! Random operations: begun, gone on with, ended, over restarts and whatever else comes between.

use qbroker_storage::Lsn;

use super::{Asked, Play, QUEUES};
use crate::queue::filter::{Filter, Is, Names, Term};
use crate::queue::index::StateSet;
use crate::queue::record::{DeadLetterReason, OperationKind};
use crate::queue::tests::operations::look;
use crate::queue::tests::stage::StageIndex;
use crate::queue::{StartOperation, Work};

/// Where no operation can move anything.
const NOWHERE: &str = "nowhere";

impl<I: StageIndex> Play<I> {
    /// Goes on with those that are running, and begins another one. `to` is a queue, or beyond them
    /// none that is there; without it, it deletes.
    pub(super) fn operate(&mut self, queue: u8, to: Option<u8>, states: StateSet, how: u8) {
        let running: Vec<Lsn> = self.stage.core.running_operations().collect();
        for id in running {
            self.step(id, usize::from(how % 4) + 1);
            if how.is_multiple_of(5) {
                let heard = self.stage.turn(|core, now, out| core.cancel_operation(id, now, out));
                self.heard(&heard, Asked::default());
            }
        }
        let name = |pick: u8| QUEUES.get(usize::from(pick)).copied();
        let reset_attempts = how & 8 != 0;
        let work = to.map_or(Work::Delete, |to| Work::Move {
            // Half of those that are beyond go back to where they died.
            destination: name(to).unwrap_or(if how & 16 == 0 { "" } else { NOWHERE }).to_owned(),
            reset_attempts,
        });
        let queue = QUEUES[usize::from(queue) % QUEUES.len()].to_owned();
        let filter = self.filter(states, how);
        let limit = if how & 32 == 0 { 0 } else { 2 };
        let start = StartOperation { queue: queue.clone(), filter, work, rate: 0, limit };
        let may_go = self.model.queue_named(&queue).is_some()
            && match &start.work {
                Work::Delete => true,
                Work::Move { destination, .. } => {
                    let to = self.model.queue_named(destination);
                    let goes = destination.is_empty()
                        || (*destination != queue && to.is_some_and(|to| !to.publishing_paused));
                    goes && !self.disk_full
                }
            };
        let heard = self.stage.turn(|core, now, out| core.start_operation(&start, now, out));
        self.heard(&heard, Asked::default());
        let is_full = self.stage.core.limits().operations_max;
        let count = self.stage.core.running_operations().count();
        assert!(heard.answer.is_ok() == may_go || count == is_full, "{:?}", heard.answer);
        if let Ok(id) = heard.answer
            && how & 64 != 0
        {
            for _ in 0..4 {
                self.step(id, usize::from(how) % 7 + 1);
            }
        }
    }

    /// Of some states, and for half of them of something else that the model knows.
    fn filter(&self, states: StateSet, how: u8) -> Filter {
        let mut filter = Filter::of(Is::In(states.0));
        if how < 128 {
            return filter;
        }
        let lately_ms = self.stage.now.wall_ms - 5_000;
        let is = match how % 5 {
            0 => {
                let births = self.model.messages.keys().copied().step_by(2).collect();
                Is::Named(Names { ids: Vec::new(), births })
            }
            1 => Is::PublishedAfter(lately_ms),
            2 => Is::PublishedBefore(lately_ms),
            3 => Is::Reason(DeadLetterReason::MaxAttempts.into()),
            _ => Is::Source("strict".to_owned()),
        };
        filter.terms.push(Term { is: Some(is) });
        filter
    }

    fn step(&mut self, id: Lsn, messages: usize) {
        let Some(operation) = self.stage.core.operation(id).cloned() else { return };
        let started = &operation.started;
        let step = look(&mut self.stage, id, messages);
        let heard = self.stage.turn(|core, now, out| core.step_operation(&step, now, out));
        let is_move = started.kind() == OperationKind::Move;
        let asked = Asked {
            meant: Some(self.model.meant(started.queue, &started.filter)),
            moving: is_move.then_some((started.queue, started.reset_attempts)),
            purge: (!is_move).then(|| (started.queue, started.filter.states())),
            ..Asked::default()
        };
        self.heard(&heard, asked);
        let now = self.stage.core.operation(id).expect("it was there just now");
        assert!(operation.started.limit == 0 || now.progress.done <= started.limit);
        assert!(operation.progress.done <= now.progress.done);
    }
}
