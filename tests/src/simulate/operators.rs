//! What operators do to queues.

use qbroker::queue::body::StoredDeadLetter;
use qbroker::queue::index::StateSet;
use qbroker::queue::refused::Refused;
use qbroker::queue::{
    CreateQueue, DeleteQueue, LetterRecord, Lost, PauseQueue, PurgeStep, UpdateQueue,
};

use super::audit;
use super::clients::Told;
use super::model::Policy;
use super::plan::{Change, LETTERS, QUEUES};
use super::policies;
use super::run::{Run, Stopped};

impl Run {
    pub(super) fn create(&mut self, queue: usize) -> Result<(), Stopped> {
        let name = QUEUES.get(queue).copied().unwrap_or(LETTERS);
        let made = policies::made(queue);
        let policy = policies::told(&made);
        let create = CreateQueue { name: name.to_owned(), policy, ..CreateQueue::default() };
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.create_queue(&create, now, out))?;
        let done = self.is_done(&answer, "QUEUE_EXISTS")?;
        self.note(format!("create {name}: {done}"));
        self.done(|model| model.create(name, made, done))?;
        self.later(lsn, Told::Answer)
    }

    /// Changes something of a queue's policy, and leaves the rest of it as it is.
    pub(super) fn change(&mut self, queue: usize, change: Change) -> Result<(), Stopped> {
        let name = QUEUES.get(queue).copied().unwrap_or(LETTERS);
        let found = self.timeline.now().queues.get(name);
        let before = found.map_or(Policy::DEFAULT, |queue| queue.policy);
        let after = policies::changed(before, change, policies::made(queue));
        let policy = policies::told(&after);
        let update = UpdateQueue { name: name.to_owned(), policy, ..UpdateQueue::default() };
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.update_queue(&update, now, out))?;
        let done = self.is_done(&answer, "QUEUE_NOT_FOUND")?;
        self.note(format!("change {name}, {change:?}: {done}"));
        self.done(|model| model.change(name, after, done))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn drop_queue(&mut self, queue: usize) -> Result<(), Stopped> {
        let name = QUEUES[queue];
        let delete = DeleteQueue { name: name.to_owned(), force: true, allow_missing: false };
        let (lsn, answer) =
            self.world.engine.turn(|core, _, out| core.delete_queue(&delete, out))?;
        let done = self.is_done(&answer, "QUEUE_NOT_FOUND")?;
        self.note(format!("drop {name}: {done}"));
        self.done(|model| model.drop_queue(name, done))?;
        self.later(lsn, Told::Answer)
    }

    /// Pauses or resumes.
    pub(super) fn pause(&mut self, queue: usize, to: (bool, bool)) -> Result<(), Stopped> {
        let name = QUEUES[queue];
        let pause = PauseQueue { name: name.to_owned(), publishing: to.1 };
        let (lsn, answer) = self.world.engine.turn(|core, _, out| match to.0 {
            true => core.pause_queue(&pause, out),
            false => core.resume_queue(name, out),
        })?;
        let done = self.is_done(&answer, "QUEUE_NOT_FOUND")?;
        self.note(format!("pause {name} {to:?}: {done}"));
        self.done(|model| model.pause(name, to, done))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn purge(
        &mut self,
        queue: usize,
        states: u32,
        letters: bool,
    ) -> Result<(), Stopped> {
        let name = QUEUES[queue];
        let engine = self.world.engine.clone();
        let begun = engine.look(|core| core.begin_purge(name, StateSet(states), Lost::Purged)).1;
        let mut deleted = 0;
        let (lsn, deleted) = match begun {
            Err(_) => (engine.look(|_| ()).0, None),
            Ok(mut purge) => loop {
                let (lsn, step) = engine.turn(|core, _, out| core.purge(&mut purge, out))?;
                let PurgeStep { deleted: more, is_last } =
                    step.map_err(|refused| self.wrong(format!("purge: {refused}")))?;
                deleted += more;
                if is_last {
                    break (lsn, Some(deleted));
                }
            },
        };
        self.note(format!("purge {name} {states:b}: {deleted:?}"));
        self.done(|model| model.purge(name, states, deleted))?;
        self.later(lsn, Told::Answer)?;
        if letters { self.purge_letters(name, states) } else { Ok(()) }
    }

    /// Deletes the dead letters that came from a queue.
    fn purge_letters(&mut self, name: &'static str, states: u32) -> Result<(), Stopped> {
        let engine = self.world.engine.clone();
        let begun = engine.look(|core| core.begin_letters_purge(name, StateSet(states))).1;
        let mut lsn = engine.look(|_| ()).0;
        let mut deleted = if begun.is_ok() { Some(0) } else { None };
        let mut purge = begun.ok().flatten();
        while let Some(going) = &mut purge {
            let looked_at = engine.look_up(|core| core.next_letters(going))?.1;
            let of_queue = self.letters_from(name, &looked_at.letters)?;
            let turn =
                engine.turn(|core, _, out| core.purge_letters(going, &looked_at, &of_queue, out));
            let (last, step) = turn?;
            let PurgeStep { deleted: more, is_last } =
                step.map_err(|refused| self.wrong(format!("purge: {refused}")))?;
            (lsn, deleted) = (last, deleted.map(|deleted| deleted + more));
            if is_last {
                break;
            }
        }
        self.note(format!("purge the dead letters of {name} {states:b}: {deleted:?}"));
        self.done(|model| model.purge_letters(name, states, deleted))?;
        self.later(lsn, Told::Answer)
    }

    /// Those of the letters that came from this queue.
    fn letters_from(
        &self,
        name: &str,
        letters: &[LetterRecord],
    ) -> Result<Vec<LetterRecord>, Stopped> {
        let mut of_queue = Vec::new();
        for letter in letters {
            let source = audit::record(&self.world.engine, letter.record).and_then(|record| {
                StoredDeadLetter::source_queue(&record.body).map_err(|error| error.to_string())
            });
            if source.map_err(|wrong| self.unreadable(wrong))? == name {
                of_queue.push(*letter);
            }
        }
        Ok(of_queue)
    }

    fn is_done(&self, answer: &Result<(), Refused>, unless: &str) -> Result<bool, Stopped> {
        match answer {
            Ok(()) => Ok(true),
            Err(refused) if refused.reason() == unless => Ok(false),
            Err(refused) => Err(self.wrong(format!("refused: {refused}"))),
        }
    }
}
