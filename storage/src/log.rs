//! The log: the one type other crates see at work.

mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) use self::shared::{Found, Shared};
use crate::disk::Disk;
use crate::error::{AppendError, Damage, OpenError, ReadError, WriteError};
use crate::follow::{self, Bound, FollowError, Stretch};
use crate::frame::{ALIGN, FRAME_BYTES_MAX, HEAD_BYTES_MAX, HEADER_LEN};
use crate::liveness::{Kept, Liveness};
use crate::lsn::{Lsn, LsnRange};
use crate::pool::Space;
use crate::record::{Batch, StoredRecord};
use crate::recovery::Recovery;
use crate::segment::SEGMENT_HEADER_LEN;
use crate::stats::Stats;
use crate::writer::{self, Core};
use crate::{compaction, heads, reader, retention};

/// How a log is kept. The defaults are what the broker uses; tests use tiny segments.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment, bytes. Default 64 MiB. Segments of another size, from earlier starts,
    /// are read as they are. At least 8 KiB.
    pub segment_bytes: u32,
    /// Zero-filled files kept ready. Default 2. Each is `segment_bytes` of disk.
    pub spare_segments: usize,
    /// Bytes of the newest records kept in memory for reads. Default 16 MiB.
    pub tail_cache_bytes: usize,
    /// Bytes after which a frame takes no further batch. Default 1 MiB.
    pub frame_bytes_target: usize,
    /// Free bytes on the disk below which [`Log::space`] is low. Default 256 MiB.
    pub disk_reserve_bytes: u64,
    /// How long after the last frame, if nothing follows it, a frame is written to testify that
    /// it was durable. Default 200 ms.
    pub idle_commit: Duration,
    /// Bytes per second that compaction reads and writes while records are appended; four times
    /// that while nothing is. Default 64 MiB.
    pub compaction_bytes_per_second: u64,
    /// Bytes of sealed segments that are read and checked each second in which nothing is
    /// appended; 0 for none. Default 1 MiB, 84 GiB a day.
    pub scrub_bytes_per_second: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 2,
            tail_cache_bytes: 16 << 20,
            frame_bytes_target: 1 << 20,
            disk_reserve_bytes: 256 << 20,
            idle_commit: Duration::from_millis(200),
            compaction_bytes_per_second: 64 << 20,
            scrub_bytes_per_second: 1 << 20,
        }
    }
}

impl Options {
    /// How much larger than now the next two checkpoints together may be on a full disk. What is
    /// remembered of a million settlements, the most there are, takes 25 MiB of each.
    pub(crate) fn checkpoint_growth_bytes(&self) -> u64 {
        u64::from(self.segment_bytes)
    }

    /// The largest batch, so that a segment holds at least two and a frame is within its bound.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        let half = u64::from(self.segment_bytes.saturating_sub(SEGMENT_HEADER_LEN)) / 2;
        let frame = half.min(FRAME_BYTES_MAX);
        usize::try_from(frame.saturating_sub(HEADER_LEN as u64 + ALIGN)).unwrap_or(usize::MAX)
    }
}

/// Who is told what becomes of the log.
///
/// Called on the writer's thread. May append and read; must not write a checkpoint or close,
/// which wait for that very thread.
pub trait Observer: Send + Sync + 'static {
    /// Everything up to `lsn` is on disk.
    fn durable(&self, lsn: Lsn);
    /// The log accepts nothing any more: the caller must end the process and start again.
    fn failed(&self, error: &WriteError);
    /// Compaction or scrubbing found that a segment cannot be read as it was written, and left it
    /// as it is. Called on the compacting thread, once for each segment; the log goes on.
    fn damaged(&self, damage: &Damage) {
        let _ = damage;
    }
}

