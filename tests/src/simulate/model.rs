//! What a queue is, in the plainest words: written from `docs/semantics.md` alone.
//!
//! It knows no log and no broker. Each call is given with the answer that the broker had for it, and
//! says what is wrong with that answer; then it is done here too.

mod barriers;
mod bounds;
mod calls;
mod filters;
mod keys;
mod life;
mod order;
mod permits;
mod producers;
mod pulls;
mod schedules;
mod sessions;
mod settle;
mod state;
mod turns;
mod works;

use std::collections::{BTreeMap, BTreeSet};

use super::plan::GRAVES;

pub(crate) use barriers::{Arrival, Gathered, Gathering};
pub(crate) use calls::{New, Refusal};
pub(crate) use filters::{Filter, Meant};
pub(crate) use permits::{Holder, PermitName};
pub(crate) use producers::{Fate, Opened as OpenedProducer, Opening};
pub(crate) use pulls::{Delivered, Pull};
pub(crate) use schedules::{Missed, SeenSchedule, Ticked};
pub(crate) use sessions::{Connect, Grant};
pub(crate) use settle::Outcome;
pub(crate) use state::{Finish, Seen as SeenState};
pub(crate) use works::Moved;

/// What a message is born with.
pub(crate) type Sequence = u64;
/// Names a lease.
pub(crate) type Token = [u8; 20];
/// What is wrong.
pub(crate) type Wrong = String;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) wall_ms: u64,
    pub(crate) boot_ms: u64,
}

impl Time {
    /// The end of a relative delay.
    pub(crate) fn after(self, ms: u64) -> Due {
        Due { wall_ms: self.wall_ms + ms, boot_ms: Some(self.boot_ms + ms) }
    }
}

/// When a delay is over: on the boot clock where there is one, else on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) wall_ms: u64,
    pub(crate) boot_ms: Option<u64>,
}

impl Due {
    pub(crate) fn is_over(self, now: Time) -> bool {
        self.boot_ms.map_or(self.wall_ms <= now.wall_ms, |boot_ms| boot_ms <= now.boot_ms)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Scheduled(Due),
    Leased(Lease),
    Parked,
    /// Another one of its ordering key comes first.
    Behind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) duration_ms: u64,
    /// When it ends, once its delivery was let go.
    pub(crate) deadline: Option<u64>,
    /// The stream that it is on; zero: a pull's.
    pub(crate) stream: sessions::Stream,
    pub(crate) session: Option<&'static str>,
    /// It ends by its time; otherwise with its session.
    pub(crate) timed: bool,
    /// Its end is no crash: nobody has begun to work on it.
    pub(crate) unstarted: bool,
}

impl Lease {
    /// Its time runs from now.
    fn run(&mut self, now: Time) {
        self.deadline = self.timed.then_some(now.boot_ms + self.duration_ms);
    }
}

/// The deadline cannot be seen.
impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        let seen =
            |it: &Self| (it.token, it.duration_ms, it.stream, it.session, it.timed, it.unstarted);
        seen(self) == seen(other)
    }
}

impl Eq for Lease {}

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    MaxAttempts,
    MaxCrashes,
    Expired,
    ByConsumer,
    Overflow,
}

/// What a dead letter tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) from: &'static str,
    pub(crate) why: Why,
    pub(crate) attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Names its payload.
    pub(crate) number: u64,
    pub(crate) queue: &'static str,
    pub(crate) state: State,
    /// When it first became ready: what is smaller comes first. 0: it never was.
    pub(crate) place: u64,
    pub(crate) priority: u8,
    pub(crate) failures: u32,
    pub(crate) crashes: u32,
    pub(crate) ttl_end: Option<Due>,
    /// The last failure told, by the number that it was told with.
    pub(crate) failure: Option<u64>,
    pub(crate) letter: Option<Letter>,
    pub(crate) id: Option<u64>,
    pub(crate) unique: Option<u64>,
    pub(crate) ordering: Option<u64>,
    pub(crate) fairness: Option<u64>,
    /// Its own limit of failures; -1: there is none.
    pub(crate) attempts: Option<i32>,
    /// What it takes of its queue's room.
    pub(crate) bytes: u64,
    /// It is the first of its ordering key.
    pub(crate) leads: bool,
    /// When it came into its queue, by the wall clock, and when it was published.
    pub(crate) since_ms: u64,
    pub(crate) published_ms: u64,
    /// How often something was done to it.
    pub(crate) touched: u64,
}

