//! Work on many messages that the broker does by itself: deleting and moving what a filter means.
//!
//! An operation is a fact of the log, and so is each of its steps: what the step did and how far the
//! operation is by then are on disk together or not at all, so one that a crash interrupts goes on where
//! it was, and does nothing twice. It looks through the queue again for as long as that does something, so
//! that what changed its state meanwhile is met, and leaves alone what came into the queue after it was
//! begun.

use std::collections::BTreeMap;

use qbroker_storage::Lsn;

use super::candidates::Candidate;
use super::filter::{Filter, Told};
use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, Message};
use super::record::{
    Deleted, OperationKind, OperationStarted, OperationState, OperationStepped, Record,
    RefusedMessages, StoredCursor,
};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Lost, Output, Turn};

/// How long an operation that has ended can be asked for.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;
/// How often a queue is looked through at most, while each look did something. Without a bound two
/// operations that move to and fro would never end.
const PASSES: u32 = 10;

/// An operation as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What was asked for.
    pub started: OperationStarted,
    /// How far it is.
    pub progress: OperationStepped,
}

impl Operation {
    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.progress.state() == OperationState::Running
    }

    /// Where it looks next.
    pub fn after(&self) -> Option<Cursor> {
        self.progress.after.and_then(StoredCursor::cursor)
    }

    /// The queue that it works on.
    pub fn queue(&self) -> QueueId {
        QueueId(self.started.queue)
    }

    /// What it may still do.
    pub fn left(&self) -> u64 {
        match self.started.limit {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.progress.done),
        }
    }

    /// Whether a message's own record has to be read to say whether it was there when this was begun: by the
    /// wall clock alone, which may have been set back since, it came later.
    pub fn needs_record(&self, birth: Lsn, message: &Message) -> bool {
        let operation = Lsn(self.progress.operation);
        came(birth, message, operation, &self.started) == Came::SinceByTheClock
    }

    /// Messages that matched and were not done, when they were last looked at.
    pub fn failed(&self) -> u64 {
        self.progress.refused.iter().map(|refused| refused.count).sum()
    }
}

/// Begins an operation.
#[derive(Clone, Debug)]
pub struct StartOperation {
    pub queue: String,
    pub filter: Filter,
    pub work: Work,
    /// Messages a second, in thousandths; 0: as fast as it goes.
    pub rate: u64,
    /// Messages at most; 0: all.
    pub limit: u64,
}

/// What is to be done with the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    Delete,
    Move {
        /// Empty: each dead letter's own source queue.
        destination: String,
        reset_attempts: bool,
    },
}

impl StartOperation {
    /// The fact of it, where there are so many messages to be looked at.
    pub fn started(&self, queue: QueueId, messages: u64, wall_ms: u64) -> OperationStarted {
        let (kind, destination, reset_attempts) = match &self.work {
            Work::Delete => (OperationKind::Delete, "", false),
            Work::Move { destination, reset_attempts } => {
                (OperationKind::Move, destination.as_str(), *reset_attempts)
            }
        };
        OperationStarted {
            queue: queue.0,
            kind: kind.into(),
            filter: self.filter.clone(),
            destination: destination.to_owned(),
            reset_attempts,
            rate: self.rate,
            limit: self.limit,
            wall_ms,
            messages,
            queue_name: self.queue.clone(),
        }
    }
}

/// What was found out about the next messages of an operation.
#[derive(Clone, Debug)]
pub struct OperationStep {
    pub operation: Lsn,
    /// What matches, as it was when it was looked at; `None` where its records cannot be read.
    pub found: Vec<(Candidate, Option<Told>)>,
    /// Where the next step looks.
    pub after: Option<Cursor>,
    pub is_end: bool,
    pub examined: u64,
}

/// How an operation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It has done so much, and there may be more.
    Goes { done: u64 },
    /// It cannot go on for now.
    Waits,
    /// It has ended.
    Ended,
}

/// An operation in a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperationItem {
    #[prost(message, required, tag = "1")]
    started: OperationStarted,
    #[prost(message, required, tag = "2")]
    progress: OperationStepped,
}

/// Operations by the LSN of their first record, which is their id.
#[derive(Debug, Default)]
pub(super) struct Operations(BTreeMap<Lsn, Operation>);

impl Operations {
    pub(super) fn get(&self, id: Lsn) -> Option<&Operation> {
        self.0.get(&id)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Lsn, &Operation)> {
        self.0.iter().map(|(id, operation)| (*id, operation))
    }

    /// Every operation, for a checkpoint.
    pub(super) fn items(&self) -> impl Iterator<Item = OperationItem> {
        let item = |Operation { started, progress }| OperationItem { started, progress };
        self.0.values().cloned().map(item)
    }

