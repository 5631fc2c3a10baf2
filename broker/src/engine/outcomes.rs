//! Writes the outcomes of messages that are done, behind everybody's back.

use std::sync::Arc;
use std::thread::JoinHandle;

use qbroker_storage::Lsn;

use super::history::{self, Traces};
use super::{Engine, Stopped};
use crate::queue::body::small_body;
use crate::queue::ids::QueueId;
use crate::queue::outcomes::{Finished, StoredOutcome};

/// Outcomes that are written together.
const AT_ONCE: usize = 256;

impl From<Finished> for Traces {
    fn from(finished: Finished) -> Self {
        let Finished { birth, end, grant, content, last_failure, dead_letter, .. } = finished;
        Self { birth, content, last_failure, dead_letter, grant, end }
    }
}

impl Engine {
    /// What the log tells of a message. May wait for the disk.
    pub fn history(&self, traces: Traces) -> StoredOutcome {
        let name = |queue: QueueId| {
            let name = self.look(|core| Some(core.queue_by_id(queue)?.definition.name.clone())).1;
            name.unwrap_or_default()
        };
        history::read(&self.log, traces, &name)
    }

    /// Writes the outcomes of messages that were done first, if there are any; whether there were.
    pub fn write_outcomes(&self) -> Result<bool, Stopped> {
        let finished = self.look(|core| core.unwritten_outcomes(AT_ONCE)).1;
        if finished.is_empty() {
            return Ok(false);
        }
        let outcome =
            |finished: &Finished| (finished.birth, small_body(&self.history((*finished).into())));
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
