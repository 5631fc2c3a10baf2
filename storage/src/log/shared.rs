//! What the threads of a log share, and how they wait for each other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Observer, Options};
use crate::checkpoint::Checkpoints;
use crate::cold::ColdSegment;
use crate::compaction::Compaction;
use crate::disk::{Disk, Held};
use crate::error::{DiskError, WriteError};
use crate::liveness::Liveness;
use crate::lsn::Lsn;
use crate::pool::Pool;
use crate::segment::Segment;
use crate::stats::Counters;
use crate::tables::Tables;
use crate::tail::{Control, Tail};
use crate::writer::Core;

/// What the threads of a log share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) batch_bytes_max: usize,
    pub(crate) log_id: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) tables: Tables,
    /// Tells the writer that there is something to write.
    pub(crate) wake: Condvar,
    /// Tells who waits in `write_checkpoint` that something became durable.
    pub(crate) progress: Condvar,
    durable: AtomicU64,
    pub(super) appended_bytes: AtomicU64,
    /// `appended_bytes` when the newest checkpoint began.
    pub(crate) checkpointed_bytes: AtomicU64,
    /// Bytes of the checkpoints and of what is reserved for the next.
    pub(crate) checkpoint_disk_bytes: AtomicU64,
    /// By sequence number, which is also the order of their LSNs.
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    /// Cold segments. Changed, as `segments` is but by the writer, under the checkpoints' lock.
    pub(crate) cold: RwLock<Vec<Arc<ColdSegment>>>,
    pub(crate) compaction: Compaction,
    pub(crate) liveness: Liveness,
    pub(crate) pool: Pool,
    pub(crate) checkpoints: Mutex<Checkpoints>,
    pub(crate) counters: Counters,
    pub(crate) observer: Arc<dyn Observer>,
    pub(super) core: Mutex<Option<Core>>,
    /// Frames are written by a thread of ours, not by whoever holds the `Writer`.
    pub(crate) threaded: bool,
    pub(super) held: Mutex<Option<Box<dyn Held>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("epoch", &self.epoch)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

/// What a recovery hands over to the log that it found.
pub(crate) struct Found {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) log_id: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) next_lsn: Lsn,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) cold: Vec<Arc<ColdSegment>>,
    pub(crate) liveness: Liveness,
    pub(crate) pool: Pool,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) replayed_bytes: u64,
    pub(crate) held: Box<dyn Held>,
}

impl Shared {
    pub(crate) fn new(found: Found, observer: Arc<dyn Observer>, threaded: bool) -> Self {
        Self {
            batch_bytes_max: found.options.batch_bytes_max(),
            tables: Tables::default(),
            tail: Mutex::new(Tail::new(found.next_lsn, found.options.tail_cache_bytes)),
            disk: found.disk,
            options: found.options,
            log_id: found.log_id,
            epoch: found.epoch,
            wake: Condvar::new(),
            progress: Condvar::new(),
            durable: AtomicU64::new(found.next_lsn.0 - 1),
            appended_bytes: AtomicU64::new(found.replayed_bytes),
            checkpointed_bytes: AtomicU64::new(0),
            checkpoint_disk_bytes: AtomicU64::new(found.checkpoints.disk_bytes()),
            segments: RwLock::new(found.segments),
            cold: RwLock::new(found.cold),
            compaction: Compaction::default(),
            liveness: found.liveness,
            pool: found.pool,
            checkpoints: Mutex::new(found.checkpoints),
            counters: Counters::default(),
            observer,
            core: Mutex::new(None),
            threaded,
            held: Mutex::new(Some(found.held)),
        }
    }

    pub(crate) fn put_core(&self, core: Core) {
        *self.core.lock() = Some(core);
    }

    pub(crate) fn set_durable(&self, lsn: Lsn) {
        self.durable.store(lsn.0, Release);
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Acquire))
    }

    pub(crate) fn is_unwitnessed(&self) -> bool {
        self.core.lock().as_ref().is_some_and(Core::is_unwitnessed)
    }

    /// Lets the writer do something, and stops the log if that fails: a failed write or sync is
    /// never tried again.
    pub(crate) fn run_core<T>(
        &self,
        act: impl FnOnce(&mut Core) -> Result<T, DiskError>,
    ) -> Result<T, WriteError> {
        let mut slot = self.core.lock();
        if let Some(error) = self.tail.lock().stopped.clone() {
            return Err(error);
        }
        let core = slot.as_mut().ok_or(WriteError::Stopped)?;
        let outcome = act(core).map_err(WriteError::Disk);
        drop(slot);
        if let Err(error) = &outcome {
            self.stop(error);
        }
        outcome
    }

    /// Accepts nothing from now on, and tells everybody why. The first reason stays.
    pub(crate) fn stop(&self, error: &WriteError) {
        let first = {
            let mut tail = self.tail.lock();
            let first = tail.stopped.is_none();
            tail.stopped.get_or_insert_with(|| error.clone());
            first
        };
        self.progress.notify_all();
        self.wake.notify_all();
        if first {
            self.observer.failed(error);
        }
    }

    /// Waits until `done`, or until the log stops. Without a writer's thread, writes here.
    pub(crate) fn wait_until(&self, done: impl Fn(&Tail) -> bool) -> Result<(), WriteError> {
        loop {
            let mut tail = self.tail.lock();
            if done(&tail) {
                return Ok(());
            }
            if let Some(error) = &tail.stopped {
                return Err(error.clone());
            }
            if self.threaded {
                self.progress.wait(&mut tail);
            } else {
                drop(tail);
                if !self.run_core(Core::step)? {
                    return Err(WriteError::Stopped);
                }
            }
        }
    }

    /// Waits until what is retired by now is retired in the log as well: a segment may go on the
    /// word of no record that a crash could take back.
    pub(crate) fn wait_for_retirements(&self) -> Result<(), WriteError> {
        let next_lsn = self.tail.lock().next_lsn;
        self.wait_until(|_| next_lsn <= self.durable().next())
    }

    /// Has a frame without records written; returns once it is durable.
    pub(crate) fn write_control(&self, control: Control) -> Result<(), WriteError> {
        let ticket = {
            let mut tail = self.tail.lock();
            if let Some(error) = &tail.stopped {
                return Err(error.clone());
            }
            // The writer may have looked for the last time.
            if tail.closing {
                return Err(WriteError::Stopped);
            }
            tail.push_control(control)
        };
        self.wake.notify_all();
        self.wait_until(|tail| ticket <= tail.controls_done)
    }

    /// Bytes appended since the start, replayed ones included.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Relaxed)
    }

    /// Keeps the pool at its size. Want of room is told by [`super::Log::space`]; another failure of
    /// the disk stops the log.
    pub(crate) fn maintain(&self) {
        if let Err(error) = self.pool.maintain(&self.counters) {
            self.stop(&WriteError::Disk(error));
        }
    }
}
