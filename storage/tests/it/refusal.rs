//! What is in the way is told: a full, failing or foreign disk, a damaged checkpoint.

use std::sync::Arc;

use bytes::Bytes;
use qbroker_storage::disk::sim::{Faults, SimDisk};
use qbroker_storage::{
    AppendError, Batch, Body, Lsn, OpenError, Options, ReadError, Retention, Space, WriteError,
};

use crate::model::{Owner, Told, recover, tiny};

#[test]
fn a_second_log_on_the_same_folder_is_refused() {
    let disk = SimDisk::new(1);
    let owner = Owner::open(&disk, &tiny()).unwrap();
    assert!(matches!(Owner::open(&disk, &tiny()), Err(OpenError::Locked { .. })));
    owner.log.close().unwrap();
    Owner::open(&disk, &tiny()).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let disk = SimDisk::new(1);
    drop(Owner::open(&disk, &tiny()).unwrap());
    disk.tamper("FORMAT", |bytes| bytes[8] = 9);
    let refused = Owner::open(&disk, &tiny()).err().unwrap();
    assert!(matches!(refused, OpenError::NewerFormat { found: 9, supported: 2 }), "{refused}");
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let disk = SimDisk::new(1);
    let shared = disk.shared();
    shared.open("holiday.jpg", qbroker_storage::disk::Mode::CreateNew).unwrap();
    let refused = Owner::open(&disk, &tiny()).err().unwrap();
    assert!(matches!(&refused, OpenError::NotADataFolder { found } if found == "holiday.jpg"));
    assert_eq!(disk.paths(), ["holiday.jpg"]);
}

#[test]
fn a_lost_format_file_is_damage_and_no_fresh_start() {
    let disk = SimDisk::new(1);
    drop(Owner::open(&disk, &tiny()).unwrap());
    disk.lose("FORMAT");
    assert!(matches!(Owner::open(&disk, &tiny()), Err(OpenError::Damaged(_))));
    disk.lose("FLOOR");
    assert!(matches!(Owner::open(&disk, &tiny()), Err(OpenError::Damaged(_))));
}

#[test]
fn a_read_only_disk_and_a_full_one_are_told_apart() {
    let disk = SimDisk::new(1);
    drop(Owner::open(&disk, &tiny()).unwrap());
    let disk = disk.killed();
    disk.set_faults(Faults { read_only: true, ..Faults::default() });
    assert!(matches!(Owner::open(&disk, &tiny()), Err(OpenError::ReadOnly(_))));
    let full = SimDisk::new(1);
    full.set_faults(Faults { capacity: Some(10 << 10), ..Faults::default() });
    assert!(matches!(Owner::open(&full, &tiny()), Err(OpenError::Full(_))));
}

#[test]
fn a_batch_too_large_for_a_frame_gets_no_lsns() {
    let disk = SimDisk::new(1);
    let owner = Owner::open(&disk, &tiny()).unwrap();
    let mut batch = Batch::default();
    let body = Body::new(Bytes::new(), vec![7; owner.log.batch_bytes_max()].into());
    batch.push(Retention::Keep, body, |_| ());
    let refused = owner.log.append(batch).unwrap_err();
    assert!(matches!(refused, AppendError::TooLarge { .. }), "{refused}");
    assert_eq!(owner.log.next_lsn(), Lsn(1));
    let mut batch = Batch::default();
    let body = Body::new(Bytes::new(), vec![7; owner.log.batch_bytes_max() - 12].into());
    batch.push(Retention::Keep, body, |_| ());
    assert_eq!(batch.bytes(), owner.log.batch_bytes_max());
    owner.log.append(batch).unwrap();
    owner.log.close().unwrap();
    drop(owner);
    assert_eq!(recover_last(&disk), Lsn(1));
}

fn recover_last(disk: &SimDisk) -> Lsn {
    let mut recovery = qbroker_storage::Log::recover(disk.shared(), tiny()).unwrap();
    recovery.replay(&mut |_, _| ()).unwrap();
    recovery.report().last_lsn
}

