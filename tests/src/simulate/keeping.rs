//! Values and counters, and settlements that change them together with everything else.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use qbroker::engine::Core;
use qbroker::queue::body::StoredMessage;
use qbroker::queue::ids::ConsumerId;
use qbroker::queue::index::Index as _;
use qbroker::queue::record::{Published, Record};
use qbroker::queue::state::{AddToCounter, ChangeCounter, Key, StateChange, StoreValue};
use qbroker::queue::{Effects, Outcome, Patch, Settle, Settlement};
use qbroker_storage::{Body, Lsn, StoredRecord};

use super::audit;
use super::clients::{Told, refusal};
use super::model::{Finish, Sequence};
use super::plan::Offer;
use super::run::{Run, Stopped};

pub(super) fn key(key: u64) -> Key {
    format!("k-{key}").into()
}

fn store(of: u64, value: u64, ttl_ms: Option<u64>) -> StoreValue {
    let body = Body::new(Bytes::new(), audit::payload(value, 30));
    StoreValue { key: key(of), value: body, ttl_ms, if_absent: false }
}

fn add(of: u64, amount: i64) -> AddToCounter {
    AddToCounter { key: key(of), amount, ..AddToCounter::default() }
}

/// An ack with its effects, as it was sent.
#[derive(Clone)]
pub(super) struct Finishing {
    settle: Settle,
    finish: Finish,
}

