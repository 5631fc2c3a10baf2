//! Barriers: a group of members, who arrive in any order and however often, and messages that are
//! published when all have, or when it is too late for that.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use qbroker_storage::Body;

use super::ends::Named;
use super::record::{
    Arrived as ArrivedRecord, BarrierCreated, BarrierExpired, Change, Member, Results, Template,
};
use super::{Key, Kind, Room, State, cost};
use crate::queue::body::StoredMessage;
use crate::queue::index::Index;
use crate::queue::policy;
use crate::queue::refused::Refused;
use crate::queue::time::{Due, Now};
use crate::queue::{Core, Draft, Limits, NewDue, NewMessage, Output, Turn};

/// Bytes of a barrier's messages and of what its members bring: they are in memory, and published at
/// once.
pub const BARRIER_BYTES_MAX: usize = 256 << 10;
/// Messages that get a barrier's results: each gets all of them, and one commit must hold all.
pub const COLLECTING_MESSAGES_MAX: usize = 4;
/// Bytes of what barriers publish in one commit, where a message may not have more.
const COMPLETION_BYTES_MAX: u64 = ((COLLECTING_MESSAGES_MAX + 1) * BARRIER_BYTES_MAX) as u64;
/// How long it is known of a barrier that its time was over.
pub(super) const REMEMBERED_MS: u64 = 60 * 60 * 1_000;
/// What a member takes of memory whatever it brings, about.
const MEMBER_BYTES: usize = 64;

impl Limits {
    /// Bytes of what barriers publish in one commit.
    pub fn completion_bytes_max(&self) -> u64 {
        COMPLETION_BYTES_MAX.max(self.payload_bytes_max)
    }
}

/// Makes a barrier.
#[derive(Clone, Debug)]
pub struct CreateBarrier {
    pub key: Key,
    /// Arrivals that complete it.
    pub parties: u32,
    pub ttl_ms: u64,
    pub on_complete: Vec<NewMessage>,
    pub on_expire: Vec<NewMessage>,
    /// What members bring is the payload of what is published on completion.
    pub collect: bool,
}

/// Arrives at a barrier.
#[derive(Clone, Debug)]
pub struct Arrive {
    pub key: Key,
    pub member_id: String,
    /// Keyed hash of the member's name: a second arrival counts nothing.
    pub member_hash: u128,
    pub value: Bytes,
    pub failed: bool,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// `None` where no such barrier is known.
    pub barrier: Option<BarrierView>,
    /// It was the one that completed it.
    pub last: bool,
}

/// A barrier as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierView {
    pub parties: u32,
    pub arrived: u32,
    pub failed: u32,
    pub state: BarrierState,
}

/// How far a barrier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierState {
    Open,
    Complete,
    Expired,
}

/// Invariant: where it is not open, it has neither members nor messages.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    pub(super) view: BarrierView,
    /// Of its time while it is open; after that, of its being known.
    pub(super) end: Due,
    pub(super) collect: bool,
    pub(super) hashes: BTreeSet<u128>,
    /// In the order of their arrival, where it collects.
    pub(super) members: Vec<Member>,
    pub(super) on_complete: Vec<Template>,
    pub(super) on_expire: Vec<Template>,
}

impl Barrier {
    /// Bytes of messages and members.
    fn content_bytes(&self) -> usize {
        let templates = self.on_complete.iter().chain(&self.on_expire).map(template_bytes);
        templates.chain(self.members.iter().map(member_bytes)).sum()
    }

    fn cost(&self, key: &str) -> usize {
        cost(key) + self.content_bytes() + self.hashes.len() * MEMBER_BYTES
    }

    fn view(&self, now: Now) -> BarrierView {
        let is_over = self.view.state == BarrierState::Open && self.end.is_over(now);
        let state = if is_over { BarrierState::Expired } else { self.view.state };
        BarrierView { state, ..self.view }
    }

    fn close(&mut self, state: BarrierState) {
        self.view.state = state;
        self.hashes.clear();
        (self.members, self.on_complete, self.on_expire) = (Vec::new(), Vec::new(), Vec::new());
    }
}

fn template_bytes(template: &Template) -> usize {
    crate::queue::MESSAGE_OVERHEAD_BYTES + template.encoded_len()
}

fn member_bytes(member: &Member) -> usize {
    MEMBER_BYTES + member.member_id.len() + member.value.len()
}

impl State {
    pub(super) fn apply_barrier(&mut self, created: &BarrierCreated) {
        self.remove_barrier(&created.key);
        let view = BarrierView {
            parties: created.parties,
            arrived: 0,
            failed: 0,
            state: BarrierState::Open,
        };
        let barrier = Barrier {
            view,
            end: created.end.into(),
            collect: created.collect,
            hashes: BTreeSet::new(),
            members: Vec::new(),
            on_complete: created.on_complete.clone(),
            on_expire: created.on_expire.clone(),
        };
        self.put_barrier(created.key.as_str().into(), barrier);
    }

