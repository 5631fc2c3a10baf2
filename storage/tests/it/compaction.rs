//! What lives on in sparse segments is copied together, so that one old message pins nothing; a
//! crash at any point of it leaves the old segments or the new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::disk::sim::{Faults, Rng, SimDisk};
use qbroker_storage::{Lsn, OpenError, ReadError, RepairOptions, WriteError, repair, verify};

use crate::crash::{Crashed, check, crash_at_every_point, crash_in};
use crate::model::{Owner, Told, check_bodies, recover, recover_repaired, tiny};
use crate::repair::repaired;

/// Appends, settles most of it, checkpoints and compacts, again and again: hot segments into cold
/// ones, cold ones into one another, until some of them die and are dropped.
fn history(owner: &mut Owner) -> Result<(), WriteError> {
    let mut rng = Rng::new(31);
    for round in 0..6_u64 {
        for step in 0..16_u64 {
            let number = round * 20 + step;
            owner.append(&[(number, 400 + rng.below(1100)), (number, 40)], &[]);
            if step % 3 != 0 {
                owner.writer.step()?;
            }
        }
        owner.writer.step()?;
        // A message here and there lives on; later rounds settle some of those, too.
        let lives_on =
            |lsn: &Lsn| lsn.0.is_multiple_of(7) && !(lsn.0 / 7 + round).is_multiple_of(4);
        let done: Vec<Lsn> = owner.live.keys().copied().filter(|lsn| !lives_on(lsn)).collect();
        for done in done.chunks(12) {
            owner.append(&[], done);
        }
        owner.checkpoint()?;
        owner.append(&[(200 + round, 300)], &[]);
        // Settled, but not on disk yet: nothing may go on its word.
        let oldest = owner.live.keys().next().copied();
        oldest.and_then(|oldest| owner.append(&[], &[oldest]));
        owner.log.compact()?;
        if round % 2 == 1 {
            owner.checkpoint()?;
            while owner.log.compact()? {}
        }
    }
    while owner.writer.step()? {}
    Ok(())
}

#[test]
fn a_crash_at_every_point_of_a_compaction_loses_nothing_and_brings_nothing_back() {
    let seeds = if std::env::var_os("QBROKER_SLOW").is_some() { 12 } else { 2 };
    let points = crash_at_every_point(history, seeds);
    assert!(500 < points, "{points} crash points");
    let mut owner = Owner::open(&SimDisk::new(5), &tiny()).unwrap();
    history(&mut owner).unwrap();
    let stats = owner.log.stats();
    assert!(4 < stats.compactions && stats.compactions <= stats.segments_compacted, "{stats:?}");
    assert!(0 < stats.cold_segments && stats.cold_segments < 4, "{stats:?}");
    assert_eq!(stats.damages, 0);
    owner.check_bodies();
}

/// Settles all but two in sixteen, and has two checkpoints absorb it.
fn settle_most(owner: &mut Owner) {
    let done: Vec<Lsn> = owner.live.keys().copied().filter(|lsn| lsn.0 % 16 > 1).collect();
    owner.append(&[], &done).unwrap();
    for number in 0..2 {
        owner.checkpoint().unwrap();
        owner.append(&[(number, 20)], &[]).unwrap();
    }
}

