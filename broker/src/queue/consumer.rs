//! Consumers and waiting pulls: who takes messages, and how much room they have.
//!
//! All of it belongs to this start: after a restart the sessions are known, and their streams come
//! back by themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::dispatch::Delivery;
use super::ids::{ConsumerId, LeaseToken, QueueId, SessionId};
use super::index::Index;
use super::record::{BIRTHS_MAX, Record, Resumed, SessionEnded, SessionOpened};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Draft, Effect, Lost, Output, Turn};

/// A pull that waits, of this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullId(pub u64);

/// Grace of a session that came by a pull.
pub const SESSION_GRACE_MS: u64 = 15_000;

/// How much may be out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub messages: u32,
    /// One message is delivered when nothing is out, however large it is.
    pub bytes: u64,
}

/// Opens a consumer: a stream of a session.
#[derive(Clone, Debug)]
pub struct OpenConsumer {
    pub queues: Vec<String>,
    pub window: Window,
    /// Unset: each queue's own.
    pub lease_duration_ms: Option<u64>,
    pub session: String,
    pub session_grace_ms: u64,
    /// The client extends its leases; otherwise they live with the session.
    pub manual_extend: bool,
    /// How long the session may renew a lease; 0: without end.
    pub extension_ms_max: u64,
    /// The stream that this one replaces.
    pub previous: Option<ConsumerId>,
    /// The leases of that stream that the client holds.
    pub held: Vec<LeaseToken>,
    /// The session's process was started anew: what it held is lost.
    pub reset_session: bool,
}

/// A consumer is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub consumer: ConsumerId,
    /// The session was known: what was named as held still holds, but for `lost`.
    pub resumed: bool,
    /// Leases that ended without a settlement.
    pub lost: Vec<LeaseToken>,
}

/// Asks for messages once.
#[derive(Clone, Debug)]
pub struct Pull {
    pub queues: Vec<String>,
    pub messages_max: u32,
    pub lease_duration_ms: Option<u64>,
    /// Empty: the leases live with their time alone.
    pub session: String,
}

/// What a pull gets at once.
#[derive(Debug, PartialEq)]
pub enum Pulled {
    Now(Vec<Delivery>),
    /// The answer is an [`Effect::AnswerPull`].
    Waiting(PullId),
}

/// A connected stream.
#[derive(Debug)]
pub struct Consumer {
    pub session: SessionId,
    pub queues: Vec<Arc<str>>,
    pub window: Window,
    pub lease_duration_ms: Option<u64>,
    pub timed: bool,
    pub extension_ms_max: u64,
    pub outstanding_messages: u32,
    pub outstanding_bytes: u64,
    draining: bool,
    /// Its queues that it is not lined up at, for lack of room.
    blocked: Vec<Arc<str>>,
}

impl Consumer {
    /// Messages it may still take; zero where it must wait.
    pub(super) fn room(&self) -> u32 {
        let full = self.window.bytes <= self.outstanding_bytes && 0 < self.outstanding_messages;
        if self.draining || full {
            return 0;
        }
        self.window.messages.saturating_sub(self.outstanding_messages)
    }

    pub(super) fn bytes_room(&self) -> u64 {
        self.window.bytes.saturating_sub(self.outstanding_bytes)
    }
}

/// Somebody who takes messages from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    Consumer(ConsumerId),
    Pull(PullId),
}

#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) pull: Pull,
    pub(super) session: SessionId,
}

/// Invariant: a consumer stands, for each of its queues, either in the queue's line or in its own
/// `blocked`; a pull stands in the line of each of its queues until it is answered.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    consumers: BTreeMap<ConsumerId, Consumer>,
    pulls: BTreeMap<PullId, WaitingPull>,
    /// Who is served next, by queue name: queues come and go, their consumers stay.
    lines: HashMap<Arc<str>, VecDeque<Taker>, FxBuildHasher>,
    /// Queues that may have something for somebody.
    hot: VecDeque<QueueId>,
    is_hot: BTreeSet<QueueId>,
    /// Consumers that have room again.
    freed: BTreeSet<ConsumerId>,
    all_hot: bool,
    last_consumer: u32,
    last_pull: u64,
}

impl Consumers {
    pub(super) fn is_connected(&self, consumer: ConsumerId) -> bool {
        self.consumers.contains_key(&consumer)
    }

    pub(super) fn get(&self, consumer: ConsumerId) -> Option<&Consumer> {
        self.consumers.get(&consumer)
    }