    pub(super) fn apply_arrived(&mut self, arrived: &ArrivedRecord) {
        let Some((key, mut barrier)) = self.take_barrier(&arrived.key) else { return };
        let hash = u128::from(arrived.hash_high) << 64 | u128::from(arrived.hash_low);
        if barrier.view.state == BarrierState::Open && barrier.hashes.insert(hash) {
            barrier.view.arrived += 1;
            barrier.view.failed += u32::from(arrived.failed);
            barrier.members.extend(arrived.member.clone());
            if arrived.completes {
                barrier.close(BarrierState::Complete);
            }
        }
        self.put_barrier(key, barrier);
    }

    pub(super) fn apply_barrier_expired(&mut self, expired: &BarrierExpired) {
        let Some((key, mut barrier)) = self.take_barrier(&expired.key) else { return };
        barrier.end = expired.end.into();
        barrier.close(BarrierState::Expired);
        self.put_barrier(key, barrier);
    }

    pub(super) fn put_barrier(&mut self, key: Key, barrier: Barrier) {
        self.bytes += barrier.cost(&key);
        self.barrier_ends.insert(barrier.end, Named::Barrier(key.clone()));
        self.watch.touch(Kind::Barrier, &key);
        self.barriers.insert(key, Arc::new(barrier));
    }

    pub(super) fn remove_barrier(&mut self, key: &str) {
        drop(self.take_barrier(key));
    }

    fn take_barrier(&mut self, key: &str) -> Option<(Key, Barrier)> {
        let (key, barrier) = self.barriers.remove_entry(key)?;
        self.bytes -= barrier.cost(&key);
        self.barrier_ends.remove(barrier.end, Named::Barrier(key.clone()));
        Some((key, Arc::unwrap_or_clone(barrier)))
    }
}

impl<I: Index> Core<I> {
    /// Makes a barrier, unless the key is known as one; whether it did.
    pub fn create_barrier(
        &mut self,
        create: &CreateBarrier,
        now: Now,
        out: &mut Output,
    ) -> Turn<bool> {
        let key = &create.key;
        if self.state.barriers.contains_key(key) {
            return Ok(false);
        }
        for message in create.on_complete.iter().chain(&create.on_expire) {
            policy::check_name(&message.queue)?;
        }
        let templates = |messages: &[NewMessage]| messages.iter().map(template).collect();
        let created = BarrierCreated {
            key: key.to_string(),
            parties: create.parties,
            end: now.after(create.ttl_ms).into(),
            collect: create.collect,
            on_complete: templates(&create.on_complete),
            on_expire: templates(&create.on_expire),
        };
        if create.collect && COLLECTING_MESSAGES_MAX < created.on_complete.len() {
            let (what, max) = ("barrier_collecting_messages", COLLECTING_MESSAGES_MAX);
            return Err(Refused::Limit { what, max }.into());
        }
        let messages = created.on_complete.iter().chain(&created.on_expire);
        let bytes: usize = messages.map(template_bytes).sum();
        if BARRIER_BYTES_MAX < bytes {
            return Err(Refused::Limit { what: "barrier_bytes", max: BARRIER_BYTES_MAX }.into());
        }
        self.room()?.take(Kind::Barrier, key, 0, cost(key) + bytes)?;
        let mut draft = self.draft();
        draft.state(Change::BarrierCreated(created));
        self.commit(draft, out);
        Ok(true)
    }

    /// Arrives at a barrier.
    pub fn arrive(&mut self, arrive: &Arrive, now: Now, out: &mut Output) -> Turn<Arrived> {
        let mut draft = self.draft();
        let (arrived, messages) = self.draft_arrival(&mut draft, &mut self.room()?, arrive, now)?;
        self.check_completions(&messages)?;
        let evicted = self.draft_also(&mut draft, &messages, now)?;
        self.commit(draft, out);
        self.evict(&evicted, now, out);
        Ok(arrived)
    }

    /// Whether one commit can hold what barriers publish, with all else that is published with it.
    pub(in crate::queue) fn check_completions(&self, messages: &[NewMessage]) -> Turn<()> {
        let bytes: u64 = messages.iter().map(|message| message.body.len() as u64).sum();
        let max = self.limits.completion_bytes_max();
        if max < bytes {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            return Err(Refused::Limit { what: "completion_bytes", max }.into());
        }
        Ok(())
    }

    /// A barrier as it is.
    pub fn barrier(&self, key: &str, now: Now) -> Option<BarrierView> {
        self.state.barriers.get(key).map(|barrier| barrier.view(now))
    }