/// A log with a cold segment that holds what is left of several hot ones; not closed.
fn compacted() -> (SimDisk, BTreeMap<Lsn, Vec<u8>>, String) {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..40 {
        owner.append(&[(number, 1300), (number, 200)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    settle_most(&mut owner);
    assert!(owner.log.compact().unwrap());
    assert!(!owner.log.compact().unwrap(), "once is enough");
    owner.checkpoint().unwrap();
    owner.check_bodies();
    let disk = disk.killed();
    let cold = disk.paths().into_iter().find(|path| path.starts_with("log/cold-")).unwrap();
    (disk, owner.live, cold)
}

#[test]
fn one_old_message_pins_nothing() {
    let (disk, live, _) = compacted();
    let names = |prefix: &str| disk.paths().iter().filter(|p| p.starts_with(prefix)).count();
    assert_eq!((names("log/seg-"), names("log/cold-")), (1, 1), "{:?}", disk.paths());
    let (recovery, found) = recover(&disk, &tiny()).unwrap();
    assert_eq!(found, live);
    assert_eq!(recovery.report().cold_segments, 1, "{}", recovery.report());
    drop(recovery);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.check_bodies();
    // What lives nowhere is dropped, cold or not.
    let done: Vec<Lsn> = owner.live.keys().copied().collect();
    owner.append(&[], &done).unwrap();
    for _ in 0..2 {
        owner.checkpoint().unwrap();
        owner.append(&[(1, 1)], &[]).unwrap();
    }
    owner.checkpoint().unwrap();
    let stats = owner.log.stats();
    assert_eq!((stats.cold_segments, stats.live_records), (0, 2), "{stats:?}");
    assert!(matches!(&owner.log.read(&done[..1])[..], [Err(ReadError::NotFound(_))]));
}

#[test]
fn a_program_that_knows_no_cold_segments_would_refuse_the_folder() {
    let disk = SimDisk::new(8);
    drop(Owner::open(&disk, &tiny()).unwrap());
    assert_eq!(disk.bytes("FORMAT")[8], 1, "until there are any, it may read it");
    let (disk, ..) = compacted();
    assert_eq!(disk.bytes("FORMAT")[8], 2);
}

#[test]
fn a_damaged_record_is_not_copied_and_its_segment_stays() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..40 {
        owner.append(&[(number, 1300)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    let lives_on = [Lsn(3), Lsn(15), Lsn(20)];
    let done: Vec<Lsn> = owner.live.keys().copied().filter(|l| !lives_on.contains(l)).collect();
    owner.append(&[], &done).unwrap();
    let body = &owner.live[&Lsn(15)].clone()[..100];
    let holds = |path: &String| {
        path.starts_with("log/") && disk.bytes(path).windows(100).any(|bytes| bytes == body)
    };
    let path = disk.paths().into_iter().find(holds).unwrap();
    let at = disk.bytes(&path).windows(100).position(|bytes| bytes == body).unwrap();
    disk.tamper(&path, |bytes| bytes[at + 50] ^= 1);
    for number in 0..2 {
        owner.checkpoint().unwrap();
        owner.append(&[(number, 20)], &[]).unwrap();
    }
    while owner.log.compact().unwrap() {}
    assert_eq!(owner.told.damages.lock().iter().map(|d| &d.file).collect::<Vec<_>>(), [&path]);
    assert!(disk.paths().contains(&path), "the evidence stays");
    assert_eq!(owner.log.stats().damages, 1);
    let answers = owner.log.read(&lives_on);
    assert!(matches!(
        &answers[..],
        [Ok(_), Err(ReadError::Damaged(damage)), Ok(_)] if damage.file == path
    ));
    assert!(owner.log.stats().cold_segments == 1, "the others need not wait for it");
}

#[test]
fn any_flipped_bit_of_a_cold_segment_is_told_and_repaired() {
    let (disk, live, cold) = compacted();
    let stride = if std::env::var_os("QBROKER_SLOW").is_some() { 1 } else { 37 };
    let (mut refused, mut told, mut lost_bodies) = (0, 0, 0);
    for at in (0..disk.bytes(&cold).len()).step_by(stride) {
        let disk = disk.killed();
        disk.tamper(&cold, |bytes| bytes[at] ^= 0x10);
        let verified = verify(&disk.shared()).unwrap();
        let is_refused = match recover(&disk, &tiny()) {
            Ok(_) => false,
            Err(OpenError::Damaged(damage)) => {
                assert_eq!(damage.file, cold, "{damage}");
                true
            }
            Err(other) => panic!("{other}"),
        };
        let mut told_by_read = false;
        if !is_refused {
            let owner = Owner::open(&disk.killed(), &tiny()).unwrap();
            let lsns: Vec<Lsn> = live.keys().copied().collect();
            for (lsn, answer) in lsns.iter().zip(owner.log.read(&lsns)) {
                match answer {
                    Ok(record) => assert_eq!(record.body.parts().concat(), live[lsn]),
                    Err(ReadError::Damaged(damage)) => {
                        assert_eq!(damage.file, cold);
                        told_by_read = true;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        let damaged = is_refused || told_by_read;
        assert!(!damaged || !verified.damages.is_empty(), "{at}: {verified:?}");
        if verified.damages.is_empty() {
            continue;
        }
        refused += usize::from(is_refused);
        told += usize::from(told_by_read);
        let report = repaired(&disk, &live);
        let lost = |lsn: &&Lsn| report.lost.iter().any(|lost| lost.lsns.contains(**lsn));
        let lost = live.keys().filter(lost).count();
        assert!(lost <= 12, "{at}: {report:?}");
        lost_bodies += usize::from(report.lost.iter().any(|lost| !lost.heads));
    }
    assert!(0 < refused && 10 < told && 10 < lost_bodies, "{refused} {told} {lost_bodies}");
}

#[test]
fn a_lost_cold_segment_is_refused_and_given_up_by_a_repair() {
    let (disk, live, cold) = compacted();
    disk.lose(&cold);
    let refused = recover(&disk, &tiny()).err().unwrap();
    assert!(matches!(&refused, OpenError::Damaged(damage) if damage.file == cold), "{refused}");
    let report = repaired(&disk, &live);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    // What it held lives on for its owner, who may settle it, until nothing of it does.
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    let held = |lsn: &Lsn| report.lost[0].lsns.contains(*lsn);
    let done: Vec<Lsn> = owner.live.keys().copied().filter(held).collect();
    assert!(3 < done.len());
    owner.checkpoint().unwrap();
    owner.append(&[], &done).unwrap();
    for _ in 0..3 {
        owner.append(&[(7, 7)], &[]).unwrap();
        owner.checkpoint().unwrap();
    }
    assert!(!disk.paths().contains(&cold), "{:?}", disk.paths());
}

#[test]
fn the_frame_that_names_a_cold_segment_is_written_again() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..40 {
        owner.append(&[(number, 1300), (number, 200)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    settle_most(&mut owner);
    assert!(owner.log.compact().unwrap());
    // A start removes what the frame let go, and seals the segment that it is in.
    drop(owner.log);
    let disk = disk.killed();
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    owner.append(&[(3, 30)], &[]).unwrap();
    owner.writer.step().unwrap();
    let live = owner.live.clone();
    let disk = disk.killed();
    let hot = |path: &String| path.starts_with("log/seg-");
    let mut named_again = 0;
    for path in disk.paths().into_iter().filter(hot) {
        for at in (4096..disk.bytes(&path).len()).step_by(24) {
            let disk = disk.killed();
            disk.tamper(&path, |bytes| bytes[at] ^= 0x40);
            if !verify(&disk.shared()).unwrap().refused {
                continue;
            }
            let dry = RepairOptions { dry_run: true, accept_redelivery: false };
            let planned = repair(&disk.shared(), dry).unwrap().actions;
            if planned.iter().any(|action| action.contains("in the place of others")) {
                let report = repaired(&disk, &live);
                assert_eq!((report.lost_records(), report.actions.len()), (0, 1), "{report:?}");
                named_again += 1;
            }
            let aside = planned.iter().any(|action| action.contains("the log does not name it"));
            assert!(!aside, "{path} at {at}: {planned:?}");
        }
    }
    assert!(2 < named_again, "{named_again} flips in the frame");
}

#[test]
fn without_checkpoints_cold_segments_are_replayed_as_well() {
    let (disk, live, _) = compacted();
    for path in disk.paths().iter().filter(|path| path.starts_with("ckpt/ckpt-")) {
        disk.tamper(path, |bytes| bytes[30] ^= 1);
    }
    assert!(matches!(recover(&disk, &tiny()), Err(OpenError::Damaged(_))));
    let accepted = RepairOptions { dry_run: false, accept_redelivery: true };
    assert_eq!(repair(&disk.shared(), accepted).unwrap().after.unwrap().damages, []);
    let (recovery, found) = recover_repaired(&disk, &tiny()).unwrap();
    assert_eq!(found, live);
    let (log, _writer) = recovery.start_stepped(Arc::new(Told::default())).unwrap();
    check_bodies(&log, &live);
}

#[test]
fn on_a_full_disk_a_cold_segment_takes_what_is_held_back_for_it() {
    let disk = SimDisk::new(8);
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..60 {
        owner.append(&[(number, 1300)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    settle_most(&mut owner);
    owner.writer.step().unwrap();
    let used = disk.paths().iter().map(|path| disk.bytes(path).len() as u64).sum();
    disk.set_faults(Faults { capacity: Some(used), ..Faults::default() });
    assert!(owner.log.compact().unwrap());
    owner.check_bodies();
    let stats = owner.log.stats();
    assert!(stats.compactions == 1 && 2 < stats.segments_compacted, "{stats:?}");
}

/// Messages of which the first segments hold none that lives, but for those at the end, whose
/// settlements are appended and not on disk yet; then a checkpoint, which may drop segments.
fn settled_in_memory(owner: &mut Owner) -> Result<(), WriteError> {
    for number in 0..14 {
        owner.append(&[(number, 1300)], &[]);
        owner.writer.step()?;
    }
    for number in 0..2 {
        owner.checkpoint()?;
        owner.append(&[(number, 20)], &[]);
        owner.writer.step()?;
    }
    let lsn = Lsn(owner.log.next_lsn().0 - 1);
    let state = owner.checkpoint_state();
    let done: Vec<Lsn> = owner.live.keys().copied().take(12).collect();
    // More than one frame takes, so that what is asked for first is written first.
    for done in done.chunks(1) {
        owner.append(&[(90, 2000)], done);
    }
    owner.log.write_checkpoint(lsn, state)?;
    owner.log.compact()?;
    while owner.writer.step()? {}
    Ok(())
}

#[test]
fn nothing_goes_on_the_word_of_a_settlement_that_a_crash_takes_back() {
    let mut points = 0;
    for operations in 0.. {
        let Some(crashed) = crash_in(settled_in_memory, operations) else { break };
        points += 1;
        for seed in 0..4 {
            check(&crashed.disk.power_loss(seed), &crashed, crashed.confirmed);
        }
        check(&crashed.disk.killed(), &crashed, crashed.confirmed);
    }
    assert!(80 < points, "{points} crash points");
    let mut owner = Owner::open(&SimDisk::new(5), &tiny()).unwrap();
    settled_in_memory(&mut owner).unwrap();
    let stats = owner.log.stats();
    assert!(0 < stats.segments_dropped + stats.segments_compacted, "{stats:?}");
}

/// One life of a log: batches, settlements, checkpoints and passes in an order that follows from
/// the seed, until the power goes or the story ends.
fn live(owner: &mut Owner, rng: &mut Rng) -> Result<(), WriteError> {
    for _ in 0..80 {
        match rng.below(10) {
            0..=4 => {
                let size = rng.below(1500);
                owner.append(&[(rng.below(200) as u64, size), (rng.below(200) as u64, 60)], &[]);
            }
            5 | 6 => {
                let all: Vec<Lsn> = owner.live.keys().copied().collect();
                let share = 2 + rng.below(6);
                let done: Vec<Lsn> = all.into_iter().filter(|_| rng.below(share) != 0).collect();
                if !done.is_empty() {
                    owner.append(&[], &done[..done.len().min(20)]);
                }
            }
            7 => owner.checkpoint()?,
            8 => drop(owner.log.compact()?),
            _ => drop(owner.writer.step()?),
        }
    }
    // A pass that finds the power gone leaves it to others to say so.
    owner.append(&[(1, 1)], &[]);
    while owner.writer.step()? {}
    owner.check_bodies();
    Ok(())
}

#[test]
fn whatever_comes_in_whatever_order_what_lives_is_there_and_takes_little_room() {
    let seeds = if std::env::var_os("QBROKER_SLOW").is_some() { 1000 } else { 60 };
    let (mut compactions, mut crashes) = (0, 0);
    for seed in 0..seeds {
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::new(seed);
        for life in 0..8 {
            let mut owner = Owner::open(&disk, &tiny()).unwrap();
            if life % 2 == 1 {
                let after = Some(rng.below(300) as u64);
                disk.set_faults(Faults { power_off_after: after, ..Faults::default() });
            }
            let ended = live(&mut owner, &mut rng);
            let confirmed = owner.told.durable.lock().max(*owner.states.keys().next().unwrap());
            let states = std::mem::take(&mut owner.states);
            compactions += owner.log.stats().compactions;
            crashes += usize::from(ended.is_err());
            drop(owner);
            let crashed = Crashed { disk: disk.killed(), confirmed, states };
            disk = match rng.below(2) {
                0 => crashed.disk.killed(),
                // Another seed each time: nonces are drawn from it.
                _ => crashed.disk.power_loss(1000 * (seed + 1) + life),
            };
            check(&disk, &crashed, confirmed);
            disk = disk.killed();
        }
        let mut owner = Owner::open(&disk, &tiny()).unwrap();
        for number in 0..3 {
            owner.append(&[(number, 10)], &[]).unwrap();
            owner.checkpoint().unwrap();
        }
        while owner.log.compact().unwrap() {}
        owner.check_bodies();
        let stats = owner.log.stats();
        let live: u64 = owner.live.values().map(|body| body.len() as u64 + 60).sum();
        // Segments are as small here as their headers are large.
        let most = 2 * live + 12 * (16 << 10) + stats.cold_segments * 6000;
        assert!(stats.disk_bytes <= most, "{} for {live}: {stats:?}", stats.disk_bytes);
    }
    assert!(50 < compactions && 20 < crashes, "{compactions} compactions, {crashes} crashes");
}

#[test]
fn scrubbing_finds_rot_wherever_it_is_and_tells_of_it_once() {
    let (disk, _, cold) = compacted();
    let mut owner = Owner::open(&disk, &tiny()).unwrap();
    for number in 0..20 {
        owner.append(&[(number, 1300)], &[]).unwrap();
        owner.writer.step().unwrap();
    }
    for _ in 0..400 {
        owner.log.scrub(1000);
    }
    assert_eq!(owner.told.damages.lock().as_slice(), []);
    assert!(100_000 < owner.log.stats().scrubbed_bytes, "several rounds");
    let hot = disk.paths().into_iter().find(|path| path.starts_with("log/seg-")).unwrap();
    for path in [&hot, &cold] {
        disk.tamper(path, |bytes| bytes[4096 + 70] ^= 1);
    }
    for _ in 0..400 {
        owner.log.scrub(1000);
    }
    let told = owner.told.damages.lock();
    let mut files: Vec<&String> = told.iter().map(|damage| &damage.file).collect();
    files.sort_unstable();
    assert_eq!(files, [&cold, &hot], "{told:?}");
}