impl Message {
    /// What can be seen of it.
    pub(crate) fn seen(&self) -> Self {
        let (place, leads, since_ms, published_ms, touched) = (0, false, 0, 0, 0);
        let (unique, ordering, fairness) = (None, None, None);
        Self {
            place,
            unique,
            ordering,
            fairness,
            leads,
            since_ms,
            published_ms,
            touched,
            ..self.clone()
        }
    }
}

/// What of a queue's policy the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) max_attempts: Option<u32>,
    pub(crate) max_crashes: Option<u32>,
    pub(crate) backoff_ms: u64,
    pub(crate) ttl_ms: Option<u64>,
    /// The queue for dead letters, where it is not the one of its own name.
    pub(crate) letters: Option<&'static str>,
    pub(crate) discards: bool,
    pub(crate) max_messages: Option<usize>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) overflow: Overflow,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) max_leased: Option<usize>,
    /// Of one fairness key.
    pub(crate) max_leased_of_key: Option<usize>,
    /// Shares of the fairness keys 1 to 4.
    pub(crate) weights: [u32; 4],
    /// Between two deliveries.
    pub(crate) interval_ms: Option<u64>,
    /// How long a message id is remembered.
    pub(crate) dedup_ms: u64,
    pub(crate) retention_bytes: Option<u64>,
}

/// What becomes of a publish that finds its queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    Reject,
    DropOldest,
    DeadLetterOldest,
}

impl Policy {
    /// What a queue has that nobody made.
    pub(crate) const DEFAULT: Self = Self {
        max_attempts: Some(20),
        max_crashes: Some(5),
        backoff_ms: 5_000,
        ttl_ms: None,
        letters: None,
        discards: false,
        max_messages: None,
        max_bytes: None,
        overflow: Overflow::Reject,
        retention_ms: None,
        max_leased: None,
        max_leased_of_key: None,
        weights: [1; 4],
        interval_ms: None,
        dedup_ms: REMEMBERED_MS,
        retention_bytes: None,
    };
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// In the order in which they were made.
    number: u64,
    pub(crate) policy: Policy,
    pub(crate) paused: bool,
    pub(crate) publishing_paused: bool,
    /// Message ids, with the first of that id and the end of the window.
    ids: BTreeMap<u64, (Sequence, u64)>,
    /// Ids that may be remembered or not.
    doubted: BTreeSet<u64>,
}

/// All queues at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) queues: BTreeMap<&'static str, Queue>,
    pub(crate) messages: BTreeMap<Sequence, Message>,
    sessions: BTreeMap<&'static str, sessions::Session>,
    consumers: BTreeMap<sessions::Stream, sessions::Consumer>,
    pub(crate) works: BTreeMap<u64, works::Work>,
    pub(crate) kept: state::Kept,
    permits: BTreeMap<PermitName, permits::Permit>,
    barriers: BTreeMap<u64, barriers::Barrier>,
    schedules: BTreeMap<u64, schedules::Schedule>,
    /// Who waits for a key's permits, in the order of coming, by our names for them.
    standing: BTreeMap<u64, Vec<u64>>,
    /// Pulls that wait, by our names for them.
    waits: BTreeMap<u64, Pull>,
    /// When a queue that may not deliver as it likes did so last.
    delivered: BTreeMap<&'static str, u64>,
    turns: turns::Turns,
    pub(crate) producers: BTreeMap<&'static str, producers::Producer>,
    /// How leases were settled, and when.
    settled: BTreeMap<Token, (&'static str, u64)>,
    /// Tokens of which that may have been taken back.
    doubted: BTreeSet<Token>,
    last_place: u64,
    /// The place of what is given up while time is looked at.
    ticking: Option<u64>,
    /// The disk is not at its reserve.
    pub(crate) has_room: bool,
    /// The latest that the wall clock ever showed.
    latest_ms: u64,
    now: Time,
}

/// How long a settlement is remembered for certain, and a message id where its queue says nothing.
const REMEMBERED_MS: u64 = 5 * 60 * 1_000;

