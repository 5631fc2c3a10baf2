//! The log can be followed: every head in order, from memory and from disk, up to what is durable; and
//! whoever asks for what is gone is told where the log begins.

use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Bound, FollowError, Lsn};

use crate::model::{Owner, tiny};

const SOME: Bound = Bound { records: 7, bytes: 1 << 20 };

/// All LSNs from one on, in stretches.
fn followed(owner: &Owner, from: Lsn, bound: Bound) -> Vec<Lsn> {
    let mut lsns = Vec::new();
    let mut next = from;
    while next <= owner.log.durable_lsn() {
        let stretch = owner.log.follow(next, bound).unwrap();
        assert!(next < stretch.next && stretch.heads.len() <= bound.records, "{stretch:?}");
        assert!(stretch.heads.iter().all(|(lsn, _)| next <= *lsn && *lsn < stretch.next));
        lsns.extend(stretch.heads.iter().map(|(lsn, _)| *lsn));
        next = stretch.next;
    }
    lsns
}

fn all(from: u64, to: Lsn) -> Vec<Lsn> {
    (from..=to.0).map(Lsn).collect()
}

#[test]
fn every_head_comes_once_and_in_order_from_memory_and_from_disk() {
    let disk = SimDisk::new(1);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..90 {
        owner.append(&[(number, 500), (number, 3), (number, 40)], &[]).unwrap();
        if number % 4 == 0 {
            owner.writer.step().unwrap();
        }
    }
    while owner.writer.step().unwrap() {}
    owner.append(&[(99, 1)], &[]).unwrap();
    let durable = owner.log.durable_lsn();
    assert_eq!(owner.log.next_lsn(), Lsn(durable.0 + 2), "one is not durable");
    assert!(3 < owner.log.stats().segments);
    for from in [1, 2, 100, durable.0] {
        assert_eq!(followed(&owner, Lsn(from), SOME), all(from, durable), "from {from}");
    }
    let one = Bound { records: 1, ..SOME };
    assert_eq!(followed(&owner, Lsn(1), one), all(1, durable));
    // However small, there is something.
    assert_eq!(followed(&owner, Lsn(1), Bound { bytes: 1, ..SOME }), all(1, durable));
    let end = owner.log.follow(durable.next(), SOME).unwrap();
    assert_eq!((end.heads.len(), end.next), (0, durable.next()));
    let (first, head) = owner.log.follow(Lsn(5), SOME).unwrap().heads.remove(0);
    assert_eq!((first, &head), (Lsn(5), &owner.log.read(&[Lsn(5)]).remove(0).unwrap().head));
}

#[test]
fn what_is_gone_is_not_passed_over() {
    let disk = SimDisk::new(2);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for round in 0..3_u64 {
        for number in 0..40 {
            let lsns = owner.append(&[(number, 900)], &[]).unwrap();
            owner.append(&[], &[lsns.first]).unwrap();
            owner.writer.step().unwrap();
        }
        owner.append(&[(round, 10)], &[]).unwrap();
        owner.checkpoint().unwrap();
    }
    assert!(0 < owner.log.stats().segments_dropped, "{:?}", owner.log.stats());
    let Err(FollowError::Gone { from, oldest }) = owner.log.follow(Lsn(1), SOME) else {
        panic!("its segment was dropped");
    };
    assert!(from == Lsn(1) && from < oldest, "{oldest}");
    assert_eq!(followed(&owner, oldest, SOME), all(oldest.0, owner.log.durable_lsn()));
    let before = owner.log.follow(Lsn(oldest.0 - 1), SOME);
    assert!(matches!(before, Err(FollowError::Gone { .. })), "{before:?}");
}
