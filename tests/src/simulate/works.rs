//! Operations on many messages, a step at a time, with everything else between the steps.

use qbroker::queue::filter::{self, Filter, HeaderIs, Is, Names, Told as Records};
use qbroker::queue::index::{Index as _, StateSet};
use qbroker::queue::record::{DeadLetterReason, OperationKind, Record};
use qbroker::queue::{Candidate, Operation, OperationStep, StartOperation, StepBounds, Work};
use qbroker_storage::{Lsn, StoredRecord};

use super::audit;
use super::clients::Told;
use super::model::{self, Meant, Moved, Sequence, Why};
use super::plan::{Job, QUEUES, Term};
use super::run::{Run, Stopped};

/// Messages of one step: few, so that there are many steps.
const AT_ONCE: usize = 3;

impl Run {
    /// Begins an operation.
    pub(super) fn operate(
        &mut self,
        queue: usize,
        job: Job,
        terms: &[Term],
    ) -> Result<(), Stopped> {
        let dead = self.timeline.now().letters_of(QUEUES[queue]);
        let to = |destination: &str| Work::Move {
            destination: destination.to_owned(),
            reset_attempts: job == Job::Redrive,
        };
        let (from, work, states) = match job {
            Job::Delete => (QUEUES[queue], Work::Delete, StateSet::READY.with(StateSet::SCHEDULED)),
            Job::Redrive => (dead, to(""), StateSet::READY.with(StateSet::PARKED)),
            Job::Move(other) if other == queue => return Ok(()),
            Job::Move(other) => (QUEUES[queue], to(QUEUES[other]), StateSet::ALL),
        };
        let (is, meant): (Vec<Is>, Vec<Meant>) = terms.iter().map(|term| self.meant(*term)).unzip();
        let is = [Is::In(states.0)].into_iter().chain(is);
        let filter = Filter { terms: is.map(|is| filter::Term { is: Some(is) }).collect() };
        let start = StartOperation { queue: from.to_owned(), filter, work, rate: 0, limit: 0 };
        let turn = self.world.engine.turn(|core, now, out| core.start_operation(&start, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("operate {job:?} on {from} with {meant:?}: {answer:?}"));
        let started = answer.as_ref().map(|id| id.0).map_err(|refused| refused.reason());
        let is_move = job != Job::Delete;
        let to = if let Job::Move(other) = job { Some(QUEUES[other]) } else { None };
        let filter = model::Filter { states: states.0, terms: meant };
        self.done(|model| model.operate(from, (is_move, to), filter, started))?;
        self.later(lsn, Told::Answer)
    }

    /// A term for the broker and for the model.
    fn meant(&self, term: Term) -> (Is, Meant) {
        let now_ms = self.world.time().wall_ms;
        match term {
            Term::Type(of) => (Is::Type(audit::message_type(of)), Meant::Rest(of, 3)),
            Term::Header(of) => {
                let header = HeaderIs { key: "of".to_owned(), value: audit::header(of) };
                (Is::Header(header), Meant::Rest(of, 2))
            }
            Term::Correlation(of) => (Is::Correlation(audit::correlation(of)), Meant::Rest(of, 4)),
            Term::Digit(of) => (Is::Contains(format!("{of} ").into()), Meant::Rest(of, 10)),
            Term::Younger(ms) => {
                (Is::PublishedAfter(now_ms - ms), Meant::PublishedAfter(now_ms - ms))
            }
            Term::Older(ms) => {
                (Is::PublishedBefore(now_ms - ms), Meant::PublishedBefore(now_ms - ms))
            }
            Term::Failure(of) => (Is::FailureType(audit::failure_type(of)), Meant::Failure(of)),
            Term::Reason(of) => {
                let (is, meant) = [
                    (DeadLetterReason::MaxAttempts, Why::MaxAttempts),
                    (DeadLetterReason::MaxCrashes, Why::MaxCrashes),
                    (DeadLetterReason::Expired, Why::Expired),
                    (DeadLetterReason::ByConsumer, Why::ByConsumer),
                    (DeadLetterReason::Overflow, Why::Overflow),
                ][of];
                (Is::Reason(is.into()), Meant::Reason(meant))
            }
            Term::Source(of) => (Is::Source(QUEUES[of].to_owned()), Meant::Source(QUEUES[of])),
            Term::Named(from, by) => {
                let messages = self.timeline.now().messages.keys().copied();
                let births: Vec<Sequence> = messages.skip(from).step_by(by).collect();
                let named = births.iter().copied().collect();
                (Is::Named(Names { ids: Vec::new(), births }), Meant::Named(named))
            }
            Term::Id(id) => {
                let (ids, births) = (vec![format!("id-{id}")], Vec::new());
                (Is::Named(Names { ids, births }), Meant::Id(id))
            }
        }
    }

    /// Does a step of each operation that goes on.
    pub(super) fn work(&mut self) -> Result<(), Stopped> {
        let running: Vec<Lsn> =
            self.world.engine.look(|core| core.running_operations().collect()).1;
        for id in running {
            let operation = self.world.engine.look(|core| core.operation(id).cloned()).1;
            if let Some(operation) = operation {
                self.work_on(id, &operation)?;
            }
        }
        Ok(())
    }

    fn work_on(&mut self, id: Lsn, operation: &Operation) -> Result<(), Stopped> {
        let (queue, filter) = (operation.queue(), &operation.started.filter);
        let bounds = StepBounds { messages: AT_ONCE, bytes: u64::MAX };
        let after = operation.after();
        let look = |core: &qbroker::engine::Core| core.candidates(queue, filter, after, bounds);
        let found = self.world.engine.look_up(look)?.1;
        let is_move = operation.started.kind() == OperationKind::Move;
        let (mut meant, mut births) = (Vec::new(), Vec::<Sequence>::new());
        for candidate in found.found {
            let in_doubt = operation.needs_record(candidate.birth, &candidate.message);
            let is_read = is_move || in_doubt || filter.needs().any();
            let told = if is_read { self.records_of(&candidate)? } else { Records::default() };
            if filter.holds(candidate.birth, &told) {
                births.push(candidate.birth.0);
                meant.push((candidate, Some(told)));
            }
        }
        let step = OperationStep {
            operation: id,
            found: meant,
            after: found.after,
            is_end: found.is_end,
            examined: found.examined,
        };
        let turn = self.world.engine.turn(|core, now, out| core.step_operation(&step, now, out));
        let (lsn, answer) = turn?;
        let progress = self.world.engine.look(|core| core.operation(id).cloned()).1;
        let progress =
            progress.ok_or_else(|| self.wrong(format!("operation {id} is forgotten")))?;
        let moved = self.moved(&births)?;
        let (done, goes_on) = (progress.progress.done, progress.is_running());
        self.note(format!("work on {id}: {births:?}, {answer:?}, {moved:?}, {done}"));
        let now = self.world.time();
        self.done(|model| model.work(id.0, &births, &moved, (done, goes_on), now))?;
        self.later(lsn, Told::Answer)
    }

    fn records_of(&self, candidate: &Candidate) -> Result<Records, Stopped> {
        let read = |lsn: Lsn| -> Result<Option<(Record, StoredRecord)>, Stopped> {
            if lsn == Lsn(0) {
                return Ok(None);
            }
            let stored = self.record(lsn)?;
            let record = Record::decode_head(&stored.head);
            let record = record.map_err(|why| self.wrong(format!("record {lsn}: {why}")))?;
            Ok(Some((record, stored)))
        };
        let (message, failure, letter) = (
            read(candidate.message.content(candidate.birth))?,
            read(candidate.message.last_failure)?,
            read(candidate.message.dead_letter)?,
        );
        let message = message.as_ref().map(|(record, stored)| (record, &stored.body));
        let letter = letter.as_ref().map(|(record, stored)| (record, &stored.body));
        let failure = failure.as_ref().map(|(record, stored)| (record, &stored.body));
        Ok(Records::read(message, failure, letter))
    }

    /// Where messages are now, the first in place first.
    fn moved(&self, births: &[Sequence]) -> Result<Vec<Moved>, Stopped> {
        let mut moved = Vec::new();
        for &birth in births {
            let look = |core: &qbroker::engine::Core| core.index().message(Lsn(birth));
            let Some(message) = self.world.engine.look_up(look)?.1 else { continue };
            let name = |core: &qbroker::engine::Core| {
                core.queue_by_id(message.queue).map(|queue| queue.definition.name.clone())
            };
            let name = self.world.engine.look(name).1.unwrap_or_default();
            let queue = audit::known(&name).map_err(Stopped::Wrong)?;
            moved.push(Moved { sequence: birth, queue, group: message.place.0 });
        }
        // Of those that moved together the first that was looked at is the first.
        moved.sort_by_key(|moved| moved.group);
        Ok(moved)
    }
}