    pub(super) fn pull(&self, pull: PullId) -> Option<&WaitingPull> {
        self.pulls.get(&pull)
    }

    /// How many streams consume from a queue.
    pub(super) fn count_of(&self, queue: &str) -> usize {
        let of_queue = |consumer: &&Consumer| consumer.queues.iter().any(|name| &**name == queue);
        self.consumers.values().filter(of_queue).count()
    }

    /// A queue has something ready that it had not.
    pub(super) fn touch(&mut self, queue: QueueId) {
        if self.is_hot.insert(queue) {
            self.hot.push_back(queue);
        }
    }

    /// There is room for leases again.
    pub(super) fn touch_all(&mut self) {
        self.all_hot = true;
    }

    pub(super) fn take_all_hot(&mut self) -> bool {
        std::mem::take(&mut self.all_hot)
    }

    pub(super) fn next_hot(&self) -> Option<QueueId> {
        self.hot.front().copied()
    }

    pub(super) fn cool(&mut self) {
        if let Some(queue) = self.hot.pop_front() {
            self.is_hot.remove(&queue);
        }
    }

    /// The line of takers at a queue.
    pub(super) fn line(&mut self, queue: &str) -> Option<&mut VecDeque<Taker>> {
        self.lines.get_mut(queue).filter(|line| !line.is_empty())
    }

    pub(super) fn block(&mut self, consumer: ConsumerId, queue: Arc<str>) {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.blocked.push(queue);
        }
    }

    pub(super) fn took(&mut self, consumer: ConsumerId, bytes: u32) {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.outstanding_messages += 1;
            consumer.outstanding_bytes += u64::from(bytes);
        }
    }

    pub(super) fn gave_back(&mut self, id: ConsumerId, bytes: u32) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.outstanding_messages -= 1;
            consumer.outstanding_bytes -= u64::from(bytes);
            if !consumer.blocked.is_empty() {
                self.freed.insert(id);
            }
        }
    }

    /// Lines the consumers with new room up again; returns the names of their queues.
    pub(super) fn line_up_freed(&mut self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for id in std::mem::take(&mut self.freed) {
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            if 0 < consumer.room() {
                names.append(&mut std::mem::take(&mut consumer.blocked));
                for name in &names {
                    self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
                }
            }
        }
        names
    }

    fn attach(&mut self, id: ConsumerId, consumer: Consumer) {
        for name in &consumer.queues {
            self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
        }
        self.consumers.insert(id, consumer);
    }

    fn detach(&mut self, id: ConsumerId) -> Option<Consumer> {
        let consumer = self.consumers.remove(&id)?;
        self.freed.remove(&id);
        for name in &consumer.queues {
            self.leave(name, Taker::Consumer(id));
        }
        Some(consumer)
    }

    fn wait(&mut self, waiting: WaitingPull) -> PullId {
        self.last_pull += 1;
        let id = PullId(self.last_pull);
        for name in &waiting.pull.queues {
            self.lines.entry(Arc::from(name.as_str())).or_default().push_back(Taker::Pull(id));
        }
        self.pulls.insert(id, waiting);
        id
    }

    pub(super) fn stop_waiting(&mut self, id: PullId) -> Option<WaitingPull> {
        let waiting = self.pulls.remove(&id)?;
        for name in &waiting.pull.queues {
            self.leave(name, Taker::Pull(id));
        }
        Some(waiting)
    }

    fn leave(&mut self, queue: &str, taker: Taker) {
        if let Some(line) = self.lines.get_mut(queue) {
            line.retain(|other| *other != taker);
            if line.is_empty() {
                self.lines.remove(queue);
            }
        }
    }
}

impl<I: Index> Core<I> {
    /// Opens a consumer, new or in the place of an older one.
    pub fn open_consumer(
        &mut self,
        open: &OpenConsumer,
        now: Now,
        out: &mut Output,
    ) -> Turn<Opened> {
        if open.reset_session {
            self.reset_session(&open.session, now, out)?;
        }
        let mut draft = self.draft();
        for name in &open.queues {
            self.queue_or_draft(&mut draft, name, now)?;
        }
        let known = self.sessions.named(&open.session);
        let session = match known {
            Some(session) => session,
            None => self.draft_session(&mut draft, &open.session, open.session_grace_ms)?,
        };
        let consumer = ConsumerId::new(self.epoch, self.consumers.last_consumer + 1);
        let resumed = open.previous.is_some() && known.is_some();
        if let Some(previous) = open.previous.filter(|_| resumed) {
            self.draft_resume(&mut draft, open, session, previous, consumer);
        }
        let lost = open.held.iter().filter(|token| self.is_lost(**token)).copied().collect();
        self.commit(draft, out);

        self.consumers.last_consumer += 1;
        if let Some(previous) = open.previous {
            self.replace(previous, session, now, out);
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.grace_ms = open.session_grace_ms;
        }
        self.sessions.connect(session);
        self.attach(consumer, session, open, now);
        Ok(Opened { consumer, resumed, lost })
    }

