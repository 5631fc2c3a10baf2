//! What stays in memory of messages that are put away.

use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};
use qbroker_storage::Lsn;

use super::held::Role;
use super::keys::Lane;
use super::{Counts, Message, State, StateSet, split_ready_order};
use crate::queue::ids::QueueId;
use crate::queue::time::Due;

/// Messages of one queue that do the same, neighbours in the order of their state when they were put
/// away. A page is in memory whole or not at all, and none of its messages changes while it is not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Page {
    /// The record whose body holds the messages.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    #[prost(uint32, tag = "2")]
    queue: u32,
    /// One of [`StateSet`].
    #[prost(uint32, tag = "3")]
    state: u32,
    #[prost(uint64, tag = "4")]
    count: u64,
    /// Stored bytes of the messages.
    #[prost(uint64, tag = "5")]
    bytes: u64,
    /// Order and birth of the first message, and of the last.
    #[prost(uint64, tag = "6")]
    first_order: u64,
    #[prost(uint64, tag = "7")]
    first_birth: u64,
    #[prost(uint64, tag = "8")]
    last_order: u64,
    #[prost(uint64, tag = "9")]
    last_birth: u64,
    /// When the oldest of the messages came into the queue. 10 was when the first one did.
    #[prost(uint64, tag = "11")]
    pub oldest_since_ms: u64,
    /// The earliest due time on each clock.
    #[prost(uint64, optional, tag = "12")]
    pub due_boot_ms: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    pub due_wall_ms: Option<u64>,
    /// The machine was rebooted since: due times are the wall clock's.
    #[prost(bool, tag = "14")]
    pub boot_clock_forgotten: bool,
    /// Births in ascending order, each as its distance from the one before, in varints.
    #[prost(bytes = "bytes", tag = "15")]
    births: Bytes,
    /// The earliest end of a time to live on each clock, and by the wall clock whichever it is of.
    #[prost(uint64, optional, tag = "30")]
    pub ttl_boot_ms: Option<u64>,
    #[prost(uint64, optional, tag = "31")]
    pub ttl_wall_ms: Option<u64>,
    #[prost(uint64, optional, tag = "32")]
    ttl_any_wall_ms: Option<u64>,
    /// When the latest of the messages came into the queue.
    #[prost(uint64, tag = "33")]
    newest_since_ms: u64,
    /// Hashes of the unique keys that its messages hold, each once and in ascending order: as a packed
    /// list of fixed32 is encoded, so that a checkpoint need not copy them.
    #[prost(bytes = "bytes", tag = "51")]
    held_keys: Bytes,
    /// The same of lines of which a message is the first, and of lines in which one waits.
    #[prost(bytes = "bytes", tag = "52")]
    led_lines: Bytes,
    #[prost(bytes = "bytes", tag = "53")]
    lines_behind: Bytes,
    /// The lane of ready messages.
    #[prost(uint32, tag = "54")]
    lane: u32,
}

/// A hash of a key as a page has it: in little endian.
pub(super) type Hash = [u8; 4];

/// A message's place in the order of its state.
pub(super) type Stand = (u64, Lsn);

impl Page {
    /// A page of these messages, which are in order.
    pub(super) fn new(lsn: Lsn, messages: &[(Lsn, Message)]) -> Self {
        let (first_birth, first) = messages.first().expect("a page holds messages");
        let (last_birth, last) = messages.last().expect("a page holds messages");
        let dues = || messages.iter().filter_map(|(_, message)| message.due());
        let since = || messages.iter().map(|(_, message)| message.since_ms);
        let ttls = || messages.iter().filter_map(|(_, message)| message.ttl_end);
        Self {
            lsn: lsn.0,
            queue: first.queue.0,
            state: StateSet::from(first.state).0,
            count: messages.len() as u64,
            bytes: messages.iter().map(|(_, message)| u64::from(message.size)).sum(),
            first_order: first.order(),
            first_birth: first_birth.0,
            last_order: last.order(),
            last_birth: last_birth.0,
            oldest_since_ms: since().min().unwrap_or_default(),
            newest_since_ms: since().max().unwrap_or_default(),
            due_boot_ms: dues().filter_map(|due| due.boot_ms).min(),
            due_wall_ms: dues().filter(|due| due.boot_ms.is_none()).map(|due| due.wall_ms).min(),
            boot_clock_forgotten: false,
            births: encode_births(messages),
            ttl_boot_ms: ttls().filter_map(|end| end.boot_ms).min(),
            ttl_wall_ms: ttls().filter(|end| end.boot_ms.is_none()).map(|end| end.wall_ms).min(),
            ttl_any_wall_ms: ttls().map(|end| end.wall_ms).min(),
            held_keys: distinct(messages, |message| message.held_key().map(short_hash)),
            led_lines: distinct(messages, Message::led_line),
            lines_behind: distinct(messages, Message::line_before),
            lane: if first.state == State::Ready { first.lane().0.into() } else { 0 },
        }
    }

    /// All but what grows with the messages, and that: fields of bytes by their tags.
    pub fn split(&self) -> (Self, [(u32, Bytes); 4]) {
        let mut head = self.clone();
        let fields = [
            (15, &mut head.births),
            (51, &mut head.held_keys),
            (52, &mut head.led_lines),
            (53, &mut head.lines_behind),
        ];
        let fields = fields.map(|(tag, field)| (tag, std::mem::take(field)));
        (head, fields)
    }

    /// The queue of its messages.
    pub fn queue(&self) -> QueueId {
        QueueId(self.queue)
    }

    pub(super) fn state(&self) -> StateSet {
        StateSet(self.state)
    }

