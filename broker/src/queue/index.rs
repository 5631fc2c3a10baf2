//! Where the core looks messages up: by name, by place in the queue, by due time.
//!
//! The core never reads the disk. An index that keeps part of itself there answers
//! [`Missing`], the engine loads the page outside its lock and the core decides again. What
//! a decision has looked up stays present until the decision is applied, so changes cannot miss.

mod cold;
mod held;
mod homes;
mod keys;
mod page;
mod pages;
mod ready;
mod times;

pub mod memory;
pub mod paged;
#[cfg(test)]
pub mod missing;

use std::sync::Arc;

use qbroker_storage::Lsn;

pub use keys::{Keys, Lane, fairness_hash, unique_hash};
pub use page::Page;
pub(super) use pages::Pages;

use super::ids::QueueId;
use super::time::{Due, Now};

/// What a message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waits to be delivered.
    Ready,
    /// Waits for its time.
    Scheduled(Due),
    /// Somebody holds it.
    Leased,
    /// Failed for good in a dead-letter queue, or cannot be read; stays until somebody acts or its
    /// retention ends.
    Parked,
    /// Waits for others of its ordering key.
    Behind,
}

/// A set of [`State`]s, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSet(pub u32);

impl StateSet {
    /// [`State::Ready`].
    pub const READY: Self = Self(1);
    /// [`State::Scheduled`].
    pub const SCHEDULED: Self = Self(2);
    /// [`State::Leased`].
    pub const LEASED: Self = Self(4);
    /// [`State::Parked`].
    pub const PARKED: Self = Self(8);
    /// [`State::Behind`].
    pub const BEHIND: Self = Self(16);
    /// Every state.
    pub const ALL: Self = Self(31);

    /// The states of both.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without those of `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all states of `other` are in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl From<State> for StateSet {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::READY,
            State::Scheduled(_) => Self::SCHEDULED,
            State::Leased => Self::LEASED,
            State::Parked => Self::PARKED,
            State::Behind => Self::BEHIND,
        }
    }
}

/// The last place there can be.
const PLACE_MAX: Lsn = Lsn(u64::MAX >> 8);

/// Urgency and place in one number; fifty-six bits of LSN outlast any disk.
fn ready_order(rank: u8, place: Lsn) -> u64 {
    u64::from(rank) << 56 | place.0
}

/// Undoes [`ready_order`].
fn split_ready_order(order: u64) -> (u8, Lsn) {
    let [rank, ..] = order.to_be_bytes();
    (rank, Lsn(order & PLACE_MAX.0))
}

/// What the core keeps of a message; the rest is in its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub queue: QueueId,
    pub state: State,
    /// LSN at which it first became ready; returned, it comes back here. Zero before.
    pub place: Lsn,
    /// Larger is more urgent.
    pub priority: u8,
    /// Bytes of the stored message.
    pub size: u32,
    /// When it came into this queue, wall clock.
    pub since_ms: u64,
    /// Failed attempts in this queue.
    pub failures: u32,
    /// Leases that ended by a lost session or by time.
    pub crashes: u32,
    /// LSN of the last nack that told a failure; zero: none.
    pub last_failure: Lsn,
    /// LSN of the record that dead-lettered it; zero: it was not.
    pub dead_letter: Lsn,
    /// When its time to live ends; `None`: never.
    pub ttl_end: Option<Due>,
    /// Failures until it is given up, -1: no limit; 0: as its queue says.
    pub max_attempts: i32,
    pub keys: Keys,
    /// LSN of the record that has its content since a patch; zero: its birth has it.
    pub patched: Lsn,
}

impl Message {
    /// One of which nothing is known but its queue and when it came there.
    pub(super) fn unknown(queue: QueueId, since_ms: u64) -> Self {
        Self {
            queue,
            state: State::Ready,
            place: Lsn(0),
            priority: 0,
            size: 0,
            since_ms,
            failures: 0,
            crashes: 0,
            last_failure: Lsn(0),
            dead_letter: Lsn(0),
            ttl_end: None,
            max_attempts: 0,
            keys: Keys::NONE,
            patched: Lsn(0),
        }
    }

    /// Where it stands among the messages of its queue that do the same; its birth decides between
    /// equals.
    fn order(&self) -> u64 {
        match self.state {
            State::Ready => ready_order(self.rank(), self.place),
            State::Scheduled(due) => due.wall_ms,
            State::Leased => 0,
            State::Parked | State::Behind => self.place.0,
        }
    }

