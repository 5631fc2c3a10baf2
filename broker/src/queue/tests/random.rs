//! Random commands: whatever comes, the core does what the model allows, and nothing is lost.

mod publish;
mod messages;
mod effects;
mod operations;
mod purges;
mod queues;
mod state;
mod takers;
mod wanted;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::Config;
use qbroker_storage::Body;

use self::purges::Purging;
use self::takers::Pulls;
use self::wanted::{Wanted, selectors, wanted};
use super::mend::check_gaps;
use super::model::{Asked, Model, What};
use super::stage::{Outcome as Heard, STEPS_MAX, Stage, StageIndex, deliveries_of};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::missing::MissingIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::index::{State, StateSet};
use crate::queue::policy::{Overflow, Policy};
use crate::queue::{CreateQueue, Effect, Limits, NewDue, NewMessage, OpenConsumer, Window};

const QUEUES: [&str; 5] = ["plain", "strict", "strict.dead", "drop", "slow"];
const LEASES_MAX: usize = 12;
/// Messages that one step moves.
const STEPS: std::ops::Range<usize> = 1..6;
/// Deliveries a second of the slow queue.
const SLOW_RATE: f64 = 0.75;

/// Numbers are places in what there is, wherever that ends. Others come between the steps of a purge
/// that is not done `at_once`, and of what is due, where only so many steps of it are done.
#[derive(Clone, Debug)]
enum Command {
    Publish { queue: u8, count: u8, size: u16, due: Option<NewDue>, id: Option<u8>, rest: Rest },
    Consume { session: u8, queues: Wanted, window: u8, bytes: u16, terms: u8, held: u16, how: How },
    Pull { queues: Wanted, messages_max: u8, session: Option<u8>, request: Option<u8> },
    CancelPull(u8),
    Undeliver(Vec<u8>),
    Unreadable(Vec<u8>),
    Window { consumer: u8, messages: u8, bytes: u16 },
    Subscribe { consumer: u8, queues: Wanted },
    Drain(u8),
    Begin { consumer: u8, leases: Vec<u8> },
    Disconnect(u8),
    Close(u8),
    Kick { consumer: u8, end_session: bool },
    Settle(Vec<(u8, u8)>),
    SettleWith { lease: u8, kind: u8, publish: Option<u8>, patch: Option<(u16, Option<u8>)> },
    State { key: u8, how: state::How },
    Extend { leases: Vec<u8>, session: Option<u8> },
    Purge { queue: u8, states: u8, letters: bool, at_once: bool },
    Policy { queue: u8, what: u8, most: u8 },
    Delete(u8),
    Remove(Vec<u8>),
    Update { messages: Vec<u8>, priority: Option<u8>, due: Option<NewDue> },
    Pause { queue: u8, how: u8 },
    Operate { queue: u8, to: Option<u8>, states: u8, how: u8 },
    Advance { ms: u16, steps: Option<u8> },
    Restart { reboot: bool },
    DiskFull(bool),
    WriteOutcomes(u8),
}

/// What else a message may have.
#[derive(Clone, Copy, Debug)]
struct Rest {
    priority: u8,
    ttl_ms: Option<u64>,
    max_attempts: Option<i32>,
    unique: Option<u64>,
    ordering: Option<u64>,
    fairness: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Anew,
    Resume(u8),
    Reset,
}