#[test]
fn after_a_failed_sync_nothing_is_accepted_and_a_restart_believes_only_the_disk() {
    for sync in 0..30 {
        let disk = SimDisk::new(3);
        let mut owner = Owner::open(&disk, &tiny()).unwrap();
        disk.set_faults(Faults { fail_sync: Some(sync), ..Faults::default() });
        let mut failed = false;
        for number in 0..40 {
            if owner.append(&[(number, 900)], &[]).is_none() || owner.writer.step().is_err() {
                failed = true;
                break;
            }
        }
        assert!(failed && owner.told.failed.lock().is_some(), "sync {sync} fails");
        assert!(owner.append(&[(99, 1)], &[]).is_none());
        assert!(matches!(owner.writer.step(), Err(WriteError::Disk(_))), "never tried again");
        assert!(owner.log.close().is_err());
        let confirmed = *owner.told.durable.lock();
        let states = owner.states.clone();
        drop(owner);
        // The page cache shows frames that the disk never got. A start may believe them only
        // once it has written them again: a power loss right after it must not take them back.
        let disk = disk.killed();
        let (recovery, live) = recover(&disk, &tiny()).unwrap();
        let last = Lsn(recovery.next_lsn().0 - 1);
        assert!(confirmed <= last);
        assert_eq!(live, states[&last]);
        drop(recovery);
        let (recovery, again) = recover(&disk.power_loss(sync), &tiny()).unwrap();
        assert_eq!((again, recovery.next_lsn()), (live, last.next()), "sync {sync}");
    }
}

#[test]
fn a_failed_write_stops_the_log_and_loses_nothing() {
    for write in 0..60 {
        let disk = SimDisk::new(3);
        let mut owner = Owner::open(&disk, &tiny()).unwrap();
        disk.set_faults(Faults { fail_write: Some(write), ..Faults::default() });
        for number in 0..60 {
            if owner.append(&[(number, 900)], &[]).is_none() || owner.writer.step().is_err() {
                break;
            }
        }
        assert!(owner.told.failed.lock().is_some(), "write {write} fails");
        let confirmed = *owner.told.durable.lock();
        let (recovery, live) = recover(&disk.power_loss(write), &tiny()).unwrap();
        assert!(confirmed < recovery.next_lsn());
        assert_eq!(live, owner.states[&Lsn(recovery.next_lsn().0 - 1)]);
    }
}