/// An open log. Appends and reads from any thread.
///
/// Dropping it without [`Log::close`] leaves it as a kill of the process would.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Log {
    /// Takes the data folder's lock, looks at what is there, and decides what of it stands.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when confirmed data cannot be read as it was written; the other
    /// variants say what is in the way.
    pub fn recover(disk: Arc<dyn Disk>, options: Options) -> Result<Recovery, OpenError> {
        Recovery::open(disk, options)
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, threads: Mutex::new(Vec::new()) }
    }

    /// Starts the threads that write, prepare files, and compact.
    pub(crate) fn start_threads(&self) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        let shared = Arc::clone(&self.shared);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        threads.push(named("qbroker-log").spawn(move || writer::run(&shared))?);
        let shared = Arc::clone(&self.shared);
        threads.push(named("qbroker-prepare").spawn(move || prepare(&shared))?);
        let shared = Arc::clone(&self.shared);
        threads.push(named("qbroker-compact").spawn(move || compaction::run(&shared))?);
        Ok(())
    }

    /// Appends a batch and gives its LSNs at once; waits for nothing.
    ///
    /// It is durable when [`Observer::durable`] says so. Cheap enough to be called under a lock.
    ///
    /// # Errors
    /// When the log is stopped, or the batch is larger than [`Log::batch_bytes_max`]; no LSN was
    /// given then.
    ///
    /// # Panics
    /// When the batch is empty: it has no LSN.
    pub fn append(&self, batch: Batch) -> Result<LsnRange, AppendError> {
        assert!(!batch.is_empty(), "an empty batch has no LSN");
        self.check(&batch)?;
        let shared = &self.shared;
        let batch = Arc::new(batch.freeze());
        let bytes = batch.bytes as u64;
        let lsns = {
            let mut tail = shared.tail.lock();
            if tail.stopped.is_some() || tail.closing {
                return Err(AppendError::Stopped);
            }
            tail.push(batch)
        };
        shared.appended_bytes.fetch_add(bytes, Relaxed);
        shared.wake.notify_one();
        Ok(lsns)
    }

    fn check(&self, batch: &Batch) -> Result<(), AppendError> {
        let (bytes, bytes_max) = (batch.bytes(), self.shared.batch_bytes_max);
        if bytes_max < bytes {
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        let bytes = batch.head_bytes_longest();
        if HEAD_BYTES_MAX < bytes {
            return Err(AppendError::HeadTooLong { bytes, bytes_max: HEAD_BYTES_MAX });
        }
        Ok(())
    }

    /// The largest [`Batch::bytes`] that is taken.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        self.shared.batch_bytes_max
    }

    /// The LSN the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.shared.tail.lock().next_lsn
    }

    /// Everything up to here is on disk.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.durable()
    }

    /// The number of this start of the log: dense, from 1.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// What tells this log from every other; drawn when it was made.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.shared.log_id
    }

    /// Reads records, in any order; the answers are in the order of `lsns`.
    ///
    /// From the tail cache where they are there, else from disk: runs of neighbouring LSNs are
    /// read together, and every byte is checked against its checksum.
    #[must_use]
    pub fn read(&self, lsns: &[Lsn]) -> Vec<Result<StoredRecord, ReadError>> {
        reader::read(&self.shared, lsns)
    }

    /// Reads records as [`Log::read`] does, where they are in the tail cache or the system has them
    /// in memory; `None` where that would have to wait for the disk.
    #[must_use]
    pub fn read_now(&self, lsns: &[Lsn]) -> Option<Vec<Result<StoredRecord, ReadError>>> {
        reader::read_now(&self.shared, lsns)
    }

    /// The heads of the records from `from` on, in order and without a gap, as far as they are durable
    /// and within `bound`.
    ///
    /// # Errors
    /// [`FollowError::Gone`] where the log does not go back to `from` any more.
    pub fn follow(&self, from: Lsn, bound: Bound) -> Result<Stretch, FollowError> {
        follow::follow(&self.shared, from, bound)
    }

    /// Visits the head of every record in a stretch of the log that can be read: what is left to
    /// tell of one that cannot. In no order; a record may come twice. Reads from disk alone, so what
    /// was appended just now is missing.
    pub fn heads(&self, lsns: LsnRange, visit: &mut dyn FnMut(Lsn, &[u8])) {
        heads::visit(&self.shared, lsns, visit);
    }

    /// Which kept records are still needed.
    #[must_use]
    pub fn liveness(&self) -> &Liveness {
        &self.shared.liveness
    }

    /// Which records are kept at this moment. Nothing may be appended meanwhile: the owner asks
    /// where it takes its snapshot.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let shared = &self.shared;
        let appended = shared.tail.lock().from(shared.liveness.placed_to());
        shared.liveness.kept(appended.iter().map(|entry| (entry.first, &*entry.batch)))
    }

    /// Bytes appended since the last checkpoint began; after a start, the bytes that were
    /// replayed count too.
    #[must_use]
    pub fn bytes_since_checkpoint(&self) -> u64 {
        let before = self.shared.checkpointed_bytes.load(Relaxed);
        self.shared.appended_bytes().saturating_sub(before)
    }

    /// Puts a checkpoint in place: the owner's `state` as of `lsn`. Then drops segments in which
    /// nothing lives any more. Blocks until all of that is durable.
    ///
    /// # Errors
    /// When the disk fails, or is full; the checkpoints before stay good. After a full disk the
    /// log goes on, after any other failure it is stopped.
    ///
    /// # Panics
    /// When `lsn` was not given yet, or is before the newest checkpoint's.
    pub fn write_checkpoint(&self, lsn: Lsn, state: Vec<Bytes>) -> Result<(), WriteError> {
        retention::write_checkpoint(&self.shared, lsn, &state)
    }

    /// Copies what lives in sparse segments together and lets the segments go, once; whether there
    /// was anything to do. The log's own thread does so by itself; for those who run it without.
    ///
    /// # Errors
    /// When the disk fails, which stops the log. A disk that is full only ends it.
    pub fn compact(&self) -> Result<bool, WriteError> {
        compaction::pass(&self.shared)
    }

    /// Reads about so many bytes of sealed segments, from where the last call ended, and checks them;
    /// [`Observer::damaged`] is told what is wrong. The log's own thread does so by itself.
    pub fn scrub(&self, bytes: u64) {
        compaction::scrub(&self.shared, bytes);
    }

    /// Whether publishes should be taken; costs an atomic load.
    #[must_use]
    pub fn space(&self) -> Space {
        self.shared.pool.space()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let mut stats = shared.counters.snapshot();
        let spares = shared.pool.ready() as u64;
        let segments = shared.segments.read();
        stats.segments = segments.len() as u64;
        stats.spares = spares;
        stats.disk_bytes = shared.checkpoint_disk_bytes.load(Relaxed)
            + spares * u64::from(shared.options.segment_bytes)
            + segments.iter().map(|segment| u64::from(segment.header.size)).sum::<u64>();
        drop(segments);
        let cold = shared.cold.read();
        stats.cold_segments = cold.len() as u64;
        stats.disk_bytes +=
            cold.iter().map(|cold| u64::from(cold.segment.header.size)).sum::<u64>();
        drop(cold);
        stats.live_records = shared.liveness.live_records();
        stats
    }

    /// Writes what is pending, seals the log so that the next start finds it whole, ends the
    /// threads and lets go of the data folder. A second call does nothing.
    ///
    /// # Errors
    /// When the disk fails, or had failed before.
    pub fn close(&self) -> Result<(), WriteError> {
        let shared = &self.shared;
        shared.tail.lock().closing = true;
        shared.wake.notify_all();
        shared.pool.stop();
        shared.compaction.stop();
        if shared.threaded {
            self.join();
        } else if shared.core.lock().is_some() {
            shared.run_core(Core::finish)?;
        }
        self.let_go();
        match &shared.tail.lock().stopped {
            None | Some(WriteError::Stopped) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// A panic of a thread has stopped the log by its guard; there is nothing to add here.
    fn join(&self) {
        for thread in self.threads.lock().drain(..) {
            drop(thread.join());
        }
    }

    /// Breaks the circle of writer and shared state, and gives the folder back.
    fn let_go(&self) {
        drop(self.shared.core.lock().take());
        drop(self.shared.held.lock().take());
        self.shared.tail.lock().stopped.get_or_insert(WriteError::Stopped);
        // Whoever still waits for a frame learns that none will come.
        self.shared.progress.notify_all();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.tail.lock().stopped.get_or_insert(WriteError::Stopped);
        self.shared.wake.notify_all();
        self.shared.progress.notify_all();
        self.shared.pool.stop();
        self.shared.compaction.stop();
        self.join();
        self.let_go();
    }
}

/// The preparing thread: looks at the pool when told, and once a second.
fn prepare(shared: &Arc<Shared>) {
    loop {
        shared.maintain();
        if !shared.pool.wait(Duration::from_secs(1)) {
            return;
        }
    }
}
