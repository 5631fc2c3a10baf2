//! Values, counters, permits and barriers under a few keys.

use bytes::Bytes;
use proptest::prelude::*;
use qbroker_storage::{Body, Lsn};

use super::{Command, Play, QUEUES};
use crate::queue::NewMessage;
use crate::queue::refused::Refused;
use crate::queue::state::{
    AcquirePermit, AddToCounter, Arrive, Arrived, BarrierState, BarrierView, ChangeCounter,
    Changed, CreateBarrier, Holder, Key, PermitId, StoreValue,
};
use crate::queue::tests::model::Asked;
use crate::queue::tests::stage::StageIndex;

/// Permits of each key.
const PERMITS: u32 = 2;
const MAXIMUM: i64 = 20;

#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Put {
        ttl_ms: Option<u64>,
        if_absent: bool,
    },
    Delete,
    Add {
        amount: i8,
        ttl_ms: Option<u64>,
    },
    /// Held by a lease, by a session, or by nobody.
    Acquire {
        ttl_ms: u64,
        lease: Option<u8>,
        session: Option<u8>,
    },
    Release {
        permit: u8,
        /// Of another start than the one that gave it.
        misnamed: bool,
    },
    /// Publishes to queues, when it is complete and when it is late.
    Create {
        parties: u8,
        ttl_ms: u64,
        complete: Option<u8>,
        expire: Option<u8>,
    },
    Arrive(u8),
}

pub(super) fn state() -> impl Strategy<Value = Command> {
    let ttl = || prop::option::of(1..20_000_u64);
    let holder = prop_oneof![
        2 => any::<u8>().prop_map(|lease| (Some(lease), None)),
        1 => (0..3_u8).prop_map(|session| (None, Some(session))),
        1 => Just((None, None)),
    ];
    let how = prop_oneof![
        2 => (ttl(), any::<bool>()).prop_map(|(ttl_ms, if_absent)| How::Put { ttl_ms, if_absent }),
        1 => Just(How::Delete),
        2 => (any::<i8>(), ttl()).prop_map(|(amount, ttl_ms)| How::Add { amount, ttl_ms }),
        3 => (1_000..30_000_u64, holder).prop_map(|(ttl_ms, (lease, session))| {
            How::Acquire { ttl_ms, lease, session }
        }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(permit, misnamed)| {
            How::Release { permit, misnamed }
        }),
        2 => (1..4_u8, 1_000..30_000_u64, prop::option::of(any::<u8>()), prop::option::of(any::<u8>()))
            .prop_map(|(parties, ttl_ms, complete, expire)| {
                How::Create { parties, ttl_ms, complete, expire }
            }),
        4 => (0..4_u8).prop_map(How::Arrive),
    ];
    (0..3_u8, how).prop_map(|(key, how)| Command::State { key, how })
}

impl<I: StageIndex> Play<I> {
    pub(super) fn state(&mut self, key: u8, how: &How) {
        let key: Key = format!("k{key}").into();
        match *how {
            How::Put { ttl_ms, if_absent } => self.put(&key, ttl_ms, if_absent),
            How::Delete => {
                let heard = self.stage.turn(|core, now, out| core.delete_value(&key, now, out));
                let state = &self.model.state;
                let now = self.stage.now;
                let is =
                    |end: Option<crate::queue::time::Due>| !end.is_some_and(|it| it.is_over(now));
                let value = state.values.get(&*key).is_some_and(|(_, end)| is(*end));
                let counter = state.counters.get(&*key).is_some_and(|(_, end)| is(*end));
                assert_eq!(heard.answer, Ok(value || counter));
                self.heard(&heard, Asked { state: true, ..Asked::default() });
            }
            How::Add { amount, ttl_ms } => self.add(&key, i64::from(amount), ttl_ms),
            How::Acquire { ttl_ms, lease, session } => self.acquire(&key, ttl_ms, lease, session),
            How::Release { permit, misnamed } => self.release(permit, misnamed),
            How::Create { parties, ttl_ms, complete, expire } => {
                self.create(&key, u32::from(parties), ttl_ms, (complete, expire));
            }
            How::Arrive(member) => self.arrive(&key, member),
        }
    }

