//! Leases settled lately, so that a settlement whose answer was lost can be tried again.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::ids::SessionId;
use super::record::Call;
use super::shared_map::SharedMap;

/// How a lease was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ack = 1,
    Nack = 2,
    Release = 3,
    DeadLetter = 4,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Release => "release",
            Self::DeadLetter => "dead-letter",
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        [Self::Ack, Self::Nack, Self::Release, Self::DeadLetter]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// A lease, as message and grant.
pub(super) type Key = (Lsn, Lsn);

/// How long an outcome is remembered where the client never says that it has the answer.
pub(super) const REMEMBERED_MS: u64 = 5 * 60 * 1_000;

/// Invariant: every lease in `outcomes` is in exactly one call, every call once in `by_time`.
#[derive(Debug, Default)]
pub(super) struct Settled {
    outcomes: HashMap<Key, Kind, FxBuildHasher>,
    calls: SettledCalls,
    by_time: BTreeSet<(u64, u64, u64)>,
}

/// Calls by stream and number.
pub(super) type SettledCalls = SharedMap<(u64, u64), SettledCall>;

/// What one call settled, and when.
#[derive(Clone, Debug)]
pub(super) struct SettledCall {
    /// Of its stream, where the leases tell it: nobody else takes them over.
    pub(super) session: SessionId,
    pub(super) wall_ms: u64,
    pub(super) leases: Arc<Vec<(Key, Kind)>>,
}

impl Settled {
    pub(super) fn outcome(&self, lease: Key) -> Option<Kind> {
        self.outcomes.get(&lease).copied()
    }

    pub(super) fn remember(
        &mut self,
        call: &Call,
        session: SessionId,
        leases: impl IntoIterator<Item = Key>,
        kind: Kind,
    ) {
        let key = (call.consumer, call.number);
        let outcomes = &mut self.outcomes;
        let is_new = |lease: &Key| outcomes.try_insert(*lease, kind).is_ok();
        let new: Vec<_> = leases.into_iter().filter(is_new).map(|lease| (lease, kind)).collect();
        if let Some(settled) = self.calls.get_mut(&key) {
            Arc::make_mut(&mut settled.leases).extend(new);
        } else if !new.is_empty() {
            self.by_time.insert((call.wall_ms, key.0, key.1));
            let (wall_ms, leases) = (call.wall_ms, Arc::new(new));
            self.calls.insert(key, SettledCall { session, wall_ms, leases });
        }
    }

    /// Whether calls of the stream up to this one are remembered.
    pub(super) fn remembers(&self, consumer: u64, through: u64) -> bool {
        self.first_call(consumer, through).is_some()
    }

    /// The first call of the stream up to this one.
    fn first_call(&self, consumer: u64, through: u64) -> Option<(u64, u64)> {
        let (&key, _) = self.calls.from(Bound::Included(&(consumer, 0))).next()?;
        (key <= (consumer, through)).then_some(key)
    }

    /// The client has the answers to all calls of the stream up to this one.
    pub(super) fn answered(&mut self, consumer: u64, through: u64) {
        while let Some(key) = self.first_call(consumer, through) {
            self.forget(key);
        }
    }

    /// The session whose stream made calls that are remembered, as far as they tell.
    pub(super) fn session_of(&self, consumer: u64) -> Option<SessionId> {
        let mut told = self.calls_of(consumer).map(|(_, call)| call.session);
        told.find(|session| *session != SessionId::NONE)
    }

    fn calls_of(&self, consumer: u64) -> impl Iterator<Item = ((u64, u64), &SettledCall)> {
        let calls = self.calls.from(Bound::Included(&(consumer, 0)));
        calls.map(|(key, call)| (*key, call)).take_while(move |(key, _)| key.0 == consumer)
    }

    /// One stream of a session took the place of another, and goes on with its numbers.
    pub(super) fn resume(&mut self, session: SessionId, previous: u64, consumer: u64) {
        let is_own = |call: &SettledCall| [session, SessionId::NONE].contains(&call.session);
        let own = self.calls_of(previous).filter(|(_, call)| is_own(call));
        let own: Vec<_> = own.map(|(key, _)| key).collect();
        for key in own {
            let call = self.calls.remove(&key).expect("it was found just now");
            self.by_time.remove(&(call.wall_ms, previous, key.1));
            self.by_time.insert((call.wall_ms, consumer, key.1));
            self.calls.insert((consumer, key.1), call);
        }
    }

    /// Forgets what is too old, and the oldest beyond `max` leases.
    pub(super) fn prune(&mut self, wall_ms: u64, max: usize) {
        let too_old = wall_ms.saturating_sub(REMEMBERED_MS);
        while let Some(&(time, consumer, number)) = self.by_time.first() {
            if too_old <= time && self.outcomes.len() <= max {
                return;
            }
            self.forget((consumer, number));
        }
    }

    fn forget(&mut self, key: (u64, u64)) {
        let Some(call) = self.calls.remove(&key) else { return };
        self.by_time.remove(&(call.wall_ms, key.0, key.1));
        for (lease, _) in call.leases.iter() {
            self.outcomes.remove(lease);
        }
    }

    /// Every call, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> SettledCalls {
        self.calls.clone()
    }
}
