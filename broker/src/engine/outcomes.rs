//! Writes the outcomes of messages that are done, behind everybody's back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use qbroker_storage::{Lsn, give_way};

use super::history::{self, Traces};
use super::{Core, Engine, Stopped};
use crate::queue::body::small_body;
use crate::queue::ids::QueueId;
use crate::queue::outcomes::{Finished, StoredOutcome};

/// Outcomes that are written together.
const AT_ONCE: usize = 256;

impl From<Finished> for Traces {
    fn from(finished: Finished) -> Self {
        let Finished { birth, end, grant, content, last_failure, dead_letter, step, .. } = finished;
        Self { birth, content, last_failure, dead_letter, grant, step, end }
    }
}

impl Engine {
    /// What the log tells of a message. May wait for the disk.
    pub fn history(&self, traces: Traces) -> StoredOutcome {
        history::read(&self.log, traces, &Names::of(self))
    }

    /// Writes the outcomes of messages that were done first, if there are any; whether there were.
    pub fn write_outcomes(&self) -> Result<bool, Stopped> {
        let finished = self.look(|core| core.unwritten_outcomes(AT_ONCE)).1;
        if finished.is_empty() {
            return Ok(false);
        }
        let names = Names::of(self);
        let outcome = |finished: &Finished| {
            let told = history::read(&self.log, (*finished).into(), &names);
            (finished.birth, small_body(&told))
        };
        let outcomes: Vec<_> = finished.iter().map(outcome).collect();
        let (_, written) = self.turn(|core, now, out| core.write_outcomes(&outcomes, now, out))?;
        written.expect("an outcome is never refused");
        Ok(true)
    }

    /// Starts the thread that writes them. Ends with the checkpoints.
    pub(super) fn spawn_outcomes(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let engine = self.clone();
        let thread = std::thread::Builder::new().name("outcomes".to_owned());
        thread.spawn(move || {
            give_way();
            while !engine.checkpoints.wait() {
                loop {
                    match engine.write_outcomes() {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(Stopped) => return,
                    }
                }
            }
        })
    }

    /// The record of a message's outcome, if it has one that is kept.
    pub fn outcome_record(&self, birth: Lsn) -> Option<Lsn> {
        // Many are looked through, and the lock is not held for that.
        self.look(|core| core.outcomes()).1.find(birth)
    }
}

/// The names of queues, each asked for once.
pub(super) struct Names<'a> {
    engine: &'a Engine,
    known: RefCell<BTreeMap<QueueId, String>>,
}

impl<'a> Names<'a> {
    fn of(engine: &'a Engine) -> Self {
        Self { engine, known: RefCell::default() }
    }

    /// A queue's name; empty where it is gone.
    pub(super) fn of_queue(&self, queue: QueueId) -> String {
        let mut known = self.known.borrow_mut();
        let name = known.entry(queue).or_insert_with(|| {
            let name = |core: &Core| Some(core.queue_by_id(queue)?.definition.name.clone());
            self.engine.look(name).1.unwrap_or_default()
        });
        name.clone()
    }
}