impl Run {
    pub(super) fn store(&mut self, key: u64, ttl_ms: u64) -> Result<(), Stopped> {
        self.last_number += 1;
        let (value, ttl_ms) = (self.last_number, (0 < ttl_ms).then_some(ttl_ms));
        let it = store(key, value, ttl_ms);
        let turn = self.world.engine.turn(|core, now, out| core.store_value(&it, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("store {key}, {value} for {ttl_ms:?}: {answer:?}"));
        let refused = answer.as_ref().err().map(|refused| refused.reason());
        let now = self.world.time();
        self.done(|model| model.store((key, value, ttl_ms), refused, now))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn add(&mut self, key: u64, amount: i64) -> Result<(), Stopped> {
        let change = ChangeCounter { add: add(key, amount), request_id: String::new() };
        let turn = self.world.engine.turn(|core, now, out| core.change_counter(&change, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("add {amount} to {key}: {answer:?}"));
        let answer = answer.as_ref().map(|changed| changed.value).map_err(|it| it.reason());
        let now = self.world.time();
        self.done(|model| model.add((key, amount), answer, now))?;
        self.later(lsn, Told::Answer)
    }

    pub(super) fn forget(&mut self, of: u64) -> Result<(), Stopped> {
        let name = key(of);
        let turn = self.world.engine.turn(|core, now, out| core.delete_value(&name, now, out));
        let (lsn, answer) = turn?;
        self.note(format!("forget {of}: {answer:?}"));
        let was_there = answer.map_err(|refused| self.wrong(format!("forget: {refused}")))?;
        let now = self.world.time();
        self.done(|model| model.forget(of, was_there, now))?;
        self.later(lsn, Told::Answer)
    }

    /// Acks a lease, and with it publishes, stores and counts.
    pub(super) fn finish(&mut self, pick: u64, offer: &Offer, key: u64) -> Result<(), Stopped> {
        let Some(token) = self.pick(pick) else { return Ok(()) };
        if self.has_enough() {
            return Ok(());
        }
        let (message, publish) = self.offered(offer);
        self.last_number += 1;
        let value = self.last_number;
        let changes =
            vec![StateChange::Store(store(key, value, None)), StateChange::Add(add(key, 1))];
        let effects = Effects { patch: None, publish: vec![message], changes };
        let settlement =
            Settlement { token, outcome: Outcome::Ack, effects: Some(Box::new(effects)) };
        let settle = Settle {
            consumer: ConsumerId::NONE,
            settlements: vec![settlement],
            ..Settle::default()
        };
        let finish = Finish { publish, key, value };
        self.send_finish(Finishing { settle, finish })
    }

    /// The last such call again, as if its answer had been lost.
    pub(super) fn repeat_finish(&mut self) -> Result<(), Stopped> {
        // Delays would run from now on.
        let last = self.last_finish.clone().filter(|it| it.finish.publish.due.is_none());
        last.map_or(Ok(()), |finishing| self.send_finish(finishing))
    }

    fn send_finish(&mut self, finishing: Finishing) -> Result<(), Stopped> {
        let Finishing { settle, finish } = &finishing;
        let token = settle.settlements[0].token;
        let before = self.world.engine.look(|_| ()).0;
        let turn = self.world.engine.turn(|core, now, out| core.settle(settle, now, out));
        let (lsn, answer) = turn?;
        let failures = answer.map_err(|refused| self.wrong(format!("settle: {refused}")))?;
        let refused = refusal(&failures, token);
        let published = self.born_between(before, lsn)?;
        self.note(format!("finish {} with {finish:?}: {refused:?}, {published:?}", token.birth));
        let now = self.world.time();
        let outcome = (refused, published);
        self.done(|model| model.finish(&token.to_bytes(), finish, outcome, now))?;
        // What was refused is held as before.
        let settled = if refused.is_none() { vec![token] } else { Vec::new() };
        self.later(lsn, Told::Settled(settled))?;
        self.last_finish = Some(finishing);
        Ok(())
    }

    /// Fails, and what comes next of the message has another payload.
    pub(super) fn patch(&mut self, pick: u64, bytes: usize) -> Result<(), Stopped> {
        let Some(token) = self.pick(pick) else { return Ok(()) };
        let Some(published) = self.facts_of(token.birth)? else { return Ok(()) };
        let (number, failure) = (self.last_number + 1, self.last_number + 2);
        self.last_number = failure;
        let messages = &self.timeline.now().messages;
        let id = messages.get(&token.birth.0).and_then(|message| message.id);
        let stored = audit::content(number, bytes, id);
        let payload_bytes = stored.payload.len() as u64;
        let body = stored.into_body(&mut BytesMut::new());
        let size = body.len() as u64;
        let patch = Patch { published, priority: None, payload_bytes, body };
        let effects = Effects { patch: Some(patch), ..Effects::default() };
        let told = audit::failure(failure);
        let outcome =
            Outcome::Nack { delay_ms: None, failure: told, chance: 0.0, max_attempts: None };
        let settlement = Settlement { token, outcome, effects: Some(Box::new(effects)) };
        let settle = Settle {
            consumer: ConsumerId::NONE,
            settlements: vec![settlement],
            ..Settle::default()
        };
        let turn = self.world.engine.turn(|core, now, out| core.settle(&settle, now, out));
        let (lsn, answer) = turn?;
        let failures = answer.map_err(|refused| self.wrong(format!("settle: {refused}")))?;
        let refused = refusal(&failures, token);
        self.note(format!("patch {} with {number} of {size} bytes: {refused:?}", token.birth));
        let now = self.world.time();
        let patch = (number, size, failure);
        self.done(|model| model.patch(&token.to_bytes(), patch, refused, now))?;
        let settled = if refused.is_none() { vec![token] } else { Vec::new() };
        self.later(lsn, Told::Settled(settled))
    }

    /// What the record that has a message's content says of it; `None` where there is no message.
    fn facts_of(&self, birth: Lsn) -> Result<Option<Published>, Stopped> {
        let look = |core: &Core| core.index().message(birth);
        let Some(message) = self.world.engine.look_up(look)?.1 else { return Ok(None) };
        let stored = self.record(message.content(birth))?;
        match Record::decode_head(&stored.head) {
            Ok(Record::Published(published)) => Ok(Some(published)),
            Ok(Record::Patched(patched)) => Ok(Some(patched.published)),
            other => Err(self.wrong(format!("the content of {birth} is {other:?}"))),
        }
    }

    /// A record of the log.
    pub(super) fn record(&self, lsn: Lsn) -> Result<StoredRecord, Stopped> {
        audit::record(&self.world.engine, lsn).map_err(|wrong| self.unreadable(wrong))
    }

    /// The messages that were published after this record, and not after that one, by their numbers.
    pub(super) fn published_between(
        &self,
        after: Lsn,
        through: Lsn,
    ) -> Result<BTreeMap<u64, Sequence>, Stopped> {
        let mut published = BTreeMap::new();
        for lsn in after.0 + 1..=through.0 {
            let stored = self.record(Lsn(lsn))?;
            if !matches!(Record::decode_head(&stored.head), Ok(Record::Published(_))) {
                continue;
            }
            let content = audit::body::<StoredMessage>(&stored).map_err(|it| self.wrong(it))?;
            published.extend(audit::number(&content.payload).map(|number| (number, lsn)));
        }
        Ok(published)
    }

    /// The first message that was born after this record, and not after that one.
    pub(super) fn born_between(
        &self,
        after: Lsn,
        through: Lsn,
    ) -> Result<Option<Sequence>, Stopped> {
        for birth in after.0 + 1..=through.0 {
            let look = |core: &Core| core.index().message(Lsn(birth));
            if self.world.engine.look_up(look)?.1.is_some() {
                return Ok(Some(birth));
            }
        }
        Ok(None)
    }
}
