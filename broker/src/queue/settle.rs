//! Settlements: what became of the work on a message.

use hashbrown::HashSet;
use qbroker_storage::{Body, Lsn};
use rustc_hash::FxBuildHasher;

use super::body::{FAILURE_BYTES_MAX, StoredFailure, small_body};
use super::dead_letter::Letter;
use super::effects::Effects;
use super::ids::{ConsumerId, LeaseToken, SessionId};
use super::index::{Index, Message};
use super::lease::Lease;
use super::record::{Acked, BIRTHS_MAX, Call, DeadLetterReason, Nacked, Record, Released};
use super::refused::Refused;
use super::settled::Kind;
use super::time::Now;
use super::{Core, Draft, Output, Stop, Turn};

/// Failures are cut to this while the disk is at its reserve.
const FAILURE_BYTES_DISK_FULL: usize = 128;

/// A call of settlements; each stands alone.
#[derive(Clone, Debug, Default)]
pub struct Settle {
    /// The stream it came on; none for a single call.
    pub consumer: ConsumerId,
    /// The stream's number for it, growing.
    pub number: u64,
    /// The client has the answers of the stream's calls up to this one.
    pub answered_through: u64,
    pub settlements: Vec<Settlement>,
}

/// What became of the work on one lease.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub token: LeaseToken,
    pub outcome: Outcome,
    /// What is done together with it; most have nothing.
    pub effects: Option<Box<Effects>>,
}

impl Settlement {
    /// A settlement alone.
    pub fn plain(token: LeaseToken, outcome: Outcome) -> Self {
        Self { token, outcome, effects: None }
    }
}

/// See `Settlement` of the protocol.
#[derive(Clone, Debug)]
pub enum Outcome {
    Ack,
    /// `chance`, in 0.0..1.0, is the jitter of the backoff; the core rolls no dice.
    Nack {
        delay_ms: Option<u64>,
        failure: StoredFailure,
        chance: f64,
        /// Instead of the queue's limit of failures; -1: none.
        max_attempts: Option<i32>,
    },
    Release {
        delay_ms: u64,
    },
    DeadLetter {
        failure: StoredFailure,
    },
}

impl Outcome {
    fn kind(&self) -> Kind {
        match self {
            Self::Ack => Kind::Ack,
            Self::Nack { .. } => Kind::Nack,
            Self::Release { .. } => Kind::Release,
            Self::DeadLetter { .. } => Kind::DeadLetter,
        }
    }
}

