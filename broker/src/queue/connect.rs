//! Streams come, come back and go: consumers meet their sessions.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::consumer::{Consumer, Window};
use super::ids::{ConsumerId, LeaseToken, SessionId};
use super::index::{Index, Lookup};
use super::record::{BIRTHS_MAX, Record, Resumed, SessionChanged, SessionEnded, SessionOpened};
use super::refused::Refused;
use super::shares::Selector;
use super::time::Now;
use super::{Core, Draft, Effect, Lost, Output, Turn};

/// Opens a consumer: a stream of a session.
#[derive(Clone, Debug)]
pub struct OpenConsumer {
    /// A queue that is named twice counts once, as it was named first.
    pub queues: Vec<Selector>,
    pub window: Window,
    /// Unset: each queue's own.
    pub lease_duration_ms: Option<u64>,
    pub session: String,
    pub session_grace_ms: u64,
    /// The client extends its leases; otherwise they live with the session.
    pub manual_extend: bool,
    /// The client tells what it begins to work on; what it has not begun is not counted as a crash.
    pub reports_started: bool,
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

impl<I: Index> Core<I> {
    /// Opens a consumer, new or in the place of an older one.
    pub fn open_consumer(
        &mut self,
        open: &OpenConsumer,
        now: Now,
        out: &mut Output,
    ) -> Turn<Opened> {
        let mut draft = self.draft();
        let known = self.sessions.named(&open.session);
        let reset = known.filter(|_| open.reset_session);
        let lost_by_reset = match reset {
            Some(session) => self.draft_abandoned(&mut draft, session, now)?,
            None => Vec::new(),
        };
        for selector in &open.queues {
            self.queue_or_draft(&mut draft, &selector.queue, now)?;
        }
        // Whose share they take is asked once the stream is there.
        let has_shares = open.queues.iter().any(|selector| !selector.is_plain());
        for token in open.held.iter().filter(|token| has_shares && self.held(**token).is_ok()) {
            self.index.message(token.birth)?;
        }
        let known = known.filter(|_| reset.is_none());
        let session = match known {
            Some(session) => session,
            None => {
                let ended = usize::from(reset.is_some());
                self.draft_session(&mut draft, &open.session, open.session_grace_ms, ended)?
            }
        };
        let consumer = ConsumerId::new(self.epoch, self.consumers.next_number());
        let previous = known.and_then(|session| self.previous_stream(session, open));
        if let Some((named, previous)) = previous {
            self.check_stream_of(session, named, previous)?;
            self.draft_grace(&mut draft, session, open.session_grace_ms);
            let known_as = named.0;
            let resumed = Resumed {
                session: session.0,
                previous: previous.0,
                consumer: consumer.0,
                held: Vec::new(),
                known_as,
            };
            self.draft_resume(&mut draft, open, resumed)?;
        } else if let Some(session) = known {
            self.draft_grace(&mut draft, session, open.session_grace_ms);
        }
        let lost = open.held.iter().filter(|token| self.is_lost(**token)).copied().collect();
        out.effects.extend(self.lost_leases(lost_by_reset, Lost::SessionReset));
        self.commit_settlements(draft, out);

        if let Some(session) = reset {
            self.leave_session(session, |consumer| Effect::Replaced { consumer }, now, out);
        }
        if let Some((_, previous)) = previous {
            self.replace(previous, session, now, out);
        }
        self.attach(consumer, session, open, now);
        Ok(Opened { consumer, resumed: previous.is_some(), lost })
    }

    /// A consumer's connection broke: its leases wait for the session's grace.
    pub fn disconnect(&mut self, id: ConsumerId, now: Now) {
        if let Some(consumer) = self.consumers.detach(id) {
            self.sessions.disconnect(consumer.session, now.boot_ms);
            if 0 < consumer.outstanding_messages {
                self.sessions.stream_broke(consumer.session, id, now.boot_ms);
            }
        }
    }

    /// A consumer is done: what it still holds is released, uncounted.
    pub fn close_consumer(&mut self, id: ConsumerId, now: Now, out: &mut Output) -> Turn<()> {
        let Some(consumer) = self.consumers.get(id) else { return Ok(()) };
        let mut draft = self.draft();
        let held: Vec<_> = self.held_by(consumer.session, id).collect();
        self.draft_releases(&mut draft, &held)?;
        self.commit(draft, out);
        self.disconnect(id, now);
        Ok(())
    }

