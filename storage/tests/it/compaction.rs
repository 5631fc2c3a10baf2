//! What lives on in sparse segments is copied together, so that one old message pins nothing; a
//! crash at any point of it leaves the old segments or the new one.

use qbroker_storage::disk::sim::{Rng, SimDisk};
use qbroker_storage::{Lsn, WriteError};

use crate::crash::{check, crash_in};
use crate::model::{Owner, tiny};

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
        let lives_on = |lsn: &Lsn| lsn.0 % 7 == 0 && (lsn.0 / 7 + round) % 4 != 0;
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
    let mut points = 0;
    for operations in 0.. {
        let Some(crashed) = crash_in(history, operations) else { break };
        points += 1;
        for seed in 0..seeds {
            let disk = crashed.disk.power_loss(seed);
            let (last, epoch) = check(&disk, &crashed, crashed.confirmed);
            let again = check(&disk.power_loss(seed + 1), &crashed, last);
            assert_eq!(again, (last, epoch + 1), "recovered twice, after {operations}");
        }
        let killed = crashed.disk.killed();
        let (last, _) = check(&killed, &crashed, crashed.confirmed);
        check(&killed.power_loss(operations), &crashed, last);
    }
    assert!(500 < points, "{points} crash points");
    let mut owner = Owner::open(&SimDisk::new(5), &tiny()).unwrap();
    history(&mut owner).unwrap();
    let stats = owner.log.stats();
    assert!(4 < stats.compactions && stats.compactions <= stats.segments_compacted, "{stats:?}");
    assert!(0 < stats.cold_segments && stats.cold_segments < 4, "{stats:?}");
    assert_eq!(stats.damages, 0);
    owner.check_bodies();
}
