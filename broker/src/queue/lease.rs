//! Leases: who holds which message, until when.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::dead_letter::Letter;
use super::ids::{ConsumerId, LeaseToken, QueueId, SessionId};
use super::index::{Index, Lookup, Message, Pages, State};
use super::record::{
    BIRTHS_MAX, DeadLetterReason, Extended as ExtendedRecord, Granted, LeasesEnded, Record,
};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Draft, Effect, Lost, Output, Turn};

/// A message that somebody holds.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub grant: Lsn,
    pub epoch: u32,
    pub session: SessionId,
    /// The stream it is on; none for a pull.
    pub consumer: ConsumerId,
    pub duration_ms: u64,
    /// It ends by time; otherwise it lives with its session.
    pub timed: bool,
    /// Nobody works on it yet, as far as its consumer has told: its end is no crash.
    pub unstarted: bool,
    /// Calls that have it to hand over, or have done so: the last that could not releases it. Of this
    /// start.
    pub calls: u32,
    /// How long the session may renew it; 0: without end.
    pub extension_ms_max: u64,
    /// When it ends by time, on the boot clock. Of this start, and only once it was let go.
    pub deadline: Option<u64>,
    /// Bytes it takes of its consumer's window.
    pub size: u32,
    /// Its message's queue, and the hash of the message's fairness key; zero: it has none.
    pub queue: QueueId,
    pub fairness: u32,
    /// When it began, wall clock; 0: unknown.
    pub start_ms: u64,
}

impl Lease {
    pub fn token(&self, birth: Lsn) -> LeaseToken {
        LeaseToken { birth, grant: self.grant, epoch: self.epoch }
    }

    /// How long it lasts from its delivery on.
    fn time_ms(&self) -> Option<u64> {
        match (self.timed, self.extension_ms_max) {
            (true, _) => Some(self.duration_ms),
            (false, 0) => None,
            (false, extension_ms_max) => Some(extension_ms_max),
        }
    }
}

/// Invariant: one entry of `deadlines` per lease that has a deadline.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: Pages<Lease>,
    deadlines: BTreeSet<(u64, Lsn)>,
}

impl Leases {
    pub(super) fn get(&self, birth: Lsn) -> Option<&Lease> {
        self.leases.get(birth)
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn insert(&mut self, birth: Lsn, lease: Lease) {
        self.leases.insert(birth, lease);
    }

    pub(super) fn remove(&mut self, birth: Lsn) -> Option<Lease> {
        let lease = self.leases.remove(birth)?;
        if let Some(deadline) = lease.deadline {
            self.deadlines.remove(&(deadline, birth));
        }
        Some(lease)
    }

    pub(super) fn set_consumer(&mut self, birth: Lsn, consumer: ConsumerId) {
        if let Some(lease) = self.leases.get_mut(birth) {
            lease.consumer = consumer;
        }
    }

    /// A repeated pull is told of these.
    pub(super) fn tell_again(&mut self, births: impl IntoIterator<Item = Lsn>) {
        for birth in births {
            if let Some(lease) = self.leases.get_mut(birth) {
                lease.calls += 1;
            }
        }
    }

    /// A call could not hand this over; another one has it, too.
    pub(super) fn not_told(&mut self, birth: Lsn) {
        if let Some(lease) = self.leases.get_mut(birth) {
            lease.calls -= 1;
        }
    }

    /// Somebody works on these.
    pub(super) fn begin(&mut self, births: &[u64]) {
        for birth in births {
            if let Some(lease) = self.leases.get_mut(Lsn(*birth)) {
                lease.unstarted = false;
            }
        }
    }

    /// From now on these last as long as an extension said.
    pub(super) fn extend(&mut self, births: &[u64], duration_ms: u64) {
        for birth in births {
            if let Some(lease) = self.leases.get_mut(Lsn(*birth)) {
                lease.duration_ms = duration_ms;
            }
        }
    }

    /// The lease's time runs from now.
    pub(super) fn run(&mut self, birth: Lsn, boot_ms: u64) {
        let Some(lease) = self.leases.get_mut(birth) else { return };
        let Some(time_ms) = lease.time_ms() else { return };
        let deadline = boot_ms.saturating_add(time_ms);
        if let Some(before) = lease.deadline.replace(deadline) {
            self.deadlines.remove(&(before, birth));
        }
        self.deadlines.insert((deadline, birth));
    }

    /// Gives every lease its whole time from now on.
    pub(super) fn restart(&mut self, boot_ms: u64) {
        let mut births = Vec::with_capacity(self.leases.len());
        self.leases.for_each(&mut |birth, _| births.push(birth));
        for birth in births {
            self.run(birth, boot_ms);
        }
    }

    /// Up to `max` leases whose time is over, the earliest first.
    pub(super) fn over(&self, boot_ms: u64, max: usize) -> Vec<Lsn> {
        let over = self.deadlines.range(..=(boot_ms, Lsn(u64::MAX)));
        over.take(max).map(|&(_, birth)| birth).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The streams that hold leases, with their sessions.
    fn streams(&self) -> BTreeSet<(SessionId, ConsumerId)> {
        let mut streams = BTreeSet::new();
        self.leases.for_each(&mut |_, lease| {
            if lease.consumer != ConsumerId::NONE {
                streams.insert((lease.session, lease.consumer));
            }
        });
        streams
    }

    /// Every lease, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> Pages<Lease> {
        self.leases.clone()
    }
}

/// Extends leases that end by time, and keeps a session that may have no stream.
#[derive(Clone, Debug, Default)]
pub struct Extend {
    pub tokens: Vec<LeaseToken>,
    /// Extends all leases of this session too.
    pub session: Option<String>,
    /// Unset: as long as each lease lasts by itself.
    pub duration_ms: Option<u64>,
}

/// Leases that were not extended, and why; the others were.
pub type Extended = Vec<(LeaseToken, Refused)>;

impl<I: Index> Core<I> {
    /// Extends leases, each from now on.
    pub fn extend(&mut self, extend: &Extend, now: Now, out: &mut Output) -> Turn<Extended> {
        let mut births = BTreeSet::new();
        if let Some(name) = &extend.session {
            let session =
                self.sessions.named(name).ok_or_else(|| Refused::SessionLost(name.clone()))?;
            let held = self.sessions.get(session).expect("a name belongs to a session");
            births.extend(held.leases.iter().copied());
            self.sessions.keep(session, now.boot_ms);
        }
        let mut failures = Vec::new();
        for &token in &extend.tokens {
            match self.held(token) {
                Ok(_) => drop(births.insert(token.birth)),
                Err(_) => failures.push((token, self.ended(token))),
            }
        }
        births.retain(|birth| self.leases.get(*birth).is_some_and(|lease| lease.timed));
        let mut draft = self.draft();
        for (duration_ms, births) in self.by_duration(&births, extend.duration_ms) {
            for births in births.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
                draft.fact(Record::Extended(ExtendedRecord { births, duration_ms }));
            }
        }
        self.commit_each(draft, out);
        for birth in births {
            self.leases.run(birth, now.boot_ms);
        }
        Ok(failures)
    }