fn command() -> impl Strategy<Value = Command> {
    let due = prop_oneof![
        3 => Just(None),
        1 => (0..9_000_u64).prop_map(|ms| Some(NewDue::After(ms))),
        1 => (0..9_000_u64).prop_map(|ms| Some(NewDue::At(super::stage::WALL_MS + ms * 10))),
    ];
    let new_due = due.clone();
    let how = prop_oneof![
        4 => Just(How::Anew),
        4 => any::<u8>().prop_map(How::Resume),
        1 => Just(How::Reset),
    ];
    let id = prop_oneof![3 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    let priority = prop_oneof![2 => Just(0), 1 => 0..10_u8];
    let ttl = prop_oneof![3 => Just(None), 1 => (1..30_000_u64).prop_map(Some)];
    let attempts = prop_oneof![3 => Just(None), 1 => Just(Some(-1)), 1 => (1..4).prop_map(Some)];
    let unique = prop_oneof![3 => Just(None), 1 => (1..4_u64).prop_map(Some)];
    let ordering = prop_oneof![1 => Just(None), 1 => (1..4_u64).prop_map(Some)];
    let fairness = prop_oneof![2 => Just(None), 1 => (1..4_u64).prop_map(Some)];
    let rest = (priority, ttl, attempts, unique, ordering, fairness);
    let rest = rest.prop_map(|(priority, ttl_ms, max_attempts, unique, ordering, fairness)| Rest {
        priority,
        ttl_ms,
        max_attempts,
        unique,
        ordering,
        fairness,
    });
    let leases = || prop::collection::vec(any::<u8>(), 1..4);
    prop_oneof![
        6 => (any::<u8>(), 1..5_u8, 2..60_u16, due, id, rest).prop_map(
            |(queue, count, size, due, id, rest)| {
                Command::Publish { queue, count, size, due, id, rest }
            }
        ),
        4 => (0..3_u8, wanted(), 0..5_u8, 0..150_u16, any::<u8>(), any::<u16>(), how).prop_map(
            |(session, queues, window, bytes, terms, held, how)| {
                Command::Consume { session, queues, window, bytes, terms, held, how }
            }
        ),
        3 => (wanted(), 1..4_u8, prop::option::of(0..3_u8), prop::option::of(0..4_u8)).prop_map(
            |(queues, messages_max, session, request)| {
                Command::Pull { queues, messages_max, session, request }
            }
        ),
        1 => any::<u8>().prop_map(Command::CancelPull),
        1 => leases().prop_map(Command::Undeliver),
        1 => leases().prop_map(Command::Unreadable),
        1 => (any::<u8>(), 0..6_u8, 0..200_u16).prop_map(|(consumer, messages, bytes)| {
            Command::Window { consumer, messages, bytes }
        }),
        2 => (any::<u8>(), wanted()).prop_map(|(consumer, queues)| {
            Command::Subscribe { consumer, queues }
        }),
        1 => any::<u8>().prop_map(Command::Drain),
        3 => (any::<u8>(), leases()).prop_map(|(consumer, leases)| {
            Command::Begin { consumer, leases }
        }),
        2 => any::<u8>().prop_map(Command::Disconnect),
        1 => any::<u8>().prop_map(Command::Close),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(consumer, end_session)| {
            Command::Kick { consumer, end_session }
        }),
        8 => prop::collection::vec((any::<u8>(), any::<u8>()), 1..5).prop_map(Command::Settle),
        3 => effects::settle_with(),
        4 => state::state(),
        2 => (leases(), prop::option::of(0..3_u8)).prop_map(|(leases, session)| {
            Command::Extend { leases, session }
        }),
        1 => (any::<u8>(), 1..32_u8, any::<bool>(), any::<bool>()).prop_map(
            |(queue, states, letters, at_once)| {
                Command::Purge { queue, states, letters, at_once }
            }
        ),
        2 => (any::<u8>(), 0..10_u8, 0..4_u8).prop_map(|(queue, what, most)| {
            Command::Policy { queue, what, most }
        }),
        1 => any::<u8>().prop_map(Command::Delete),
        1 => leases().prop_map(Command::Remove),
        2 => (leases(), prop::option::of(0..10_u8), new_due).prop_map(|(messages, priority, due)| {
            Command::Update { messages, priority, due }
        }),
        1 => (any::<u8>(), 0..5_u8).prop_map(|(queue, how)| Command::Pause { queue, how }),
        2 => (any::<u8>(), prop::option::of(0..12_u8), 1..16_u8, any::<u8>()).prop_map(
            |(queue, to, states, how)| Command::Operate { queue, to, states, how }
        ),
        6 => (1..12_000_u16, prop::option::of(0..4_u8)).prop_map(|(ms, steps)| {
            Command::Advance { ms, steps }
        }),
        1 => any::<bool>().prop_map(|reboot| Command::Restart { reboot }),
        1 => any::<bool>().prop_map(Command::DiskFull),
        3 => (1..5_u8).prop_map(Command::WriteOutcomes),
    ]
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(cases()) })]

    #[test]
    fn whatever_comes_the_core_does_what_the_model_allows(
        (step, commands) in (STEPS, prop::collection::vec(command(), 1..120))
    ) {
        Play::<MemoryIndex>::new(step).run(&commands);
    }

    #[test]
    fn an_index_that_misses_changes_nothing(
        (step, commands) in (STEPS, prop::collection::vec(command(), 1..60))
    ) {
        Play::<MissingIndex>::new(step).run(&commands);
    }

    #[test]
    fn an_index_in_pages_changes_nothing(
        (step, commands) in (STEPS, prop::collection::vec(command(), 1..120))
    ) {
        Play::<PagedIndex>::new(step).run(&commands);
    }
}