    fn release(&mut self, pick: u8, misnamed: bool) {
        let permits = &self.model.state.permits;
        let given: Vec<_> = permits.iter().map(|(id, permit)| (*id, permit.epoch)).collect();
        let Some(&(id, epoch)) = super::pick_of(&given, pick) else { return };
        let id = PermitId { lsn: Lsn(id), epoch: if misnamed { epoch + 9 } else { epoch } };
        let heard = self.stage.turn(|core, _, out| core.release_permit(id, out));
        assert_eq!(heard.answer, Ok(!misnamed), "a full disk allows it");
        self.heard(&heard, Asked { state: true, ..Asked::default() });
        assert_eq!(self.model.state.permits.contains_key(&id.lsn.0), misnamed);
    }

    fn create(
        &mut self,
        key: &Key,
        parties: u32,
        ttl_ms: u64,
        (complete, expire): (Option<u8>, Option<u8>),
    ) {
        let messages = |queue: Option<u8>| -> Vec<NewMessage> {
            let queue = queue.map(|pick| QUEUES[usize::from(pick) % QUEUES.len()]);
            queue.into_iter().map(message).collect()
        };
        let (on_complete, on_expire) = (messages(complete), messages(expire));
        let key = key.clone();
        let create = CreateBarrier { key, parties, ttl_ms, on_complete, on_expire, collect: false };
        let known = self.model.state.barriers.contains_key(&*create.key);
        let heard = self.stage.turn(|core, now, out| core.create_barrier(&create, now, out));
        let full = (self.disk_full && !known).then_some(Refused::DiskFull);
        assert_eq!(heard.answer, full.map_or(Ok(!known), Err));
        self.heard(&heard, Asked { state: true, ..Asked::default() });
    }

    /// The last one publishes what its barrier has for that, or has not arrived.
    fn arrive(&mut self, key: &Key, member: u8) {
        let member_hash = u128::from(member);
        let value = Bytes::new();
        let (key, member_id) = (key.clone(), member.to_string());
        let arrive = Arrive { key, member_id, member_hash, value, failed: false };
        let now = self.stage.now;
        let barrier = self.model.state.barriers.get(&*arrive.key);
        let view = barrier.map(|barrier| barrier.view(now));
        let counts = barrier.is_some_and(|barrier| !barrier.members.contains(&member_hash))
            && view.is_some_and(|view| view.state == BarrierState::Open);
        let arrived = view.map_or(0, |view| view.arrived + u32::from(counts));
        let last = counts && view.is_some_and(|view| view.parties == arrived);
        let state = |view: BarrierView| if last { BarrierState::Complete } else { view.state };
        let told = view.map(|view| BarrierView { arrived, state: state(view), ..view });
        let queue =
            barrier.filter(|_| last).and_then(|barrier| barrier.on_complete.first().cloned());
        let refused = match &queue {
            _ if self.disk_full => Some(Refused::DiskFull),
            Some(queue) => self.refuses(queue, message(queue).body.len(), None),
            None => None,
        };
        let expected = refused.map_or(Ok(Arrived { barrier: told, last }), Err);
        let heard = self.stage.turn(|core, now, out| core.arrive(&arrive, now, out));
        assert_eq!(heard.answer, expected);
        let asked = Asked { state: true, publish: queue.is_some(), ..Asked::default() };
        self.heard(&heard, asked);
    }

    /// Why a queue takes no message of so many bytes, which another one that leaves makes room for.
    pub(super) fn refuses(
        &self,
        queue: &str,
        bytes: usize,
        leaving: Option<u64>,
    ) -> Option<Refused> {
        let definition = self.model.queue_named(queue)?;
        if definition.publishing_paused {
            return Some(Refused::QueuePaused(queue.to_owned()));
        }
        let policy = &definition.policy;
        let (bound, max) = match policy.max_messages {
            Some(max) => ("max_messages", max),
            None => ("max_bytes", policy.max_bytes.unwrap_or(u64::MAX)),
        };
        let has_room = self.model.has_room(queue, (1, bytes as u64), false, leaving);
        (!has_room).then(|| Refused::QueueFull { queue: queue.to_owned(), bound, max })
    }

    /// Those that are late have ended, unless what they publish waits for a disk with room.
    pub(super) fn check_barriers_are_not_overdue(&self) {
        let mut barriers = self.model.state.barriers.values();
        assert!(self.disk_full || !barriers.any(|barrier| barrier.end.is_over(self.stage.now)));
    }

