//! Every metric by name, one row each: kind, labels, meaning, and where it is read.

use std::time::{Duration, SystemTime};

use super::{Histogram, QueueFigures, Snapshot};
use crate::web::Phase;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// The name as Prometheus stores it.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
    /// Reads its series off a snapshot.
    pub(super) read: fn(&Snapshot) -> Vec<Sample>,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One series: the values of the metric's labels, in their order, and its own.
#[derive(Clone, Debug)]
pub struct Sample {
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

/// The value of a series.
#[derive(Clone, Debug)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
    /// A distribution.
    Spread(Histogram),
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: Value::Whole(value) }]
}

fn real(value: f64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: Value::Real(value) }]
}

fn labelled(label: &str, value: u64) -> Sample {
    Sample { labels: vec![label.to_owned()], value: Value::Whole(value) }
}

/// One series per queue.
fn by_queue(snapshot: &Snapshot, read: fn(&QueueFigures) -> u64) -> Vec<Sample> {
    snapshot.queues.iter().map(|queue| labelled(&queue.name, read(queue))).collect()
}

/// One series per queue and state. The states exclude each other, so they may be added up.
fn queue_states(snapshot: &Snapshot) -> Vec<Sample> {
    let states = |queue: &QueueFigures| {
        let states = [
            ("ready", queue.ready),
            ("scheduled", queue.scheduled),
            ("leased", queue.leased),
            ("parked", queue.parked),
            ("behind", queue.behind),
        ];
        states.map(|(state, count)| Sample {
            labels: vec![queue.name.clone(), state.to_owned()],
            value: Value::Whole(count),
        })
    };
    snapshot.queues.iter().flat_map(states).collect()
}

fn queue_ages(snapshot: &Snapshot) -> Vec<Sample> {
    let age = |queue: &QueueFigures| Sample {
        labels: vec![queue.name.clone()],
        value: Value::Real(queue.oldest_ready_age.as_secs_f64()),
    };
    snapshot.queues.iter().map(age).collect()
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Snapshot) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, read }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Snapshot) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, read }
}