    /// Takes one of a checkpoint.
    pub(super) fn restore(&mut self, OperationItem { started, progress }: OperationItem) {
        self.0.insert(Lsn(progress.operation), Operation { started, progress });
    }

    fn running(&self) -> impl Iterator<Item = Lsn> {
        self.iter().filter(|(_, operation)| operation.is_running()).map(|(id, _)| id)
    }

    /// Forgets what ended long ago, and the first to have ended beyond `kept_max`.
    fn prune(&mut self, wall_ms: u64, kept_max: usize) {
        self.0.retain(|_, it| it.is_running() || wall_ms < it.progress.end_ms + KEPT_MS);
        let mut ended: Vec<_> = self.iter().filter(|(_, it)| !it.is_running()).collect();
        ended.sort_by_key(|(id, it)| (it.progress.end_ms, *id));
        let surplus = ended.len().saturating_sub(kept_max);
        let forgotten: Vec<Lsn> = ended[..surplus].iter().map(|(id, _)| *id).collect();
        forgotten.iter().for_each(|id| drop(self.0.remove(id)));
    }
}

impl<I: Index> Core<I> {
    /// The operation of this id, unless it is forgotten.
    pub fn operation(&self, id: Lsn) -> Option<&Operation> {
        self.operations.get(id)
    }

    /// Every operation, the latest first.
    pub fn operations(&self) -> impl Iterator<Item = (Lsn, &Operation)> {
        self.operations.iter().rev()
    }

    /// The operations that go on, the first one first.
    pub fn running_operations(&self) -> impl Iterator<Item = Lsn> {
        self.operations.running()
    }

    /// Begins an operation; its id.
    pub fn start_operation(
        &mut self,
        start: &StartOperation,
        now: Now,
        out: &mut Output,
    ) -> Turn<Lsn> {
        let queue = self.queue(&start.queue)?;
        if let Work::Move { destination, .. } = &start.work {
            self.check_destination(&start.queue, destination)?;
            if self.disk_full {
                return Err(Refused::DiskFull.into());
            }
        }
        let max = self.limits.operations_max;
        if max <= self.operations.running().count() {
            return Err(Refused::Limit { what: "operations", max }.into());
        }
        let held = self.index.counts(queue.id()).of(start.filter.states());
        let messages = start.filter.births().map_or(held, |births| births.len() as u64);
        let started = start.started(queue.id(), messages, now.wall_ms);
        let mut draft = self.draft();
        let id = draft.fact(Record::OperationStarted(started));
        self.commit(draft, out);
        Ok(id)
    }

    /// Ends an operation where it is; one that has ended stays as it did.
    pub fn cancel_operation(&mut self, id: Lsn, now: Now, out: &mut Output) -> Turn<()> {
        let operation = self.operations.get(id).ok_or(Refused::OperationNotFound(id))?;
        if operation.is_running() {
            let progress = operation.progress.clone();
            self.end_operation(progress, OperationState::Canceled, None, now, out);
        }
        Ok(())
    }

    /// Does a step of an operation: all that was found, or nothing of it.
    pub fn step_operation(
        &mut self,
        step: &OperationStep,
        now: Now,
        out: &mut Output,
    ) -> Turn<Pace> {
        let running = self.operations.get(step.operation).filter(|it| it.is_running());
        let Some(operation) = running else { return Ok(Pace::Ended) };
        let started = operation.started.clone();
        let mut progress = operation.progress.clone();
        let is_move = started.kind() == OperationKind::Move;
        if self.frozen || (is_move && self.disk_full) {
            return Ok(Pace::Waits);
        }
        if let Err(refused) = self.check_goes_on(&started) {
            self.end_operation(progress, OperationState::Failed, Some(refused), now, out);
            return Ok(Pace::Ended);
        }
        let chosen = self.still_meant(step, &started)?;
        let left = usize::try_from(operation.left()).unwrap_or(usize::MAX);
        let mut draft = self.draft();
        let done = match started.kind() {
            OperationKind::Move => {
                let moves = (&started, step.operation, left);
                self.draft_moves(&mut draft, moves, chosen, &mut progress, now)?
            }
            _ => {
                let births: Vec<u64> =
                    chosen.iter().take(left).map(|(candidate, ..)| candidate.birth.0).collect();
                let lost = births.iter().map(|birth| Lsn(*birth));
                out.effects.extend(self.lost_leases(lost, Lost::MessageDeleted));
                let done = births.len() as u64;
                if 0 < done {
                    draft.fact(Record::Deleted(Deleted { births }));
                }
                done
            }
        };
        progress.done += done;
        progress.examined += step.examined;
        progress.has_acted |= 0 < done;
        let is_enough = 0 < started.limit && started.limit <= progress.done;
        let is_over = is_enough || (step.is_end && !next_pass(&mut progress));
        if !step.is_end {
            progress.after = step.after.map(Into::into);
        }
        if is_over {
            progress.set_state(OperationState::Succeeded);
            progress.end_ms = now.wall_ms;
        }
        draft.fact(Record::OperationStepped(progress));
        self.commit(draft, out);
        Ok(if is_over { Pace::Ended } else { Pace::Goes { done } })
    }

