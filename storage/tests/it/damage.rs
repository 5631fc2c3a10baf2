//! Rot in confirmed data is refused with its place named, or told by a read: never believed,
//! never skipped.

use std::collections::BTreeMap;

use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Damage, Log, Lsn, OpenError, ReadError, verify};

use crate::model::{Owner, Told, recover, tiny};

/// A log of two segments, not closed.
fn small_log(idle: bool) -> (SimDisk, BTreeMap<Lsn, Vec<u8>>) {
    let disk = SimDisk::new(9);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..14 {
        owner.append(&[(number, 1200), (number, 40)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    let done: Vec<Lsn> = owner.live.keys().copied().step_by(3).collect();
    owner.append(&[], &done).unwrap();
    owner.writer.step().unwrap();
    owner.append(&[(90, 100)], &[]).unwrap();
    owner.writer.step().unwrap();
    if idle {
        owner.writer.idle().unwrap();
    }
    (disk.killed(), owner.live)
}

/// Bytes of a segment that hold frames: the rest is zeros.
fn used(bytes: &[u8]) -> usize {
    bytes.len() - bytes.iter().rev().take_while(|&&byte| byte == 0).count()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("log/")).collect()
}

#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    refused: usize,
    harmless: usize,
    told_by_reads: usize,
    cut: usize,
}

/// Opens a damaged log and says what came of it; panics when anything is believed that is wrong.
fn open_damaged(disk: &SimDisk, live: &BTreeMap<Lsn, Vec<u8>>, outcomes: &mut Outcomes) {
    let (recovery, found) = match recover(disk, &tiny()) {
        Ok(recovered) => recovered,
        Err(refused @ OpenError::Damaged(_)) => {
            assert!(refused.to_string().contains("repair the folder"), "{refused}");
            outcomes.refused += 1;
            return;
        }
        Err(other) => panic!("{other}"),
    };
    if found.len() < live.len() {
        // The very last frame, with nothing behind it to testify.
        let missing: Vec<_> = live.keys().filter(|lsn| !found.contains_key(lsn)).collect();
        assert_eq!(missing, [live.keys().next_back().unwrap()], "only the last frame may go");
        outcomes.cut += 1;
        return;
    }
    assert_eq!(&found, live);
    let (log, _writer) = recovery.start_stepped(std::sync::Arc::new(Told::default())).unwrap();
    let lsns: Vec<Lsn> = live.keys().copied().collect();
    let mut told = false;
    for (lsn, answer) in lsns.iter().zip(log.read(&lsns)) {
        match answer {
            Ok(record) => assert_eq!(record.body.parts().concat(), live[lsn]),
            Err(ReadError::Damaged(_)) => told = true,
            Err(other) => panic!("{other}"),
        }
    }
    outcomes.told_by_reads += usize::from(told);
    outcomes.harmless += usize::from(!told);
}

/// Flips one bit in every byte of every segment, one at a time.
fn flip_everything(disk: &SimDisk, live: &BTreeMap<Lsn, Vec<u8>>, stride: usize) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for path in segments(disk) {
        let end = used(&disk.bytes(&path));
        for at in (0..end).step_by(stride) {
            let disk = disk.killed();
            disk.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            open_damaged(&disk, live, &mut outcomes);
        }
    }
    outcomes
}

fn stride() -> usize {
    if std::env::var_os("QBROKER_SLOW").is_some() { 1 } else { 7 }
}

#[test]
fn a_flipped_bit_is_never_believed_after_a_kill() {
    let (disk, live) = small_log(false);
    // FLOOR testifies to the last frame. What is harmless is padding, the header's second copy
    // and its room.
    let outcomes = flip_everything(&disk, &live, stride());
    assert_eq!(outcomes.cut, 0, "{outcomes:?}");
    assert_eq!(outcomes.told_by_reads, 0, "all of it was replayed: {outcomes:?}");
    assert!(outcomes.harmless < outcomes.refused, "{outcomes:?}");
}

#[test]
fn a_flipped_bit_is_never_believed_after_a_power_loss_once_the_log_was_idle() {
    let (disk, live) = small_log(true);
    disk.lose("FLOOR");
    let outcomes = flip_everything(&disk, &live, stride());
    // The last frame is the idle one, which holds nothing.
    assert_eq!(outcomes.cut, 0, "{outcomes:?}");
    assert!(outcomes.harmless < outcomes.refused, "{outcomes:?}");
}

#[test]
fn a_damaged_frame_without_records_is_refused_as_well() {
    let (disk, _) = small_log(true);
    let newest = segments(&disk).pop().unwrap();
    let end = used(&disk.bytes(&newest));
    disk.tamper(&newest, |bytes| bytes[end - 1] ^= 1);
    // FLOOR knows no later LSN, but a later offset.
    let evidence = refused(&disk).evidence.unwrap();
    assert!(evidence.contains("FLOOR says that the segment was durable up to"), "{evidence}");
}

