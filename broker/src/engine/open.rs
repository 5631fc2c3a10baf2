//! Opening the data folder: the checkpoint, then the log, through the same `apply` as ever.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use qbroker_storage::disk::Disk;
use qbroker_storage::{
    Damage, Log, Lsn, Observer, OpenError, Recovery, RecoveryReport, WriteError, Writer,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::paging::PageError;
use super::replay::recover;
use super::unsynced::Unsynced;
use super::{BUDGET_UNIT, Durable, Engine, State, Stopped, checkpoint, letters};
use crate::calendar::CALENDAR;
use crate::clock::Clock;
use crate::queue::record::UnknownRecord;
use crate::queue::{BATCH_BYTES, Limits, SnapshotError};

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub log: qbroker_storage::Options,
    pub limits: Limits,
    /// Bytes that may be unsynced or unsent, over all connections.
    pub pending_bytes_max: usize,
    pub clock: Clock,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("record {lsn} cannot be read: {source}")]
    Record { lsn: Lsn, source: UnknownRecord },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("a thread beside the log's cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("the log stopped at once")]
    Stopped,
}

/// What nothing can make good: the process must end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing may be confirmed any more; starting again recovers.
    #[error("the log cannot be written: {0}")]
    Write(WriteError),
    /// Starting again does not help; somebody must look.
    #[error(transparent)]
    Page(PageError),
}

/// Raises the durable LSN; ends the process after a [`Failure`].
pub(super) struct Commits {
    durable: watch::Sender<Durable>,
    stopped: CancellationToken,
    unsynced: Arc<Unsynced>,
    on_failure: Box<dyn Fn(&Failure) + Send + Sync>,
}

impl std::fmt::Debug for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.durable.fmt(f)
    }
}

impl Commits {
    /// Canceled once the log has stopped.
    pub(super) fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Nothing is told any more from here on.
    pub(super) fn fail(&self, failure: &Failure) {
        self.durable.send_modify(|durable| durable.stopped = true);
        self.stopped.cancel();
        (self.on_failure)(failure);
    }
}

impl Observer for Commits {
    fn durable(&self, lsn: Lsn) {
        self.durable.send_modify(|durable| durable.lsn = lsn);
        self.unsynced.release(lsn);
    }

    fn failed(&self, error: &WriteError) {
        self.fail(&Failure::Write(error.clone()));
    }

    fn damaged(&self, damage: &Damage) {
        error!(%damage, "a segment is damaged: it is left as it is, and nothing is copied out of it");
    }
}

impl Engine {
    /// Recovers the queues and starts the log; `on_failure` is to end the process.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        on_failure: impl Fn(&Failure) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, RecoveryReport), StartError> {
        let start = |recovery: Recovery, observer| Ok((recovery.start(observer)?, ()));
        let (engine, report, ()) = Self::open_with(disk, options, on_failure, start)?;
        engine.spawn_checkpoints().map_err(StartError::Thread)?;
        engine.spawn_outcomes().map_err(StartError::Thread)?;
        Ok((engine, report))
    }

    /// [`Self::open`] without threads of its own, for tests that choose every moment: what was
    /// appended is written by [`Writer::step`], and checkpoints by [`Self::checkpoint`] alone.
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<(Arc<Self>, Writer), StartError> {
        let start = |recovery: Recovery, observer| recovery.start_stepped(observer);
        let (engine, _, writer) = Self::open_with(disk, options, |_| {}, start)?;
        Ok((engine, writer))
    }

    fn open_with<T>(
        disk: Arc<dyn Disk>,
        options: Options,
        on_failure: impl Fn(&Failure) + Send + Sync + 'static,
        start: impl FnOnce(Recovery, Arc<dyn Observer>) -> Result<(Log, T), OpenError>,
    ) -> Result<(Arc<Self>, RecoveryReport, T), StartError> {
        let at_once = options.log.batch_bytes_max();
        // Beside a batch that is not full yet; a test's log may be smaller than that.
        let commit_bytes_max = at_once.checked_sub(BATCH_BYTES).unwrap_or(at_once);
        let limits = Limits { commit_bytes_max, ..options.limits };
        let mut recovery = Log::recover(disk, options.log)?;
        let (mut core, rebuilt) = recover(&mut recovery, limits, &options.clock)?;
        core.set_calendar(CALENDAR);
        let (opened, last) = (recovery.epoch(), core.last_lsn());
        let report = recovery.report().clone();
        let (sender, durable) = watch::channel(Durable { lsn: last, stopped: false });
        let unsynced = Arc::new(Unsynced::default());
        let commits = Arc::new(Commits {
            durable: sender,
            stopped: CancellationToken::new(),
            unsynced: unsynced.clone(),
            on_failure: Box::new(on_failure),
        });
        let checkpoint = recovery.checkpoint().unwrap_or(Lsn(0));
        let units = options.pending_bytes_max.div_ceil(BUDGET_UNIT);
        let (log, rest) = start(recovery, commits.clone())?;
        let engine = Arc::new(Self {
            state: Mutex::new(State {
                core,
                consumers: Default::default(),
                pulls: Default::default(),
                publishers: Default::default(),
                watchers: Default::default(),
                last_stream: 0,
                letters: letters::Letters::default(),
                armed_ms: u64::MAX,
                loading: 0,
                checkpoint,
            }),
            log,
            durable,
            clock: options.clock,
            budget: Arc::new(Semaphore::new(units)),
            budget_units: u32::try_from(units).unwrap_or(u32::MAX),
            unsynced,
            timer: Notify::new(),
            operations: Notify::new(),
            checkpoints: checkpoint::Checkpoints::default(),
            commits,
            pages_rebuilt: AtomicU64::new(rebuilt),
        });
        engine
            .begin(u32::try_from(opened).unwrap_or(u32::MAX))
            .map_err(|Stopped| StartError::Stopped)?;
        Ok((engine, report, rest))
    }

    /// The start's own record: sessions and leases have their whole time from here on. The log has been
    /// `opened` so many times.
    fn begin(&self, opened: u32) -> Result<(), Stopped> {
        let boot_id = self.clock.boot_id();
        let (_, begun) = self.turn(|core, now, out| {
            let epoch = epoch_after(core.epoch(), now.wall_ms).max(opened);
            core.start(epoch, boot_id.clone(), now, out);
            Ok(())
        })?;
        begun.expect("a start is not refused");
        Ok(())
    }
}

/// The epoch of a start: above the `last` one, and the second it begins in, so that a lease is told from
/// those that were granted at its place and by its number on a copy of the folder.
fn epoch_after(last: u32, wall_ms: u64) -> u32 {
    let second = u32::try_from(wall_ms / 1_000).unwrap_or_default();
    second.max(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::epoch_after;

    #[test]
    fn an_epoch_is_above_the_last_one_whatever_the_clock_shows() {
        assert_eq!(epoch_after(0, 1_700_000_000_999), 1_700_000_000);
        assert_eq!(epoch_after(1_700_000_000, 1_700_000_000_999), 1_700_000_001);
        assert_eq!(epoch_after(1_700_000_000, 0), 1_700_000_001);
        assert_eq!(epoch_after(7, u64::MAX), 8);
    }
}
