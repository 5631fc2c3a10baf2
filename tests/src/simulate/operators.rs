//! What operators do to queues.

use qbroker::queue::index::StateSet;
use qbroker::queue::policy::{self, Retry};
use qbroker::queue::refused::Refused;
use qbroker::queue::{CreateQueue, DeleteQueue, Lost, PauseQueue, PurgeStep};

use super::clients::Told;
use super::model::{Overflow, Policy};
use super::plan::{LETTERS, QUEUES};
use super::run::{Run, Stopped};

/// What the model is told of each queue's policy.
fn expected(queue: usize) -> Policy {
    match queue {
        0 => Policy { max_attempts: 3, max_crashes: 2, backoff_ms: 1_000, ..Policy::DEFAULT },
        1 => Policy {
            max_attempts: 2,
            max_crashes: 1,
            backoff_ms: 0,
            max_leased: Some(4),
            ..Policy::DEFAULT
        },
        3 => Policy {
            max_messages: Some(6),
            overflow: Overflow::DeadLetterOldest,
            ..Policy::DEFAULT
        },
        4 => Policy { max_messages: Some(8), retention_ms: Some(60_000), ..Policy::DEFAULT },
        5 => Policy { max_leased_of_key: Some(2), ..Policy::DEFAULT },
        6 => Policy { interval_ms: Some(500), ..Policy::DEFAULT },
        7 => Policy { retention_bytes: Some(3_000), ..Policy::DEFAULT },
        _ => Policy {
            max_attempts: 2,
            max_crashes: 3,
            ttl_ms: Some(20_000),
            discards: true,
            max_messages: Some(12),
            overflow: Overflow::DropOldest,
            ..Policy::DEFAULT
        },
    }
}

/// The same for the broker.
fn policy(queue: usize) -> policy::Policy {
    let limit = |max: u32| Some(i32::try_from(max).expect("small"));
    let leases = |max: usize| u32::try_from(max).expect("small");
    let it = expected(queue);
    let overflow = match it.overflow {
        Overflow::Reject => policy::Overflow::RejectPublish,
        Overflow::DropOldest => policy::Overflow::DropOldest,
        Overflow::DeadLetterOldest => policy::Overflow::DeadLetterOldest,
    };
    policy::Policy {
        max_attempts: limit(it.max_attempts),
        max_crashes: limit(it.max_crashes),
        retry: Some(Retry { initial_ms: Some(it.backoff_ms), ..Retry::default() }),
        message_ttl_ms: it.ttl_ms,
        discard_dead_letters: Some(it.discards),
        max_messages: it.max_messages.map(|max| max as u64),
        overflow: Some(overflow.into()),
        retention_ms: it.retention_ms,
        max_leased: it.max_leased.map(leases),
        max_leased_per_fairness_key: it.max_leased_of_key.map(leases),
        max_delivery_rate: it.interval_ms.map(|ms| 1_000.0 / ms as f64),
        retention_bytes: it.retention_bytes,
        ..policy::Policy::default()
    }
}

impl Run {
    pub(super) fn create(&mut self, queue: usize) -> Result<(), Stopped> {
        let name = QUEUES.get(queue).copied().unwrap_or(LETTERS);
        let create =
            CreateQueue { name: name.to_owned(), policy: policy(queue), ..CreateQueue::default() };
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.create_queue(&create, now, out))?;
        let done = self.is_done(&answer, "QUEUE_EXISTS")?;
        self.note(format!("create {name}: {done}"));
        self.done(|model| model.create(name, expected(queue), done))?;
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

    pub(super) fn purge(&mut self, queue: usize) -> Result<(), Stopped> {
        let name = QUEUES[queue];
        let engine = self.world.engine.clone();
        let begun = engine.look(|core| core.begin_purge(name, StateSet::ALL, Lost::Purged)).1;
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
        self.note(format!("purge {name}: {deleted:?}"));
        self.done(|model| model.purge(name, deleted))?;
        self.later(lsn, Told::Answer)
    }

    fn is_done(&self, answer: &Result<(), Refused>, unless: &str) -> Result<bool, Stopped> {
        match answer {
            Ok(()) => Ok(true),
            Err(refused) if refused.reason() == unless => Ok(false),
            Err(refused) => Err(self.wrong(format!("refused: {refused}"))),
        }
    }
}
