//! Ready messages meet those who wait for them: leases are granted.

use std::sync::Arc;

use qbroker_storage::Lsn;

use super::consumer::{Taker, WaitingPull};
use super::ids::{ConsumerId, LeaseToken, QueueId, SessionId};
use super::index::{Index, Lane, Lookup, Message};
use super::record::{Granted, Record};
use super::time::Now;
use super::{Core, Effect, Output};

/// A message on its way to whoever leased it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub token: LeaseToken,
    pub queue: Arc<str>,
    pub priority: u8,
    pub failures: u32,
    pub crashes: u32,
    /// Failures at which a nack is its last; `None`: there is no last one.
    pub failures_max: Option<u32>,
    /// Record of its content.
    pub content: Lsn,
    /// Record of the last failure told; zero: none.
    pub last_failure: Lsn,
    /// Record of its dead-lettering; zero: none.
    pub dead_letter: Lsn,
    pub duration_ms: u64,
    /// The lease ends by time once it is let go.
    pub timed: bool,
    pub size: u32,
}

/// Bytes of messages in one answer to a pull, where that is not one message: most gRPC clients take no
/// answer beyond 4 MiB, and what one cannot take counts as a crash.
const PULL_BYTES_MAX: u64 = 2 << 20;

/// How much somebody may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) messages: u64,
    bytes: u64,
    /// The first message fits, however large it is.
    one_of_any_size: bool,
}

impl Room {
    /// Whether so many bytes fit; of the first message all do.
    pub(super) fn fits(self, bytes: u64, is_first: bool) -> bool {
        bytes <= self.bytes || (self.one_of_any_size && is_first)
    }

    /// What an answer to a pull has room for, beside messages of so many bytes; `None`: there are none.
    pub(super) fn of_pull(messages: u64, beside: Option<u64>) -> Self {
        let bytes = PULL_BYTES_MAX.saturating_sub(beside.unwrap_or_default());
        Self { messages, bytes, one_of_any_size: beside.is_none() }
    }
}

/// Messages for somebody.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) messages: Vec<(Lsn, Message)>,
    /// Why there is none, where that is not for lack of room.
    pub(super) held_back: Option<HeldBack>,
    bytes: u64,
}

impl Chosen {
    /// Takes the message that comes next, where there is room and it may be delivered; whether it did.
    pub(super) fn take(
        &mut self,
        birth: Lsn,
        message: Message,
        room: Room,
        is_outlived: bool,
    ) -> bool {
        let is_first = self.messages.is_empty();
        if is_outlived {
            self.held_back = is_first.then_some(HeldBack::Outlived);
            return false;
        }
        self.bytes += u64::from(message.size);
        let fits = room.fits(self.bytes, is_first);
        if fits {
            self.messages.push((birth, message));
        }
        fits
    }
}

/// Why nobody gets what is ready in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBack {
    /// All of it waits for leases of its keys to end.
    Keys,
    /// Its next message must not be delivered any more, and is about to be given up.
    Outlived,
}

/// What became of somebody's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Over,
    /// Another queue comes first.
    Passed,
    /// Nobody gets anything of the queue for now.
    HeldBack(HeldBack),
}

/// What a grant says of its leases.
#[derive(Clone, Copy, Debug)]
struct Terms<'a> {
    session: SessionId,
    consumer: ConsumerId,
    lease_duration_ms: Option<u64>,
    timed: bool,
    /// It is told when work on them begins.
    reports_started: bool,
    extension_ms_max: u64,
    /// What the client calls its pull; empty where it has no name.
    request: &'a str,
}

impl<I: Index> Core<I> {
    /// Grants leases until nothing is ready or nobody has room. To be called after every turn; where
    /// a page is missing, to be called again.
    pub fn dispatch(&mut self, now: Now, out: &mut Output) -> Lookup<()> {
        if self.frozen {
            // The broker is stopping, and waits for what is being worked on to end.
            return Ok(());
        }
        if self.consumers.take_all_hot() {
            let queues: Vec<_> = self.catalog.ids().collect();
            queues.into_iter().for_each(|queue| self.consumers.touch(queue));
        }
        // What came back too old goes before anybody gets it once more.
        if self.is_any_retention_over(now) {
            self.expire(now, out)?;
        }
        if self.is_any_ttl_over(now) {
            self.end_ttls(now, out)?;
        }
        self.open_due_queues(now);
        let is_any_over = || self.is_any_ttl_over(now) || self.is_any_retention_over(now);
        if !self.waiting_for_ends.is_empty() && !is_any_over() {
            let queues = std::mem::take(&mut self.waiting_for_ends);
            queues.into_iter().for_each(|queue| self.consumers.touch(queue));
        }
        self.advance_lines(out)?;
        // What is new in one of them counts for who has several.
        self.fairness.look_again_at(self.consumers.all_hot());
        loop {
            let names = self.consumers.line_up_freed();
            self.touch_all(&names);
            let Some(queue) = self.consumers.next_hot() else {
                let names = self.consumers.line_up_further();
                if names.is_empty() {
                    return Ok(());
                }
                self.touch_all(&names);
                continue;
            };
            match self.dispatch_queue(queue, now, out)? {
                true => self.consumers.cool(),
                false => self.consumers.postpone(),
            }
        }
    }