/// How often a random test is run.
pub(super) fn cases() -> u32 {
    if std::env::var_os("QBROKER_SLOW").is_some() { 5_000 } else { 40 }
}

/// A stage and its model.
struct Play<I> {
    stage: Stage<I>,
    model: Model,
    /// Every token there ever was.
    tokens: Vec<LeaseToken>,
    /// Streams that may be named as the previous one, with their sessions' names.
    streams: Vec<(ConsumerId, String)>,
    /// Pulls with a name, by session and that, and what they got.
    pulls: Pulls,
    purging: Option<Purging>,
    disk_full: bool,
}

impl<I: StageIndex> Play<I> {
    fn new(step_max: usize) -> Self {
        let limits = Limits { leases_max: LEASES_MAX, step_max, ..Limits::default() };
        let (stage, started) = Stage::new(limits);
        let mut play = Self {
            stage,
            model: Model::default(),
            tokens: Vec::new(),
            streams: Vec::new(),
            pulls: Pulls::default(),
            purging: None,
            disk_full: false,
        };
        play.heard(&started, Asked::default());
        let retry = crate::queue::policy::Retry { initial_ms: Some(1_000), ..Default::default() };
        let strict = Policy {
            max_attempts: Some(2),
            max_crashes: Some(2),
            max_leased_per_fairness_key: Some(1),
            retry: Some(retry),
            lease_duration_ms: Some(4_000),
            ..Policy::default()
        };
        let full = |overflow: Overflow| Some(overflow.into());
        let (oldest, to_letters) = (full(Overflow::DropOldest), full(Overflow::DeadLetterOldest));
        let drop = Policy {
            discard_dead_letters: Some(true),
            outcome_retention_ms: Some(20_000),
            max_messages: Some(6),
            overflow: oldest,
            ..strict.clone()
        };
        let strict = Policy { max_bytes: Some(200), overflow: to_letters, ..strict };
        let slow = Policy {
            max_leased: Some(2),
            max_delivery_rate: Some(SLOW_RATE),
            max_messages: Some(9),
            ..Policy::default()
        };
        let dead = Policy { retention_bytes: Some(150), ..Policy::default() };
        for (name, policy) in
            [("strict", strict), ("strict.dead", dead), ("drop", drop), ("slow", slow)]
        {
            let create = CreateQueue { name: name.to_owned(), policy, ..CreateQueue::default() };
            let made = play.stage.turn(|core, now, out| core.create_queue(&create, now, out));
            play.heard(&made, Asked::default());
        }
        play
    }

    fn run(mut self, commands: &[Command]) {
        for command in commands {
            self.play(command);
            self.compare();
            self.go_on_purging();
            self.compare();
        }
        check_gaps(&self.stage);
    }

