//! A loss of any file, or of any two, or rot in any of them: a start refuses it or goes on, a repair
//! makes it start, and then everything that is left is delivered once and can be settled.

use std::collections::{BTreeMap, BTreeSet};

use qbroker::clock::ManualClock;
use qbroker::engine::{Core, Engine, PullAnswer};
use qbroker::queue::ids::ConsumerId;
use qbroker::queue::index::{Index as _, StateSet};
use qbroker::queue::{NewDue, Outcome, Pull, Selector, Settle, Settlement};
use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Lsn, RepairError, RepairOptions, RepairReport, Writer, repair};
use qbroker_tests::seed;

use super::story::{Off, Story, failure, nack, options};

/// Long enough that every delay, backoff and grace of the history is over.
const LONG_MS: u64 = 100_000;

/// What there was when the machine went down.
struct Past {
    disk: SimDisk,
    clock: ManualClock,
    /// Messages that wait, or are held.
    live: BTreeSet<Lsn>,
    /// Messages that were acked.
    acked: BTreeSet<Lsn>,
    /// Those that are dead letters by then, and the names of all queues.
    dead: BTreeSet<Lsn>,
}

/// A broker with a backlog of every kind, in pages: ready, scheduled, failed, dead and held; with
/// two checkpoints, segments that were dropped and compacted, and a log after the checkpoints.
fn past() -> Past {
    let disk = SimDisk::new(23);
    let mut story = Story::begin(&disk).unwrap();
    let acked = live_on(&mut story).unwrap();
    let (live, dead) = {
        let (_, names) = story.engine.look(|core| {
            let names = core.queues_after("").map(|queue| queue.definition.name.clone());
            names.collect::<Vec<_>>()
        });
        let all = names.iter().map(|name| (name.ends_with(".dead"), births(&story.engine, name)));
        let (dead, live): (Vec<_>, Vec<_>) = all.partition(|(dead, _)| *dead);
        let flat = |lists: Vec<(bool, Vec<Lsn>)>| -> BTreeSet<Lsn> {
            lists.into_iter().flat_map(|(_, births)| births).collect()
        };
        let dead = flat(dead);
        (flat(live).union(&dead).copied().collect(), dead)
    };
    let clock = story.clock.clone();
    Past { disk: disk.killed(), clock, live, acked, dead }
}

fn live_on(story: &mut Story) -> Result<BTreeSet<Lsn>, Off> {
    let job = |number: u32| ("jobs", format!("job-{number}"), None);
    let (consumer, outbox) = story.consume(None, Vec::new())?;
    let (mut acked, mut number) = (BTreeSet::new(), 0);
    for round in 0..14_u64 {
        story.publish((number..number + 6).map(job).collect())?;
        number += 6;
        let held = story.deliveries(&outbox)?;
        let mut settled = Vec::new();
        for (at, token) in held.into_iter().enumerate() {
            settled.push(match at % 6 {
                0 if 4 < round => (token, nack(1_000 * (round % 3))),
                1 if 4 < round => (token, Outcome::DeadLetter { failure: failure() }),
                // Held until the end.
                2 if round == 13 => continue,
                _ => {
                    acked.insert(token.birth);
                    (token, Outcome::Ack)
                }
            });
        }
        story.settle(consumer, settled)?;
        let mail = |of: u64| {
            let due = (of % 2 == 1).then_some(NewDue::After(2_000 + 500 * of));
            ("mails", format!("mail-{round}-{of}"), due)
        };
        if 4 < round {
            story.publish((0..4).map(mail).collect())?;
        }
        story.step()?;
        if round % 3 == 2 && round < 12 {
            story.checkpoint()?;
            story.step()?;
        }
        story.clock.advance(700);
        story.engine.tick()?;
    }
    story.step()?;
    Ok(acked)
}