#[test]
fn a_full_disk_refuses_publishes_and_still_drains() {
    let disk = SimDisk::new(3);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..12 {
        owner.append(&[(number, 1500), (number, 1500)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    owner.checkpoint().unwrap();
    assert_eq!(owner.log.space(), Space::Ample);
    let used: u64 = disk.paths().iter().map(|path| disk.bytes(path).len() as u64).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    // Goes on until the log says that there is little room, as the engine would.
    let mut number = 50;
    while owner.log.space() == Space::Ample {
        owner.append(&[(number, 1500)], &[]).unwrap();
        owner.writer.step().unwrap();
        number += 1;
        assert!(number < 150, "the space is never low");
        if number % 8 == 0 {
            owner.checkpoint().unwrap();
        }
    }
    // Now only settlements and checkpoints, out of the reserve, until there is room again.
    let mut rounds = 0;
    while owner.log.space() != Space::Ample {
        let done: Vec<Lsn> = owner.live.keys().copied().take(6).collect();
        assert!(!done.is_empty(), "everything is settled and there is still no room");
        owner.append(&[], &done).unwrap();
        owner.writer.step().unwrap();
        owner.checkpoint().unwrap();
        rounds += 1;
    }
    assert!(0 < rounds);
    owner.append(&[(249, 1500)], &[]).unwrap();
    owner.writer.step().unwrap();
    owner.check_bodies();
    let (_, live) = recover(&disk.killed(), &tiny()).unwrap();
    assert_eq!(live, owner.live);
}

/// A bug: room for checkpoints was held back from the first one on. On a disk that was full by then, none
/// could be written, no segment went, and the log stopped.
#[test]
fn a_disk_that_is_full_before_the_first_checkpoint_is_drained_too() {
    let disk = SimDisk::new(3);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    let used: u64 = disk.paths().iter().map(|path| disk.bytes(path).len() as u64).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    for round in 0..60 {
        let done: Vec<Lsn> = owner.live.keys().copied().take(1).collect();
        owner.append(&[(round, 1000)], &done).unwrap();
        owner.writer.step().unwrap();
        owner.checkpoint().unwrap();
    }
    owner.check_bodies();
    let (_, live) = recover(&disk.killed(), &tiny()).unwrap();
    assert_eq!(live, owner.live);
}

/// A log with two checkpoints from which segments were dropped.
fn checkpointed() -> (SimDisk, Owner) {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for round in 0..4 {
        for number in 0..12 {
            owner.append(&[(round * 12 + number, 1000)], &[]).unwrap();
            owner.writer.step().unwrap();
        }
        let done: Vec<Lsn> = owner.live.keys().copied().take(9).collect();
        owner.append(&[], &done).unwrap();
        owner.checkpoint().unwrap();
        owner.append(&[(200, 10)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    assert!(0 < owner.log.stats().segments_dropped, "{:?}", owner.log.stats());
    (disk.killed(), owner)
}

fn checkpoints(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("ckpt/ckpt-")).collect()
}

#[test]
fn two_checkpoints_are_kept_and_the_newest_is_used() {
    let (disk, owner) = checkpointed();
    let paths = checkpoints(&disk);
    assert_eq!(paths.len(), 2, "{paths:?}");
    let (recovery, live) = recover(&disk, &tiny()).unwrap();
    assert_eq!(live, owner.live);
    let newest = format!("ckpt/ckpt-{:016x}", recovery.report().checkpoint.unwrap().0);
    assert_eq!(newest, paths[1]);
    assert_eq!(recovery.report().replayed_records, 1);
    assert!(recovery.report().warnings.is_empty());
}

#[test]
fn one_damaged_checkpoint_is_a_warning_and_two_are_damage() {
    let (disk, owner) = checkpointed();
    let paths = checkpoints(&disk);
    let length = disk.bytes(&paths[1]).len();
    for at in 0..length {
        let disk = disk.killed();
        disk.tamper(&paths[1], |bytes| bytes[at] ^= 0x10);
        let (recovery, live) = recover(&disk, &tiny()).unwrap();
        assert_eq!(live, owner.live, "byte {at}");
        assert_eq!(recovery.report().warnings.len(), 1, "byte {at}");
        assert!(recovery.start_stepped(Arc::new(Told::default())).is_ok());
    }
    for part in [0, 2, 1] {
        let disk = disk.killed();
        for path in &paths {
            let at = disk.bytes(path).len().checked_div(part).map_or(0, |at| at - 1);
            disk.tamper(path, |bytes| bytes[at] ^= 0x10);
        }
        let Err(OpenError::Damaged(damage)) = recover(&disk, &tiny()) else {
            panic!("both damaged and accepted");
        };
        assert!(damage.problem.contains("no checkpoint is usable"), "{damage}");
    }
}

#[test]
fn what_only_the_newest_checkpoint_has_absorbed_is_not_dropped() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for round in 0..3 {
        for number in 0..40 {
            owner.append(&[(round * 40 + number, 1000)], &[]).unwrap();
            owner.writer.step().unwrap();
        }
        let done: Vec<Lsn> = owner.live.keys().copied().collect();
        owner.append(&[], &done).unwrap();
        owner.checkpoint().unwrap();
    }
    assert!(3 < owner.log.stats().segments_dropped, "{:?}", owner.log.stats());
    let disk = disk.killed();
    let newest = checkpoints(&disk).pop().unwrap();
    disk.tamper(&newest, |bytes| bytes[0] ^= 1);
    let (recovery, live) = recover(&disk, &tiny()).unwrap_or_else(|error| panic!("{error}"));
    assert!(live.is_empty() && 40 < recovery.report().replayed_records);
}

#[test]
fn the_record_that_proves_the_older_checkpoint_stays() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(1, 100)], &[]).unwrap();
    owner.append(&[], &[Lsn(1)]).unwrap();
    owner.log.close().unwrap();
    drop(owner);
    // The last record of a sealed segment in which nothing lives is the older checkpoint's.
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.checkpoint().unwrap();
    owner.append(&[(2, 100)], &[]).unwrap();
    owner.checkpoint().unwrap();
    owner.checkpoint().unwrap();
    let disk = disk.killed();
    let newest = checkpoints(&disk).pop().unwrap();
    disk.tamper(&newest, |bytes| bytes[0] ^= 1);
    let (_, live) = recover(&disk, &tiny()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(live, owner.live);
}

#[test]
fn any_missing_segment_is_damage_even_one_in_which_nothing_lives() {
    let (disk, _) = checkpointed();
    for path in disk.paths().iter().filter(|path| path.starts_with("log/")) {
        let disk = disk.killed();
        disk.lose(path);
        assert!(matches!(recover(&disk, &tiny()), Err(OpenError::Damaged(_))), "{path}");
    }
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_damage() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(1, 100)], &[]).unwrap();
    owner.checkpoint().unwrap();
    let disk = disk.killed();
    disk.lose("FLOOR");
    // Everything but the segment's first frame is gone, witnesses included.
    disk.tamper("log/seg-0000000000000001.qlog", |bytes| bytes[4096 + 80..].fill(0));
    let Err(OpenError::Damaged(damage)) = recover(&disk, &tiny()) else {
        panic!("a checkpoint beyond the end of the log is accepted");
    };
    assert_eq!((damage.first_lsn, damage.last_lsn), (Some(Lsn(1)), Some(Lsn(1))), "{damage}");
    assert!(damage.evidence.unwrap().contains("was finished after it"));
}