    fn play(&mut self, command: &Command) {
        match command {
            Command::Publish { queue, count, size, due, id, rest } => {
                let size = usize::from(*size);
                let message = NewMessage {
                    payload_bytes: size as u64,
                    due: *due,
                    priority: rest.priority,
                    ttl_ms: rest.ttl_ms,
                    max_attempts: rest.max_attempts,
                    unique_hash: rest.unique,
                    ordering_hash: rest.ordering,
                    fairness_hash: rest.fairness,
                    body: Body::new(Bytes::from(vec![0; size]), Bytes::new()),
                    ..NewMessage::default()
                };
                self.publish(*queue, *count, message, *id);
            }
            Command::Consume { session, queues, window, bytes, terms, held, how } => {
                let open = OpenConsumer {
                    queues: selectors(queues),
                    window: Window { messages: u32::from(*window), bytes: u64::from(*bytes) },
                    lease_duration_ms: (terms & 1 != 0).then_some(3_000),
                    session: format!("s{session}"),
                    session_grace_ms: 5_000 + 1_000 * u64::from(terms >> 6),
                    manual_extend: terms & 2 != 0,
                    reports_started: terms & 8 != 0,
                    extension_ms_max: if terms & 6 == 4 { 7_000 } else { 0 },
                    previous: None,
                    held: Vec::new(),
                    reset_session: *how == How::Reset,
                };
                self.consume(open, *held, *how);
            }
            Command::Pull { queues, messages_max, session, request } => {
                self.pull(selectors(queues), u32::from(*messages_max), *session, *request);
            }
            Command::CancelPull(pull) => self.cancel_pull(*pull),
            Command::Undeliver(leases) => self.undeliver(leases),
            Command::Unreadable(leases) => self.unreadable(leases),
            Command::Window { consumer, messages, bytes } => {
                let Some(id) = self.consumer(*consumer) else { return };
                let window = Window { messages: u32::from(*messages), bytes: u64::from(*bytes) };
                self.model.consumers.get_mut(&id.0).unwrap().window = window;
                let heard = self.stage.turn(|core, _, _| {
                    core.set_window(id, window);
                    Ok(())
                });
                self.heard(&heard, Asked::default());
            }
            Command::Subscribe { consumer, queues } => {
                self.subscribe(*consumer, &selectors(queues));
            }
            Command::Drain(consumer) => {
                let Some(id) = self.consumer(*consumer) else { return };
                self.model.consumers.get_mut(&id.0).unwrap().draining = true;
                let heard = self.stage.turn(|core, _, _| {
                    core.drain(id);
                    Ok(())
                });
                self.heard(&heard, Asked::default());
            }
            Command::Begin { consumer, leases } => self.begin(*consumer, leases),
            Command::Disconnect(consumer) => {
                let Some(id) = self.consumer(*consumer) else { return };
                self.model.disconnect(id.0, self.stage.now);
                let heard = self.stage.turn(|core, now, _| {
                    core.disconnect(id, now);
                    Ok(())
                });
                self.heard(&heard, Asked::default());
            }
            Command::Close(consumer) => self.close(*consumer),
            Command::Kick { consumer, end_session } => self.kick(*consumer, *end_session),
            Command::Settle(picks) => self.settle(picks),
            Command::SettleWith { lease, kind, publish, patch } => {
                self.settle_with((*lease, *kind), *publish, *patch);
            }
            Command::State { key, how } => self.state(*key, how),
            Command::Extend { leases, session } => self.extend(leases, *session),
            Command::Purge { queue, states, letters, at_once } => {
                self.purge(*queue, StateSet(u32::from(*states)), *letters, *at_once);
            }
            Command::Policy { queue, what, most } => self.change_policy(*queue, *what, *most),
            Command::Delete(queue) => self.delete(*queue),
            Command::Remove(messages) => self.remove(messages),
            Command::Update { messages, priority, due } => {
                self.update(messages, *priority, *due);
            }
            Command::Pause { queue, how } => self.pause(*queue, *how),
            Command::Operate { queue, to, states, how } => {
                self.operate(*queue, *to, StateSet(u32::from(*states)), *how);
            }
            Command::Advance { ms, steps } => {
                self.let_pass(u64::from(*ms));
                match steps {
                    None => self.advance(),
                    Some(steps) => (0..*steps).for_each(|_| _ = self.tick()),
                }
            }
            Command::Restart { reboot } => self.restart(*reboot),
            Command::WriteOutcomes(count) => self.write_outcomes(usize::from(*count)),
            Command::DiskFull(full) => {
                self.disk_full = *full;
                self.stage.core.set_disk_full(*full);
            }
        }
    }

