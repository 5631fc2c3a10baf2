//! Clients of the simulated broker: they call, learn the answers once these may be told, and hold
//! what they were given. What each call does is done in the model as well, with the broker's answer.

use qbroker::queue::ids::{ConsumerId, LeaseToken};
use qbroker::queue::refused::Refused;
use qbroker::queue::state::PermitId;
use qbroker::queue::{
    self, Delivery, Extend, MessageName, NamedBy, NewDue, NewMessage, Publish, Settle, Settlement,
    UpdateMessages,
};
use qbroker_storage::Lsn;

use super::audit;
use super::model::{Due, Model, New, Outcome, Refusal, Sequence, Token};
use super::plan::{Delay, Offer, QUEUES, Verdict};
use super::producers::ToldProducer;
use super::run::{Run, Stopped};

/// What somebody is told once it is durable.
pub(super) struct Pending {
    /// The broker's number for what it was decided on, and ours.
    pub(super) lsn: Lsn,
    pub(super) moment: u64,
    pub(super) what: Told,
}

pub(super) enum Told {
    Answer,
    Stored { last: Sequence },
    Delivered(Vec<(Delivery, u64)>),
    Settled(Vec<LeaseToken>),
    Connected(usize, ConsumerId, Vec<LeaseToken>),
    Producer(usize, ToldProducer),
    Permit(Option<PermitId>),
}

/// A call of settlements, as it was sent.
#[derive(Clone)]
pub(super) struct Call {
    settle: Settle,
    outcomes: Vec<Outcome>,
}

/// More than that at once says nothing new, and takes time.
const MESSAGES_MAX: usize = 250;

fn due_of(delay: Delay, run: &Run) -> (Option<NewDue>, Option<Due>) {
    let now = run.world.time();
    match delay {
        Delay::None => (None, None),
        Delay::For(ms) => (Some(NewDue::After(ms)), Some(now.after(ms))),
        Delay::Until(ms) => {
            let wall_ms = now.wall_ms + ms;
            (Some(NewDue::At(wall_ms)), Some(Due { wall_ms, boot_ms: None }))
        }
    }
}

impl Run {
    /// Whether there are so many messages that more say nothing new.
    pub(super) fn has_enough(&self) -> bool {
        MESSAGES_MAX < self.timeline.now().messages.len()
    }

    /// A message that was not offered before.
    pub(super) fn offered(&mut self, offer: &Offer) -> (NewMessage, New) {
        self.last_number += 1;
        self.message(offer, self.last_number)
    }

    /// A message as it is published now, for the broker and for the model.
    pub(super) fn message(&self, offer: &Offer, number: u64) -> (NewMessage, New) {
        let (due, expected_due) = due_of(offer.delay, self);
        let message = message(offer, number, due);
        let new = New {
            number,
            queue: QUEUES[offer.queue],
            due: expected_due,
            priority: offer.priority,
            ttl_ms: (0 < offer.ttl_ms).then_some(offer.ttl_ms),
            id: (0 < offer.id).then_some(offer.id),
            unique: (0 < offer.unique).then_some(offer.unique),
            ordering: (0 < offer.ordering).then_some(offer.ordering),
            fairness: (0 < offer.fairness).then_some(offer.fairness),
            attempts: (offer.attempts != 0).then_some(offer.attempts),
            bytes: message.body.len() as u64,
        };
        (message, new)
    }

