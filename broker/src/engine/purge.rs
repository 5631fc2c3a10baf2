//! Deleting many messages: a turn for each step, with others' turns between them.

use std::sync::Arc;

use tracing::warn;

use super::{Engine, Stopped};
use crate::queue::body::StoredDeadLetter;
use crate::queue::index::StateSet;
use crate::queue::refused::Refused;
use crate::queue::{LetterRecord, LettersPurge, Lost, Purge};

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

    /// Deletes what a queue has now, in these states, in the dead-letter queue that it has now; returns
    /// how many that were, once it is on disk. Other queues' letters stay, and such that cannot be read.
    pub async fn purge_letters(
        self: &Arc<Self>,
        queue: &str,
        states: StateSet,
    ) -> Result<Result<u64, Refused>, Stopped> {
        match self.ask(|core| core.begin_letters_purge(queue, states)).await? {
            Ok(Some(purge)) => self.finish_letters_purge(purge, queue).await.map(Ok),
            Ok(None) => Ok(Ok(0)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn finish_letters_purge(
        self: &Arc<Self>,
        mut purge: LettersPurge,
        source: &str,
    ) -> Result<u64, Stopped> {
        let mut deleted = 0;
        loop {
            let looked_at = self.find(|core| core.next_letters(&purge)).await?;
            let from_queue = self.letters_from(source, &looked_at.letters).await?;
            let (lsn, step) = self.turn(|core, _, out| {
                core.purge_letters(&mut purge, &looked_at, &from_queue, out)
            })?;
            let step = step.expect("a purge that was begun is not refused");
            deleted += step.deleted;
            self.durable(lsn).await?;
            if step.is_last {
                return Ok(deleted);
            }
        }
    }

    /// Those of the letters that came from this queue.
    async fn letters_from(
        self: &Arc<Self>,
        source: &str,
        letters: &[LetterRecord],
    ) -> Result<Vec<LetterRecord>, Stopped> {
        let records = self.read(letters.iter().map(|letter| letter.record).collect()).await?;
        let mut from_source = Vec::new();
        for (letter, record) in letters.iter().zip(records) {
            let told = record.map_err(|error| error.to_string()).and_then(|record| {
                StoredDeadLetter::source_queue(&record.body).map_err(|error| error.to_string())
            });
            match told {
                Ok(queue) if queue == source => from_source.push(*letter),
                Ok(_) => {}
                // It may have gone meanwhile; otherwise nobody can say whose it is.
                Err(problem) => {
                    warn!(lsn = %letter.record, problem, "a dead letter is passed over by a purge");
                }
            }
        }
        Ok(from_source)
    }
}