    /// Ends a session with its leases, as crashes: a bounded step of it.
    pub(super) fn lose_session(&mut self, id: SessionId, now: Now, out: &mut Output) -> Turn<()> {
        let mut draft = self.draft();
        let lost = self.draft_loss(&mut draft, id, now)?;
        out.effects.extend(self.lost_leases(lost, Lost::Expired));
        self.commit_settlements(draft, out);
        Ok(())
    }

    /// Ends the leases of a stream that did not come back, as crashes: a bounded step of it.
    pub(super) fn lose_stream(
        &mut self,
        session: SessionId,
        stream: ConsumerId,
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        let mut draft = self.draft();
        let lost: Vec<_> =
            self.held_by(session, stream).take(self.limits.step_max).map(Lsn).collect();
        self.draft_crashes(&mut draft, lost.iter().copied(), now)?;
        self.commit_settlements(draft, out);
        if lost.len() < self.limits.step_max {
            self.sessions.forget_broken(session, stream);
        }
        Ok(())
    }

    /// Drafts the end of a session's first leases, and its own with the last of them.
    fn draft_loss(&self, draft: &mut Draft, id: SessionId, now: Now) -> Turn<Vec<Lsn>> {
        let leases = &self.sessions.get(id).expect("only a known session is lost").leases;
        let lost: Vec<_> = leases.iter().copied().take(self.limits.step_max).collect();
        self.draft_crashes(draft, lost.iter().copied(), now)?;
        if lost.len() == leases.len() {
            draft.fact(Record::SessionEnded(SessionEnded { session: id.0 }));
        }
        Ok(lost)
    }

    /// Loses a session at once: its process was started anew, or an operator ends it. What is beyond a
    /// step stays with the session, whose grace is over and whose name is free.
    pub(super) fn draft_abandoned(
        &self,
        draft: &mut Draft,
        id: SessionId,
        now: Now,
    ) -> Turn<Vec<Lsn>> {
        let lost = self.draft_loss(draft, id, now)?;
        if self.sessions.get(id).is_some_and(|session| lost.len() < session.leases.len()) {
            let (session, grace_ms, disowned) = (id.0, 0, true);
            draft.fact(Record::SessionChanged(SessionChanged { session, grace_ms, disowned }));
        }
        Ok(lost)
    }

    /// The streams and pulls of a session that was abandoned end; `why` is what streams are told.
    pub(super) fn leave_session(
        &mut self,
        id: SessionId,
        why: fn(ConsumerId) -> Effect,
        now: Now,
        out: &mut Output,
    ) {
        for consumer in self.consumers.streams_of(id) {
            self.consumers.detach(consumer);
            out.effects.push(why(consumer));
        }
        for pull in self.consumers.pulls_of(id) {
            self.consumers.stop_waiting(pull);
            out.effects.push(Effect::AnswerPull { pull, deliveries: Vec::new() });
        }
        self.sessions.touch(id, now.boot_ms);
    }

    /// Drafts a session; `ended` others end in the same draft.
    pub(super) fn draft_session(
        &self,
        draft: &mut Draft,
        name: &str,
        grace_ms: u64,
        ended: usize,
    ) -> Result<SessionId, Refused> {
        let max = self.limits.sessions_max;
        if max <= self.sessions.len() - ended {
            return Err(Refused::Limit { what: "sessions", max });
        }
        let opened = SessionOpened { name: name.to_owned(), grace_ms };
        Ok(SessionId(draft.fact(Record::SessionOpened(opened)).0))
    }

    fn draft_grace(&self, draft: &mut Draft, id: SessionId, grace_ms: u64) {
        if self.sessions.get(id).is_some_and(|session| session.grace_ms != grace_ms) {
            let changed = SessionChanged { session: id.0, grace_ms, disowned: false };
            draft.fact(Record::SessionChanged(changed));
        }
    }

    /// The stream that is replaced: as the client calls it, and as it is called by now.
    fn previous_stream(
        &self,
        session: SessionId,
        open: &OpenConsumer,
    ) -> Option<(ConsumerId, ConsumerId)> {
        let named = open.previous.filter(|named| *named != ConsumerId::NONE)?;
        let session = self.sessions.get(session)?;
        Some((named, session.stream_known_as(named)))
    }

