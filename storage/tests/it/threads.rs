//! The log with its threads, on a real folder.

#[path = "../../examples/durable/mod.rs"]
mod durable;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use durable::Durable;
use qbroker_storage::disk::RealDisk;
use qbroker_storage::{Batch, Body, Log, Lsn, OpenError, Options, ReadError, Retention};

fn options() -> Options {
    Options {
        segment_bytes: 256 << 10,
        tail_cache_bytes: 64 << 10,
        disk_reserve_bytes: 0,
        ..Options::default()
    }
}

fn message(number: u64, bytes: usize) -> Batch {
    let mut batch = Batch::default();
    let payload = Bytes::from(vec![number.to_le_bytes()[0]; bytes]);
    batch.push(Retention::Keep, Body::new(Bytes::new(), payload), |head| {
        head.extend_from_slice(&number.to_le_bytes());
    });
    batch
}

#[test]
fn several_threads_append_and_all_of_it_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let durable = Arc::new(Durable::default());
    let log = Log::recover(disk.clone(), options()).unwrap().start(durable.clone()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (log, durable) = (&log, &durable);
            scope.spawn(move || {
                for number in 0..500 {
                    let lsns = log.append(message(thread * 1000 + number, 700)).unwrap();
                    if number % 20 == 0 {
                        durable.wait(lsns.last);
                        assert!(lsns.last <= log.durable_lsn());
                    }
                }
            });
        }
    });
    durable.wait(Lsn(2000));
    let stats = log.stats();
    assert!(5 <= stats.segments && stats.syncs <= stats.frames, "{stats:?}");
    assert_eq!((stats.records, stats.live_records), (2000, 2000));
    let second = Log::recover(disk.clone(), options()).unwrap_err();
    assert!(matches!(&second, OpenError::Locked { holder } if holder.starts_with("process")));
    log.close().unwrap();
    log.close().unwrap();

    let mut recovery = Log::recover(disk, options()).unwrap();
    let mut numbers = Vec::new();
    recovery
        .replay(&mut |lsn, head| {
            numbers.push((lsn, u64::from_le_bytes(head.try_into().unwrap())));
        })
        .unwrap();
    assert_eq!(numbers.len(), 2000);
    assert!(recovery.report().closed, "{}", recovery.report());
    let log = recovery.start(Arc::new(Durable::default())).unwrap();
    let lsns: Vec<Lsn> = numbers.iter().rev().map(|&(lsn, _)| lsn).collect();
    for (record, (_, number)) in log.read(&lsns).into_iter().zip(numbers.iter().rev()) {
        let record = record.unwrap();
        assert_eq!(record.head, number.to_le_bytes()[..]);
        assert_eq!(record.body.parts()[1], vec![number.to_le_bytes()[0]; 700]);
    }
    log.close().unwrap();
}

#[test]
fn reads_go_on_while_segments_are_dropped_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let durable = Arc::new(Durable::default());
    let log = Log::recover(disk, options()).unwrap().start(durable.clone()).unwrap();
    // A consumer a hundred messages behind the newest, a retirer three hundred behind.
    let (stop, newest) = (AtomicBool::new(false), AtomicU64::new(0));
    let (read, gone) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut read, mut gone, mut at) = (0_u64, 0_u64, 1);
            while !stop.load(Ordering::Acquire) {
                let end = newest.load(Ordering::Acquire);
                let lsns: Vec<Lsn> = (at..=end).take(64).map(Lsn).collect();
                for (lsn, answer) in lsns.iter().zip(log.read(&lsns)) {
                    match answer {
                        Ok(record) => {
                            let wanted = lsn.0.to_le_bytes()[0];
                            assert_eq!(record.body.parts().concat(), vec![wanted; 900]);
                            read += 1;
                        }
                        Err(ReadError::NotFound(_)) => gone += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
                at = if at < end { at + 64 } else { end.saturating_sub(600).max(1) };
            }
            (read, gone)
        });
        for number in 1..=6000_u64 {
            let lsns = log.append(message(number, 900)).unwrap();
            assert_eq!(lsns.first, Lsn(number));
            if number % 100 == 0 {
                durable.wait(lsns.last);
                newest.store(number, Ordering::Release);
            }
            if 300 < number {
                log.liveness().retire(&[Lsn(number - 300)]);
            }
            if number % 500 == 0 {
                log.write_checkpoint(lsns.last, vec![Bytes::from_static(b"state")]).unwrap();
            }
        }
        stop.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    let stats = log.stats();
    assert!(10 < stats.segments_dropped && stats.segments < 12, "{stats:?}");
    assert!(1000 < read, "{read} read, {gone} gone");
    assert_eq!(stats.live_records, 300);
    assert!(stats.disk_bytes < 18 * (256 << 10), "{stats:?}");
    log.close().unwrap();
}

/// A log of eight segments in each of which little lives, once two checkpoints have absorbed it.
fn sparse(folder: &std::path::Path, options: Options) -> (Log, Vec<Lsn>) {
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let durable = Arc::new(Durable::default());
    let log = Log::recover(disk, options).unwrap().start(durable.clone()).unwrap();
    for number in 1..=2000_u64 {
        let lsns = log.append(message(number, 900)).unwrap();
        if number % 100 == 0 {
            durable.wait(lsns.last);
        }
    }
    let (live, done): (Vec<Lsn>, Vec<Lsn>) =
        (1..=2000).map(Lsn).partition(|lsn| lsn.0.is_multiple_of(100));
    log.liveness().retire(&done);
    for number in 2001..=2003 {
        let lsns = log.append(message(number, 10)).unwrap();
        log.write_checkpoint(lsns.last, vec![Bytes::from_static(b"state")]).unwrap();
    }
    (log, live)
}

#[test]
fn sparse_segments_are_compacted_by_themselves_while_records_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (log, live) = sparse(folder.path(), options());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut stats = log.stats();
    while stats.cold_segments == 0 || 2 < stats.segments {
        for (lsn, answer) in live.iter().zip(log.read(&live)) {
            assert_eq!(answer.unwrap().head, lsn.0.to_le_bytes()[..]);
        }
        assert!(std::time::Instant::now() < deadline, "{stats:?}");
        stats = log.stats();
    }
    for (lsn, answer) in live.iter().zip(log.read(&live)) {
        let wanted = lsn.0.to_le_bytes()[0];
        assert_eq!(answer.unwrap().body.parts().concat(), vec![wanted; 900]);
    }
    log.liveness().retire(&live);
    assert_eq!(log.stats().live_records, 3);
    log.close().unwrap();
}

#[test]
fn closing_waits_for_no_compaction() {
    let folder = tempfile::tempdir().unwrap();
    // At a byte a second it would take days.
    let options = Options { compaction_bytes_per_second: 1, ..options() };
    let (log, _) = sparse(folder.path(), options);
    log.close().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let mut recovery = Log::recover(disk, self::options()).unwrap();
    recovery.replay(&mut |_, _| ()).unwrap();
    assert!(recovery.report().closed, "{}", recovery.report());
}
