//! What is appended is there: now, after a close, and after a kill.

use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Log, Lsn, Space};

use crate::model::{Owner, tiny};

#[test]
fn a_fresh_log_gives_dense_lsns_from_one() {
    let disk = SimDisk::new(1);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    assert_eq!((owner.log.epoch(), owner.log.next_lsn()), (1, Lsn(1)));
    let first = owner.append(&[(1, 10), (2, 20)], &[]).unwrap();
    let second = owner.append(&[(3, 0)], &[]).unwrap();
    assert_eq!((first.first, first.last, second.first), (Lsn(1), Lsn(2), Lsn(3)));
    assert_eq!(owner.log.durable_lsn(), Lsn::NONE);
    assert!(owner.writer.step().unwrap());
    assert!(!owner.writer.step().unwrap());
    assert_eq!((owner.log.durable_lsn(), *owner.told.durable.lock()), (Lsn(3), Lsn(3)));
    owner.check_bodies();
    assert_eq!(owner.log.space(), Space::Ample);
}

#[test]
fn many_records_over_many_segments_come_back_after_close_and_after_a_kill() {
    let disk = SimDisk::new(2);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..120 {
        let length = usize::try_from(number * 37 % 1500).unwrap();
        owner.append(&[(number, length), (number + 1, 5)], &[]).unwrap();
        if number % 3 == 0 {
            owner.writer.step().unwrap();
        }
    }
    while owner.writer.step().unwrap() {}
    assert!(5 < owner.log.stats().segments, "{:?}", owner.log.stats());
    owner.check_bodies();
    let live = owner.live.clone();
    owner.log.close().unwrap();
    drop(owner);

    let owner = Owner::open(&disk, &tiny()).unwrap();
    assert_eq!(owner.live, live);
    assert_eq!(owner.log.epoch(), 2);
    owner.check_bodies();
    let disk = disk.killed();
    let owner = Owner::open(&disk, &tiny()).unwrap();
    assert_eq!((owner.live.len(), owner.log.epoch()), (live.len(), 3));
    owner.check_bodies();
}

#[test]
fn a_report_says_how_the_log_before_it_ended() {
    let disk = SimDisk::new(3);
    let report = |disk: &SimDisk| {
        let recovery = Log::recover(disk.shared(), tiny()).unwrap();
        recovery.report().to_string()
    };
    assert!(report(&disk).ends_with(", a new log"), "{}", report(&disk));
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(1, 10)], &[]).unwrap();
    owner.writer.step().unwrap();
    let killed = disk.killed();
    assert!(report(&killed).contains(", not closed in order"), "{}", report(&killed));
    owner.log.close().unwrap();
    let closed = disk.killed();
    assert!(report(&closed).contains(", closed in order"), "{}", report(&closed));
}