    /// Whether an operation can do anything at all by now.
    fn check_goes_on(&self, started: &OperationStarted) -> Result<(), Refused> {
        if self.catalog.get(QueueId(started.queue)).is_none() {
            return Err(Refused::QueueNotFound(started.queue_name.clone()));
        }
        match started.kind() {
            OperationKind::Move => {
                self.check_destination(&started.queue_name, &started.destination)
            }
            _ => Ok(()),
        }
    }

    /// What was found and is still as it was.
    fn still_meant<'a>(
        &self,
        step: &'a OperationStep,
        started: &OperationStarted,
    ) -> Lookup<Vec<(&'a Candidate, Message, Option<&'a Told>)>> {
        let mut chosen = Vec::with_capacity(step.found.len());
        for (candidate, told) in &step.found {
            let birth = candidate.birth;
            let Some(message) = self.index.message(birth)? else { continue };
            let seen = &candidate.message;
            let same = message.queue.0 == started.queue
                && message.patched == seen.patched
                && message.last_failure == seen.last_failure
                && message.dead_letter == seen.dead_letter;
            let is_meant = match came(birth, &message, step.operation, started) {
                Came::Before => true,
                Came::Since => false,
                // What was not moved since it was published has been there all the time.
                Came::SinceByTheClock => {
                    told.as_ref().and_then(|told| told.publish_ms) == Some(message.since_ms)
                }
            };
            if same && is_meant && started.filter.may_hold(birth, &message) {
                chosen.push((candidate, message, told.as_ref()));
            }
        }
        Ok(chosen)
    }

    fn end_operation(
        &mut self,
        mut progress: OperationStepped,
        state: OperationState,
        why: Option<Refused>,
        now: Now,
        out: &mut Output,
    ) {
        progress.set_state(state);
        progress.end_ms = now.wall_ms;
        if let Some(why) = why {
            (progress.error_reason, progress.error) = (why.reason().to_owned(), why.to_string());
        }
        let mut draft = self.draft();
        draft.fact(Record::OperationStepped(progress));
        self.commit(draft, out);
    }

    pub(super) fn apply_operation_started(&mut self, lsn: Lsn, started: &OperationStarted) {
        self.operations.prune(started.wall_ms, self.limits.operations_kept_max);
        let progress = OperationStepped { operation: lsn.0, ..OperationStepped::default() };
        self.operations.0.insert(lsn, Operation { started: started.clone(), progress });
    }

    pub(super) fn apply_operation_stepped(&mut self, stepped: &OperationStepped) {
        // Behind a gap its start may be lost.
        if let Some(operation) = self.operations.0.get_mut(&Lsn(stepped.operation)) {
            operation.progress = stepped.clone();
        }
    }
}

/// Begins to look once more, where that may be of use.
fn next_pass(progress: &mut OperationStepped) -> bool {
    if !std::mem::take(&mut progress.has_acted) || PASSES <= progress.passes + 1 {
        return false;
    }
    progress.passes += 1;
    progress.after = None;
    // What is still refused then is counted then.
    progress.refused.clear();
    true
}

impl OperationStepped {
    /// Counts a message that was refused.
    pub(super) fn refuse(&mut self, why: &Refused) {
        let reason = why.reason();
        match self.refused.iter_mut().find(|refused| refused.reason == reason) {
            Some(refused) => refused.count += 1,
            None => self.refused.push(RefusedMessages {
                reason: reason.to_owned(),
                count: 1,
                first: why.to_string(),
            }),
        }
    }
}

/// When a message came into its queue, as far as the core knows it.
#[derive(PartialEq, Eq)]
enum Came {
    /// Before an operation was begun.
    Before,
    /// Since then.
    Since,
    /// Since then by the wall clock alone, which may have been set back meanwhile.
    SinceByTheClock,
}

/// What came since is left alone: it may be what this very operation has moved, given up once more, and two
/// that move to and fro would never end. What became ready since has another place, but was there before.
fn came(birth: Lsn, message: &Message, operation: Lsn, started: &OperationStarted) -> Came {
    if operation <= birth.max(message.dead_letter) {
        return Came::Since;
    }
    let by_the_clock = started.wall_ms < message.since_ms;
    let seems_new = match message.place {
        Lsn(0) => by_the_clock,
        place => operation < place && started.wall_ms <= message.since_ms,
    };
    match (seems_new, by_the_clock) {
        (false, _) => Came::Before,
        (true, false) => Came::Since,
        (true, true) => Came::SinceByTheClock,
    }
}