    /// Every record of a command is true in the model.
    fn heard<T>(&mut self, heard: &Heard<T>, mut asked: Asked) -> Asked {
        for effect in &heard.effects {
            if let Effect::AnswerPull { pull, deliveries } = effect
                && let Some(first) = deliveries.first()
            {
                asked.answered.insert(first.token.grant.0, *pull);
                self.pulls.answered(*pull, deliveries);
            }
            self.tokens.extend(deliveries_of(effect).iter().map(|delivery| delivery.token));
        }
        for (lsn, record, _) in &heard.logged {
            self.model.check(*lsn, record, &mut asked, self.stage.now);
        }
        assert!(asked.settle.is_empty(), "settled, and not in the log: {:?}", asked.settle);
        assert!(asked.patch.is_none(), "patched, and not in the log: {:?}", asked.patch);
        assert!(asked.resumed.is_empty(), "named, and not resumed: {:?}", asked.resumed);
        assert!(asked.unreadable.is_empty(), "unreadable, and still held: {:?}", asked.unreadable);
        assert!(self.model.state.published.is_empty(), "published by no barrier");
        asked
    }

    /// The core and the model hold the same messages, in the same states.
    fn compare(&mut self) {
        self.model.check_lines();
        self.compare_state();
        let messages = self.stage.messages();
        let births: Vec<_> = messages.keys().map(|birth| birth.0).collect();
        assert_eq!(births, self.model.messages.keys().copied().collect::<Vec<_>>());
        for (birth, message) in messages {
            let model = &self.model.messages[&birth.0];
            let counts = (model.failures, model.crashes);
            let expected = (model.queue, model.place, model.priority, counts);
            let counts = (message.failures, message.crashes);
            let actual = (message.queue.0, message.place.0, u32::from(message.priority), counts);
            assert_eq!(actual, expected, "message {birth}");
            assert_eq!(message.keys.leads, model.leads, "message {birth}");
            assert_eq!(message.ttl_end, model.ttl_end, "message {birth}");
            let state = match &model.what {
                What::Ready => State::Ready,
                What::Scheduled(due) => State::Scheduled(*due),
                What::Leased(_) => State::Leased,
                What::Parked => State::Parked,
                What::Behind => State::Behind,
            };
            assert_eq!(message.state, state, "message {birth}");
            let token = self.stage.core.lease(birth).map(|lease| lease.token(birth));
            assert_eq!(token, model.lease().map(|lease| lease.token), "lease of {birth}");
        }
    }

    /// Time passes, and nothing is done yet.
    fn let_pass(&mut self, ms: u64) {
        self.stage.now.boot_ms += ms;
        self.stage.now.wall_ms += ms;
    }

    /// What is due by now is done.
    fn advance(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.tick() {
                self.check_barriers_are_not_overdue();
                return self.model.check_nothing_is_overdue(self.stage.now);
            }
        }
        panic!("{:?} stay over at {:?}", self.stage.core.deadlines(), self.stage.now);
    }

    /// A step of what is due by now; whether nothing is left.
    fn tick(&mut self) -> bool {
        let heard = self.stage.turn(|core, now, out| core.tick(now, out));
        self.heard(&heard, Asked { tick: true, ..Asked::default() });
        !self.stage.core.deadlines().is_over(self.stage.now)
    }

    fn restart(&mut self, reboot: bool) {
        self.stage.boot += u32::from(reboot);
        self.model.restart(self.stage.now, reboot);
        self.pulls.restart();
        self.purging = None;
        let heard = self.stage.restart();
        self.heard(&heard, Asked::default());
        self.stage.core.set_disk_full(self.disk_full);
    }

    fn consumer(&self, pick: u8) -> Option<ConsumerId> {
        let connected: Vec<_> = self.model.consumers.keys().copied().collect();
        pick_of(&connected, pick).map(|id| ConsumerId(*id))
    }

    /// Tokens, the latest ones first.
    fn picked(&self, picks: &[u8]) -> Vec<LeaseToken> {
        let latest: Vec<_> = self.tokens.iter().rev().take(16).copied().collect();
        picks.iter().filter_map(|pick| pick_of(&latest, *pick).copied()).collect()
    }
}

fn pick_of<T>(from: &[T], pick: u8) -> Option<&T> {
    from.get(usize::from(pick) % from.len().max(1))
}