#[test]
fn without_any_witness_only_the_very_last_frame_can_be_cut() {
    let (disk, live) = small_log(false);
    disk.lose("FLOOR");
    let outcomes = flip_everything(&disk, &live, stride());
    assert!(0 < outcomes.cut, "the documented blind spot: {outcomes:?}");
}

#[test]
fn an_unreadable_sector_in_the_log_is_damage() {
    let (disk, live) = small_log(false);
    disk.lose("FLOOR");
    let newest = segments(&disk).pop().unwrap();
    let end = used(&disk.bytes(&newest));
    let damaged = disk.killed();
    damaged.spoil(&newest, end - 1);
    let damage = refused(&damaged);
    assert!(damage.problem.contains("cannot read"), "{damage}");
    assert_eq!(damage.file, newest);
    assert!(recover(&disk, &tiny()).is_ok_and(|(_, found)| found == live));
}

fn refused(disk: &SimDisk) -> Damage {
    match recover(disk, &tiny()) {
        Err(OpenError::Damaged(damage)) => *damage,
        Err(other) => panic!("{other}"),
        Ok((recovery, _)) => panic!("accepted: {}", recovery.report()),
    }
}

#[test]
fn damage_is_named_by_file_offset_and_lsns() {
    let (disk, _) = small_log(false);
    let path = segments(&disk)[0].clone();
    disk.tamper(&path, |bytes| bytes[4096 + 80 + 100] ^= 1);
    let damage = refused(&disk);
    assert_eq!((damage.file.as_str(), damage.offset), (path.as_str(), Some(4096 + 80)));
    assert_eq!((damage.first_lsn, damage.last_lsn), (Some(Lsn(1)), Some(Lsn(2))));
    assert!(damage.last_good_ms.is_some());
    let report = verify(&disk.shared()).unwrap();
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    assert_eq!(report.damages[0].offset, Some(4096 + 80));
}

/// A bug: the end of the newest segment was told as a second damage.
#[test]
fn damage_in_the_newest_segment_is_told_alone() {
    let (disk, _) = small_log(false);
    let newest = segments(&disk).pop().unwrap();
    // In the body of its first record, with good frames behind it.
    disk.tamper(&newest, |bytes| bytes[4096 + 80 + 200] ^= 1);
    for with_floor in [true, false] {
        if !with_floor {
            disk.lose("FLOOR");
        }
        let report = verify(&disk.shared()).unwrap();
        let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
        assert_eq!((&damage.file, damage.offset), (&newest, Some(refused(&disk).offset.unwrap())));
        assert!(damage.problem.contains("bodies of 1 records"), "{damage}");
    }
}

#[test]
fn an_end_cut_short_behind_other_damage_is_told_as_well() {
    let (disk, _) = small_log(true);
    let newest = segments(&disk).pop().unwrap();
    let end = used(&disk.bytes(&newest));
    disk.tamper(&newest, |bytes| {
        bytes[4096 + 80 + 200] ^= 1;
        bytes[end - 1] ^= 1;
    });
    // FLOOR says how far it reached.
    let report = verify(&disk.shared()).unwrap();
    assert_eq!(report.damages.len(), 2, "{:?}", report.damages);
}

#[test]
fn a_missing_or_foreign_segment_is_damage() {
    let (disk, _) = small_log(false);
    let paths = segments(&disk);
    for path in &paths {
        let disk = disk.killed();
        disk.lose(path);
        let damage = refused(&disk);
        assert!(damage.problem.contains("missing") || damage.problem.contains("ends"), "{damage}");
    }
    let disk = disk.killed();
    let other = small_log(true).0.bytes(&paths[0]);
    disk.tamper(&paths[1], |bytes| *bytes = other);
    assert!(refused(&disk).problem.contains("header is another segment's"));
}

#[test]
fn a_log_cut_short_by_a_friendly_hand_is_damage() {
    let (disk, _) = small_log(true);
    let newest = segments(&disk).pop().unwrap();
    disk.tamper(&newest, |bytes| bytes[4096 + 80..].fill(0));
    assert!(refused(&disk).evidence.unwrap().contains("FLOOR"));
}

#[test]
fn everything_of_a_sound_log_verifies() {
    let (disk, live) = small_log(false);
    let report = verify(&disk.shared()).unwrap();
    assert_eq!(report.damages, []);
    assert!(!report.torn && report.segments == 2, "{report:?}");
    assert!(live.len() as u64 <= report.records && report.last_lsn.0 == report.records);
    let locked = Log::recover(disk.shared(), tiny()).unwrap();
    assert!(matches!(verify(&disk.shared()), Err(OpenError::Locked { .. })));
    drop(locked);
}
