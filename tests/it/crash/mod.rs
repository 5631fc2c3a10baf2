//! A loss of power at every point of a small history of the whole broker, recovered twice: what
//! anybody was told before holds after it, and the queues are to the byte what they were.

mod mend;
mod operation;
mod outcomes;
mod schedule;
mod story;

use bytes::Buf as _;
use prost::Message as _;
use qbroker::clock::ManualClock;
use qbroker::engine::{self, Engine};
use qbroker::queue::body::StoredMessage;
use qbroker::queue::ids::LeaseToken;
use qbroker::queue::index::{Index as _, State};
use qbroker::queue::{OpenProducer, Outcome, Settle, StreamId};
use qbroker_storage::disk::sim::{Faults, SimDisk};
use qbroker_storage::{Log, Lsn};
use qbroker_tests::seed;
use story::{Fact, Story, options, tell, whole};

/// What a crash left behind.
struct Crashed {
    disk: SimDisk,
    story: Option<Story>,
    durable: Lsn,
}

/// Runs the history until the power goes after so many operations of the disk; `None` when it ends
/// before.
fn crash_after(operations: u64) -> Option<Crashed> {
    let disk = SimDisk::new(11);
    disk.set_faults(Faults { power_off_after: Some(operations), ..Faults::default() });
    let Ok(mut story) = Story::begin(&disk) else {
        return Some(Crashed { disk, story: None, durable: Lsn::NONE });
    };
    if tell(&mut story).is_ok() {
        let stats = story.engine.log().stats();
        assert!(2 < stats.rotations, "{stats:?}");
        assert!(1 < stats.segments_dropped, "{stats:?}");
        assert!(4 < stats.checkpoints, "{stats:?}");
        return None;
    }
    let durable = story.engine.log().durable_lsn();
    Some(Crashed { disk, story: Some(story), durable })
}

/// Recovers, starts, and checks every fact; `found` is where the log ended after the crash.
fn check(disk: &SimDisk, crashed: &Crashed, found: Lsn, at: &str) {
    let clock = crashed.story.as_ref().map_or_else(ManualClock::default, |s| s.clock.clone());
    let (engine, mut writer) = Engine::open_stepped(disk.shared(), options(&clock))
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    while writer.step().unwrap() {}
    let Some(story) = &crashed.story else { return };
    for (lsn, fact) in &story.facts {
        // What was not told may hold or not.
        if *lsn <= crashed.durable {
            hold(&engine, crashed, fact, found, at);
        }
    }
}

/// The recovered queues are, to the byte, what they were at that place of the log.
fn compare(disk: &SimDisk, crashed: &Crashed, at: &str) -> (Lsn, bool) {
    let Some(story) = &crashed.story else { return (Lsn::NONE, false) };
    let options = options(&story.clock);
    let mut recovery =
        Log::recover(disk.shared(), options.log).unwrap_or_else(|error| panic!("{at}: {error}"));
    let (core, _) = engine::recover(&mut recovery, options.limits, &options.clock)
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    let last = core.last_lsn();
    assert!(crashed.durable <= last, "{at}: told of {}, found {last}", crashed.durable);
    for (first, end) in &story.commits {
        let whole = *end <= last || last < *first;
        assert!(whole, "{at}: {first} to {end} were committed at once, and the log ends at {last}");
    }
    // A turn may append twice; what stands between the two was never seen from outside.
    let expected = story.states.get(&last);
    if let Some(expected) = expected {
        let reader = recovery.reader();
        let read = |lsn| reader.read(lsn).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(whole(&core, read) == *expected, "{at}: the state at {last} is another one");
    }
    (last, expected.is_some())
}

/// Whether a settlement of this lease was handed in by `last`.
fn was_settled(story: &Story, token: LeaseToken, last: Lsn) -> bool {
    let of = |fact: &Fact| matches!(fact, Fact::Settled { token: of, .. } if *of == token);
    story.facts.iter().any(|(lsn, fact)| *lsn <= last && of(fact))
}

/// Whether the message was acked by `last`.
fn was_acked(story: &Story, birth: Lsn, last: Lsn) -> bool {
    let acks = |call: &Settle| {
        call.settlements
            .iter()
            .any(|item| item.token.birth == birth && matches!(item.outcome, Outcome::Ack))
    };
    let of = |fact: &Fact| matches!(fact, Fact::Settled { call, .. } if acks(call));
    story.facts.iter().any(|(lsn, fact)| *lsn <= last && of(fact))
}

/// Whether the message was given another name by `last`.
fn was_renamed(story: &Story, birth: Lsn, name: &str, last: Lsn) -> bool {
    let of = |fact: &Fact| matches!(fact, Fact::Stored { birth: of, .. } if *of == birth);
    let named = |(lsn, fact): &&(Lsn, Fact)| *lsn <= last && of(fact);
    let latest = story.facts.iter().rev().find(named).map(|(_, fact)| fact);
    matches!(latest, Some(Fact::Stored { name: latest, .. }) if latest != name)
}

