//! Deleting many messages: a turn for each step, with others' turns between them.

use super::{Engine, Stopped};
use crate::queue::index::StateSet;
use crate::queue::refused::Refused;
use crate::queue::{Lost, Purge};

impl Engine {
    /// Deletes what there is now of a queue in these states; returns how many that were, once it is
    /// on disk.
    pub async fn purge(
        &self,
        queue: &str,
        states: StateSet,
        why: Lost,
    ) -> Result<Result<u64, Refused>, Stopped> {
        match self.ask(|core| core.begin_purge(queue, states, why)).await? {
            Ok(purge) => self.finish_purge(purge).await.map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn finish_purge(&self, mut purge: Purge) -> Result<u64, Stopped> {
        let mut deleted = 0;
        loop {
            let (lsn, step) = self.turn(|core, _, out| core.purge(&mut purge, out))?;
            let step = step.expect("a purge that was begun is not refused");
            deleted += step.deleted;
            // What is decided is bounded by what is written.
            self.durable(lsn).await?;
            if step.is_last {
                return Ok(deleted);
            }
        }
    }
}
