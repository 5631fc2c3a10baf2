//! The commands of scripts that are about schedules, and random lives of one.

use std::collections::BTreeMap;

use bytes::Buf as _;
use proptest::prelude::*;
use prost::Message as _;
use qbroker_storage::{Body, Lsn};

use super::args::{Args, duration_ms};
use super::commands::message;
use super::script::Script;
use super::show;
use super::stage::{STEPS_MAX, Stage, StageIndex, WALL_MS};
use crate::queue::body::StoredMessage;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::missing::MissingIndex;
use crate::queue::record::Record;
use crate::queue::refused::Refused;
use crate::queue::state::record::{Change, ScheduleStored, ScheduleTicked};
use crate::queue::state::{Calendar, CatchUp, PutSchedule, SCHEDULES_MAX, Schedule};
use crate::queue::time::Now;
use crate::queue::{Core, CreateQueue, Limits, Output, PauseQueue, Stop};

/// Expressions of tests are durations: ticks are at their multiples.
pub(super) const CALENDAR: Calendar = Calendar {
    after: |cron, _, ms| Some((ms / duration_ms(cron) + 1) * duration_ms(cron)),
    until: |cron, _, ms| Some(ms / duration_ms(cron) * duration_ms(cron)),
};

/// `schedule n 10s QUEUE/a catch=last jitter=2s skip paused resumed`
pub(super) fn put<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let skip_if_unfinished = args.flag("skip");
    let paused = match (args.flag("paused"), args.flag("resumed")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let (name, cron) = (args.word(), args.word().to_owned());
    let (queue, text) = args.word().split_once('/').expect("a message");
    let catch_up = match args.key("catch") {
        None | Some("last") => CatchUp::Last,
        Some("skip") => CatchUp::Skip,
        Some("all") => CatchUp::All,
        Some(other) => panic!("{other} is nothing to do"),
    };
    let put = PutSchedule {
        name: name.into(),
        cron,
        time_zone: String::new(),
        message: message(queue, text),
        catch_up,
        jitter_ms: args.time("jitter").unwrap_or_default(),
        skip_if_unfinished,
        paused,
    };
    let outcome = script.stage.turn(|core, now, out| core.put_schedule(&put, now, out));
    script.tell(outcome, |schedule| vec![view(&schedule)]);
}

/// `pause-schedule n`, `resume-schedule n`
pub(super) fn pause<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>, paused: bool) {
    let name = args.word();
    let turn = script.stage.turn(|core, now, out| core.pause_schedule(name, paused, now, out));
    script.tell(turn, |schedule| vec![view(&schedule)]);
}

/// `delete-schedule n`
pub(super) fn delete<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let name = args.word();
    let outcome = script.stage.turn(|core, _, out| core.delete_schedule(name, out));
    script.tell(outcome, |()| vec!["deleted".to_owned()]);
}

/// `trigger n`
pub(super) fn trigger<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let name = args.word();
    let outcome = script.stage.turn(|core, now, out| core.trigger_schedule(name, now, out));
    script.tell(outcome, |receipt| {
        vec![format!("{} {}", if receipt.duplicate { "known" } else { "stored" }, receipt.birth)]
    });
}

/// `schedules`
pub(super) fn show_all<I: StageIndex>(script: &mut Script<I>) {
    let schedules = script.stage.core.schedules_after("").map(view);
    let said: Vec<_> = schedules.map(|schedule| format!("= {schedule}")).collect();
    script.said.extend(said);
}

fn view(schedule: &Schedule) -> String {
    let next = schedule.next_ms.map_or_else(|| "never".to_owned(), show::moment);
    let ScheduleStored { name, cron, published_total, skipped_total, skipped, .. } = schedule;
    let why = if skipped.is_empty() { String::new() } else { format!(": {skipped}") };
    let paused = if schedule.paused { ", paused" } else { "" };
    format!(
        "{name} every {cron}{paused}, next {next}, {published_total} published, {skipped_total} skipped{why}"
    )
}

pub(super) fn stored(it: &ScheduleStored) -> String {
    format!("schedule {}", view(it))
}

pub(super) fn ticked(it: &ScheduleTicked) -> String {
    let next = it.next_ms.map_or_else(|| "never".to_owned(), show::moment);
    let missed = if it.missed { ", missed" } else { "" };
    let skipped = if it.skipped.is_empty() { "" } else { ", skipped" };
    format!("{} ticked for {}{missed}{skipped}, next {next}", it.name, show::moment(it.tick_ms))
}

/// What a command of a random life does.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// The wall clock jumps.
    Jump(i64),
    Put {
        every_s: u64,
        catch_up: CatchUp,
        jitter_ms: u64,
    },
    Pause(bool),
    Delete,
    Trigger,
    Restart,
    Disk(bool),
    /// Publishes to the queue are refused, or not.
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let catch_up = prop_oneof![Just(CatchUp::Last), Just(CatchUp::Skip), Just(CatchUp::All)];
    prop_oneof![
        8 => (0..200_000_u64).prop_map(Step::Pass),
        1 => (-300_000..300_000_i64).prop_map(Step::Jump),
        3 => (1..60_u64, catch_up, 0..5_000_u64).prop_map(|(every_s, catch_up, jitter_ms)| {
            Step::Put { every_s, catch_up, jitter_ms }
        }),
        2 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Delete),
        1 => Just(Step::Trigger),
        2 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Disk),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

/// What the log says of one schedule.
#[derive(Default)]
struct Heard {
    /// The last tick of each schedule that was made; a deleted one is forgotten.
    last: Option<u64>,
    next: Option<u64>,
    catch_up: CatchUp,
    full: bool,
}