    pub(super) fn publish(&mut self, offers: &[Offer]) -> Result<(), Stopped> {
        if self.has_enough() {
            return Ok(());
        }
        let (messages, news): (Vec<_>, Vec<_>) = offers.iter().map(|it| self.offered(it)).unzip();
        let publish = Publish { messages };
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.publish(&publish, now, out))?;
        let answer = answer.map_err(|refused| refused.reason());
        let answer = answer.map(|receipts| {
            receipts.iter().map(|it| (it.birth.0, it.duplicate)).collect::<Vec<_>>()
        });
        self.note(format!("publish {news:?}: {answer:?}"));
        let stored = answer.iter().flatten().filter(|(_, duplicate)| !duplicate);
        let last = stored.map(|(sequence, _)| *sequence).max().unwrap_or_default();
        if 0 < last && last <= self.last_told {
            return Err(
                self.wrong(format!("{last} is not after {}, which was told", self.last_told))
            );
        }
        let now = self.world.time();
        self.done(|model| model.publish(&news, answer.as_deref().map_err(|reason| *reason), now))?;
        self.later(lsn, Told::Stored { last })
    }

    /// A lease that a client was given: mostly one that it has not settled.
    pub(super) fn pick(&self, pick: u64) -> Option<LeaseToken> {
        let of = |leases: &[LeaseToken]| {
            let at = usize::try_from(pick >> 8).unwrap_or(usize::MAX).checked_rem(leases.len())?;
            leases.get(at).copied()
        };
        if pick.is_multiple_of(7) {
            of(&self.settled).or_else(|| of(&self.held))
        } else {
            of(&self.held)
        }
    }

    pub(super) fn settle(&mut self, picks: &[(u64, Verdict)]) -> Result<(), Stopped> {
        let (mut settlements, mut outcomes) = (Vec::<Settlement>::new(), Vec::new());
        for (pick, verdict) in picks {
            let Some(token) = self.pick(*pick) else { continue };
            if settlements.iter().any(|other| other.token == token) {
                continue;
            }
            self.last_number += 1;
            let number = self.last_number;
            let failure = audit::failure(number);
            let (outcome, ours) = match *verdict {
                Verdict::Ack => (queue::Outcome::Ack, Outcome::Ack),
                Verdict::Nack(delay_ms, max_attempts) => (
                    queue::Outcome::Nack { delay_ms, failure, chance: 0.0, max_attempts },
                    Outcome::Nack(delay_ms, number, max_attempts),
                ),
                Verdict::Release(delay_ms) => {
                    (queue::Outcome::Release { delay_ms }, Outcome::Release(delay_ms))
                }
                Verdict::DeadLetter => {
                    (queue::Outcome::DeadLetter { failure }, Outcome::DeadLetter(number))
                }
            };
            settlements.push(Settlement::plain(token, outcome));
            outcomes.push(ours);
        }
        if settlements.is_empty() {
            return Ok(());
        }
        let settle = Settle { consumer: ConsumerId::NONE, settlements, ..Settle::default() };
        self.send(Call { settle, outcomes })
    }

    pub(super) fn repeat(&mut self) -> Result<(), Stopped> {
        self.last_call.clone().map_or(Ok(()), |call| self.send(call))
    }

    /// Returns leases at once.
    pub(super) fn release(&mut self, tokens: &[LeaseToken]) -> Result<(), Stopped> {
        let release =
            |token: &LeaseToken| Settlement::plain(*token, queue::Outcome::Release { delay_ms: 0 });
        let settlements = tokens.iter().map(release).collect();
        let settle = Settle { consumer: ConsumerId::NONE, settlements, ..Settle::default() };
        self.send(Call { settle, outcomes: vec![Outcome::Release(0); tokens.len()] })
    }

    fn send(&mut self, call: Call) -> Result<(), Stopped> {
        let settle = &call.settle;
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.settle(settle, now, out))?;
        let failures = answer.map_err(|refused| self.wrong(format!("settle: {refused}")))?;
        let tokens: Vec<_> = settle.settlements.iter().map(|it| it.token).collect();
        let sequences: Vec<_> = tokens.iter().map(|token| token.birth.0).collect();
        let refused: Vec<_> = tokens.iter().map(|token| refusal(&failures, *token)).collect();
        self.note(format!("settle {sequences:?} {:?}: {refused:?}", call.outcomes));
        let now = self.world.time();
        for ((token, outcome), refused) in tokens.iter().zip(&call.outcomes).zip(refused) {
            self.done(|model| model.settle(&token.to_bytes(), *outcome, refused, now))?;
        }
        self.later(lsn, Told::Settled(tokens))?;
        self.last_call = Some(call);
        Ok(())
    }

    pub(super) fn extend(&mut self, pick: u64, duration_ms: u64) -> Result<(), Stopped> {
        let Some(token) = self.pick(pick) else { return Ok(()) };
        let extend = Extend { tokens: vec![token], session: None, duration_ms: Some(duration_ms) };
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.extend(&extend, now, out))?;
        let failures = answer.map_err(|refused| self.wrong(format!("extend: {refused}")))?;
        let refused = refusal(&failures, token);
        self.note(format!("extend {} by {duration_ms} ms: {refused:?}", token.birth));
        let now = self.world.time();
        self.done(|model| model.extend(&token.to_bytes(), duration_ms, refused, now))?;
        self.later(lsn, Told::Answer)
    }

    /// A message that is there; now and then one that is not.
    fn pick_message(&self, pick: u64) -> Option<Sequence> {
        let messages = &self.timeline.now().messages;
        let at = usize::try_from(pick >> 8).unwrap_or(usize::MAX).checked_rem(messages.len())?;
        let sequence = messages.keys().nth(at).copied();
        if pick.is_multiple_of(11) { sequence.map(|sequence| sequence + 1) } else { sequence }
    }

    pub(super) fn delete(&mut self, pick: u64) -> Result<(), Stopped> {
        let Some(sequence) = self.pick_message(pick) else { return Ok(()) };
        let names = [name(sequence)];
        let (lsn, answer) =
            self.world.engine.turn(|core, now, out| core.delete_messages("", &names, now, out))?;
        let refused = single(answer);
        self.note(format!("delete {sequence}: {refused:?}"));
        self.done(|model| model.delete(sequence, refused))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn update(
        &mut self,
        pick: u64,
        priority: Option<u8>,
        delay: Delay,
    ) -> Result<(), Stopped> {
        let Some(sequence) = self.pick_message(pick) else { return Ok(()) };
        let (due, expected_due) = due_of(delay, self);
        let update = UpdateMessages { queue: String::new(), priority, due };
        let names = [name(sequence)];
        let (lsn, answer) = self
            .world
            .engine
            .turn(|core, now, out| core.update_messages(&update, &names, now, out))?;
        let refused = single(answer);
        self.note(format!("update {sequence} {priority:?} {delay:?}: {refused:?}"));
        let now = self.world.time();
        self.done(|model| model.update(sequence, (priority, expected_due), refused, now))?;
        self.later(lsn, Told::Answer)
    }

    /// Does what was done in the model, too; then a crash may leave it or take it back as a whole.
    pub(super) fn done(
        &mut self,
        change: impl FnOnce(&mut Model) -> Result<(), String>,
    ) -> Result<(), Stopped> {
        let mut model = self.timeline.now().clone();
        model.notice(self.world.time());
        model.has_room = !self.world.is_low();
        change(&mut model).map_err(|wrong| self.unreadable(wrong))?;
        self.timeline.push(model);
        Ok(())
    }

    /// What follows by itself: what is too old goes, and lines go on.
    pub(super) fn follow(&mut self) {
        let (mut model, timeline) = (self.timeline.now().clone(), &mut self.timeline);
        model.end_waits(self.world.time(), |model| timeline.push(model.clone()));
    }

    /// Somebody is to be told, once it is durable. What follows by itself is not waited for.
    pub(super) fn later(&mut self, lsn: Lsn, what: Told) -> Result<(), Stopped> {
        let moment = self.timeline.moment();
        self.pending.push_back(Pending { lsn, moment, what });
        self.follow();
        self.note_grants()?;
        self.mark_at(lsn);
        Ok(())
    }

    /// Tells what may be told by now.
    pub(super) fn tell(&mut self) -> Result<(), Stopped> {
        while let Some(first) = self.pending.front() {
            match self.world.is_durable(first.lsn) {
                None => break,
                Some(false) => return Err(Stopped::Log),
                Some(true) => {}
            }
            let Some(first) = self.pending.pop_front() else { break };
            self.timeline.told(first.moment);
            self.hear(first.what)?;
        }
        self.hear_streams()
    }

    /// The broker goes down: who was told in the very last moment does nothing any more, and may rely on
    /// it all the same.
    pub(super) fn tell_last(&mut self) {
        while let Some(first) = self.pending.front()
            && self.world.is_durable(first.lsn) == Some(true)
        {
            self.timeline.told(first.moment);
            self.pending.pop_front();
        }
    }

    fn hear(&mut self, what: Told) -> Result<(), Stopped> {
        match what {
            Told::Answer => {}
            Told::Connected(worker, stream, lost) => self.hear_connected(worker, stream, &lost),
            Told::Producer(producer, told) => return self.producer_hears(producer, told),
            Told::Permit(permit) => self.hear_permit(permit),
            Told::Stored { last } => self.last_told = self.last_told.max(last),
            Told::Settled(tokens) => {
                self.held.retain(|token| !tokens.contains(token));
                self.workers_settled(&tokens);
                self.settled.extend(tokens);
                let spare = self.settled.len().saturating_sub(40);
                self.settled.drain(..spare);
            }
            Told::Delivered(deliveries) => {
                let (deliveries, numbers): (Vec<_>, Vec<_>) = deliveries.into_iter().unzip();
                self.check_payloads(&deliveries, &numbers)?;
                self.let_go(&deliveries);
            }
        }
        Ok(())
    }

    /// Deliveries have come: their leases run.
    pub(super) fn let_go(&mut self, deliveries: &[Delivery]) {
        self.world.engine.let_go(deliveries);
        let tokens: Vec<Token> = deliveries.iter().map(|it| it.token.to_bytes()).collect();
        let now = self.world.time();
        self.timeline.now_mut().let_go(&tokens, now);
        self.held.extend(deliveries.iter().map(|delivery| delivery.token));
    }

    pub(super) fn check_payloads(
        &self,
        deliveries: &[Delivery],
        numbers: &[u64],
    ) -> Result<(), Stopped> {
        for (delivery, number) in deliveries.iter().zip(numbers) {
            let birth = delivery.token.birth;
            if !self.timeline.now().messages.contains_key(&birth.0) {
                // It was deleted meanwhile, and its record may be gone.
                continue;
            }
            let stored = audit::record(&self.world.engine, delivery.content)
                .and_then(|record| audit::body::<queue::body::StoredMessage>(&record));
            match stored {
                Ok(stored) if audit::number(&stored.payload) == Some(*number) => {}
                Err(_) if !self.world.is_powered() => return Err(Stopped::Log),
                other => return Err(self.wrong(format!("{birth} is not m-{number}: {other:?}"))),
            }
        }
        Ok(())
    }
}

