//! Pages of the index come from the log, read without the engine's lock, and go there.

use std::sync::atomic::Ordering::Relaxed;

use parking_lot::MutexGuard;
use qbroker_storage::{Lsn, ReadError};
use tracing::error;

use super::{Core, Engine, Failure, State, Stopped};
use crate::queue::ids::QueueId;
use crate::queue::index::{Lookup, Message, Missing};
use crate::queue::time::Now;
use crate::queue::{Output, SnapshotError, page_messages};

/// Pages that go out after one turn at most, so that the lock is never held long; more than any
/// turn brings in.
const PAGES_PER_TURN: usize = 16;

/// A page that cannot be had: what the broker knew of its messages is lost.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("the index's page at LSN {0} cannot be read: {1}")]
    Unreadable(Lsn, ReadError),
    #[error("the index's page at LSN {0} cannot be decoded: {1}")]
    Malformed(Lsn, SnapshotError),
}

impl PageError {
    /// The messages of a page, from the record that was read.
    pub(super) fn check(
        page: Missing,
        read: Result<qbroker_storage::StoredRecord, ReadError>,
    ) -> Result<Vec<(Lsn, Message)>, Self> {
        let record = read.map_err(|source| Self::Unreadable(page.0, source))?;
        page_messages(&record.body).map_err(|source| Self::Malformed(page.0, source))
    }
}

/// Says what damage has cost that keeps no message from anybody.
pub(super) fn tell_rebuilt(
    core: &Core,
    page: Missing,
    queue: QueueId,
    messages: usize,
    error: &PageError,
) {
    let queue = core.queue_by_id(queue).map(|queue| &*queue.name);
    error!(
        queue,
        lsn = %page.0,
        messages,
        problem = %error,
        "a page of the index was made anew: its messages are all there, but attempts, exact times \
         and last failures may be forgotten"
    );
}

impl Engine {
    /// [`Self::load`] in the midst of a turn. Others have theirs meanwhile, so what it has decided
    /// goes to the log before, and it goes on at a later moment.
    pub(super) fn load_within<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        page: Missing,
        out: &mut Output,
        now: &mut Now,
    ) -> Result<MutexGuard<'a, State>, Stopped> {
        self.append(&mut state, std::mem::take(out), *now)?;
        let state = self.load(state, page)?;
        *now = self.clock.now();
        Ok(state)
    }

    /// Lets the lock go, reads a page, and takes the lock again with the page in memory.
    fn load<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        page: Missing,
    ) -> Result<MutexGuard<'a, State>, Stopped> {
        state.loading += 1;
        drop(state);
        let read = self.log.read(&[page.0]).pop().expect("an answer for each");
        let messages = match PageError::check(page, read) {
            Err(error @ PageError::Unreadable(..)) => Ok(self.rebuild(page, error)),
            read => read.map(|messages| (messages, None)),
        };
        let mut state = self.state.lock();
        state.loading -= 1;
        match messages {
            Ok((messages, None)) => drop(state.core.load(page, messages)),
            Ok((messages, Some(error))) => {
                let (queue, count) = (messages.first().map(|first| first.1.queue), messages.len());
                let loaded = state.core.load_anew(page, messages);
                if let (true, Some(queue)) = (loaded, queue) {
                    tell_rebuilt(&state.core, page, queue, count, &error);
                    self.pages_rebuilt.fetch_add(1, Relaxed);
                }
            }
            // Somebody else has loaded it, and the log has let it go since.
            Err(_) if !state.core.is_missing(page) => {}
            Err(error) => {
                drop(state);
                self.commits.fail(&Failure::Page(error));
                return Err(Stopped);
            }
        }
        Ok(state)
    }

    /// The messages of a page that cannot be read, of what else is known of them; none where
    /// somebody else has it in memory by now.
    fn rebuild(&self, page: Missing, error: PageError) -> (Vec<(Lsn, Message)>, Option<PageError>) {
        let begun = self.state.lock().core.rebuild(page);
        let Some(mut rebuild) = begun else { return (Vec::new(), None) };
        self.log.heads(rebuild.lsns(), &mut |lsn, head| rebuild.take_in(lsn, head));
        let is_kept = |lsn| self.log.liveness().is_kept(lsn);
        (rebuild.finish(is_kept, self.clock.now().wall_ms), Some(error))
    }

    /// Pages of the index that could not be read, and were made anew.
    pub fn pages_rebuilt(&self) -> u64 {
        self.pages_rebuilt.load(Relaxed)
    }

    /// Puts away what is too much in memory.
    pub(super) fn page_out(&self, state: &mut State, now: Now) -> Result<(), Stopped> {
        for _ in 0..PAGES_PER_TURN {
            let mut out = Output::default();
            // What one turn has loaded, another one must not put away before it was used.
            if 0 < state.loading || !state.core.page_out(&mut out) {
                break;
            }
            self.append(state, out, now)?;
        }
        Ok(())
    }

    /// Asks something whose answer may be in pages, and waits until it may be told.
    pub async fn find<T>(&self, question: impl FnMut(&Core) -> Lookup<T>) -> Result<T, Stopped> {
        let (lsn, answer) = self.look_up(question)?;
        self.durable(lsn).await?;
        Ok(answer)
    }

    /// Asks something whose answer may be in pages. It counts once the log is durable up to the LSN.
    pub fn look_up<T>(
        &self,
        mut question: impl FnMut(&Core) -> Lookup<T>,
    ) -> Result<(Lsn, T), Stopped> {
        let mut state = self.state.lock();
        let answer = loop {
            match question(&state.core) {
                Ok(answer) => break answer,
                Err(page) => state = self.load(state, page)?,
            }
        };
        let (lsn, now) = (state.core.last_lsn(), self.clock.now());
        self.page_out(&mut state, now)?;
        self.arm(&mut state, now);
        Ok((lsn, answer))
    }
}