    pub(super) fn due(&self) -> Option<Due> {
        match self.state {
            State::Scheduled(due) => Some(due),
            State::Ready | State::Leased | State::Parked | State::Behind => None,
        }
    }

    /// The end of its time to live, while nobody holds it: it may be over before it is done.
    fn waits_until(&self) -> Option<Due> {
        self.ttl_end.filter(|_| self.state != State::Leased)
    }

    /// Its times are the wall clock's from now on.
    fn forget_boot_clock(&mut self) {
        if let State::Scheduled(due) = &mut self.state {
            due.boot_ms = None;
        }
        if let Some(end) = &mut self.ttl_end {
            end.boot_ms = None;
        }
    }

    /// Sorts the most urgent first.
    pub(super) fn rank(&self) -> u8 {
        u8::MAX - self.priority
    }

    /// Failures until it is given up, its queue's where it says nothing itself; `None`: no limit.
    pub(super) fn failures_max(&self, queues: Option<u32>) -> Option<u32> {
        match self.max_attempts {
            0 => queues,
            own => u32::try_from(own).ok(),
        }
    }

    /// The record that has its content, of the message born at `birth`.
    pub fn content(&self, birth: Lsn) -> Lsn {
        if self.patched == Lsn(0) { birth } else { self.patched }
    }

    /// Whether its time to live is over.
    pub(super) fn is_outlived(&self, now: Now) -> bool {
        self.ttl_end.is_some_and(|end| end.is_over(now))
    }

    /// Number of the delivery that comes next, or is under way. A release does not count.
    pub fn attempt(&self) -> u32 {
        1 + self.failures + self.crashes
    }
}

/// A page that is not in memory, and must be loaded before the question can be answered: the record
/// whose body holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub Lsn);

/// An answer, or what has to be loaded first.
pub type Lookup<T> = Result<T, Missing>;

/// How many messages of a queue are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ready: u64,
    pub scheduled: u64,
    pub leased: u64,
    pub parked: u64,
    pub behind: u64,
    /// Stored bytes of all of them.
    pub bytes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.ready += other.ready;
        self.scheduled += other.scheduled;
        self.leased += other.leased;
        self.parked += other.parked;
        self.behind += other.behind;
        self.bytes += other.bytes;
    }
}

impl std::ops::SubAssign for Counts {
    fn sub_assign(&mut self, other: Self) {
        self.ready -= other.ready;
        self.scheduled -= other.scheduled;
        self.leased -= other.leased;
        self.parked -= other.parked;
        self.behind -= other.behind;
        self.bytes -= other.bytes;
    }
}

impl Counts {
    /// How many messages are in one of these states.
    pub fn of(&self, states: StateSet) -> u64 {
        let of = |state, count| if states.contains(state) { count } else { 0 };
        of(StateSet::READY, self.ready)
            + of(StateSet::SCHEDULED, self.scheduled)
            + of(StateSet::LEASED, self.leased)
            + of(StateSet::PARKED, self.parked)
            + of(StateSet::BEHIND, self.behind)
    }

    /// How many messages there are, in whatever state.
    pub fn messages(&self) -> u64 {
        self.ready + self.scheduled + self.leased + self.parked + self.behind
    }
}

/// A place in a listing: the state's section, then the order within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub section: u8,
    pub key: u64,
    pub birth: Lsn,
}

impl Cursor {
    fn new(section: StateSet, key: u64, birth: Lsn) -> Self {
        Self { section: u8::try_from(section.0).expect("five bits"), key, birth }
    }
}

/// The messages of one moment.
pub trait Frozen: Send {
    /// Visits every message that is in memory, by birth.
    fn for_each(&self, visit: &mut dyn FnMut(Lsn, &Message));

    /// The pages that are not, in the order of their records.
    fn pages(&self) -> &[Arc<Page>];
}

/// Finds messages for the core. Changes come from `apply` alone and keep every order consistent.
pub trait Index: Send {
    /// The message born at `birth`, unless it is finished.
    fn message(&self, birth: Lsn) -> Lookup<Option<Message>>;

    /// Adds up to `max` ready messages of a lane of a queue to `births`, in delivery order.
    fn ready(&self, queue: QueueId, lane: Lane, max: usize, births: &mut Vec<Lsn>) -> Lookup<()>;