/// Every metric, in the order of the page.
#[rustfmt::skip] // One row, one metric: a table is read down its columns.
pub static METRICS: &[Metric] = &[
    gauge("qbroker_build_info", &["version"], "Always 1; the version is in the label.",
        |_| vec![labelled(env!("CARGO_PKG_VERSION"), 1)]),
    gauge("qbroker_start_time_seconds", &[], "When the process started, in Unix time.",
        |s| real(unix_seconds(s.started))),
    gauge("qbroker_ready", &[], "1 while the broker serves, 0 while it starts or stops.",
        |s| one(u64::from(s.phase == Phase::Ready))),
    gauge("qbroker_recovery_duration_seconds", &[], "How long this start took to recover the log.",
        |s| real(s.recovery.as_secs_f64())),

    gauge("qbroker_queues", &[], "Queues that exist.",
        |s| one(s.queue_count as u64)),
    gauge("qbroker_queue_messages", &["queue", "state"], "Messages held, by state: ready, scheduled, leased, parked, behind (another of their ordering key).",
        queue_states),
    gauge("qbroker_queue_dead_letters", &["queue"], "Messages in the queue's dead-letter queue, which may serve others as well; there they count as held, too.",
        |s| by_queue(s, |queue| queue.dead_letters)),
    gauge("qbroker_queue_bytes", &["queue"], "Bytes held: payloads, headers and keys.",
        |s| by_queue(s, |queue| queue.bytes)),
    gauge("qbroker_queue_consumers", &["queue"], "Consume streams open on the queue.",
        |s| by_queue(s, |queue| queue.consumers)),
    gauge("qbroker_queue_paused", &["queue"], "1 while the queue is paused, else 0; of queues summed up, how many are.",
        |s| by_queue(s, |queue| queue.paused)),
    gauge("qbroker_queue_oldest_ready_age_seconds", &["queue"], "How long the oldest ready message, whatever its priority, has been in the queue; 0 where none is ready.",
        queue_ages),
    counter("qbroker_messages_published_total", &["queue"], "Messages that came in: published, or from other queues, dead or moved.",
        |s| by_queue(s, |queue| queue.published_total)),
    counter("qbroker_messages_delivered_total", &["queue"], "Leases granted.",
        |s| by_queue(s, |queue| queue.delivered_total)),
    counter("qbroker_messages_acked_total", &["queue"], "Messages done.",
        |s| by_queue(s, |queue| queue.acked_total)),
    counter("qbroker_messages_retried_total", &["queue"], "Failures that returned the message.",
        |s| by_queue(s, |queue| queue.retried_total)),
    counter("qbroker_messages_dead_lettered_total", &["queue"], "Messages given up.",
        |s| by_queue(s, |queue| queue.dead_lettered_total)),
    counter("qbroker_messages_expired_total", &["queue"], "Messages whose ttl ended before they were done.",
        |s| by_queue(s, |queue| queue.expired_total)),
    counter("qbroker_messages_deleted_total", &["queue"], "Messages deleted: by name, by a purge, or older than the retention.",
        |s| by_queue(s, |queue| queue.deleted_total)),
    counter("qbroker_messages_moved_total", &["queue"], "Messages that operations moved from the queue to another one.",
        |s| by_queue(s, |queue| queue.moved_total)),
    gauge("qbroker_operations_running", &[], "Operations on many messages (moves, deletions) at work.",
        |s| one(s.operations_running)),
    counter("qbroker_messages_dropped_total", &["queue"], "Messages deleted because the queue held more than it may.",
        |s| by_queue(s, |queue| queue.dropped_total)),
    counter("qbroker_leases_expired_total", &["queue"], "Leases that ended by time or with a lost session.",
        |s| by_queue(s, |queue| queue.leases_expired_total)),

    gauge("qbroker_state_entries", &["kind"], "Entries of the state, by kind: value, counter, permit, barrier, schedule.",
        |s| vec![
            labelled("value", s.state.values as u64),
            labelled("counter", s.state.counters as u64),
            labelled("permit", s.state.permits as u64),
            labelled("barrier", s.state.barriers as u64),
            labelled("schedule", s.state.schedules as u64),
        ]),
    gauge("qbroker_state_bytes", &[], "Memory of the state, about; new entries are refused at state-memory.",
        |s| one(s.state.bytes as u64)),

    Metric { name: "qbroker_log_sync_duration_seconds", kind: Kind::Histogram, labels: &[],
        help: "How long each sync of the log took.",
        read: |s| vec![Sample { labels: Vec::new(), value: Value::Spread(s.log.sync_seconds.clone()) }] },
    counter("qbroker_log_frames_total", &[], "Frames written: group commits.",
        |s| one(s.log.frames_total)),
    counter("qbroker_log_records_total", &[], "Records made durable.",
        |s| one(s.log.records_total)),
    counter("qbroker_log_written_bytes_total", &[], "Bytes written to segments.",
        |s| one(s.log.written_bytes_total)),
    counter("qbroker_log_payload_bytes_total", &[], "Bytes of record bodies among those written.",
        |s| one(s.log.payload_bytes_total)),
    counter("qbroker_log_zeroed_bytes_total", &[], "Zeros written to segments ahead of their use.",
        |s| one(s.log.zeroed_bytes_total)),
    counter("qbroker_log_rotations_total", &[], "Segments begun.",
        |s| one(s.log.rotations_total)),
    counter("qbroker_log_rotations_unfilled_total", &[], "Segments begun before they were filled with zeros: writing outran the filling.",
        |s| one(s.log.rotations_unfilled_total)),
    counter("qbroker_log_segments_dropped_total", &[], "Segments dropped because nothing in them lived.",
        |s| one(s.log.segments_dropped_total)),
    counter("qbroker_log_compactions_total", &[], "Cold segments made of what lived in sparse ones.",
        |s| one(s.log.compactions_total)),
    counter("qbroker_log_segments_compacted_total", &[], "Segments whose place a cold one took.",
        |s| one(s.log.segments_compacted_total)),
    counter("qbroker_log_compacted_bytes_total", &[], "Bytes written to cold segments.",
        |s| one(s.log.compacted_bytes_total)),
    counter("qbroker_log_damages_total", &[], "Segments that compaction or scrubbing found damaged and left alone.",
        |s| one(s.log.damages_total)),
    counter("qbroker_index_pages_rebuilt_total", &[], "Pages of the index that could not be read and were made anew.",
        |s| one(s.log.pages_rebuilt_total)),
    gauge("qbroker_message_ids", &[], "Message ids remembered against publishing twice, over all queues; at most 4,000,000.",
        |s| one(s.log.message_ids)),
    counter("qbroker_message_ids_forgotten_total", &[], "Message ids forgotten before their queue's dedup_window was over: there were too many.",
        |s| one(s.log.message_ids_forgotten_total)),
    gauge("qbroker_outcomes", &[], "Outcomes of finished messages that are kept, for TraceMessage.",
        |s| one(s.log.outcomes)),
    counter("qbroker_outcomes_given_up_total", &[], "Outcomes that were never written: they came too fast, or the disk was full.",
        |s| one(s.log.outcomes_given_up_total)),
    gauge("qbroker_search_names", &[], "Names that the search index holds; at most search-index-names.",
        |s| one(s.search.names)),
    gauge("qbroker_search_behind_records", &[], "Records of the log that the search index has not looked at.",
        |s| one(s.search.behind)),
    counter("qbroker_search_rebuilds_total", &[], "Times the search index was begun anew because something was wrong with it.",
        |s| one(s.search.rebuilds_total)),
    gauge("qbroker_search_incomplete", &[], "1 while something is missing in the search index: it is being filled, or had no room.",
        |s| one(s.search.incomplete)),
    counter("qbroker_log_reads_total", &["source"], "Records read back, by source: cache, disk.",
        |s| vec![labelled("cache", s.log.reads_cached_total), labelled("disk", s.log.reads_disk_total)]),
    counter("qbroker_checkpoints_total", &[], "Checkpoints put in place.",
        |s| one(s.log.checkpoints_total)),
    gauge("qbroker_checkpoint_bytes", &[], "Size of the newest checkpoint.",
        |s| one(s.log.checkpoint_bytes)),
    gauge("qbroker_log_segments", &[], "Segments in the log, cold ones apart.",
        |s| one(s.log.segments)),
    gauge("qbroker_log_cold_segments", &[], "Cold segments.",
        |s| one(s.log.cold_segments)),
    gauge("qbroker_log_live_records", &[], "Records the log must keep.",
        |s| one(s.log.live_records)),
    gauge("qbroker_storage_bytes", &[], "Bytes of the data folder: segments, spares and reserve.",
        |s| one(s.log.disk_bytes)),
    gauge("qbroker_disk_free_bytes", &[], "Free bytes on the data folder's file system.",
        |s| one(s.log.disk_free_bytes)),
    gauge("qbroker_disk_reserve_bytes", &[], "Free bytes below which publishes are refused.",
        |s| one(s.log.disk_reserve_bytes)),
    gauge("qbroker_disk_low", &[], "1 while publishes are refused for want of space.",
        |s| one(u64::from(s.disk_low))),
    gauge("qbroker_pending_bytes", &[], "Bytes of messages neither on disk nor sent yet.",
        |s| one(s.log.pending_bytes)),

    gauge("qbroker_grpc_connections", &[], "gRPC connections open.",
        |s| one(s.connections.open())),
    counter("qbroker_grpc_connections_accepted_total", &[], "gRPC connections accepted.",
        |s| one(s.connections.accepted())),
    counter("qbroker_grpc_connections_refused_total", &[], "gRPC connections closed at once because there were too many.",
        |s| one(s.connections.over_limit())),
    counter("qbroker_tls_handshake_failures_total", &[], "TLS handshakes that failed or took too long.",
        |s| one(s.connections.handshakes_failed())),
    counter("qbroker_auth_failures_total", &["reason"], "Calls turned away, by reason: missing, malformed, unknown token.",
        |s| vec![
            labelled("missing", s.auth_failures.missing),
            labelled("malformed", s.auth_failures.malformed),
            labelled("unknown", s.auth_failures.unknown),
        ]),

    counter("process_cpu_seconds_total", &[], "Processor time used, user and system.",
        |s| real(s.process.cpu_seconds)),
    gauge("process_resident_memory_bytes", &[], "Physical memory in use.",
        |s| one(s.process.resident_bytes)),
    gauge("process_resident_memory_peak_bytes", &[], "The most physical memory used so far.",
        |s| one(s.process.resident_bytes_peak)),
    gauge("process_open_fds", &[], "Files and sockets open.",
        |s| one(s.process.open_fds)),
    gauge("process_threads", &[], "Threads.",
        |s| one(s.process.threads)),
];
