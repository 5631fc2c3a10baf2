//! A loss of power at every point of a small history: what was confirmed is there, in order, in
//! whole batches, and stays there when the power goes again.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::disk::sim::{Faults, Rng, SimDisk};
use qbroker_storage::{Lsn, OpenError, WriteError};

use crate::model::{Owner, Told, check_bodies, recover, tiny};

/// Appends, rotates, idles, checkpoints three times, drops and recycles segments.
fn history(owner: &mut Owner) -> Result<(), WriteError> {
    let mut rng = Rng::new(77);
    for round in 0..4_u64 {
        for step in 0..9_u64 {
            let number = round * 10 + step;
            let length = rng.below(1600);
            owner.append(&[(number, length), (number, 0)], &[]);
            if step % 2 == 0 {
                owner.append(&[(number + 100, 700)], &[]);
            }
            if step % 3 != 1 {
                owner.writer.step()?;
            }
        }
        owner.writer.step()?;
        owner.writer.idle()?;
        // All but a few of the oldest are done, so that most segments die and one is pinned.
        let done: Vec<Lsn> = owner.live.keys().copied().skip(1).step_by(1).take(20).collect();
        owner.append(&[], &done);
        owner.checkpoint()?;
        owner.append(&[(200, 300)], &[]);
    }
    while owner.writer.step()? {}
    Ok(())
}

/// What a crash left: the disk, what was confirmed, what lived after each batch.
pub(crate) struct Crashed {
    pub(crate) disk: SimDisk,
    pub(crate) confirmed: Lsn,
    pub(crate) states: BTreeMap<Lsn, BTreeMap<Lsn, Vec<u8>>>,
}

/// Runs a history until the power goes after `operations`; `None` when it ends before.
pub(crate) fn crash_in(
    history: fn(&mut Owner) -> Result<(), WriteError>,
    operations: u64,
) -> Option<Crashed> {
    let disk = SimDisk::new(5);
    disk.set_faults(Faults { power_off_after: Some(operations), ..Faults::default() });
    let none = BTreeMap::from([(Lsn::NONE, BTreeMap::new())]);
    let (confirmed, states) = match Owner::open(&disk, &tiny()) {
        Err(_) => (Lsn::NONE, none),
        Ok(mut owner) => {
            history(&mut owner).err()?;
            assert!(owner.told.failed.lock().is_some(), "the owner is told of the failure");
            assert!(owner.append(&[(1, 1)], &[]).is_none(), "a stopped log takes nothing");
            let confirmed = *owner.told.durable.lock();
            (confirmed, std::mem::take(&mut owner.states))
        }
    };
    Some(Crashed { disk, confirmed, states })
}

/// Recovers, starts, and checks; the last LSN found, and the epoch.
pub(crate) fn check(disk: &SimDisk, crashed: &Crashed, at_least: Lsn) -> (Lsn, u64) {
    let (recovery, live) = recover(disk, &tiny()).unwrap_or_else(|error| panic!("{error}"));
    let last = Lsn(recovery.next_lsn().0 - 1);
    assert!(at_least <= last, "LSN {at_least} was confirmed, the log ends with {last}");
    let expected = crashed.states.get(&last);
    let expected = expected.unwrap_or_else(|| panic!("the log ends inside a batch, at {last}"));
    assert_eq!(&live, expected, "what lives at {last}");
    let epoch = recovery.epoch();
    let (log, mut writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    check_bodies(&log, &live);
    assert_eq!(log.stats().live_records, live.len() as u64);
    assert!(!writer.step().unwrap());
    (last, epoch)
}

/// Crashes at every point of a history, by power loss in `seeds` ways and by a kill, and recovers
/// twice; how many points there are.
pub(crate) fn crash_at_every_point(
    history: fn(&mut Owner) -> Result<(), WriteError>,
    seeds: u64,
) -> u64 {
    let mut points = 0;
    for operations in 0.. {
        let Some(crashed) = crash_in(history, operations) else { break };
        points += 1;
        for seed in 0..seeds {
            let disk = crashed.disk.power_loss(seed);
            let (last, epoch) = check(&disk, &crashed, crashed.confirmed);
            let again = check(&disk.power_loss(seed + 1), &crashed, last);
            // The epoch of a start that was told to anybody is never given again.
            assert_eq!(again, (last, epoch + 1), "recovered twice, after {operations}");
        }
        let killed = crashed.disk.killed();
        let (last, _) = check(&killed, &crashed, crashed.confirmed);
        check(&killed.power_loss(operations), &crashed, last);
    }
    points
}

#[test]
fn a_crash_at_every_point_loses_nothing_confirmed_however_often_it_comes() {
    let seeds = if std::env::var_os("QBROKER_SLOW").is_some() { 20 } else { 3 };
    let points = crash_at_every_point(history, seeds);
    assert!(200 < points, "{points} crash points");
    let mut owner = Owner::open(&SimDisk::new(5), &tiny()).unwrap();
    history(&mut owner).unwrap();
    let stats = owner.log.stats();
    assert!(0 < stats.segments_dropped && 4 == stats.checkpoints, "{stats:?}");
    assert!(stats.rotations_unfilled < stats.rotations, "recycled ones are used: {stats:?}");
}

#[test]
fn a_crash_at_every_point_of_a_recovery_is_recovered_from() {
    let stride = if std::env::var_os("QBROKER_SLOW").is_some() { 1 } else { 17 };
    let mut tried = 0;
    for operations in (0..).step_by(stride) {
        let Some(crashed) = crash_in(history, operations) else { break };
        for inner in 0.. {
            let disk = crashed.disk.power_loss(operations);
            disk.set_faults(Faults { power_off_after: Some(inner), ..Faults::default() });
            match Owner::open(&disk, &tiny()) {
                Ok(_) => break,
                Err(OpenError::Damaged(damage)) => panic!("{operations}, {inner}: {damage}"),
                Err(_) => {}
            }
            let disk = disk.power_loss(inner);
            let (last, epoch) = check(&disk, &crashed, crashed.confirmed);
            let again = check(&disk.power_loss(inner + 1), &crashed, last);
            assert_eq!(again, (last, epoch + 1));
            tried += 1;
        }
    }
    assert!(100 < tried, "{tried} crash points of recoveries");
}

#[test]
fn life_goes_on_after_a_crash() {
    for operations in (20..).step_by(23) {
        let Some(crashed) = crash_in(history, operations) else { break };
        let disk = crashed.disk.power_loss(operations);
        let mut owner = Owner::open(&disk, &tiny()).unwrap();
        history(&mut owner).unwrap();
        owner.check_bodies();
        let live = owner.live.clone();
        owner.log.close().unwrap();
        drop(owner);
        let (recovery, found) = recover(&disk.power_loss(1), &tiny()).unwrap();
        assert!(recovery.report().closed, "{}", recovery.report());
        assert_eq!(found, live, "after {operations}");
    }
}