    /// Changes a consumer's window; what is out already stays.
    pub fn set_window(&mut self, id: ConsumerId, window: Window) {
        if let Some(consumer) = self.consumers.consumers.get_mut(&id) {
            consumer.window = window;
            self.consumers.freed.insert(id);
        }
    }

    /// Ends deliveries to a consumer; what it holds can still be settled.
    pub fn drain(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.consumers.get_mut(&id) {
            consumer.draining = true;
        }
    }

    /// A consumer's connection broke: its leases wait for the session's grace.
    pub fn disconnect(&mut self, id: ConsumerId, now: Now) {
        if let Some(consumer) = self.consumers.detach(id) {
            self.sessions.disconnect(consumer.session, now.boot_ms);
        }
    }

    /// A consumer is done: what it still holds is released, uncounted.
    pub fn close_consumer(&mut self, id: ConsumerId, now: Now, out: &mut Output) {
        let Some(consumer) = self.consumers.get(id) else { return };
        let mut draft = self.draft();
        self.draft_releases(&mut draft, self.held_by(consumer.session, id).collect());
        self.commit(draft, out);
        self.disconnect(id, now);
    }

    /// Takes messages at once, or waits for the first to come.
    pub fn pull(&mut self, pull: &Pull, now: Now, out: &mut Output) -> Turn<Pulled> {
        let mut draft = self.draft();
        for name in &pull.queues {
            self.queue_or_draft(&mut draft, name, now)?;
        }
        let session = match (pull.session.as_str(), self.sessions.named(&pull.session)) {
            ("", _) => SessionId::NONE,
            (_, Some(session)) => session,
            (name, None) => self.draft_session(&mut draft, name, SESSION_GRACE_MS)?,
        };
        self.commit(draft, out);
        self.sessions.touch(session, now.boot_ms);
        let waiting = WaitingPull { pull: pull.clone(), session };
        let mut deliveries = Vec::new();
        for name in &pull.queues {
            let queue = self.catalog.named(name).expect("it was made just now").id();
            let room = pull.messages_max - u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
            deliveries.extend(self.grant_to_pull(&waiting, queue, room, out)?);
        }
        if !deliveries.is_empty() {
            return Ok(Pulled::Now(deliveries));
        }
        self.sessions.connect(session);
        Ok(Pulled::Waiting(self.consumers.wait(waiting)))
    }

    /// A pull waits no more. Returns whether it did: otherwise its answer is on its way.
    pub fn cancel_pull(&mut self, pull: PullId, now: Now) -> bool {
        let Some(waiting) = self.consumers.stop_waiting(pull) else { return false };
        self.sessions.disconnect(waiting.session, now.boot_ms);
        true
    }

    /// Releases deliveries that could not be handed over; counts nothing.
    pub fn undeliver(&mut self, tokens: impl IntoIterator<Item = LeaseToken>, out: &mut Output) {
        let held = tokens.into_iter().filter(|token| self.held(*token).is_ok());
        let births = held.map(|token| token.birth.0).collect();
        let mut draft = self.draft();
        self.draft_releases(&mut draft, births);
        self.commit(draft, out);
    }

    /// Loses a session on the word of its own process: it was started anew.
    fn reset_session(&mut self, name: &str, now: Now, out: &mut Output) -> Turn<()> {
        let Some(session) = self.sessions.named(name) else { return Ok(()) };
        let streams =
            self.consumers.consumers.iter().filter(|(_, consumer)| consumer.session == session);
        let streams: Vec<_> = streams.map(|(&id, _)| id).collect();
        self.lose_session(session, Lost::SessionReset, now, out)?;
        for consumer in streams {
            self.consumers.detach(consumer);
            out.effects.push(Effect::Replaced { consumer });
        }
        Ok(())
    }