/// What was told is true.
fn hold(engine: &Engine, crashed: &Crashed, fact: &Fact, last: Lsn, at: &str) {
    let story = crashed.story.as_ref().expect("it began");
    let message = |birth| {
        let found = |core: &engine::Core| core.index().message(birth);
        engine.look_up(found).expect("the log goes on").1
    };
    match fact {
        Fact::Stored { birth, name } => {
            if was_acked(story, *birth, last) {
                assert_eq!(message(*birth), None, "{at}: {name} was acked");
                return;
            }
            let held = message(*birth).unwrap_or_else(|| panic!("{at}: {name} is lost"));
            if was_renamed(story, *birth, name, last) {
                return;
            }
            let record = engine.log().read(&[held.content(*birth)]).remove(0);
            let record = record.unwrap_or_else(|error| panic!("{at}: {name}: {error}"));
            let [prefix, rest] = record.body.parts().clone();
            let stored = StoredMessage::decode(prefix.chain(rest)).unwrap();
            let begins = format!("{name} x");
            assert!(stored.payload.starts_with(begins.as_bytes()), "{at}: {name} is another one");
        }
        Fact::Batch { batch, first } => {
            let (name, epoch) = ("producer".to_owned(), story.producer);
            let confirmed_through = story.claimed;
            let open = OpenProducer { name, epoch, confirmed_through, stream: StreamId(9) };
            let opened = engine.turn(|core, now, out| core.open_producer(&open, now, out));
            let opened = opened.unwrap().1.unwrap_or_else(|refused| panic!("{at}: {refused}"));
            assert!(*batch <= opened.through, "{at}: batch {batch} would be stored again");
            let told = opened.missed.iter().find(|outcome| outcome.batch == *batch);
            let told = told.map(|outcome| outcome.first);
            let expected = (story.claimed < *batch).then_some(*first);
            assert_eq!(told, expected, "{at}: what became of batch {batch}");
        }
        Fact::Leased(token) => {
            let held = engine.is_held(*token);
            let settled = was_settled(story, *token, last);
            assert_eq!(held, !settled, "{at}: {token:?} is held: {held}, settled: {settled}");
            if held {
                let state = message(token.birth).map(|message| message.state);
                assert_eq!(state, Some(State::Leased), "{at}: {token:?}");
            }
        }
        Fact::Settled { call, .. } => {
            let again = engine.turn(|core, now, out| core.settle(call, now, out)).unwrap().1;
            assert_eq!(again.unwrap(), [], "{at}: the answer to {call:?} was another one before");
        }
        Fact::Moved { birth, to } => {
            let queue = message(*birth).map(|message| message.queue);
            let name = |core: &engine::Core| Some(core.queue_by_id(queue?)?.name.to_string());
            let now = engine.look(name).1;
            assert_eq!(now.as_deref(), Some(*to), "{at}: {birth} was moved");
        }
        Fact::Done(birth) => outcomes::check_done(engine, *birth, at),
        Fact::Failed { birth, failures } => {
            if let Some(message) = message(*birth).filter(|message| message.dead_letter == Lsn(0)) {
                assert!(*failures <= message.failures, "{at}: a failure of {birth} is forgotten");
            }
        }
    }
}

#[test]
fn a_crash_at_every_point_takes_back_nothing_that_was_told_however_often_it_comes() {
    let seeds = seed::rounds(2, 20);
    let (mut points, mut compared) = (0, 0);
    for operations in 0.. {
        let Some(crashed) = crash_after(operations) else { break };
        points += 1;
        for seed in 0..seeds {
            let at = format!("after {operations} operations, sectors of seed {seed}");
            let disk = crashed.disk.power_loss(seed);
            let (found, known) = compare(&disk, &crashed, &at);
            compared += u32::from(known);
            // The power goes again at once, then after a start.
            let disk = disk.power_loss(seed + 1);
            assert_eq!(compare(&disk, &crashed, &at), (found, known), "{at}, recovered twice");
            check(&disk, &crashed, found, &at);
            check(&disk.power_loss(seed + 2), &crashed, found, &at);
        }
        let killed = crashed.disk.killed();
        let at = format!("killed after {operations} operations");
        let (found, known) = compare(&killed, &crashed, &at);
        compared += u32::from(known);
        check(&killed, &crashed, found, &at);
    }
    eprintln!("crash: {points} points, {compared} states compared");
    assert!(250 < points, "{points} crash points");
    assert!(2 * points < compared, "{compared} comparisons at {points} points");
}