fn message(offer: &Offer, number: u64, due: Option<NewDue>) -> NewMessage {
    let stored = audit::content(number, offer.bytes, (0 < offer.id).then_some(offer.id));
    let payload_bytes = stored.payload.len() as u64;
    NewMessage {
        queue: QUEUES[offer.queue].into(),
        message_id: stored.message_id.clone(),
        id_hash: (0 < offer.id).then(|| u128::from(offer.id) << 64 | 7),
        payload_bytes,
        due,
        priority: offer.priority,
        ttl_ms: (0 < offer.ttl_ms).then_some(offer.ttl_ms),
        unique_hash: (0 < offer.unique).then_some(offer.unique),
        ordering_hash: (0 < offer.ordering).then_some(offer.ordering),
        fairness_hash: (0 < offer.fairness).then_some(offer.fairness),
        max_attempts: (offer.attempts != 0).then_some(offer.attempts),
        body: stored.into_body(&mut bytes::BytesMut::new()),
    }
}

fn name(sequence: Sequence) -> MessageName {
    MessageName { id: format!("q.{sequence}"), by: NamedBy::Birth(Lsn(sequence)) }
}

pub(super) fn refusal(failures: &[(LeaseToken, Refused)], token: LeaseToken) -> Option<Refusal> {
    failures.iter().find(|(of, _)| *of == token).map(|(_, refused)| refused.reason())
}

/// The answer to a call about one message.
fn single(answer: Result<queue::NotDone, Refused>) -> Option<Refusal> {
    match answer {
        Ok(refused) => refused.first().map(|(_, refused)| refused.reason()),
        Err(refused) => Some(refused.reason()),
    }
}