    fn put(&mut self, key: &Key, ttl_ms: Option<u64>, if_absent: bool) {
        let value = Body::new(Bytes::new(), Bytes::from_static(b"value"));
        let store = StoreValue { key: key.clone(), value, ttl_ms, if_absent };
        let there = self.stage.core.value_at(key, self.stage.now).is_some();
        let heard = self.stage.turn(|core, now, out| core.store_value(&store, now, out));
        let full = self.disk_full.then_some(Refused::DiskFull);
        let expected = full.map_or(Ok(!(if_absent && there)), Err);
        assert_eq!(heard.answer, expected);
        self.heard(&heard, Asked { state: true, ..Asked::default() });
    }

    fn add(&mut self, key: &Key, amount: i64, ttl_ms: Option<u64>) {
        let maximum = Some(MAXIMUM);
        let add = AddToCounter { key: key.clone(), amount, maximum, ttl_ms, ..Default::default() };
        let change = ChangeCounter { add, request_id: String::new() };
        let now = self.stage.now;
        let there = self.model.state.counters.get(&**key);
        let there = there.filter(|(_, end)| end.is_none_or(|end| !end.is_over(now)));
        let before = there.map_or(0, |(value, _)| *value);
        let applied = before + amount <= MAXIMUM;
        let value = if applied { before + amount } else { before };
        let heard = self.stage.turn(|core, now, out| core.change_counter(&change, now, out));
        let full = self.disk_full.then_some(Refused::DiskFull);
        assert_eq!(heard.answer, full.map_or(Ok(Changed { applied, value }), Err));
        self.heard(&heard, Asked { state: true, ..Asked::default() });
    }

    fn acquire(&mut self, key: &Key, ttl_ms: u64, lease: Option<u8>, session: Option<u8>) {
        let token = lease.and_then(|pick| self.picked(&[pick]).pop());
        let holder = match (token, session) {
            (Some(token), _) => Holder::Lease(token),
            (None, Some(session)) => Holder::Session(format!("s{session}")),
            (None, None) => Holder::Nobody,
        };
        let is_gone = match &holder {
            Holder::Nobody => None,
            Holder::Lease(token) => {
                let held = self.model.leases().any(|(_, lease)| lease.token == *token);
                (!held).then_some(Refused::LeaseLost)
            }
            Holder::Session(name) => {
                let known = self.model.session_named(name).is_some();
                (!known).then(|| Refused::SessionLost(name.clone()))
            }
        };
        let taken = self.model.state.permits.values().filter(|it| it.key == **key).count();
        let request_id = String::new();
        let acquire =
            AcquirePermit { key: key.clone(), limit: PERMITS, ttl_ms, holder, request_id };
        let heard = self.stage.turn(|core, now, out| core.acquire_permit(&acquire, None, now, out));
        let refused = is_gone.or_else(|| self.disk_full.then_some(Refused::DiskFull));
        match (&heard.answer, refused) {
            (Err(told), refused) => assert_eq!(Some(told), refused.as_ref()),
            (Ok(given), None) => assert_eq!(given.is_some(), taken < PERMITS as usize),
            (Ok(_), refused) => panic!("{refused:?} was to be told"),
        }
        self.heard(&heard, Asked { state: true, ..Asked::default() });
    }

    /// The core and the model have the same state.
    pub(super) fn compare_state(&mut self) {
        self.model.end_permits();
        let (core, model) = (&self.stage.core, &self.model.state);
        let figures = core.state_figures();
        let counts = (figures.values, figures.counters, figures.permits, figures.barriers);
        let (values, counters) = (model.values.len(), model.counters.len());
        let expected = (values, counters, model.permits.len(), model.barriers.len());
        assert_eq!(counts, expected, "values, counters, permits, barriers");
        let now = self.stage.now;
        for (key, barrier) in &model.barriers {
            assert_eq!(core.barrier(key, now), Some(barrier.view(now)), "barrier {key}");
        }
        for (key, (lsn, end)) in &model.values {
            let is_over = end.is_some_and(|end| end.is_over(now));
            let found = core.value_at(key, now).map(|(record, _)| record.0);
            assert_eq!(found, (!is_over).then_some(*lsn), "value {key}");
        }
        for (key, (value, end)) in &model.counters {
            let is_over = end.is_some_and(|end| end.is_over(now));
            assert_eq!(core.counter(key, now), (!is_over).then_some(*value), "counter {key}");
        }
    }
}

/// What a barrier publishes.
fn message(queue: &str) -> NewMessage {
    let body = Body::new(Bytes::from_static(b"results"), Bytes::new());
    NewMessage { queue: queue.into(), body, ..NewMessage::default() }
}