    /// Leases that were let go: their time runs from now.
    pub fn let_go(&mut self, deliveries: impl IntoIterator<Item = LeaseToken>, now: Now) {
        for token in deliveries {
            if self.held(token).is_ok() {
                self.leases.run(token.birth, now.boot_ms);
            }
        }
    }

    /// The lease that a token names, while it holds.
    pub(super) fn held(&self, token: LeaseToken) -> Result<Lease, Refused> {
        let lease = self.leases.get(token.birth).filter(|lease| lease.token(token.birth) == token);
        lease.copied().ok_or(Refused::LeaseLost)
    }

    /// When the attempt at a message that somebody holds began, wall clock; 0: nobody does, or it is
    /// unknown.
    pub(super) fn attempt_start_ms(&self, birth: Lsn) -> u64 {
        self.leases.get(birth).map_or(0, |lease| lease.start_ms)
    }

    /// How the lease of a token ended.
    pub(super) fn ended(&self, token: LeaseToken) -> Refused {
        match self.settled.outcome((token.birth, token.grant)) {
            Some(kind) => Refused::AlreadySettled(kind.name()),
            None => Refused::LeaseLost,
        }
    }

    fn by_duration(
        &self,
        births: &BTreeSet<Lsn>,
        duration_ms: Option<u64>,
    ) -> Vec<(u64, Vec<u64>)> {
        let mut groups = std::collections::BTreeMap::<u64, Vec<u64>>::new();
        for birth in births {
            let own = self.leases.get(*birth).map(|lease| lease.duration_ms);
            groups.entry(duration_ms.or(own).unwrap_or_default()).or_default().push(birth.0);
        }
        groups.into_iter().collect()
    }

    /// Ends leases as crashes, but for those that nobody worked on: their messages are ready again, or
    /// dead where they crashed too often.
    pub(super) fn draft_crashes(
        &self,
        draft: &mut Draft,
        births: impl IntoIterator<Item = Lsn>,
        now: Now,
    ) -> Turn<()> {
        let (mut again, mut dead, mut unstarted) = (Vec::new(), Vec::new(), Vec::new());
        for birth in births {
            let message =
                self.index.message(birth)?.expect("a lease is of a message that is there");
            if self.leases.get(birth).is_some_and(|lease| lease.unstarted) {
                unstarted.push(birth.0);
                continue;
            }
            let queue = self.catalog.get(message.queue).expect("a message's queue is there");
            let max = queue.definition.policy.crashes_max();
            if max.is_some_and(|max| max <= message.crashes + 1) {
                dead.push((birth, message));
            } else {
                again.push(birth.0);
            }
        }
        end_leases(draft, &again, true);
        end_leases(draft, &unstarted, false);
        for (birth, message) in dead {
            let reason = DeadLetterReason::MaxCrashes;
            let letter = Letter { call: None, reason, failure: None };
            self.draft_letter(draft, birth, &message, letter, now);
        }
        Ok(())
    }