impl<I: Index> Core<I> {
    /// Settles leases; returns those that were refused, the others are settled.
    pub fn settle(
        &mut self,
        settle: &Settle,
        now: Now,
        out: &mut Output,
    ) -> Turn<Vec<(LeaseToken, Refused)>> {
        let mut draft = self.draft();
        let number = if settle.consumer == ConsumerId::NONE { self.next.0 } else { settle.number };
        let call = Call { consumer: settle.consumer.0, number, wall_ms: now.wall_ms };
        // Single calls share one list of numbers: nobody may forget the others' outcomes.
        let answered_through =
            if settle.consumer == ConsumerId::NONE { 0 } else { settle.answered_through };
        let (mut acked, mut others, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        let mut failures = Vec::new();
        let mut seen = HashSet::with_capacity_and_hasher(settle.settlements.len(), FxBuildHasher);
        for (position, settlement) in settle.settlements.iter().enumerate() {
            match self.check_settlement(settlement, &mut seen) {
                Ok(true) if let Some(effects) = &settlement.effects => {
                    whole.push((position, settlement, &**effects));
                    self.index.message(settlement.token.birth)?;
                }
                Ok(true) if matches!(settlement.outcome, Outcome::Ack) => {
                    acked.push(settlement.token.birth.0);
                    self.index.message(settlement.token.birth)?;
                }
                Ok(true) => others.push(settlement),
                Ok(false) => {}
                Err(refused) => failures.push((position, settlement.token, refused)),
            }
        }
        if acked.is_empty() && self.settled.remembers(settle.consumer.0, answered_through) {
            draft.fact(Record::Acked(Acked { call, answered_through, births: Vec::new() }));
        }
        for births in acked.chunks(BIRTHS_MAX).map(<[u64]>::to_vec) {
            draft.fact(Record::Acked(Acked { call, answered_through, births }));
        }
        for settlement in others {
            self.draft_settlement(&mut draft, call, settlement, now)?;
        }
        out.effects.extend(self.dead_letters_of(&draft));
        // Each stands alone, and together they may be larger than what the log takes at once.
        self.commit_each(draft, out);
        for (position, settlement, effects) in whole {
            let done = (settlement, effects);
            match self.settle_with((call, answered_through), done, now, out) {
                Ok(()) => {}
                Err(Stop::Refused(why)) => failures.push((position, settlement.token, why)),
                Err(missing) => return Err(missing),
            }
        }
        failures.sort_by_key(|(position, ..)| *position);
        Ok(failures.into_iter().map(|(_, token, why)| (token, why)).collect())
    }

    /// Whether a settlement changes something; false where it repeats one that was done.
    fn check_settlement(
        &self,
        settlement: &Settlement,
        seen: &mut HashSet<Lsn, FxBuildHasher>,
    ) -> Result<bool, Refused> {
        let token = settlement.token;
        if self.held(token).is_ok() {
            if !seen.insert(token.birth) {
                return Err(Refused::TokenTwice);
            }
            return Ok(true);
        }
        match self.settled.outcome((token.birth, token.grant)) {
            Some(kind) if kind == settlement.outcome.kind() => Ok(false),
            Some(kind) => Err(Refused::AlreadySettled(kind.name())),
            None => Err(Refused::LeaseLost),
        }
    }

    pub(super) fn draft_settlement(
        &self,
        draft: &mut Draft,
        call: Call,
        settlement: &Settlement,
        now: Now,
    ) -> Result<(), Stop> {
        let birth = settlement.token.birth;
        let message = self.index.message(birth)?.expect("a lease is of a message that is there");
        match &settlement.outcome {
            Outcome::Ack => unreachable!("acks share one record"),
            Outcome::Release { delay_ms } => {
                let due = (0 < *delay_ms).then(|| now.after(*delay_ms).into());
                draft.fact(Record::Released(Released { call, birth: birth.0, due }));
            }
            Outcome::DeadLetter { failure } => {
                let (call, reason) = (Some(call), DeadLetterReason::ByConsumer);
                let letter = Letter { call, reason, failure: self.cut(failure) };
                self.draft_letter(draft, birth, &message, letter, now);
            }
            Outcome::Nack { delay_ms, failure, chance, max_attempts } => {
                let failure = self.cut(failure);
                let was_last = self.is_last_failure(&message, *max_attempts);
                let backoff = (!was_last).then_some((*delay_ms, *chance));
                self.draft_nack(draft, call, birth, &message, backoff, failure, now);
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all of it goes into one record")]
    fn draft_nack(
        &self,
        draft: &mut Draft,
        call: Call,
        birth: Lsn,
        message: &Message,
        backoff: Option<(Option<u64>, f64)>,
        failure: Option<StoredFailure>,
        now: Now,
    ) {
        let queue =
            &self.catalog.get(message.queue).expect("a message's queue is there").definition;
        let was_last = backoff.is_none();
        if was_last && !queue.is_dead_letter_queue {
            let (call, reason) = (Some(call), DeadLetterReason::MaxAttempts);
            return self.draft_letter(draft, birth, message, Letter { call, reason, failure }, now);
        }
        let delay_ms = backoff.map_or(0, |(delay_ms, chance)| {
            delay_ms.unwrap_or_else(|| queue.policy.backoff_ms(message.failures + 1, chance))
        });
        let due = (0 < delay_ms).then(|| now.after(delay_ms).into());
        let nacked = Nacked {
            call,
            birth: birth.0,
            due,
            parked: was_last,
            previous_failure: message.last_failure.0,
            has_failure: failure.is_some(),
            given_up: false,
            attempt: message.attempt(),
            start_ms: self.attempt_start_ms(birth),
        };
        let body = failure.map_or_else(Body::default, |failure| small_body(&failure));
        draft.push(Record::Nacked(nacked), body);
    }

    /// Whether a message is no longer in its queue once it is settled so.
    pub(super) fn leaves_queue(&self, outcome: &Outcome, message: &Message) -> bool {
        let queue =
            &self.catalog.get(message.queue).expect("a message's queue is there").definition;
        match outcome {
            Outcome::Ack => true,
            Outcome::Release { .. } => false,
            Outcome::DeadLetter { .. } => !queue.is_dead_letter_queue,
            Outcome::Nack { max_attempts, .. } => {
                !queue.is_dead_letter_queue && self.is_last_failure(message, *max_attempts)
            }
        }
    }

    /// Whether a failure of a message that is held is the last that it may have: by its own limit, else
    /// by the one that the nack names, else by its queue's.
    fn is_last_failure(&self, message: &Message, named: Option<i32>) -> bool {
        let queue = self.catalog.get(message.queue).expect("a message's queue is there");
        let max = match named {
            Some(named) => u32::try_from(named).ok(),
            None => queue.definition.policy.failures_max(),
        };
        message.failures_max(max).is_some_and(|max| max <= message.failures + 1)
    }

    /// What is kept of a failure: nothing of an empty one, little of this one alone while the disk is
    /// full.
    fn cut(&self, failure: &StoredFailure) -> Option<StoredFailure> {
        let StoredFailure { kind, message, details, earlier } = failure;
        if failure.is_empty() {
            return None;
        }
        if self.disk_full {
            return Some(StoredFailure::cut(kind, message, details, FAILURE_BYTES_DISK_FULL));
        }
        let failure = StoredFailure::cut(kind, message, details, FAILURE_BYTES_MAX);
        Some(StoredFailure { earlier: earlier.clone(), ..failure })
    }

    /// Commits settlements, and tells of the messages that became dead letters.
    pub(super) fn commit_settlements(&mut self, draft: Draft, out: &mut Output) {
        out.effects.extend(self.dead_letters_of(&draft));
        self.commit(draft, out);
    }

    pub(super) fn apply_acked(&mut self, acked: &Acked) {
        self.settled.prune(acked.call.wall_ms, self.limits.settled_max);
        self.settled.answered(acked.call.consumer, acked.answered_through);
        let mut leases = Vec::with_capacity(acked.births.len());
        let mut session = SessionId::NONE;
        for &birth in &acked.births {
            let birth = Lsn(birth);
            let lease = self.end_lease(birth);
            session = lease.map_or(session, |lease| session_of(&acked.call, &lease, session));
            let grant = lease.map(|lease| lease.grant);
            leases.extend(grant.map(|grant| (birth, grant)));
            let message = self.finish(birth, grant);
            self.catalog.totals(message.queue).acked += 1;
        }
        self.settled.remember(&acked.call, session, leases, Kind::Ack);
    }

    pub(super) fn apply_released(&mut self, released: &Released) {
        let birth = Lsn(released.birth);
        self.remember_settled(&released.call, birth, Kind::Release);
        let grant = self.end_lease(birth).map(|lease| lease.grant);
        let message = self.present(birth);
        self.tell_step(birth, &message, grant);
        self.note_step(message.queue, birth);
        match released.due {
            Some(due) => self.schedule(birth, message, due),
            None => self.make_ready(birth, message),
        }
    }

    /// Remembers how a lease was settled; called before the lease ends.
    pub(super) fn remember_settled(&mut self, call: &Call, birth: Lsn, kind: Kind) {
        if let Some(lease) = self.leases.get(birth) {
            let key = (birth, lease.grant);
            let session = session_of(call, lease, SessionId::NONE);
            self.settled.prune(call.wall_ms, self.limits.settled_max);
            self.settled.remember(call, session, [key], kind);
        }
    }
}

/// The session of the stream that made a call, where the lease is one of its own.
fn session_of(call: &Call, lease: &Lease, otherwise: SessionId) -> SessionId {
    let is_own = call.consumer != 0 && lease.consumer.0 == call.consumer;
    if is_own { lease.session } else { otherwise }
}
