//! Counters for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the sync histogram's buckets, microseconds; one more bucket takes the rest.
pub const SYNC_BUCKETS_US: [u64; 14] = [
    50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600,
    1_638_400,
];
const BUCKETS: usize = SYNC_BUCKETS_US.len() + 1;

/// What the log has done since it was opened, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames written, those without records included.
    pub frames: u64,
    /// Syncs of segments.
    pub syncs: u64,
    /// Syncs by duration, not cumulative; see [`SYNC_BUCKETS_US`].
    pub sync_buckets: [u64; BUCKETS],
    /// Microseconds all syncs took together.
    pub sync_us_total: u64,
    /// Microseconds the last sync took.
    pub sync_us_last: u64,
    /// Records appended and durable.
    pub records: u64,
    /// Bytes written to segments: frames, headers, seals.
    pub bytes_written: u64,
    /// Bytes of bodies in them.
    pub payload_bytes: u64,
    /// Bytes written as zeros, ahead of use.
    pub bytes_zeroed: u64,
    /// Segments begun.
    pub rotations: u64,
    /// Segments begun in a file that was not zero-filled, because writing outran the filling.
    pub rotations_unfilled: u64,
    /// Segments dropped.
    pub segments_dropped: u64,
    /// Records read from the tail cache.
    pub reads_cached: u64,
    /// Records read from disk.
    pub reads_disk: u64,
    /// Checkpoints put in place.
    pub checkpoints: u64,
    /// Bytes of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// Cold segments made.
    pub compactions: u64,
    /// Segments whose live records were copied into cold ones.
    pub segments_compacted: u64,
    /// Bytes written to cold segments.
    pub compacted_bytes: u64,
    /// Bytes that scrubbing has read.
    pub scrubbed_bytes: u64,
    /// Segments that compaction or scrubbing found damaged.
    pub damages: u64,
    /// Segments in the log now, cold ones apart.
    pub segments: u64,
    /// Cold segments now.
    pub cold_segments: u64,
    /// Spare files ready now.
    pub spares: u64,
    /// Bytes of segments, cold ones too, spares and the checkpoints' reserve now.
    pub disk_bytes: u64,
    /// Records that are kept now.
    pub live_records: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frames: AtomicU64,
    pub(crate) sync_buckets: [AtomicU64; BUCKETS],
    pub(crate) sync_us_total: AtomicU64,
    pub(crate) sync_us_last: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) bytes_zeroed: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) rotations_unfilled: AtomicU64,
    pub(crate) segments_dropped: AtomicU64,
    pub(crate) reads_cached: AtomicU64,
    pub(crate) reads_disk: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) segments_compacted: AtomicU64,
    pub(crate) compacted_bytes: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) damages: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    pub(crate) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BUCKETS_US.partition_point(|&bound| bound < us);
        self.sync_buckets[bucket].fetch_add(1, Relaxed);
        self.sync_us_total.fetch_add(us, Relaxed);
        self.sync_us_last.store(us, Relaxed);
    }

    /// The counters' part of the figures.
    pub(crate) fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let sync_buckets = self.sync_buckets.each_ref().map(read);
        Stats {
            frames: read(&self.frames),
            syncs: sync_buckets.iter().sum(),
            sync_buckets,
            sync_us_total: read(&self.sync_us_total),
            sync_us_last: read(&self.sync_us_last),
            records: read(&self.records),
            bytes_written: read(&self.bytes_written),
            payload_bytes: read(&self.payload_bytes),
            bytes_zeroed: read(&self.bytes_zeroed),
            rotations: read(&self.rotations),
            rotations_unfilled: read(&self.rotations_unfilled),
            segments_dropped: read(&self.segments_dropped),
            reads_cached: read(&self.reads_cached),
            reads_disk: read(&self.reads_disk),
            checkpoints: read(&self.checkpoints),
            checkpoint_bytes: read(&self.checkpoint_bytes),
            compactions: read(&self.compactions),
            segments_compacted: read(&self.segments_compacted),
            compacted_bytes: read(&self.compacted_bytes),
            scrubbed_bytes: read(&self.scrubbed_bytes),
            damages: read(&self.damages),
            ..Stats::default()
        }
    }
}
