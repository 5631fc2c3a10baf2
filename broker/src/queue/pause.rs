//! Queues stand still for as long as an operator says.

use super::index::Index;
use super::record::QueueDefinition;
use super::{Core, Output, Turn};

/// Stops a queue. What is leased is settled as ever; delays, retentions and dead letters go on.
#[derive(Clone, Debug, Default)]
pub struct PauseQueue {
    pub name: String,
    /// Refuses publishes too; otherwise they are taken, whatever was said before.
    pub publishing: bool,
}

impl<I: Index> Core<I> {
    /// Stops deliveries from a queue, and publishes to it where that is asked for.
    pub fn pause_queue(&mut self, pause: &PauseQueue, out: &mut Output) -> Turn<()> {
        self.set_paused(&pause.name, true, pause.publishing, out)
    }

    /// Undoes [`Self::pause_queue`].
    pub fn resume_queue(&mut self, name: &str, out: &mut Output) -> Turn<()> {
        self.set_paused(name, false, false, out)
    }

    fn set_paused(
        &mut self,
        name: &str,
        paused: bool,
        publishing_paused: bool,
        out: &mut Output,
    ) -> Turn<()> {
        let before = &self.queue(name)?.definition;
        if (before.paused, before.publishing_paused) == (paused, publishing_paused) {
            return Ok(());
        }
        // Not a revision: whoever is about to change the policy has still seen the latest one.
        let after = QueueDefinition { paused, publishing_paused, ..QueueDefinition::clone(before) };
        let mut draft = self.draft();
        draft.put_queue(after);
        self.commit(draft, out);
        Ok(())
    }
}