/// The messages of a queue.
fn births(engine: &Engine, queue: &str) -> Vec<Lsn> {
    let listed = |core: &Core| {
        let mut listed = Vec::new();
        let queue = core.queue(queue).expect("it is there").id();
        core.index().list(queue, StateSet::ALL, None, usize::MAX, &mut listed)?;
        Ok(listed)
    };
    let listed = engine.look_up(listed).expect("the log goes on").1;
    listed.into_iter().map(|cursor| cursor.birth).collect()
}

fn step(writer: &mut Writer) {
    while writer.step().unwrap() {}
}

/// Takes everything that can be had from every queue, and settles it; each message's queue.
fn drain(disk: &SimDisk, clock: &ManualClock, at: &str) -> BTreeMap<Lsn, String> {
    let (engine, mut writer) = Engine::open_stepped(disk.shared(), options(clock))
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut taken = BTreeMap::new();
    // Sessions that do not come back are lost, and then what they hold is there.
    for _ in 0..10 {
        clock.advance(LONG_MS / 10);
        engine.tick().unwrap();
        let names: Vec<String> = engine
            .look(|core| core.queues_after("").map(|q| q.definition.name.clone()).collect())
            .1;
        for name in names {
            while let Some(settlements) = pull(&engine, &name) {
                for settlement in &settlements {
                    let birth = settlement.token.birth;
                    let before = taken.insert(birth, name.clone());
                    assert_eq!(before, None, "{at}: {birth} comes twice");
                }
                let call = Settle { consumer: ConsumerId::NONE, settlements, ..Settle::default() };
                let (_, refused) =
                    engine.turn(|core, now, out| core.settle(&call, now, out)).unwrap();
                assert_eq!(refused.unwrap(), [], "{at}");
                step(&mut writer);
            }
        }
    }
    let counts = engine.look(|core| {
        let counts = core.queues_after("").map(|queue| core.index().counts(queue.id()).messages());
        counts.sum::<u64>()
    });
    assert_eq!(counts.1, 0, "{at}: everything was taken");
    engine.checkpoint().unwrap();
    step(&mut writer);
    taken
}

/// Acks of what one pull gets, if it gets anything.
fn pull(engine: &Engine, queue: &str) -> Option<Vec<Settlement>> {
    let pull = Pull {
        queues: vec![Selector::plain(queue)],
        messages_max: 50,
        lease_duration_ms: Some(60_000),
        session: String::new(),
        request_id: String::new(),
    };
    let deliveries = match engine.pull(&pull).unwrap().1.unwrap() {
        PullAnswer::Now(deliveries) => deliveries,
        PullAnswer::Waiting(id, answer) => {
            engine.cancel_pull(id, answer);
            return None;
        }
    };
    let ack = |token| Settlement::plain(token, Outcome::Ack);
    Some(deliveries.iter().map(|delivery| ack(delivery.token)).collect())
}

/// Opens it as a start would, without going on; whether that is refused as damage.
fn is_refused(disk: &SimDisk, clock: &ManualClock, at: &str) -> bool {
    let before = contents(disk);
    let refused = match Engine::open_stepped(disk.shared(), options(clock)) {
        Ok(_) => return false,
        Err(error) => error.to_string(),
    };
    assert!(refused.contains("is damaged") || refused.contains("damage"), "{at}: {refused}");
    assert!(contents(disk) == before, "{at}: a refused start changed the folder: {refused}");
    true
}

fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let paths = disk.paths().into_iter().filter(|path| path != "LOCK");
    paths.map(|path| (path.clone(), disk.bytes(&path))).collect()
}

/// Repairs what a start refuses. What was given up.
fn mended(disk: &SimDisk, at: &str) -> RepairReport {
    let options = RepairOptions { dry_run: false, accept_redelivery: false };
    let report = match repair(&disk.shared(), options) {
        Err(RepairError::RedeliveryNotAccepted) => {
            repair(&disk.shared(), RepairOptions { accept_redelivery: true, ..options })
        }
        other => other,
    };
    let report = report.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(report.after.as_ref().unwrap().damages, [], "{at}: {report:?}");
    report
}