    /// Ends a session with all its leases, as crashes.
    pub(super) fn lose_session(
        &mut self,
        id: SessionId,
        why: Lost,
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        let session = self.sessions.get(id).expect("only a known session is lost");
        let mut draft = self.draft();
        self.draft_crashes(&mut draft, session.leases.iter().copied(), now)?;
        draft.fact(Record::SessionEnded(SessionEnded { session: id.0 }));
        out.effects.extend(self.lost_leases(session.leases.iter().copied(), why));
        self.commit_settlements(draft, out);
        Ok(())
    }

    fn draft_session(
        &self,
        draft: &mut Draft,
        name: &str,
        grace_ms: u64,
    ) -> Result<SessionId, Refused> {
        let max = self.limits.sessions_max;
        if max <= self.sessions.len() {
            return Err(Refused::Limit { what: "sessions", max });
        }
        let opened = SessionOpened { name: name.to_owned(), grace_ms };
        Ok(SessionId(draft.fact(Record::SessionOpened(opened)).0))
    }

    /// What the client still holds goes on; what never reached it is released.
    fn draft_resume(
        &self,
        draft: &mut Draft,
        open: &OpenConsumer,
        session: SessionId,
        previous: ConsumerId,
        consumer: ConsumerId,
    ) {
        let is_held =
            |token: &&LeaseToken| self.held(**token).is_ok_and(|lease| lease.session == session);
        let held: BTreeSet<u64> =
            open.held.iter().filter(is_held).map(|token| token.birth.0).collect();
        let of_previous = self.held_by(session, previous);
        self.draft_releases(draft, of_previous.filter(|birth| !held.contains(birth)).collect());
        let held: Vec<u64> = held.into_iter().collect();
        let (session, previous, consumer) = (session.0, previous.0, consumer.0);
        // Also where nothing is held: the settlements remembered go over to the new stream.
        draft.fact(Record::Resumed(Resumed { session, previous, consumer, held: Vec::new() }));
        for held in held.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
            draft.fact(Record::Resumed(Resumed { session, previous, consumer, held }));
        }
    }

    /// Whether a lease that a client believes to hold has ended without its settlement.
    fn is_lost(&self, token: LeaseToken) -> bool {
        self.held(token).is_err() && self.settled.outcome((token.birth, token.grant)).is_none()
    }

    /// Messages that a session holds on one stream.
    fn held_by(&self, session: SessionId, consumer: ConsumerId) -> impl Iterator<Item = u64> {
        let leases = self.sessions.get(session).into_iter().flat_map(|session| &session.leases);
        leases.filter_map(move |&birth| {
            self.leases.get(birth).filter(|lease| lease.consumer == consumer).map(|_| birth.0)
        })
    }

    fn replace(&mut self, previous: ConsumerId, session: SessionId, now: Now, out: &mut Output) {
        if self.consumers.get(previous).is_some_and(|consumer| consumer.session == session) {
            self.disconnect(previous, now);
            out.effects.push(Effect::Replaced { consumer: previous });
        }
    }

    fn attach(&mut self, id: ConsumerId, session: SessionId, open: &OpenConsumer, now: Now) {
        let mut consumer = Consumer {
            session,
            queues: open.queues.iter().map(|name| Arc::from(name.as_str())).collect(),
            window: open.window,
            lease_duration_ms: open.lease_duration_ms,
            timed: open.manual_extend,
            extension_ms_max: open.extension_ms_max,
            outstanding_messages: 0,
            outstanding_bytes: 0,
            draining: false,
            blocked: Vec::new(),
        };
        let held: Vec<_> = self.held_by(session, id).collect();
        for birth in held {
            let birth = Lsn(birth);
            let lease = self.leases.get(birth).expect("it is held");
            consumer.outstanding_messages += 1;
            consumer.outstanding_bytes += u64::from(lease.size);
            self.leases.run(birth, now.boot_ms);
        }
        self.consumers.attach(id, consumer);
        for name in &open.queues {
            let queue = self.catalog.named(name).expect("it was made just now").id();
            self.consumers.touch(queue);
        }
    }

    pub(super) fn apply_resumed(&mut self, resumed: &Resumed) {
        for &birth in &resumed.held {
            self.leases.set_consumer(Lsn(birth), ConsumerId(resumed.consumer));
        }
        self.settled.resume(resumed.previous, resumed.consumer);
    }
}