    /// Whether a stream may be replaced by one of this session: it belongs to no other one, as far as
    /// it is known.
    fn check_stream_of(
        &self,
        session: SessionId,
        named: ConsumerId,
        stream: ConsumerId,
    ) -> Result<(), Refused> {
        let connected = self.consumers.get(stream).map(|consumer| consumer.session);
        let of = connected.or_else(|| self.settled.session_of(stream.0));
        // One that was lost may be there again, under its name and another number.
        let other = of.filter(|of| *of != session && self.sessions.get(*of).is_some());
        other.map_or(Ok(()), |_| Err(Refused::StreamOfOtherSession(named)))
    }

    /// What the client still holds goes on; what never reached it is released.
    fn draft_resume(&self, draft: &mut Draft, open: &OpenConsumer, resumed: Resumed) -> Lookup<()> {
        let of_previous: BTreeSet<u64> =
            self.held_by(SessionId(resumed.session), ConsumerId(resumed.previous)).collect();
        let tokens = open.held.iter().filter(|token| self.held(**token).is_ok());
        let named: BTreeSet<u64> = tokens.map(|token| token.birth.0).collect();
        let unnamed: Vec<_> = of_previous.difference(&named).copied().collect();
        self.draft_releases(draft, &unnamed)?;
        let held: Vec<_> = of_previous.intersection(&named).copied().collect();
        // Also where nothing is held: the settlements remembered go over to the new stream.
        let first = held.len().min(BIRTHS_MAX);
        let chunks = std::iter::once(&held[..first]).chain(held[first..].chunks(BIRTHS_MAX));
        for held in chunks.map(<[u64]>::to_vec) {
            draft.fact(Record::Resumed(Resumed { held, ..resumed.clone() }));
        }
        if !open.reports_started {
            self.draft_begun(draft, held.iter().copied());
        }
        Ok(())
    }

    /// Whether a lease that a client believes to hold has ended without its settlement.
    fn is_lost(&self, token: LeaseToken) -> bool {
        self.held(token).is_err() && self.ended(token) == Refused::LeaseLost
    }

    /// Messages that a session holds on one stream.
    pub(super) fn held_by(
        &self,
        session: SessionId,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = u64> {
        let leases = self.sessions.get(session).into_iter().flat_map(|session| &session.leases);
        leases.filter_map(move |&birth| {
            self.leases.get(birth).filter(|lease| lease.consumer == consumer).map(|_| birth.0)
        })
    }

    /// The stream that came back as another one is gone.
    fn replace(&mut self, previous: ConsumerId, session: SessionId, now: Now, out: &mut Output) {
        if self.consumers.get(previous).is_some_and(|consumer| consumer.session == session) {
            self.disconnect(previous, now);
            out.effects.push(Effect::Replaced { consumer: previous });
        }
        self.sessions.forget_broken(session, previous);
    }

    fn attach(&mut self, id: ConsumerId, session: SessionId, open: &OpenConsumer, now: Now) {
        let mut consumer = Consumer::new(session, open);
        for name in &consumer.queues {
            let queue = self.catalog.named(name).expect("it was made just now").id();
            self.consumers.touch(queue);
        }
        let held: Vec<_> = self.held_by(session, id).map(Lsn).collect();
        for birth in held {
            let lease = self.leases.get(birth).expect("it is held");
            consumer.take(lease.size);
            if consumer.shares().is_some() {
                let queue = self.present(birth).queue;
                consumer.hold(&self.catalog.get(queue).expect("a message's queue is there").name);
            }
            // A deadline that runs already is not moved by a reconnect.
            if lease.deadline.is_none() {
                self.leases.run(birth, now.boot_ms);
            }
        }
        self.sessions.connect(session);
        self.consumers.attach(id, consumer);
    }

    pub(super) fn apply_resumed(&mut self, resumed: &Resumed) {
        for &birth in &resumed.held {
            self.leases.set_consumer(Lsn(birth), ConsumerId(resumed.consumer));
        }
        self.sessions.resumed(resumed);
        let session = SessionId(resumed.session);
        self.settled.resume(session, resumed.previous, resumed.consumer);
    }
}