impl Heard {
    /// Every tick once, in order, none before its time, with its message in front of it.
    fn records(&mut self, records: &[(Lsn, Record, Body)], wall_ms: u64) {
        let mut published: BTreeMap<String, u32> = BTreeMap::new();
        for (_, record, body) in records {
            match record {
                Record::Published(_) => {
                    let [first, rest] = body.parts().clone();
                    let stored = StoredMessage::decode(first.chain(rest)).unwrap();
                    assert_eq!(stored.headers["schedule"], "s");
                    *published.entry(stored.headers["schedule-tick-ms"].clone()).or_default() += 1;
                }
                Record::StateChanged(it) => match it.change.as_ref().unwrap() {
                    Change::ScheduleStored(it) => {
                        (self.next, self.catch_up) = (it.next_ms, it.catch_up());
                    }
                    Change::ScheduleTicked(it) => {
                        let of_tick = published.remove(&it.tick_ms.to_string()).unwrap_or_default();
                        self.ticked(it, of_tick, wall_ms);
                    }
                    Change::Removed(_) => *self = Self { full: self.full, ..Self::default() },
                    other => panic!("nobody asked for {other:?}"),
                },
                _ => {}
            }
        }
        assert_eq!(published.len(), 0, "a message of no tick");
    }

    fn ticked(&mut self, it: &ScheduleTicked, published: u32, wall_ms: u64) {
        assert!(it.tick_ms <= wall_ms, "early");
        assert!(self.last < Some(it.tick_ms), "twice");
        assert!(self.next <= Some(it.tick_ms), "before the one that was next");
        assert!(it.next_ms.is_none_or(|next| it.tick_ms < next));
        if self.catch_up == CatchUp::All {
            assert_eq!(self.next, Some(it.tick_ms), "each in its turn");
        }
        assert_eq!(published, u32::from(!it.missed && it.skipped.is_empty()));
        assert_eq!(!it.skipped.is_empty(), self.full && !it.missed);
        assert!(!it.missed || self.catch_up == CatchUp::Skip);
        (self.last, self.next) = (Some(it.tick_ms), it.next_ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_schedule_ticks_once_for_each_tick_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let mut stage = Stage::<MissingIndex>::new(Limits::default()).0;
        let mut heard = Heard::default();
        let queue = CreateQueue { name: "q".to_owned(), ..CreateQueue::default() };
        stage.turn(|core, now, out| core.create_queue(&queue, now, out)).answer.unwrap();
        for step in steps {
            play(&mut stage, &mut heard, &step);
        }
    }
}

fn play(stage: &mut Stage<MissingIndex>, heard: &mut Heard, step: &Step) {
    let wall_ms = stage.now.wall_ms;
    match *step {
        Step::Pass(ms) => {
            stage.now.wall_ms += ms;
            stage.now.boot_ms += ms;
            let now = stage.now;
            for _ in 0..STEPS_MAX {
                if !stage.core.deadlines().is_over(now) {
                    break;
                }
                let ticked = stage.turn(|core, now, out| core.tick(now, out));
                heard.records(&ticked.logged, now.wall_ms);
            }
            assert!(!stage.core.deadlines().is_over(now), "it is never done");
        }
        Step::Jump(ms) => stage.now.wall_ms = wall_ms.saturating_add_signed(ms).max(WALL_MS),
        Step::Put { every_s, catch_up, jitter_ms } => {
            let put = PutSchedule {
                name: "s".into(),
                cron: format!("{every_s}s"),
                time_zone: String::new(),
                message: message("q", "x"),
                catch_up,
                jitter_ms,
                skip_if_unfinished: false,
                paused: None,
            };
            let done = stage.turn(|core, now, out| core.put_schedule(&put, now, out));
            heard.records(&done.logged, wall_ms);
        }
        Step::Pause(paused) => {
            let done = stage.turn(|core, now, out| core.pause_schedule("s", paused, now, out));
            heard.records(&done.logged, wall_ms);
        }
        Step::Delete => {
            let done = stage.turn(|core, _, out| core.delete_schedule("s", out));
            heard.records(&done.logged, wall_ms);
        }
        // Its message is of no tick.
        Step::Trigger => drop(stage.turn(|core, now, out| core.trigger_schedule("s", now, out))),
        Step::Restart => drop(stage.restart()),
        Step::Disk(full) => stage.core.set_disk_full(full),
        Step::Full(full) => {
            let pause = PauseQueue { name: "q".to_owned(), publishing: full };
            drop(stage.turn(|core, _, out| core.pause_queue(&pause, out)));
            heard.full = full;
        }
    }
}

#[test]
fn there_are_ten_thousand_schedules_and_not_one_more() {
    let mut core = Core::new(MemoryIndex::default(), Limits::default());
    core.set_calendar(CALENDAR);
    let now = Now { wall_ms: WALL_MS, boot_ms: 0, begun: false };
    core.start(1, "boot-1".to_owned(), now, &mut Output::default());
    let mut put = |number: usize| {
        let put = PutSchedule {
            name: format!("s{number}").into(),
            cron: "10s".to_owned(),
            time_zone: String::new(),
            message: message("q", "x"),
            catch_up: CatchUp::Last,
            jitter_ms: 0,
            skip_if_unfinished: false,
            paused: None,
        };
        core.put_schedule(&put, now, &mut Output::default()).map(drop)
    };
    assert_eq!(SCHEDULES_MAX, 10_000);
    for number in 0..SCHEDULES_MAX {
        put(number).expect("there is room");
    }
    let full = Refused::Limit { what: "schedules", max: SCHEDULES_MAX };
    match put(SCHEDULES_MAX) {
        Err(Stop::Refused(refused)) => assert_eq!(refused, full),
        other => panic!("it is one too many: {other:?}"),
    }
    put(0).expect("one that is there can be changed");
}