    /// Somebody stands at these queues who did not.
    fn touch_all(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(queue) = self.catalog.named(name) {
                let queue = queue.id();
                self.consumers.touch(queue);
            }
        }
    }

    /// A message changed or went, perhaps the first one of its queue, which was too large for somebody, or
    /// outlived.
    pub(super) fn first_may_be_another(&mut self, queue: QueueId) {
        if self.consumers.has_stuck(queue) || self.waiting_for_ends.remove(&queue) {
            self.consumers.touch(queue);
        }
    }

    /// Whether nobody is left to be served at a queue; otherwise another queue comes first for all
    /// who are.
    fn dispatch_queue(&mut self, queue: QueueId, now: Now, out: &mut Output) -> Lookup<bool> {
        let of = self.catalog.get(queue).filter(|queue| !queue.definition.paused);
        let Some(of) = of else { return Ok(true) };
        let (name, is_limited) = (of.name.clone(), of.definition.policy.limits_deliveries());
        self.fairness.look_again(queue);
        if self.consumers.has_stuck(queue) {
            let first = self.first_known(queue)?;
            self.consumers.line_up_stuck(queue, &name, first);
        }
        let (mut passed, mut asked_at) = (0, self.index.counts(queue).ready);
        loop {
            let ready = self.index.counts(queue).ready;
            if ready == 0 || self.limits.leases_max <= self.leases.len() {
                return Ok(true);
            }
            let Some((taker, share)) = self.consumers.next_taker(&name, ready) else {
                // What was too large for somebody may have gone to another one since.
                if ready == asked_at || !self.consumers.has_stuck(queue) {
                    return Ok(true);
                }
                asked_at = ready;
                let first = self.first_known(queue)?;
                self.consumers.line_up_stuck(queue, &name, first);
                continue;
            };
            let quota = if is_limited { self.quota_of(queue, now) } else { u64::MAX };
            if quota == 0 {
                self.hold_back(queue, now);
                return Ok(true);
            }
            let served = match taker {
                Taker::Consumer(consumer) => {
                    self.serve_consumer(consumer, (queue, &name), share.min(quota), now, out)?
                }
                Taker::Pull(pull) => self.serve_pull(pull, queue, quota, now, out)?,
            };
            match served {
                Turn::Over => {
                    passed = 0;
                    continue;
                }
                Turn::HeldBack(why) => {
                    match why {
                        HeldBack::Keys => self.fairness.wait_for_leases(queue),
                        // More is over than one step gives up: who waits here waits on.
                        HeldBack::Outlived => _ = self.waiting_for_ends.insert(queue),
                    }
                    return Ok(true);
                }
                Turn::Passed => {}
            }
            self.consumers.let_pass(&name);
            passed += 1;
            if passed == self.consumers.line_len(&name) {
                return Ok(false);
            }
        }
    }

    /// Serves the first in line and sends it to the line's end, or out of it for lack of room. Not
    /// where another one of its queues comes first.
    fn serve_consumer(
        &mut self,
        id: ConsumerId,
        (queue, name): (QueueId, &Arc<str>),
        share: u64,
        now: Now,
        out: &mut Output,
    ) -> Lookup<Turn> {
        let consumer = self.consumers.get(id).expect("who stands in line is connected");
        let Some(own) = self.share_of(consumer, name, now) else { return Ok(Turn::Passed) };
        let room = Room {
            messages: share.min(own.messages),
            bytes: consumer.bytes_room(),
            one_of_any_size: consumer.outstanding_messages == 0,
        };
        let terms = Terms {
            session: consumer.session,
            consumer: id,
            lease_duration_ms: consumer.lease_duration_ms,
            timed: consumer.timed,
            reports_started: consumer.reports_started,
            extension_ms_max: consumer.extension_ms_max,
            request: "",
        };
        let chosen = self.choose(queue, room, now)?;
        if let Some(why) = chosen.held_back {
            return Ok(Turn::HeldBack(why));
        }
        if chosen.messages.is_empty() {
            let first = self.first_known(queue)?;
            self.consumers.stick(id, (queue, name), first);
        }
        let deliveries = self.grant(queue, terms, chosen.messages, now, out);
        self.consumers.served(id, name, deliveries.len(), own.reached);
        if !deliveries.is_empty() {
            out.effects.push(Effect::Deliver { consumer: id, deliveries });
        }
        Ok(Turn::Over)
    }

    fn serve_pull(
        &mut self,
        pull: super::PullId,
        queue: QueueId,
        quota: u64,
        now: Now,
        out: &mut Output,
    ) -> Lookup<Turn> {
        let waiting = self.consumers.pull(pull).expect("who stands in line waits");
        let name = &self.catalog.get(queue).expect("a queue with a message is there").name;
        let Some(most) = self.share_of_pull(&waiting.pull, name, now) else {
            return Ok(Turn::Passed);
        };
        let room = self.leases_room(most.min(quota));
        let chosen = self.choose(queue, Room::of_pull(room, None), now)?;
        if let Some(why) = chosen.held_back {
            return Ok(Turn::HeldBack(why));
        }
        self.sessions.disconnect(waiting.session, now.boot_ms);
        let waiting = self.consumers.answered(pull);
        let deliveries = self.grant_to_pull(&waiting, queue, chosen.messages, now, out);
        out.effects.push(Effect::AnswerPull { pull, deliveries });
        Ok(Turn::Over)
    }

    pub(super) fn grant_to_pull(
        &mut self,
        waiting: &WaitingPull,
        queue: QueueId,
        chosen: Vec<(Lsn, Message)>,
        now: Now,
        out: &mut Output,
    ) -> Vec<Delivery> {
        let terms = Terms {
            session: waiting.session,
            consumer: ConsumerId::NONE,
            lease_duration_ms: waiting.pull.lease_duration_ms,
            timed: true,
            reports_started: false,
            extension_ms_max: 0,
            request: &waiting.pull.request_id,
        };
        self.grant(queue, terms, chosen, now, out)
    }

    /// Leases messages of a queue that were just looked up.
    fn grant(
        &mut self,
        queue: QueueId,
        terms: Terms<'_>,
        chosen: Vec<(Lsn, Message)>,
        now: Now,
        out: &mut Output,
    ) -> Vec<Delivery> {
        if chosen.is_empty() {
            return Vec::new();
        }
        self.count_deliveries(queue, chosen.len(), now);
        self.count_turns(queue, &chosen);
        let of = self.catalog.get(queue).expect("a queue with a message is there");
        let (name, policy) = (of.name.clone(), &of.definition.policy);
        let duration_ms = terms.lease_duration_ms.unwrap_or_else(|| policy.lease_ms());
        let queues_max = policy.failures_max();
        let mut draft = self.draft();
        let grant = draft.fact(Record::Granted(Granted {
            session: terms.session.0,
            consumer: terms.consumer.0,
            duration_ms,
            births: chosen.iter().map(|(birth, _)| birth.0).collect(),
            timed: terms.timed,
            unstarted: terms.reports_started,
            extension_ms_max: terms.extension_ms_max,
            request: terms.request.to_owned(),
            wall_ms: now.wall_ms,
        }));
        self.commit(draft, out);
        let timed = terms.timed || 0 < terms.extension_ms_max;
        let epoch = self.epoch;
        let deliver = |(birth, message): (Lsn, Message)| Delivery {
            token: LeaseToken { birth, grant, epoch },
            queue: name.clone(),
            priority: message.priority,
            failures: message.failures,
            crashes: message.crashes,
            failures_max: message.failures_max(queues_max),
            content: message.content(birth),
            last_failure: message.last_failure,
            dead_letter: message.dead_letter,
            duration_ms,
            timed,
            size: message.size,
        };
        chosen.into_iter().map(deliver).collect()
    }

    /// The message that is delivered next; `None` where that depends on leases.
    pub(super) fn first_known(&self, queue: QueueId) -> Lookup<Option<Lsn>> {
        let mut births = Vec::new();
        if !self.index.has_lanes(queue) {
            self.index.ready(queue, Lane::default(), 1, &mut births)?;
        }
        Ok(births.pop())
    }

    /// How many of `messages` may be leased before there are too many leases.
    pub(super) fn leases_room(&self, messages: u64) -> u64 {
        messages.min(self.limits.leases_max.saturating_sub(self.leases.len()) as u64)
    }

    /// The first ready messages of a queue, as far as there is room, and up to one that must not be
    /// delivered any more.
    pub(super) fn choose(&self, queue: QueueId, room: Room, now: Now) -> Lookup<Chosen> {
        if self.index.has_lanes(queue) {
            return self.choose_fairly(queue, room, now);
        }
        let max = usize::try_from(self.leases_room(room.messages)).unwrap_or(usize::MAX);
        let mut births = Vec::with_capacity(max.min(256));
        self.index.ready(queue, Lane::default(), max, &mut births)?;
        let is_outlived = self.outlived(queue, now);
        let mut chosen = Chosen::default();
        for birth in births {
            let message = self.index.message(birth)?.expect("a ready message is there");
            if !chosen.take(birth, message, room, is_outlived(&message)) {
                break;
            }
        }
        Ok(chosen)
    }
}