    pub(super) fn first(&self) -> Stand {
        (self.first_order, Lsn(self.first_birth))
    }

    pub(super) fn last(&self) -> Stand {
        (self.last_order, Lsn(self.last_birth))
    }

    /// The lane of its messages, where they are ready.
    pub(super) fn lane(&self) -> Lane {
        Lane(u8::try_from(self.lane).unwrap_or_default())
    }

    /// The hashes of its messages' keys, each once and in ascending order, by what they do under them.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (Role, &[Hash])> {
        let all = [
            (Role::Holds, &self.held_keys),
            (Role::Leads, &self.led_lines),
            (Role::Waits, &self.lines_behind),
        ];
        let lists = all.into_iter().map(|(role, hashes)| (role, hashes.as_chunks().0));
        lists.filter(|(_, hashes)| !hashes.is_empty())
    }

    /// The same one by one.
    pub(super) fn roles(&self) -> impl Iterator<Item = (Role, u32)> {
        self.hashes().flat_map(|(role, hashes)| {
            hashes.iter().map(move |hash| (role, u32::from_le_bytes(*hash)))
        })
    }

    /// Lines of which one of its messages is the first.
    pub(in crate::queue) fn led_lines(&self) -> impl Iterator<Item = u32> {
        self.roles().filter(|(role, _)| *role == Role::Leads).map(|(_, line)| line)
    }

    /// As how many messages it counts.
    pub fn counts(&self) -> Counts {
        let of = |state: StateSet| if self.state() == state { self.count } else { 0 };
        Counts {
            ready: of(StateSet::READY),
            scheduled: of(StateSet::SCHEDULED),
            leased: 0,
            parked: of(StateSet::PARKED),
            behind: of(StateSet::BEHIND),
            bytes: self.bytes,
        }
    }

    /// The least of its births.
    pub(super) fn first_birth(&self) -> Lsn {
        self.births().next().expect("a page holds messages")
    }

    pub(in crate::queue) fn births(&self) -> impl Iterator<Item = Lsn> {
        let mut rest = self.births.clone();
        let mut last = 0;
        std::iter::from_fn(move || {
            // Written by this module, and checked by the log.
            last += decode_varint(&mut rest).ok()?;
            Some(Lsn(last))
        })
    }

    /// The wall clock is believed from now on. Scheduled messages are in the order of its due times.
    pub(super) fn forget_boot_clock(&mut self) {
        self.boot_clock_forgotten = true;
        if self.due_boot_ms.take().is_some() {
            self.due_wall_ms = Some(self.first_order);
        }
        if self.ttl_boot_ms.take().is_some() {
            self.ttl_wall_ms = self.ttl_any_wall_ms;
        }
    }

    /// A message of the page, of which so much is known: it does what all of the page do, and stands
    /// between the first and the last, where nothing better is known at the last one's place.
    pub(in crate::queue) fn fit(&self, known: Message) -> Message {
        let within = self.first_order..=self.last_order;
        // Which uptime its record was of is not known. It may have come back from the dead letters since,
        // without a time to live: none is believed that is over before any of the page.
        let ttl_end = known.ttl_end.map(|end| Due::at(end.wall_ms));
        let ttl_end = ttl_end.filter(|it| self.ttl_any_wall_ms.is_some_and(|ms| ms <= it.wall_ms));
        // Nor does a retention end early.
        let since_ms = known.since_ms.max(self.newest_since_ms);
        let known = Message { ttl_end, since_ms, ..known };
        if self.state() == StateSet::SCHEDULED {
            let due_ms = known.due().map(|due| due.wall_ms).filter(|due| within.contains(due));
            let due = Due::at(due_ms.unwrap_or(self.last_order));
            return Message { state: State::Scheduled(due), ..known }.in_line();
        }
        let state = match self.state() {
            StateSet::PARKED => State::Parked,
            // Whose line is not known waits for nobody.
            StateSet::BEHIND if known.keys.ordering != 0 => State::Behind,
            _ => State::Ready,
        };
        let is_ranked = self.state() == StateSet::READY;
        let known = Message { state, ..known }.in_line();
        match within.contains(&known.order()) {
            true => known,
            _ if self.state() == StateSet::BEHIND && within.contains(&known.place.0) => known,
            false if !is_ranked => Message { place: Lsn(self.last_order), ..known },
            false => {
                let (rank, place) = split_ready_order(self.last_order);
                Message { place, priority: u8::MAX - rank, ..known }
            }
        }
    }

    /// Says of a message of the page what was said of the page meanwhile.
    pub fn update(&self, message: &mut Message) {
        if self.boot_clock_forgotten {
            message.forget_boot_clock();
        }
    }
}

/// What a page remembers of a unique key: enough to know mostly that it does not hold it.
#[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
pub(super) fn short_hash(key: u64) -> u32 {
    key as u32
}

fn distinct(messages: &[(Lsn, Message)], key: impl Fn(&Message) -> Option<u32>) -> Bytes {
    let mut keys: Vec<u32> = messages.iter().filter_map(|(_, message)| key(message)).collect();
    keys.sort_unstable();
    keys.dedup();
    let bytes: Vec<u8> = keys.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.into_boxed_slice().into()
}

fn encode_births(messages: &[(Lsn, Message)]) -> Bytes {
    let mut births: Vec<u64> = messages.iter().map(|(birth, _)| birth.0).collect();
    births.sort_unstable();
    let mut bytes = Vec::with_capacity(births.len() + 8);
    let mut last = 0;
    for birth in births {
        encode_varint(birth - last, &mut bytes);
        last = birth;
    }
    bytes.shrink_to_fit();
    bytes.into()
}