/// Whether a queue is for dead letters: by its name, or since policies name it.
pub(crate) fn is_dead(queue: &str) -> bool {
    queue.ends_with(".dead") || queue == GRAVES
}

/// The queue for the dead letters of another one that names none; `None` for a dead-letter queue.
pub(crate) fn dead_letter_queue(queue: &str) -> Option<&'static str> {
    match queue {
        "plain" => Some("plain.dead"),
        "strict" => Some("strict.dead"),
        "brief" => Some("brief.dead"),
        "few" => Some("few.dead"),
        "narrow" => Some("narrow.dead"),
        "shared" => Some("shared.dead"),
        "slow" => Some("slow.dead"),
        _ => None,
    }
}

impl Model {
    fn next_place(&mut self) -> u64 {
        self.last_place += 1;
        self.last_place
    }

    fn policy(&self, queue: &str) -> Policy {
        self.queues.get(queue).map_or(Policy::DEFAULT, |queue| queue.policy)
    }

    /// Where the dead letters of a queue go that is not one itself.
    pub(crate) fn letters_of(&self, queue: &str) -> &'static str {
        let own = || dead_letter_queue(queue).expect("it is no dead-letter queue");
        self.policy(queue).letters.unwrap_or_else(own)
    }

    fn message(&mut self, sequence: Sequence) -> &mut Message {
        let message = self.messages.get_mut(&sequence).expect("the caller has found it");
        message.touched += 1;
        message
    }

    /// Ready again, at its old place or, where it has none, at a new one.
    fn make_ready(&mut self, sequence: Sequence, place: u64) {
        let message = self.message(sequence);
        if message.place == 0 {
            message.place = place;
        }
        self.join_line(sequence);
    }

    /// The queue of this name, made where it is not there.
    fn queue_or_new(&mut self, name: &'static str, policy: Policy) -> &mut Queue {
        let number = self.next_place();
        self.queues.entry(name).or_insert_with(|| Queue::new(number, policy))
    }

    /// How many messages of a queue may be delivered now.
    fn quota(&self, queue: &str) -> usize {
        let policy = self.policy(queue);
        let leased = self.messages.values();
        let leased = leased.filter(|it| it.queue == queue && matches!(it.state, State::Leased(_)));
        let most = policy.max_leased;
        let most = most.map_or(usize::MAX, |most| most.saturating_sub(leased.count()));
        let last = self.delivered.get(queue);
        match policy.interval_ms {
            None => most,
            Some(ms) if last.is_some_and(|last| self.now.boot_ms < last + ms) => 0,
            Some(_) => most.min(1),
        }
    }

    /// One step: a dead letter, parked where it is one already, or gone where its queue discards.
    fn give_up(&mut self, sequence: Sequence, why: Why, place: u64) {
        let message = &self.messages[&sequence];
        let from = message.queue;
        let attempts = match why {
            Why::Expired | Why::Overflow => message.failures + message.crashes,
            _ => 1 + message.failures + message.crashes,
        };
        if is_dead(from) {
            let message = self.message(sequence);
            match why {
                // It is failed for good where it is.
                Why::ByConsumer | Why::MaxAttempts => message.failures += 1,
                Why::MaxCrashes => message.crashes += 1,
                Why::Expired | Why::Overflow => drop(self.messages.remove(&sequence)),
            }
            if let Some(message) = self.messages.get_mut(&sequence) {
                (message.state, message.leads) = (State::Parked, false);
            }
            return;
        }
        if self.policy(from).discards {
            self.messages.remove(&sequence);
            return;
        }
        let to = self.letters_of(from);
        self.queue_or_new(to, Policy::DEFAULT);
        let message = self.message(sequence);
        message.queue = to;
        message.leads = false;
        message.place = place;
        message.failures = 0;
        message.crashes = 0;
        message.ttl_end = None;
        message.letter = Some(Letter { from, why, attempts });
        self.join_line(sequence);
    }
}

impl Queue {
    fn new(number: u64, policy: Policy) -> Self {
        let (ids, doubted) = (BTreeMap::new(), BTreeSet::new());
        Self { number, policy, paused: false, publishing_paused: false, ids, doubted }
    }
}