    /// Ends leases that were never received; counts nothing.
    pub(super) fn draft_releases(&self, draft: &mut Draft, births: &[u64]) -> Lookup<()> {
        for &birth in births {
            self.index.message(Lsn(birth))?;
        }
        end_leases(draft, births, false);
        Ok(())
    }

    /// Tells the consumers that hold these leases that they are lost.
    pub(super) fn lost_leases(
        &self,
        births: impl IntoIterator<Item = Lsn>,
        why: Lost,
    ) -> Vec<Effect> {
        let mut lost = std::collections::BTreeMap::<ConsumerId, Vec<LeaseToken>>::new();
        for birth in births {
            let Some(lease) = self.leases.get(birth) else { continue };
            if self.consumers.is_connected(lease.consumer) {
                lost.entry(lease.consumer).or_default().push(lease.token(birth));
            }
        }
        let tell = |(consumer, leases)| Effect::LeasesLost { consumer, leases, why };
        lost.into_iter().map(tell).collect()
    }

    pub(super) fn apply_granted(&mut self, lsn: Lsn, granted: &Granted) {
        let (session, consumer) = (SessionId(granted.session), ConsumerId(granted.consumer));
        for &birth in &granted.births {
            let birth = Lsn(birth);
            let message = self.present(birth);
            self.tell_step(birth, &message, None);
            let lease = Lease {
                grant: lsn,
                epoch: self.epoch,
                session,
                consumer,
                duration_ms: granted.duration_ms,
                timed: granted.timed,
                unstarted: granted.unstarted,
                calls: 1,
                extension_ms_max: granted.extension_ms_max,
                deadline: None,
                size: message.size,
                queue: message.queue,
                fairness: message.keys.fairness,
                start_ms: granted.wall_ms,
            };
            if lease.fairness != 0 {
                self.fairness.lease_begins(lease.queue, lease.fairness);
            }
            self.leases.insert(birth, lease);
            if let Some(session) = self.sessions.get_mut(session) {
                session.leases.insert(birth);
            }
            self.consumers.took(consumer, message.size);
            self.change(birth, Message { state: State::Leased, ..message });
            self.catalog.totals(message.queue).delivered += 1;
        }
        if !granted.request.is_empty() {
            self.note_pulled(lsn, granted);
        }
    }

    pub(super) fn apply_leases_ended(&mut self, births: &[u64], crashed: bool) {
        for &birth in births {
            let birth = Lsn(birth);
            let grant = self.end_lease(birth).map(|lease| lease.grant);
            let mut message = self.present(birth);
            self.tell_step(birth, &message, grant);
            self.note_step(message.queue, birth);
            if crashed {
                message.crashes += 1;
                self.catalog.totals(message.queue).expired_leases += 1;
            }
            self.make_ready(birth, message);
        }
    }

    /// Takes a lease back from everybody who knows it.
    pub(super) fn end_lease(&mut self, birth: Lsn) -> Option<Lease> {
        let was_full = self.limits.leases_max <= self.leases.len();
        let lease = self.leases.remove(birth)?;
        self.state.end_lease(birth);
        if let Some(session) = self.sessions.get_mut(lease.session) {
            session.leases.remove(&birth);
        }
        let counts_by_queue = self.consumers.gave_back(lease.consumer, lease.size);
        if counts_by_queue || self.flow.waits_for_leases() {
            let queue = self.present(birth).queue;
            let name = &self.catalog.get(queue).expect("a message's queue is there").name;
            self.consumers.gave_back_of(lease.consumer, name);
            if self.flow.lease_ends(queue) {
                self.consumers.touch(queue);
            }
        }
        if lease.fairness != 0 && self.fairness.lease_ends(lease.queue, lease.fairness) {
            self.consumers.touch(lease.queue);
        }
        if was_full {
            self.consumers.touch_all();
        }
        Some(lease)
    }

    /// Gives every session and timed lease its whole time from now on.
    pub(super) fn restart_deadlines(&mut self, now: Now) {
        self.sessions.restart(now.boot_ms);
        self.leases.restart(now.boot_ms);
        for (session, stream) in self.leases.streams() {
            self.sessions.stream_broke(session, stream, now.boot_ms);
        }
    }
}

fn end_leases(draft: &mut Draft, births: &[u64], crashed: bool) {
    for births in births.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
        draft.fact(Record::LeasesEnded(LeasesEnded { births, crashed }));
    }
}