#[test]
fn a_read_tells_of_damage_that_the_checkpoint_has_absorbed() {
    let (disk, owner) = checkpointed();
    let (recovery, _) = recover(&disk, &tiny()).unwrap();
    let oldest = *owner.live.keys().next().unwrap();
    drop(recovery);
    // The oldest message's body, found by what it says.
    let body = owner.live[&oldest].clone();
    let holds = |path: &String| {
        let bytes = disk.bytes(path);
        bytes.windows(body.len()).position(|window| window == body)
    };
    let logs = disk.paths().into_iter().filter(|path| path.starts_with("log/"));
    let (path, at) = logs.filter_map(|path| Some((path.clone(), holds(&path)?))).next().unwrap();
    disk.tamper(&path, |bytes| bytes[at + 500] ^= 4);
    let (recovery, live) = recover(&disk, &tiny()).unwrap();
    assert_eq!(live, owner.live, "the start has no need to read it");
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    let answers = log.read(&[oldest, *live.keys().nth(1).unwrap()]);
    match &answers[0] {
        Err(ReadError::Damaged(damage)) => assert_eq!(damage.file, path),
        other => panic!("{other:?}"),
    }
    assert!(answers[1].is_ok(), "its neighbour is sound: {:?}", answers[1]);
}

#[test]
fn behind_a_damaged_frame_everything_can_be_read() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..40 {
        owner.append(&[(number, 300)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    owner.checkpoint().unwrap();
    let disk = disk.killed();
    let lsns: Vec<Lsn> = owner.live.keys().copied().collect();
    let path = disk.paths().into_iter().find(|path| path.starts_with("log/")).unwrap();
    // The header of the third frame with records in the first segment.
    let body = &owner.live[&lsns[2]];
    let bytes = disk.bytes(&path);
    let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
    let frame = bytes[..at].windows(4).rposition(|window| window == b"QFR1").unwrap();
    disk.tamper(&path, |bytes| bytes[frame + 9] ^= 1);
    let (recovery, _) = recover(&disk, &tiny()).unwrap();
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    for (place, answer) in log.read(&lsns).into_iter().enumerate() {
        match answer {
            Ok(record) => assert_eq!(record.body.parts().concat(), owner.live[&lsns[place]]),
            Err(ReadError::Damaged(damage)) => assert_eq!((place, damage.file), (2, path.clone())),
            Err(other) => panic!("{other}"),
        }
        assert!(place != 2 || log.read(&lsns[2..3])[0].is_err());
    }
}

#[test]
fn a_checkpoint_of_another_history_is_not_used() {
    // Two histories of one log: the same LSNs, written by different starts.
    let disk = SimDisk::new(8);
    drop(Owner::open(&disk, &tiny()).unwrap());
    let (left, right) = (disk.killed(), disk.killed());
    let mut owner = Owner::open(&left, &tiny()).unwrap();
    owner.append(&[(1, 100)], &[]).unwrap();
    owner.checkpoint().unwrap();
    drop(Owner::open(&right, &tiny()).unwrap());
    let right = right.killed();
    let mut owner = Owner::open(&right, &tiny()).unwrap();
    owner.append(&[(2, 200), (3, 300)], &[]).unwrap();
    owner.writer.step().unwrap();
    let right = right.killed();
    let path = checkpoints(&left).pop().unwrap();
    let file = right.shared().open(&path, qbroker_storage::disk::Mode::CreateNew).unwrap();
    file.write_all_at(&left.bytes(&path), 0).unwrap();
    let (recovery, live) = recover(&right, &tiny()).unwrap();
    assert_eq!(live, owner.live);
    let warning = &recovery.report().warnings[0];
    assert!(warning.contains("record 1 is not of its epoch"), "{warning}");
}

#[test]
fn both_checkpoints_damaged_is_a_warning_while_nothing_was_dropped() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..3 {
        owner.append(&[(number, 1000)], &[]).unwrap();
        owner.writer.step().unwrap();
        owner.checkpoint().unwrap();
    }
    let disk = disk.killed();
    for path in checkpoints(&disk) {
        disk.tamper(&path, |bytes| bytes[20] ^= 1);
    }
    let (recovery, live) = recover(&disk, &tiny()).unwrap();
    assert_eq!(live, owner.live);
    assert_eq!(recovery.report().warnings.len(), 2);
}

#[test]
fn lost_checkpoints_are_damage_once_segments_were_dropped() {
    let (disk, _) = checkpointed();
    for path in checkpoints(&disk) {
        disk.lose(&path);
    }
    assert!(matches!(recover(&disk, &tiny()), Err(OpenError::Damaged(_))));
}

#[test]
fn short_reads_change_nothing() {
    let (disk, owner) = checkpointed();
    disk.set_faults(Faults { short_reads: true, ..Faults::default() });
    let (recovery, live) = recover(&disk, &tiny()).unwrap();
    assert_eq!(live, owner.live);
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    crate::model::check_bodies(&log, &live);
}

#[test]
fn what_can_be_read_without_waiting_is_the_same() {
    let (disk, owner) = checkpointed();
    let (recovery, live) = recover(&disk, &tiny()).unwrap();
    assert_eq!(live, owner.live);
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    let lsns: Vec<Lsn> = live.keys().copied().collect();
    // The simulated system has each piece in memory half of the time.
    let (mut read, mut waited) = (0, 0);
    for lsn in lsns.iter().cycle().take(200) {
        match log.read_now(&[*lsn]) {
            Some(records) => {
                let record = records.into_iter().next().unwrap().unwrap();
                assert_eq!(record, log.read(&[*lsn]).remove(0).unwrap());
                read += 1;
            }
            None => waited += 1,
        }
    }
    assert!(0 < read && 0 < waited, "{read} were read, {waited} were not");
}

#[test]
fn restarts_without_use_do_not_fill_the_disk() {
    let disk = SimDisk::new(8);
    let options = Options { spare_segments: 0, ..tiny() };
    for _ in 0..40 {
        drop(Owner::open(&disk, &options).unwrap());
    }
    let used: usize = disk.paths().iter().map(|path| disk.bytes(path).len()).sum();
    assert!(used < 40 * (16 << 10), "{used} bytes after 40 starts");
}
