//! Values, counters and permits under a few keys.

use bytes::Bytes;
use proptest::prelude::*;
use qbroker_storage::{Body, Lsn};

use super::{Command, Play};
use crate::queue::refused::Refused;
use crate::queue::state::{
    AcquirePermit, AddToCounter, ChangeCounter, Changed, Holder, Key, PermitId, StoreValue,
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
    Release(u8),
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
        1 => any::<u8>().prop_map(How::Release),
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
            How::Release(pick) => {
                let ids: Vec<u64> = self.model.state.permits.keys().copied().collect();
                let Some(&id) = super::pick_of(&ids, pick) else { return };
                let epoch = self.stage.core.epoch;
                // An epoch that never gave it does not name it.
                let given = PermitId { lsn: Lsn(id), epoch: epoch + 9 };
                let heard = self.stage.turn(|core, _, out| core.release_permit(given, out));
                assert_eq!(heard.answer, Ok(false));
                self.heard(&heard, Asked::default());
            }
        }
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
        let counts = (figures.values, figures.counters, figures.permits);
        let expected = (model.values.len(), model.counters.len(), model.permits.len());
        assert_eq!(counts, expected, "values, counters, permits");
        let now = self.stage.now;
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
