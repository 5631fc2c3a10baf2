//! The engine's part of the metrics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qbroker_storage::SYNC_BUCKETS_US;

use crate::config::Settings;
use crate::engine::{Core, Engine};
use crate::grpc::figures;
use crate::metrics::{Figures, Histogram, LogFigures, QueueFigures, SearchFigures};
use crate::queue::Queue;
use crate::queue::state::StateFigures;
use crate::search::Search;

/// Reads the engine when somebody scrapes.
#[derive(Debug)]
pub(super) struct EngineFigures {
    engine: Arc<Engine>,
    search: Option<Search>,
    folder: PathBuf,
    reserve_bytes: u64,
}

impl EngineFigures {
    pub(super) fn new(engine: Arc<Engine>, search: Option<Search>, settings: &Settings) -> Self {
        let folder = settings.data_dir.clone();
        let reserve_bytes = settings.disk_reserve.bytes_of(disk_bytes(&folder).unwrap_or_default());
        Self { engine, search, folder, reserve_bytes }
    }
}

impl Figures for EngineFigures {
    fn queues(&self) -> Vec<QueueFigures> {
        let wall_ms = self.engine.clock().now().wall_ms;
        let (mut figures, mut after) = (Vec::new(), None);
        loop {
            let mut visit =
                |core: &Core, queue: &Queue| figures.push(queue_figures(core, queue, wall_ms));
            after = self.engine.look_at_queues(after.as_deref(), &mut visit);
            if after.is_none() {
                return figures;
            }
        }
    }

    fn operations_running(&self) -> u64 {
        self.engine.look(|core| core.running_operations().count() as u64).1
    }

    fn state(&self) -> StateFigures {
        self.engine.look(Core::state_figures).1
    }

    fn search(&self) -> SearchFigures {
        let Some(search) = &self.search else { return SearchFigures::default() };
        let progress = search.progress();
        let durable = self.engine.log().durable_lsn();
        SearchFigures {
            names: progress.entries,
            behind: durable.0.saturating_sub(progress.applied.0),
            rebuilds_total: progress.discarded,
            incomplete: u64::from(progress.filling || progress.full),
        }
    }

    fn log(&self) -> LogFigures {
        let stats = self.engine.log().stats();
        let ids = self.engine.look(Core::message_ids).1;
        let (outcomes, given_up) = self.engine.look(|core| core.outcome_counts()).1;
        LogFigures {
            sync_seconds: Histogram {
                bounds: SYNC_BUCKETS_US.iter().map(|us| seconds(*us)).collect(),
                counts: stats.sync_buckets.to_vec(),
                sum: seconds(stats.sync_us_total),
            },
            frames_total: stats.frames,
            records_total: stats.records,
            written_bytes_total: stats.bytes_written,
            payload_bytes_total: stats.payload_bytes,
            zeroed_bytes_total: stats.bytes_zeroed,
            rotations_total: stats.rotations,
            rotations_unfilled_total: stats.rotations_unfilled,
            segments_dropped_total: stats.segments_dropped,
            reads_cached_total: stats.reads_cached,
            reads_disk_total: stats.reads_disk,
            checkpoints_total: stats.checkpoints,
            checkpoint_bytes: stats.checkpoint_bytes,
            compactions_total: stats.compactions,
            segments_compacted_total: stats.segments_compacted,
            compacted_bytes_total: stats.compacted_bytes,
            damages_total: stats.damages,
            pages_rebuilt_total: self.engine.pages_rebuilt(),
            message_ids: ids.remembered as u64,
            message_ids_forgotten_total: ids.forgotten,
            outcomes: outcomes as u64,
            outcomes_given_up_total: given_up,
            segments: stats.segments,
            cold_segments: stats.cold_segments,
            disk_bytes: stats.disk_bytes,
            live_records: stats.live_records,
            disk_free_bytes: free_bytes(&self.folder).unwrap_or_default(),
            disk_reserve_bytes: self.reserve_bytes,
            pending_bytes: self.engine.pending_bytes(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric needs no more than 53 bits")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn queue_figures(core: &Core, queue: &Queue, wall_ms: u64) -> QueueFigures {
    let figures = figures(core, queue);
    let age_ms = figures.oldest_ready_ms.map_or(0, |since_ms| wall_ms.saturating_sub(since_ms));
    QueueFigures {
        name: queue.definition.name.clone(),
        ready: figures.counts.ready,
        scheduled: figures.counts.scheduled,
        leased: figures.counts.leased,
        parked: figures.counts.parked,
        behind: figures.counts.behind,
        dead_letters: figures.dead,
        bytes: figures.counts.bytes,
        consumers: figures.consumers as u64,
        paused: u64::from(queue.definition.paused),
        oldest_ready_age: Duration::from_millis(age_ms),
        published_total: queue.totals.published,
        delivered_total: queue.totals.delivered,
        acked_total: queue.totals.acked,
        retried_total: queue.totals.retried,
        dead_lettered_total: queue.totals.dead_lettered,
        leases_expired_total: queue.totals.expired_leases,
        expired_total: queue.totals.expired,
        deleted_total: queue.totals.deleted,
        moved_total: queue.totals.moved,
        dropped_total: queue.totals.dropped,
    }
}

/// Size of the file system that holds a folder, which may not exist yet.
pub(super) fn disk_bytes(folder: &Path) -> std::io::Result<u64> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    let disk = rustix::fs::statvfs(existing)?;
    Ok(disk.f_blocks * disk.f_frsize)
}

/// What an ordinary user may still write on the file system that holds a folder.
fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail * disk.f_frsize)
}
