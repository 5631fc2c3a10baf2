//! Writes checkpoints, so that a start need not read the whole log and old segments can go.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use qbroker_storage::Lsn;
use tracing::{debug, error};

use super::Engine;

/// Log to be replayed at most, while the state is small.
const LOG_BYTES: u64 = 128 << 20;
/// A checkpoint of a large state is worth so many times its size of log: writing them stays a small
/// part of all that is written.
const LOG_PER_STATE: u64 = 8;
/// Activity is absorbed after this time, however little it was.
const QUIET: Duration = Duration::from_secs(60);
/// How often it is asked whether a checkpoint is due.
const LOOK: Duration = Duration::from_millis(250);

/// Tells the checkpoint thread to stop.
#[derive(Debug, Default)]
pub(super) struct Signal {
    stop: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }

    /// Waits a while; returns whether to stop.
    fn wait(&self) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.changed.wait_for(&mut stop, LOOK);
        }
        *stop
    }
}

impl Engine {
    /// Writes a checkpoint of the state as it is. Blocks until it is in place.
    pub fn checkpoint(&self) -> Result<(), qbroker_storage::WriteError> {
        let began = Instant::now();
        let (lsn, snapshot) = self.look(super::Core::snapshot);
        let held = began.elapsed();
        let state = snapshot.encode();
        let bytes: usize = state.iter().map(bytes::Bytes::len).sum();
        self.log.write_checkpoint(lsn, state)?;
        debug!(%lsn, bytes, ?held, took = ?began.elapsed(), "checkpoint written");
        Ok(())
    }

    /// Starts the thread that writes checkpoints when they are due.
    pub(super) fn spawn_checkpoints(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let engine = self.clone();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned());
        thread.spawn(move || {
            let mut last = Instant::now();
            while !engine.checkpoints.wait() {
                let bytes = engine.log.bytes_since_checkpoint();
                let enough = LOG_BYTES.max(LOG_PER_STATE * engine.log.stats().checkpoint_bytes);
                let due = enough <= bytes || (0 < bytes && QUIET <= last.elapsed());
                if !due {
                    continue;
                }
                last = Instant::now();
                if let Err(error) = engine.checkpoint() {
                    error!(%error, "a checkpoint could not be written");
                    return;
                }
            }
        })
    }

    /// Ends the checkpoint thread, absorbs the log and closes it. Nothing is taken afterwards.
    pub fn close(&self) -> Result<(), qbroker_storage::WriteError> {
        self.checkpoints.stop();
        let lsn = self.look(|_| ()).0;
        if lsn != Lsn(0) && 0 < self.log.bytes_since_checkpoint() {
            self.checkpoint()?;
        }
        self.log.close()
    }
}
