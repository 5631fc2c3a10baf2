//! The end of a log that a crash has torn, or that a failed sync has left in memory alone.

use std::sync::Arc;

use qbroker_storage::Lsn;
use qbroker_storage::RecoveryReport;
use qbroker_storage::disk::sim::{Faults, SimDisk};

use crate::model::{Owner, Told, check_bodies, recover, tiny};

/// What a write left when the power went in it: part of a frame, told to nobody.
fn torn() -> (SimDisk, RecoveryReport) {
    let disk = SimDisk::new(3);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(1, 100)], &[]).unwrap();
    owner.writer.step().unwrap();
    disk.set_faults(Faults { power_off_after: Some(0), ..Faults::default() });
    owner.append(&[(2, 3_000)], &[]).unwrap();
    owner.writer.step().unwrap_err();
    let left = (0..).map(|seed| disk.power_loss(seed)).find_map(|disk| {
        let report = recover(&disk.killed(), &tiny()).unwrap().0.report().clone();
        let whole = report.cut.as_ref().is_some_and(|cut| 3_000 < cut.bytes);
        whole.then_some((disk, report))
    });
    left.expect("some loss of power leaves the head of the frame")
}

/// Starts, and looks whether what was torn is kept, and nothing else of it is left.
fn start_and_check(disk: &SimDisk, report: &RecoveryReport) {
    let cut = report.cut.clone().expect("it is torn");
    let before = disk.bytes(&cut.file);
    let offset = usize::try_from(cut.offset).unwrap();
    let torn = &before[offset..][..usize::try_from(cut.bytes).unwrap()];
    let (recovery, live) = recover(disk, &tiny()).unwrap();
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    check_bodies(&log, &live);
    assert_eq!(live.len(), 1);
    assert!(disk.bytes(&cut.kept_in) == torn, "kept as it was");
    // A seal is shorter than that.
    let behind = offset + 128;
    assert!(torn[128..].iter().any(|byte| *byte != 0), "there was something");
    assert!(disk.bytes(&cut.file)[behind..].iter().all(|byte| *byte == 0), "nothing is left");
}

/// Who looks for frames behind damage, as a repair does, would find what was never confirmed.
#[test]
fn nothing_of_a_torn_write_is_left_behind_the_seal() {
    let (disk, report) = torn();
    start_and_check(&disk, &report);
}

#[test]
fn on_a_disk_without_a_free_byte_a_torn_write_is_kept_in_the_room_of_a_spare() {
    let (disk, report) = torn();
    for free in [0, 700] {
        let disk = disk.killed();
        let capacity = Some(disk.used_bytes() + free);
        disk.set_faults(Faults { capacity, ..Faults::default() });
        start_and_check(&disk, &report);
    }
}

#[test]
fn what_a_failed_sync_took_for_clean_is_on_disk_before_it_is_believed() {
    let disk = SimDisk::new(4);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(1, 100)], &[]).unwrap();
    owner.writer.step().unwrap();
    disk.set_faults(Faults { fail_sync: Some(0), ..Faults::default() });
    owner.append(&[(2, 3_000)], &[]).unwrap();
    owner.writer.step().unwrap_err();
    // The page cache lives on, and shows all of it.
    let disk = disk.killed();
    let (recovery, believed) = recover(&disk, &tiny()).unwrap();
    assert_eq!(believed.len(), 2);
    assert!(3_000 < recovery.report().rewritten_bytes, "{}", recovery.report());
    drop(recovery.start_stepped(Arc::new(Told::default())).unwrap());
    for seed in 0..8 {
        let (recovery, found) = recover(&disk.power_loss(seed), &tiny()).unwrap();
        assert_eq!(found, believed);
        assert!(Lsn(2) <= recovery.report().last_lsn, "{}", recovery.report());
    }
}
