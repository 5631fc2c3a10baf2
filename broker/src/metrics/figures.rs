//! What the metrics are read from: one picture of the broker at one moment.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::accept::ConnectionCounts;
use crate::auth::{Access, AuthFailures};
use crate::queue::state::StateFigures;
use crate::web::{Health, Phase};

use super::process::ProcessFigures;
use super::queues;

/// Gives the engine's part of the figures; called at each scrape, so it must not take long.
pub trait Figures: Debug + Send + Sync + 'static {
    /// Every queue, in any order.
    fn queues(&self) -> Vec<QueueFigures>;
    /// Operations on many messages at work.
    fn operations_running(&self) -> u64;
    /// The log and the disk below it.
    fn log(&self) -> LogFigures;
    /// Values, counters, permits and barriers.
    fn state(&self) -> StateFigures;
    /// The search index; all zero where there is none.
    fn search(&self) -> SearchFigures;
}

/// The search index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchFigures {
    /// Names that it holds.
    pub names: u64,
    /// Records that it has not looked at.
    pub behind: u64,
    /// How often it was begun anew since the start of the process.
    pub rebuilds_total: u64,
    /// Whether something is missing in it, as 0 or 1: it is being filled, or had no room.
    pub incomplete: u64,
}

/// Who is asked at a scrape.
#[derive(Debug)]
pub struct Sources {
    /// The engine.
    pub figures: Box<dyn Figures>,
    /// For refused callers.
    pub access: Access,
    /// For gRPC connections.
    pub connections: Arc<ConnectionCounts>,
    /// For readiness and disk space.
    pub health: Health,
    /// When the process started.
    pub started: SystemTime,
    /// How long recovery took.
    pub recovery: Duration,
}

/// One queue. Totals grow only, from the queue's creation on and over restarts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueFigures {
    /// Its name.
    pub name: String,
    /// Messages that could be delivered now.
    pub ready: u64,
    /// Messages waiting for their time.
    pub scheduled: u64,
    /// Messages with consumers.
    pub leased: u64,
    /// Messages given up in place.
    pub parked: u64,
    /// Messages that wait for others of their ordering key.
    pub behind: u64,
    /// Messages of this queue in its dead-letter queue.
    pub dead_letters: u64,
    /// Bytes of what it holds.
    pub bytes: u64,
    /// Consume streams open on it.
    pub consumers: u64,
    /// Whether it is paused, as 0 or 1; how many of them are where several are summed up.
    pub paused: u64,
    /// How long the first of the ready messages has been waiting; zero where there is none.
    pub oldest_ready_age: Duration,
    /// Messages that came in: published, or from other queues, dead or moved.
    pub published_total: u64,
    /// Leases granted.
    pub delivered_total: u64,
    /// Messages done.
    pub acked_total: u64,
    /// Failures that returned the message.
    pub retried_total: u64,
    /// Messages given up.
    pub dead_lettered_total: u64,
    /// Leases that ended by time or with a lost session.
    pub leases_expired_total: u64,
    /// Messages whose time to live ended.
    pub expired_total: u64,
    /// Messages deleted: by name, by a purge, or older than the retention.
    pub deleted_total: u64,
    /// Messages that operations moved elsewhere.
    pub moved_total: u64,
    /// Messages deleted because the queue held more than it may.
    pub dropped_total: u64,
}

/// The log and the disk. Totals are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFigures {
    /// How long each sync took, seconds.
    pub sync_seconds: Histogram,
    /// Frames written.
    pub frames_total: u64,
    /// Records made durable.
    pub records_total: u64,
    /// Bytes written to segments.
    pub written_bytes_total: u64,
    /// Bytes of record bodies among them.
    pub payload_bytes_total: u64,
    /// Zeros written ahead of use.
    pub zeroed_bytes_total: u64,
    /// Segments begun.
    pub rotations_total: u64,
    /// Segments begun that were not zero-filled in time.
    pub rotations_unfilled_total: u64,
    /// Segments dropped.
    pub segments_dropped_total: u64,
    /// Cold segments made.
    pub compactions_total: u64,
    /// Segments whose place a cold one took.
    pub segments_compacted_total: u64,
    /// Bytes written to cold segments.
    pub compacted_bytes_total: u64,
    /// Segments that compaction found damaged.
    pub damages_total: u64,
    /// Pages of the index that could not be read.
    pub pages_rebuilt_total: u64,
    /// Message ids remembered, over all queues.
    pub message_ids: u64,
    /// Message ids forgotten before their window was over.
    pub message_ids_forgotten_total: u64,
    /// Outcomes of finished messages that are kept now.
    pub outcomes: u64,
    /// Outcomes that were never written.
    pub outcomes_given_up_total: u64,
    /// Records read from memory.
    pub reads_cached_total: u64,
    /// Records read from disk.
    pub reads_disk_total: u64,
    /// Checkpoints written.
    pub checkpoints_total: u64,
    /// Bytes of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// Segments now, cold ones apart.
    pub segments: u64,
    /// Cold segments now.
    pub cold_segments: u64,
    /// Bytes of the data folder's segments, spares and reserve now.
    pub disk_bytes: u64,
    /// Records kept now.
    pub live_records: u64,
    /// Free bytes on the file system now.
    pub disk_free_bytes: u64,
    /// Free bytes below which publishes are refused.
    pub disk_reserve_bytes: u64,
    /// Bytes neither on disk nor sent yet.
    pub pending_bytes: u64,
}

/// A distribution. Invariant: `counts` has one more entry than `bounds`, for what lies above.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bounds, rising, inclusive.
    pub bounds: Vec<f64>,
    /// How many fell into each bucket, not cumulative.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

/// One picture of the broker at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The most active queues by name, and the rest summed up as [`queues::OTHER`].
    pub(super) queues: Vec<QueueFigures>,
    pub(super) queue_count: usize,
    pub(super) operations_running: u64,
    pub(super) log: LogFigures,
    pub(super) state: StateFigures,
    pub(super) search: SearchFigures,
    pub(super) process: ProcessFigures,
    pub(super) auth_failures: AuthFailures,
    pub(super) connections: Arc<ConnectionCounts>,
    pub(super) phase: Phase,
    pub(super) disk_low: bool,
    pub(super) started: SystemTime,
    pub(super) recovery: Duration,
}

impl Sources {
    /// Asks everybody.
    pub(super) fn snapshot(&self) -> Snapshot {
        let all = self.figures.queues();
        Snapshot {
            queue_count: all.len(),
            queues: queues::most_active(all),
            operations_running: self.figures.operations_running(),
            log: self.figures.log(),
            state: self.figures.state(),
            search: self.figures.search(),
            process: ProcessFigures::read(),
            auth_failures: self.access.failures(),
            connections: Arc::clone(&self.connections),
            phase: self.health.phase(),
            disk_low: self.health.disk_low(),
            started: self.started,
            recovery: self.recovery,
        }
    }
}
