//! Writes checkpoints, so that a start need not read the whole log and old segments can go.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use qbroker_storage::{Lsn, Space, WriteError, give_way};
use tracing::{debug, error, warn};

use super::Engine;

/// Log to be replayed at most, while the state is small.
const LOG_BYTES: u64 = 128 << 20;
/// A checkpoint of a large state is worth so many times its size of log: writing them stays a small
/// part of all that is written.
const LOG_PER_STATE: u64 = 8;
/// As [`LOG_BYTES`] while the disk is at its reserve: what is worked off gives its room back sooner.
const LOG_BYTES_LOW: u64 = 4 << 20;
/// Activity is absorbed after this time, however little it was: what a drained queue took on disk goes
/// with the second checkpoint after it.
const QUIET: Duration = Duration::from_secs(10);
/// A large state is written less often where little happens: so many bytes of it a second.
const QUIET_BYTES_PER_SECOND: u64 = 1 << 20;
/// How often it is asked whether a checkpoint is due.
const LOOK: Duration = Duration::from_millis(250);
/// How long nothing is tried after a disk that was too full for a checkpoint.
const RETRY: Duration = Duration::from_secs(5);

/// One checkpoint at a time, and the end of the threads that work beside everybody.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Of two that are written at once the later one could come first.
    writing: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: Mutex<bool>,
    changed: Condvar,
}

impl Checkpoints {
    fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for the end of what the thread is writing.
    fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            thread.join().expect("a panic ends the process");
        }
    }

    /// Waits a while; returns whether to stop.
    pub(super) fn wait(&self) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.changed.wait_for(&mut stop, LOOK);
        }
        *stop
    }
}

impl Engine {
    /// Writes a checkpoint of the state as it is. Blocks until it is in place.
    pub fn checkpoint(&self) -> Result<(), WriteError> {
        let _alone = self.checkpoints.writing.lock();
        let began = Instant::now();
        let (lsn, (snapshot, kept)) = self.look(|core| (core.snapshot(), self.log.kept()));
        let held = began.elapsed();
        let state = snapshot.encode(kept.runs());
        let bytes: usize = state.iter().map(bytes::Bytes::len).sum();
        self.log.write_checkpoint(lsn, state)?;
        let mut state = self.state.lock();
        let previous = std::mem::replace(&mut state.checkpoint, lsn);
        let pages = state.core.forget_pages_back(previous);
        self.log.liveness().retire(&pages);
        drop(state);
        debug!(%lsn, bytes, ?held, took = ?began.elapsed(), "checkpoint written");
        Ok(())
    }

    /// Starts the thread that writes checkpoints when they are due.
    pub(super) fn spawn_checkpoints(self: &Arc<Self>) -> std::io::Result<()> {
        let engine = self.clone();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        let thread = thread.spawn(move || {
            give_way();
            let (mut last, mut full) = (Instant::now(), None::<Instant>);
            while !engine.checkpoints.wait() {
                let waits = full.is_some_and(|full| full.elapsed() < RETRY);
                if waits || !engine.is_checkpoint_due(last) {
                    continue;
                }
                match engine.checkpoint() {
                    Ok(()) => (last, full) = (Instant::now(), None),
                    Err(error) if is_full(&error) => {
                        warn!(%error, "no room for a checkpoint; it is tried again");
                        full = Some(Instant::now());
                    }
                    Err(error) => {
                        error!(%error, "a checkpoint could not be written");
                        return;
                    }
                }
            }
        })?;
        *self.checkpoints.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the checkpoint thread; what it is writing is finished.
    pub fn stop_checkpoints(&self) {
        self.checkpoints.stop();
    }

    /// Whether there is enough log to be absorbed, or any since long.
    fn is_checkpoint_due(&self, last: Instant) -> bool {
        let bytes = self.log.bytes_since_checkpoint();
        let enough = match self.log.space() {
            Space::Ample => LOG_BYTES.max(LOG_PER_STATE * self.log.stats().checkpoint_bytes),
            Space::Low { .. } => LOG_BYTES_LOW,
        };
        let state_seconds = self.log.stats().checkpoint_bytes / QUIET_BYTES_PER_SECOND;
        let quiet = QUIET.max(Duration::from_secs(state_seconds));
        enough <= bytes || (0 < bytes && quiet <= last.elapsed())
    }

    /// Ends the checkpoint thread, absorbs the log and closes it. Nothing is taken afterwards. Where
    /// the disk has no room for the checkpoint, the next start reads more of the log.
    pub fn close(&self) -> Result<(), WriteError> {
        self.stop_checkpoints();
        // The folder belongs to somebody else once the log is closed.
        self.checkpoints.join();
        let lsn = self.look(|_| ()).0;
        if lsn != Lsn(0) && 0 < self.log.bytes_since_checkpoint() {
            match self.checkpoint() {
                Err(error) if is_full(&error) => warn!(%error, "no room for a checkpoint"),
                other => other?,
            }
        }
        self.log.close()
    }
}

fn is_full(error: &WriteError) -> bool {
    matches!(error, WriteError::Disk(error) if error.is_full())
}
