//! Measures compaction: a log of 1 KiB records of which some stay, the disk it takes before and
//! after, what is copied, how long it takes, and what those who write meanwhile notice.
//!
//! `cargo run --release -p qbroker-storage --example compact -- FOLDER [MIB]`
#![expect(clippy::print_stdout, reason = "it prints figures")]

mod durable;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use durable::Durable;
use qbroker_storage::disk::RealDisk;
use qbroker_storage::{Batch, Body, Log, Lsn, Options, Retention, Stats};

const RECORD_BYTES: usize = 1024;
const BATCH: u64 = 100;
const CHECKPOINT_BYTES: u64 = 128 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("the folder to measure in");
    let mib: u64 = arguments.next().map_or(1024, |mib| mib.parse().expect("a number of MiB"));
    let records = (mib << 20) / RECORD_BYTES as u64;
    // A multiplicative hash: which one in ten stays follows no pattern.
    let one_in_ten = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(10);
    measure(&folder, "the oldest stays", records, &|n| n == 1);
    measure(&folder, "one in 10000 stays", records, &|n| n % 10_000 == 1);
    measure(&folder, "one in ten stays", records, &one_in_ten);
    measure(&folder, "one in three stays", records, &|n| n.is_multiple_of(3));
    measure(&folder, "every second stays", records, &|n| n.is_multiple_of(2));
}

fn measure(folder: &str, what: &str, records: u64, stays: &dyn Fn(u64) -> bool) {
    let folder = Path::new(folder).join("compact");
    let disk = Arc::new(RealDisk::open(&folder).expect("the folder can be made"));
    let durable = Arc::new(Durable::default());
    let options = Options { disk_reserve_bytes: 0, ..Options::default() };
    let recovery = Log::recover(disk, options).expect("a fresh log");
    let log = recovery.start(durable.clone()).expect("a fresh log");
    let lsns = fill(&log, &durable, records);
    let quiet = latencies(&log, &durable, 400, || false);
    let full = log.stats();
    let done: Vec<Lsn> =
        (1..).zip(&lsns).filter(|(n, _)| !stays(*n)).map(|(_, &lsn)| lsn).collect();
    settle(&log, &done);
    let began = Instant::now();
    let ended = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Two checkpoints that know of it: from here on, what is dead may go.
            for _ in 0..2 {
                settle(&log, &[]);
                let lsn = Lsn(log.next_lsn().0 - 1);
                log.write_checkpoint(lsn, Vec::new()).expect("a checkpoint");
            }
            while log.compact().expect("a pass") {}
            ended.store(true, Ordering::Release);
        });
        latencies(&log, &durable, usize::MAX, || ended.load(Ordering::Acquire))
    });
    let took = began.elapsed();
    // The files of segments that went are removed, or made spares, by another thread.
    while 6 < log.stats().spares && began.elapsed() < took + Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    print(what, &full, &log.stats(), took, (lsns.len() - done.len()) as u64, quiet, busy);
    log.close().expect("it closes");
    std::fs::remove_dir_all(&folder).expect("it was made here");
}

/// Appends the records, checkpointing as a broker would. Their LSNs.
fn fill(log: &Log, durable: &Durable, records: u64) -> Vec<Lsn> {
    let payload = Bytes::from(vec![0x5a; RECORD_BYTES]);
    let mut lsns = Vec::new();
    for first in (0..records).step_by(BATCH.try_into().expect("a small number")) {
        let mut batch = Batch::default();
        for _ in first..records.min(first + BATCH) {
            let body = Body::new(Bytes::new(), payload.clone());
            batch.push(Retention::Keep, body, |head| head.extend_from_slice(&[1; 40]));
        }
        let appended = log.append(batch).expect("it is open");
        lsns.extend(appended.iter());
        if first.is_multiple_of(BATCH * 50) {
            durable.wait(appended.last);
        }
        if CHECKPOINT_BYTES <= log.bytes_since_checkpoint() {
            log.write_checkpoint(appended.last, Vec::new()).expect("a checkpoint");
        }
    }
    lsns
}

/// Retires records, with the records that would say so.
fn settle(log: &Log, done: &[Lsn]) {
    for done in done.chunks(1000).chain(done.is_empty().then_some(&[][..])) {
        let mut batch = Batch::default();
        for _ in 0..done.len().max(1) {
            batch.push(Retention::Passing, Body::default(), |head| {
                head.extend_from_slice(&[2; 16]);
            });
        }
        log.append(batch).expect("it is open");
        log.liveness().retire(done);
    }
}

/// Median and 99th percentile of appending a small record and waiting until it is durable.
fn latencies(
    log: &Log,
    durable: &Durable,
    most: usize,
    ended: impl Fn() -> bool,
) -> (usize, Duration, Duration) {
    let mut took = Vec::new();
    while took.len() < most && !ended() {
        let mut batch = Batch::default();
        batch.push(Retention::Passing, Body::default(), |head| head.extend_from_slice(&[3; 256]));
        let began = Instant::now();
        let lsns = log.append(batch).expect("it is open");
        durable.wait(lsns.last);
        took.push(began.elapsed());
        if most == usize::MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    (took.len(), at(50), at(99))
}

fn print(
    what: &str,
    before: &Stats,
    after: &Stats,
    took: Duration,
    stay: u64,
    quiet: (usize, Duration, Duration),
    busy: (usize, Duration, Duration),
) {
    let mib = |bytes: u64| bytes >> 20;
    let live = stay * (RECORD_BYTES as u64 + 40);
    println!(
        "{what}: {} MiB of which {} MiB live -> {} MiB ({} hot, {} cold segments, {} spares) in {took:.1?}; \
         copied {} MiB from {} segments",
        mib(before.disk_bytes),
        mib(live),
        mib(after.disk_bytes),
        after.segments,
        after.cold_segments,
        after.spares,
        mib(after.compacted_bytes),
        after.segments_compacted,
    );
    println!(
        "    a write before: p50 {:.0?}, p99 {:.0?}; meanwhile ({}): p50 {:.0?}, p99 {:.0?}",
        quiet.1, quiet.2, busy.0, busy.1, busy.2
    );
}
