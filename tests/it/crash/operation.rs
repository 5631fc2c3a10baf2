//! The part of the history in which messages are moved: in steps, of which each is done or is not.

use qbroker::engine::Core;
use qbroker::queue::filter::{Filter, Told};
use qbroker::queue::{CreateQueue, OperationStep, Pace, StartOperation, StepBounds, Work};
use qbroker_storage::Lsn;

use super::story::{Fact, Off, Story};

impl Story {
    /// Makes a queue, and moves there everything that is in another one.
    pub(super) fn move_all(&mut self, from: &str, to: &'static str) -> Result<(), Off> {
        let create = CreateQueue { name: to.to_owned(), ..CreateQueue::default() };
        let (_, made) = self.engine.turn(|core, now, out| core.create_queue(&create, now, out))?;
        made.expect("there is none of that name");
        self.note_state();
        let work = Work::Move { destination: to.to_owned(), reset_attempts: true };
        let (queue, filter) = (from.to_owned(), Filter::default());
        let start = StartOperation { queue, filter, work, rate: 0, limit: 0 };
        let (_, id) = self.engine.turn(|core, now, out| core.start_operation(&start, now, out))?;
        let id = id.expect("both queues are there");
        self.note_state();
        let mut moved = 0;
        while let Some(step) = self.look(id)? {
            let (lsn, pace) =
                self.engine.turn(|core, now, out| core.step_operation(&step, now, out))?;
            let births = step.found.iter().map(|(candidate, _)| candidate.birth);
            moved += step.found.len();
            self.facts.extend(births.map(|birth| (lsn, Fact::Moved { birth, to })));
            self.note_state();
            self.step()?;
            if pace.expect("a step is not refused") == Pace::Ended {
                break;
            }
        }
        assert_eq!(moved, 4);
        Ok(())
    }

    /// The next message of the operation.
    fn look(&self, id: Lsn) -> Result<Option<OperationStep>, Off> {
        let next = |core: &Core| {
            let Some(operation) = core.operation(id) else { return Ok(None) };
            let bounds = StepBounds { messages: 1, bytes: u64::MAX };
            let filter = &operation.started.filter;
            core.candidates(operation.queue(), filter, operation.after(), bounds).map(Some)
        };
        let (_, next) = self.engine.look_up(next)?;
        Ok(next.map(|next| OperationStep {
            operation: id,
            found: next.found.into_iter().map(|it| (it, Some(Told::default()))).collect(),
            after: next.after,
            is_end: next.is_end,
            examined: next.examined,
        }))
    }
}