    /// Drafts an arrival; returns with it what is published with it, which is for the caller to draft.
    pub(super) fn draft_arrival(
        &self,
        draft: &mut Draft,
        room: &mut Room,
        arrive: &Arrive,
        now: Now,
    ) -> Turn<(Arrived, Vec<NewMessage>)> {
        let nothing = |barrier| Ok((Arrived { barrier, last: false }, Vec::new()));
        let Some(barrier) = self.state.barriers.get(&arrive.key) else { return nothing(None) };
        let view = barrier.view(now);
        if view.state != BarrierState::Open || barrier.hashes.contains(&arrive.member_hash) {
            return nothing(Some(view));
        }
        let member = barrier.collect.then(|| Member {
            member_id: arrive.member_id.clone(),
            value: arrive.value.clone(),
            failed: arrive.failed,
        });
        let brought = member.as_ref().map_or(0, member_bytes);
        if member.is_some() && BARRIER_BYTES_MAX < barrier.content_bytes() + brought {
            return Err(Refused::Limit { what: "barrier_bytes", max: BARRIER_BYTES_MAX }.into());
        }
        let before = barrier.cost(&arrive.key);
        room.take(Kind::Barrier, &arrive.key, before, before + brought + MEMBER_BYTES)?;
        let view = BarrierView {
            arrived: view.arrived + 1,
            failed: view.failed + u32::from(arrive.failed),
            ..view
        };
        let last = view.arrived == view.parties;
        let messages = if last { completion(barrier, member.as_ref()) } else { Vec::new() };
        #[expect(clippy::cast_possible_truncation, reason = "halves of a hash")]
        let (hash_high, hash_low) = ((arrive.member_hash >> 64) as u64, arrive.member_hash as u64);
        let (key, failed, completes) = (arrive.key.to_string(), arrive.failed, last);
        let arrived = ArrivedRecord { key, hash_high, hash_low, failed, member, completes };
        draft.state(Change::Arrived(arrived));
        let state = if last { BarrierState::Complete } else { BarrierState::Open };
        Ok((Arrived { barrier: Some(BarrierView { state, ..view }), last }, messages))
    }
}

/// What is published once all have arrived, this one the last.
fn completion(barrier: &Barrier, last: Option<&Member>) -> Vec<NewMessage> {
    let results = barrier.collect.then(|| {
        let members = barrier.members.iter().chain(last).cloned().collect();
        Bytes::from(Results { members }.encode_to_vec())
    });
    let message = |template: &Template| {
        let message = new_message(template);
        match &results {
            None => message,
            Some(results) => with_payload(message, results.clone()),
        }
    };
    barrier.on_complete.iter().map(message).collect()
}

fn with_payload(message: NewMessage, payload: Bytes) -> NewMessage {
    let [prefix, rest] = message.body.parts().clone();
    let stored = StoredMessage::decode(prefix.chain(rest)).expect("it was encoded here");
    let payload_bytes = payload.len() as u64;
    let body = StoredMessage { payload, ..stored }.into_body(&mut BytesMut::new());
    NewMessage { payload_bytes, body, ..message }
}

pub(super) fn template(message: &NewMessage) -> Template {
    // Whatever a message has must be in the template.
    let NewMessage {
        queue,
        message_id,
        id_hash,
        payload_bytes,
        due,
        priority,
        ttl_ms,
        max_attempts,
        unique_hash,
        ordering_hash,
        fairness_hash,
        body,
    } = message.clone();
    #[expect(clippy::cast_possible_truncation, reason = "halves of a hash")]
    let (id_hash_high, id_hash_low) =
        id_hash.map(|hash| ((hash >> 64) as u64, hash as u64)).unzip();
    let (delay_ms, deliver_ms) = match due {
        None => (None, None),
        Some(NewDue::After(ms)) => (Some(ms), None),
        Some(NewDue::At(ms)) => (None, Some(ms)),
    };
    Template {
        queue: queue.to_string(),
        message_id,
        id_hash_high,
        id_hash_low,
        payload_bytes,
        delay_ms,
        deliver_ms,
        priority: priority.into(),
        ttl_ms,
        max_attempts,
        unique_hash,
        ordering_hash,
        fairness_hash,
        body: body.parts().concat().into(),
    }
}

pub(super) fn new_message(template: &Template) -> NewMessage {
    let halves = template.id_hash_high.zip(template.id_hash_low);
    let delay = template.delay_ms.map(NewDue::After);
    NewMessage {
        queue: template.queue.as_str().into(),
        message_id: template.message_id.clone(),
        id_hash: halves.map(|(high, low)| u128::from(high) << 64 | u128::from(low)),
        payload_bytes: template.payload_bytes,
        due: delay.or_else(|| template.deliver_ms.map(NewDue::At)),
        priority: u8::try_from(template.priority).unwrap_or(u8::MAX),
        ttl_ms: template.ttl_ms,
        max_attempts: template.max_attempts,
        unique_hash: template.unique_hash,
        ordering_hash: template.ordering_hash,
        fairness_hash: template.fairness_hash,
        body: Body::new(template.body.clone(), Bytes::new()),
    }
}