/// A damaged folder is refused or not; repaired, it starts, after a crash too, and what is left is
/// there.
fn check(past: &Past, disk: &SimDisk, at: &str) -> bool {
    let clock = past.clock.clone();
    let refused = is_refused(&disk.killed(), &clock, at);
    if refused {
        mended(disk, at);
    }
    // A start, and the power goes at once; then one that stays.
    drop(Engine::open_stepped(disk.shared(), options(&clock)).unwrap_or_else(|error| {
        panic!("{at}: repaired, and not started: {error}");
    }));
    let disk = disk.power_loss(7);
    let taken = drain(&disk, &clock, at);
    let known: BTreeSet<Lsn> = past.live.union(&past.acked).copied().collect();
    let strange: Vec<_> = taken.keys().filter(|birth| !known.contains(birth)).collect();
    assert!(strange.is_empty(), "{at}: {strange:?} never were");
    assert_eq!(drain(&disk.killed(), &clock, at).len(), 0, "{at}: what was acked comes again");
    refused
}

/// Files whose loss matters.
fn files(disk: &SimDisk) -> Vec<String> {
    let mut files = disk.paths();
    files.retain(|path| path.starts_with("log/") || path.starts_with("ckpt/ckpt-"));
    files
}

#[test]
fn the_history_has_everything_that_can_be_lost() {
    let past = past();
    let files = files(&past.disk);
    let count = |of: &str| files.iter().filter(|path| path.starts_with(of)).count();
    assert_eq!(count("ckpt/"), 2, "{files:?}");
    assert!(3 < count("log/seg-") && 0 < count("log/cold-"), "{files:?}");
    assert!(!files.contains(&"log/seg-0000000000000001.qlog".to_owned()), "{files:?}");
    assert!(10 < past.live.len() && 3 < past.dead.len(), "{:?} {:?}", past.live, past.dead);
    let taken = drain(&past.disk.killed(), &past.clock, "as it was");
    assert_eq!(taken.keys().copied().collect::<BTreeSet<_>>(), past.live);
    for birth in &past.dead {
        assert_eq!(taken[birth], "jobs.dead");
    }
}

#[test]
fn whatever_files_are_lost_a_repaired_folder_starts_and_everything_left_is_delivered_once() {
    let past = past();
    let files = files(&past.disk);
    let (mut refused, mut cases) = (0, 0);
    for (at, first) in files.iter().enumerate() {
        for second in &files[at..] {
            let disk = past.disk.killed();
            disk.lose(first);
            if first != second {
                disk.lose(second);
            }
            refused += u32::from(check(&past, &disk, &format!("without {first} and {second}")));
            cases += 1;
        }
    }
    // All that remembers what was dropped, and something beside.
    for with in files.iter().filter(|path| path.starts_with("log/")) {
        let disk = past.disk.killed();
        files.iter().filter(|path| path.starts_with("ckpt/")).for_each(|path| disk.lose(path));
        disk.lose(with);
        assert!(check(&past, &disk, &format!("without checkpoints and {with}")));
        cases += 1;
    }
    eprintln!("mend: {refused} of {cases} cases were refused before their repair");
    assert!(files.len() < refused as usize, "{refused} of {cases}");
}

#[test]
fn rot_anywhere_costs_what_it_hits() {
    let past = past();
    let stride = if seed::rounds(1, 2) == 1 { 1_499 } else { 97 };
    let (mut refused, mut started) = (0, 0);
    for path in files(&past.disk) {
        for at in (0..past.disk.bytes(&path).len()).step_by(stride) {
            let disk = past.disk.killed();
            disk.tamper(&path, |bytes| bytes[at] ^= 0x10);
            match check(&past, &disk, &format!("{path} with a flipped bit at {at}")) {
                true => refused += 1,
                false => started += 1,
            }
        }
    }
    eprintln!("mend: {refused} refused, {started} started as they were");
    assert!(10 < refused && 10 < started, "{refused} refused, {started} started");
}
