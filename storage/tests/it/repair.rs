//! A repair gives up what is damaged, by name, and nothing else; afterwards a start accepts it.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{
    Lost, Lsn, OpenError, ReadError, RepairError, RepairOptions, RepairReport, repair, verify,
};

use crate::model::{Owner, Told, recover, recover_repaired, tiny};

const DRY: RepairOptions = RepairOptions { dry_run: true, accept_redelivery: false };
const REAL: RepairOptions = RepairOptions { dry_run: false, accept_redelivery: false };

/// A log of several segments with two checkpoints, some segments dropped, not closed.
fn log() -> (SimDisk, BTreeMap<Lsn, Vec<u8>>) {
    let disk = SimDisk::new(21);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for round in 0..3_u64 {
        for number in 0..14 {
            owner.append(&[(round * 14 + number, 1100), (100, 30)], &[]).unwrap();
            owner.writer.step().unwrap();
        }
        let done: Vec<Lsn> = owner.live.keys().copied().skip(2).take(20).collect();
        owner.append(&[], &done).unwrap();
        owner.checkpoint().unwrap();
    }
    for number in 0..20 {
        owner.append(&[(number, 900)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    (disk.killed(), owner.live)
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("log/")).collect()
}

fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.paths().into_iter().map(|path| (path.clone(), disk.bytes(&path))).collect()
}

/// Repairs, dry first, and checks that a start accepts it and that only what was named is lost.
pub(crate) fn repaired(disk: &SimDisk, live: &BTreeMap<Lsn, Vec<u8>>) -> RepairReport {
    let before = contents(disk);
    let dry = repair(&disk.shared(), DRY).unwrap();
    assert_eq!(contents(disk), before, "a dry run changes nothing");
    assert!(!dry.applied && !dry.actions.is_empty(), "{dry:?}");
    let report = repair(&disk.shared(), REAL).unwrap();
    assert_eq!((&report.actions, &report.lost), (&dry.actions, &dry.lost));
    assert_eq!(report.after.as_ref().unwrap().damages, [], "{report:?}");
    let disk = disk.power_loss(4);
    let (recovery, found) = recover_repaired(&disk, &tiny()).unwrap_or_else(|e| panic!("{e}"));
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    let lsns: Vec<Lsn> = live.keys().copied().collect();
    for (&lsn, answer) in lsns.iter().zip(log.read(&lsns)) {
        let lost = |lost: &&Lost| lost.lsns.contains(lsn);
        match answer {
            Ok(record) => {
                assert!(report.lost.iter().find(lost).is_none(), "LSN {lsn} was not lost");
                assert_eq!(record.body.parts().concat(), live[&lsn]);
            }
            Err(ReadError::Lost(_)) => {
                assert!(report.lost.iter().find(lost).is_some(), "LSN {lsn} was not named");
            }
            Err(other) => panic!("LSN {lsn}: {other}"),
        }
        let heads_lost = report.lost.iter().find(lost).is_some_and(|lost| lost.heads);
        assert!(found.contains_key(&lsn) || heads_lost, "LSN {lsn} lives, or was named");
    }
    report
}

#[test]
fn a_lost_or_damaged_format_is_written_again_where_all_others_agree() {
    let (disk, live) = log();
    for lose in [true, false] {
        let disk = disk.killed();
        if lose {
            disk.lose("FORMAT");
        } else {
            disk.tamper("FORMAT", |bytes| bytes[20] ^= 1);
        }
        let before = contents(&disk);
        let refused = recover(&disk, &tiny()).err().unwrap();
        assert!(matches!(refused, OpenError::Damaged(_)), "{refused}");
        assert!(contents(&disk) == before, "a refusal changes nothing");
        let found = verify(&disk.shared()).unwrap();
        assert!(found.refused && found.damages.len() == 1, "{found:?}");
        let report = repaired(&disk, &live);
        assert_eq!((report.lost_records(), report.actions.len()), (0, 1), "{report:?}");
    }
    // A segment of another log: nobody can say which is meant.
    let other = SimDisk::new(99);
    drop(Owner::open(&other, &tiny()).unwrap());
    disk.lose("FORMAT");
    let strange = other.bytes("log/seg-0000000000000001.qlog");
    disk.tamper(&segments(&disk)[0], |bytes| bytes[..4096].copy_from_slice(&strange[..4096]));
    assert!(matches!(verify(&disk.shared()), Err(OpenError::Damaged(_))));
    let refused = repair(&disk.shared(), REAL).unwrap_err();
    assert!(matches!(refused, RepairError::Open(OpenError::Damaged(_))), "{refused}");
    assert!(matches!(verify(&SimDisk::new(1).shared()), Err(OpenError::Unused)));
}

#[test]
fn folders_that_are_missing_are_damage_and_made_again() {
    let (disk, live) = log();
    let without = |dir: &str| {
        let disk = disk.killed();
        disk.lose_folder(dir);
        disk
    };
    let checkpoints = without("ckpt");
    let found = verify(&checkpoints.shared()).unwrap();
    assert!(found.damages.iter().any(|damage| damage.file == "ckpt"), "{found:?}");
    let log = without("log");
    let found = verify(&log.shared()).unwrap();
    assert!(found.refused && found.damages.iter().any(|it| it.file == "log"), "{found:?}");
    let refused = recover(&log, &tiny()).err().unwrap();
    assert!(refused.to_string().contains("log is damaged: the folder is missing"), "{refused}");
    let report = repaired(&log, &live);
    assert!(live.len() as u64 <= report.lost_records(), "{report:?}");
}

#[test]
fn a_sound_log_needs_no_repair() {
    let (disk, _) = log();
    assert_eq!(verify(&disk.shared()).unwrap().damages, []);
    let report = repair(&disk.shared(), REAL).unwrap();
    assert!(report.actions.is_empty() && report.lost.is_empty(), "{report:?}");
}

#[test]
fn any_flipped_bit_is_repaired_at_the_cost_of_its_frame() {
    let (disk, live) = log();
    let stride = if std::env::var_os("QBROKER_SLOW").is_some() { 11 } else { 397 };
    let (mut repairs, mut bodies) = (0, 0);
    for path in segments(&disk) {
        for at in (0..disk.bytes(&path).len()).step_by(stride) {
            let disk = disk.killed();
            disk.tamper(&path, |bytes| bytes[at] ^= 0x40);
            if verify(&disk.shared()).unwrap().damages.is_empty() {
                continue;
            }
            let report = repaired(&disk, &live);
            // A damaged `Drop` frame makes it unknown that segments were dropped, so that what
            // was in them is named too; of what lived, at most one frame is lost.
            let lost = |lsn: &&Lsn| report.lost.iter().any(|lost| lost.lsns.contains(**lsn));
            assert!(live.keys().filter(lost).count() <= 5, "{path} at {at}: {report:?}");
            repairs += 1;
            bodies += usize::from(report.lost.iter().any(|lost| !lost.heads));
        }
    }
    assert!(20 < repairs && 0 < bodies, "{repairs} repairs, {bodies} of bodies");
}

#[test]
fn verify_finds_what_a_start_refuses() {
    let (disk, _) = log();
    for path in segments(&disk) {
        for at in (0..disk.bytes(&path).len()).step_by(997) {
            let disk = disk.killed();
            disk.tamper(&path, |bytes| bytes[at] ^= 0x40);
            let report = verify(&disk.shared()).unwrap();
            let before = contents(&disk);
            let refused = recover(&disk, &tiny()).err();
            // A start does not read what the checkpoint has absorbed; a verification does.
            assert_eq!(report.refused, refused.is_some(), "{path} at {at}: {refused:?} {report:?}");
            assert!(!report.refused || !report.damages.is_empty(), "{path} at {at}");
            if refused.is_some() {
                assert!(
                    contents(&disk) == before,
                    "{path} at {at}: {refused:?} changed the folder"
                );
            }
        }
    }
}

#[test]
fn lost_segments_are_stood_in_for() {
    let (disk, live) = log();
    for path in segments(&disk) {
        let lost = disk.killed();
        lost.lose(&path);
        assert!(!verify(&lost.shared()).unwrap().damages.is_empty(), "{path}");
        repaired(&lost, &live);
        let headless = disk.killed();
        headless.tamper(&path, |bytes| bytes[..4096].fill(0x5a));
        repaired(&headless, &live);
        let aside = headless.paths().into_iter().any(|path| path.starts_with("quarantine/seg-"));
        assert!(aside, "the original is kept: {:?}", headless.paths());
    }
}

#[test]
fn an_unreadable_sector_costs_its_frame() {
    let (disk, live) = log();
    let path = segments(&disk).pop().unwrap();
    disk.spoil(&path, 4096 + 700);
    assert!(matches!(recover(&disk, &tiny()), Err(OpenError::Damaged(_))));
    let report = repaired(&disk, &live);
    assert!(report.lost_records() <= 2, "{report:?}");
}

#[test]
fn without_checkpoints_redelivery_has_to_be_accepted() {
    let (disk, live) = log();
    for path in disk.paths().iter().filter(|path| path.starts_with("ckpt/ckpt-")) {
        disk.tamper(path, |bytes| bytes[30] ^= 1);
    }
    let refused = repair(&disk.shared(), REAL).unwrap_err();
    assert!(matches!(refused, RepairError::RedeliveryNotAccepted), "{refused}");
    let accepted = RepairOptions { accept_redelivery: true, ..REAL };
    let report = repair(&disk.shared(), accepted).unwrap();
    assert_eq!(report.after.unwrap().damages, []);
    let (recovery, found) = recover_repaired(&disk, &tiny()).unwrap();
    for (lsn, body) in &live {
        assert_eq!(found.get(lsn), Some(body), "everything unsettled is there");
    }
    let (log, mut writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    // From the next checkpoint on, nothing is owed to the repair any more.
    log.write_checkpoint(Lsn(log.next_lsn().0 - 1), Vec::new()).unwrap();
    writer.step().unwrap();
    assert!(!disk.paths().iter().any(|path| path.contains("redelivery")));
}