    /// Whether ready messages of a queue have fairness keys; never missing.
    fn has_lanes(&self, queue: QueueId) -> bool;

    /// Visits the lanes of a queue that have ready messages, each with its first rank; never missing.
    fn fronts(&self, queue: QueueId, visit: &mut dyn FnMut(Lane, u8));

    /// Adds up to `max` scheduled messages whose time has come, the earliest first.
    fn due(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()>;

    /// When [`Self::due`] will have something, as the earliest time on each clock.
    fn next_due(&self) -> (Option<u64>, Option<u64>);

    /// Adds up to `max` messages whose time to live is over. What somebody holds is not among them.
    fn ttl_over(&self, now: Now, max: usize, births: &mut Vec<Lsn>) -> Lookup<()>;

    /// When [`Self::ttl_over`] will have something, as the earliest time on each clock; never missing.
    fn next_ttl_end(&self) -> (Option<u64>, Option<u64>);

    /// Adds up to `max` messages that are older than their queue's retention. What somebody holds is not
    /// among them.
    fn expired(&self, wall_ms: u64, max: usize, births: &mut Vec<Lsn>) -> Lookup<()>;

    /// When [`Self::expired`] will have something.
    fn next_expiry(&self) -> Option<u64>;

    /// A message of a queue that holds this unique key.
    fn holder(&self, queue: QueueId, key: u64) -> Lookup<Option<Lsn>>;

    /// Whether a line has a first one; never missing.
    fn has_leader(&self, queue: QueueId, line: u32) -> bool;

    /// Whether somebody waits in a line; never missing.
    fn has_behind(&self, queue: QueueId, line: u32) -> bool;

    /// Who of those that wait in a line is next.
    fn first_behind(&self, queue: QueueId, line: u32) -> Lookup<Option<Lsn>>;

    /// When the oldest ready message came into its queue: the earliest of the first messages of all
    /// priorities and lanes, and of all that are in pages; never missing. Within a priority and a lane
    /// they stand in the order in which they became ready, so a message that came earlier and was
    /// ready later, after a delay, may be older than what is said.
    fn oldest_ready(&self, queue: QueueId) -> Option<u64>;

    /// Adds up to `max` messages of a queue that are ready or parked, as `states` says, those that have
    /// been so longest first, whatever their priority.
    fn oldest(
        &self,
        queue: QueueId,
        states: StateSet,
        max: usize,
        births: &mut Vec<Lsn>,
    ) -> Lookup<()>;

    /// Up to `max` messages in these states after `cursor`, and where to go on. What is listed counts
    /// as looked up.
    fn list(
        &self,
        queue: QueueId,
        states: StateSet,
        after: Option<Cursor>,
        max: usize,
        page: &mut Vec<Cursor>,
    ) -> Lookup<()>;

    /// How many messages of a queue are in which state; never missing.
    fn counts(&self, queue: QueueId) -> Counts;

    /// Says how long messages may stay in a queue; `None`: for ever.
    fn set_retention(&mut self, queue: QueueId, retention_ms: Option<u64>);

    /// Adds a message that was not there.
    fn insert(&mut self, birth: Lsn, message: Message);

    /// Puts a message in the place of what it was before.
    fn change(&mut self, birth: Lsn, message: Message);

    /// Takes a message out for good.
    fn remove(&mut self, birth: Lsn) -> Message;

    /// Turns relative due times into absolute ones: the machine was rebooted.
    fn forget_boot_clock(&mut self);

    /// Every message as it is now, to be looked at later without the index; for checkpoints. Cheap:
    /// the engine's lock is held.
    fn frozen(&self) -> Box<dyn Frozen>;

    /// Messages of one queue to be put away next, in the order of their state, where more are in
    /// memory than should be.
    fn surplus(&mut self) -> Option<Vec<Lsn>>;

    /// Puts messages away; the record at `page` holds them from now on.
    fn page_out(&mut self, page: Lsn, births: &[u64]);

    /// Whether a page is not in memory.
    fn is_missing(&self, page: Missing) -> bool;

    /// A page that is not in memory.
    fn page(&self, page: Missing) -> Option<Arc<Page>>;

    /// Adds the pages of an earlier start. There were none before.
    fn put_back(&mut self, pages: Vec<Page>);

    /// Brings a page into memory; whether it was still missing. Called without any lookup under way.
    fn load(&mut self, page: Missing, messages: Vec<(Lsn, Message)>) -> bool;
}
