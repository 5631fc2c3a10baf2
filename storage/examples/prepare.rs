//! Measures what preparing segments is worth: frames written and synced into a file that is
//! zero-filled, reserved, or neither; then the log itself with and without zero-filled spares.
//!
//! `cargo run --release -p qbroker-storage --example prepare -- FOLDER`
#![expect(clippy::print_stdout, reason = "it prints figures")]

mod durable;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use durable::Durable;
use qbroker_storage::disk::{Disk as _, Mode, RealDisk};
use qbroker_storage::{Batch, Body, Log, Lsn, Options, Retention};

const SEGMENT_BYTES: usize = 64 << 20;

fn main() {
    let folder = std::env::args().nth(1).expect("the folder to measure in");
    for round in 1..=3 {
        for frame_bytes in [256, 1 << 20] {
            for how in ["filled", "reserved", "neither"] {
                let (p50, p99, fill) =
                    frames(Path::new(&folder), how, frame_bytes).expect("measures");
                println!(
                    "{round}: {frame_bytes:>8} B, {how:>8}: p50 {p50:>10.1?}, p99 {p99:>10.1?}, prepared in {fill:.1?}"
                );
            }
        }
        for (records, bytes) in [(1, 1024), (100, 1024), (1000, 1024)] {
            for spares in [0, 2] {
                log(Path::new(&folder), round, records, bytes, spares).expect("measures");
            }
        }
    }
}

/// Median and 99th percentile of write and sync, and how long preparing took.
fn frames(folder: &Path, how: &str, bytes: usize) -> io::Result<(Duration, Duration, Duration)> {
    let disk = RealDisk::open(folder)?;
    let file = disk.open("frames", Mode::Replace)?;
    let began = Instant::now();
    if how != "neither" {
        file.allocate(SEGMENT_BYTES as u64)?;
    }
    if how == "filled" {
        for at in (0..SEGMENT_BYTES).step_by(1 << 20) {
            file.write_all_at(&vec![0; 1 << 20], at as u64)?;
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    let prepared = began.elapsed();
    let frame = vec![0x5a; bytes];
    let count = (SEGMENT_BYTES / bytes).min(2000);
    let mut took = Vec::with_capacity(count);
    for at in 0..count {
        let began = Instant::now();
        file.write_all_at(&frame, (at * bytes) as u64)?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    disk.remove("frames")?;
    Ok((took[count / 2], took[count * 99 / 100], prepared))
}

/// Appends for three seconds with 4 MiB in flight, or one batch where a batch is one record.
fn log(
    folder: &Path,
    round: u32,
    records: u64,
    bytes: usize,
    spares: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in(folder)?;
    let disk = Arc::new(RealDisk::open(folder.path())?);
    let durable = Arc::new(Durable::default());
    let options = Options { spare_segments: spares, ..Options::default() };
    let log = Log::recover(disk, options)?.start(durable.clone())?;
    let payload = Bytes::from(vec![0x5a; bytes]);
    let in_flight = if records == 1 { 0 } else { (4 << 20) / bytes as u64 };
    let began = Instant::now();
    let mut appending = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(3) {
        let mut batch = Batch::default();
        for _ in 0..records {
            let body = Body::new(Bytes::new(), payload.clone());
            batch.push(Retention::Keep, body, |head| head.extend_from_slice(&[7; 40]));
        }
        let call = Instant::now();
        let lsns = log.append(batch)?;
        appending += call.elapsed();
        durable.wait(Lsn(lsns.last.0.saturating_sub(in_flight)));
    }
    let took = began.elapsed();
    let stats = log.stats();
    let mean = |total: u64, count: u64| Duration::from_micros(total / count.max(1));
    println!(
        "{round}: log, {records:>4} x {bytes} B, {spares} spares: {:>9.0} records/s, sync {:.1?}, append {:.0?}, {} of {} segments unfilled, {} MiB zeroed",
        stats.records as f64 / took.as_secs_f64(),
        mean(stats.sync_us_total, stats.syncs),
        appending / u32::try_from(stats.records / records)?,
        stats.rotations_unfilled,
        stats.rotations,
        stats.bytes_zeroed >> 20,
    );
    log.close()?;
    Ok(())
}
