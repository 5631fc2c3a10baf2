//! Permits: so many of a key at a time, each until it is given back, its time is over, or whoever
//! holds it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use qbroker_storage::Lsn;

use super::ends::Named;
use super::record::{Change, PermitTaken, Removed};
use super::watch::Waiter;
use super::{Key, Kind, State, cost};
use crate::queue::ids::{LeaseToken, SessionId};
use crate::queue::index::Index;
use crate::queue::refused::Refused;
use crate::queue::shared_map::SharedMap;
use crate::queue::time::{Due, Now};
use crate::queue::{Core, Output, Turn};

/// Takes one of a key's permits.
#[derive(Clone, Debug)]
pub struct AcquirePermit {
    pub key: Key,
    /// How many there are.
    pub limit: u32,
    pub ttl_ms: u64,
    pub holder: Holder,
    /// A permit that was taken with it is given again; empty: none was.
    pub request_id: String,
}

/// Whom a permit ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// With its time alone.
    Nobody,
    Lease(LeaseToken),
    /// By the name of the session.
    Session(String),
}

/// Names a permit: the LSN of its record, and the epoch of the start that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PermitId {
    pub lsn: Lsn,
    pub epoch: u32,
}

impl PermitId {
    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, lsn) = text.strip_prefix("p.")?.split_once('.')?;
        Some(Self { lsn: Lsn(lsn.parse().ok()?), epoch: epoch.parse().ok()? })
    }
}

impl fmt::Display for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p.{}.{}", self.epoch, self.lsn.0)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Permit {
    pub(super) key: Key,
    pub(super) epoch: u32,
    pub(super) end: Due,
    /// As message and grant; zero: none.
    pub(super) lease: (Lsn, Lsn),
    pub(super) session: SessionId,
    pub(super) request_id: Key,
}

/// Permits by the LSN of their record.
pub(super) type ById = SharedMap<Lsn, Permit>;

/// Invariant: every permit is in `of_keys`, and in those of the other three that it names.
#[derive(Debug, Default)]
pub(super) struct Permits {
    permits: ById,
    of_keys: BTreeMap<Key, BTreeSet<Lsn>>,
    of_leases: BTreeMap<Lsn, BTreeSet<Lsn>>,
    of_sessions: BTreeMap<SessionId, BTreeSet<Lsn>>,
    of_requests: BTreeMap<(Key, Key), Lsn>,
}

impl Permits {
    pub(super) fn len(&self) -> usize {
        self.permits.len()
    }

    /// Every permit, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> ById {
        self.permits.clone()
    }

    pub(super) fn ends_mut(&mut self) -> impl Iterator<Item = &mut Due> {
        self.permits.values_mut().map(|permit| &mut permit.end)
    }

    pub(super) fn end_of(&self, id: Lsn) -> Option<Due> {
        self.permits.get(&id).map(|permit| permit.end)
    }

    fn taken(&self, key: &str) -> usize {
        self.of_keys.get(key).map_or(0, BTreeSet::len)
    }

    fn of_request(&self, key: &Key, request_id: &str) -> Option<Lsn> {
        if request_id.is_empty() {
            return None;
        }
        self.of_requests.get(&(key.clone(), request_id.into())).copied()
    }
}

/// What a permit takes of memory: it is in four places.
fn permit_cost(key: &str, request_id: &str) -> usize {
    cost(key) + cost(request_id)
}

fn drop_from<K: Ord + Clone>(sets: &mut BTreeMap<K, BTreeSet<Lsn>>, name: &K, id: Lsn) {
    if let Some(set) = sets.get_mut(name) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(name);
        }
    }
}

impl State {
    pub(super) fn apply_permit(&mut self, lsn: Lsn, taken: &PermitTaken) {
        let permit = Permit {
            key: taken.key.as_str().into(),
            epoch: taken.epoch,
            end: taken.end.into(),
            lease: (Lsn(taken.birth), Lsn(taken.grant)),
            session: SessionId(taken.session),
            request_id: taken.request_id.as_str().into(),
        };
        self.put_permit(lsn, permit);
    }

    pub(super) fn put_permit(&mut self, id: Lsn, permit: Permit) {
        let permits = &mut self.permits;
        self.bytes += permit_cost(&permit.key, &permit.request_id);
        self.ends.insert(permit.end, Named::Permit(id));
        permits.of_keys.entry(permit.key.clone()).or_default().insert(id);
        if permit.lease.0 != Lsn(0) {
            permits.of_leases.entry(permit.lease.0).or_default().insert(id);
        }
        if permit.session != SessionId::NONE {
            permits.of_sessions.entry(permit.session).or_default().insert(id);
        }
        if !permit.request_id.is_empty() {
            permits.of_requests.insert((permit.key.clone(), permit.request_id.clone()), id);
        }
        permits.permits.insert(id, permit);
    }

    pub(super) fn remove_permit(&mut self, id: Lsn) {
        let permits = &mut self.permits;
        let Some(permit) = permits.permits.remove(&id) else { return };
        self.bytes -= permit_cost(&permit.key, &permit.request_id);
        self.ends.remove(permit.end, Named::Permit(id));
        drop_from(&mut permits.of_keys, &permit.key, id);
        drop_from(&mut permits.of_leases, &permit.lease.0, id);
        drop_from(&mut permits.of_sessions, &permit.session, id);
        permits.of_requests.remove(&(permit.key.clone(), permit.request_id));
        self.watch.touch(Kind::Permit, &permit.key);
    }

    /// A lease has ended, and with it what was bound to it. Part of what its record says.
    pub(in crate::queue) fn end_lease(&mut self, birth: Lsn) {
        // Few leases have permits.
        if !self.permits.of_leases.is_empty() {
            let ended = self.permits.of_leases.get(&birth).cloned();
            ended.into_iter().flatten().for_each(|id| self.remove_permit(id));
        }
    }

    /// A session has ended, and with it what was bound to it.
    pub(in crate::queue) fn end_session(&mut self, session: SessionId) {
        let ended = self.permits.of_sessions.get(&session).cloned();
        ended.into_iter().flatten().for_each(|id| self.remove_permit(id));
    }
}

impl<I: Index> Core<I> {
    /// Takes a permit, where one is free beside those for who waits longer. `waiter`: who asks, where he
    /// waits for one.
    pub fn acquire_permit(
        &mut self,
        acquire: &AcquirePermit,
        waiter: Option<Waiter>,
        now: Now,
        out: &mut Output,
    ) -> Turn<Option<PermitId>> {
        let key = &acquire.key;
        if let Some(lsn) = self.state.permits.of_request(key, &acquire.request_id) {
            let permit = self.state.permits.permits.get(&lsn);
            let &Permit { epoch, end, .. } = permit.expect("a request's permit is there");
            // One that is over is on its way to somebody else.
            return Ok((!end.is_over(now)).then_some(PermitId { lsn, epoch }));
        }
        let (lease, session) = match &acquire.holder {
            Holder::Nobody => ((Lsn(0), Lsn(0)), SessionId::NONE),
            Holder::Lease(token) => {
                self.held(*token)?;
                ((token.birth, token.grant), SessionId::NONE)
            }
            Holder::Session(name) => {
                let session = self.sessions.named(name);
                let lost = || Refused::SessionLost(name.clone());
                ((Lsn(0), Lsn(0)), session.ok_or_else(lost)?)
            }
        };
        let mut room = self.room()?;
        room.take(Kind::Permit, key, 0, permit_cost(key, &acquire.request_id))?;
        let free = (acquire.limit as usize).saturating_sub(self.state.permits.taken(key));
        if !self.state.watch.is_among_first(Kind::Permit, key, waiter, free) {
            return Ok(None);
        }
        let mut draft = self.draft();
        let lsn = draft.state(Change::PermitTaken(PermitTaken {
            key: key.to_string(),
            epoch: self.epoch,
            end: now.after(acquire.ttl_ms).into(),
            birth: lease.0.0,
            grant: lease.1.0,
            session: session.0,
            request_id: acquire.request_id.clone(),
        }));
        self.commit(draft, out);
        // What is left is for those behind, who may ask before this one has heard.
        if let Some(waiter) = waiter {
            self.state.watch.leave(Kind::Permit, key, waiter);
        }
        Ok(Some(PermitId { lsn, epoch: self.epoch }))
    }

    /// How many of a key's permits are taken.
    pub fn permits_taken(&self, key: &str) -> usize {
        self.state.permits.taken(key)
    }

    /// Gives a permit back; whether it had not ended before. Takes place on a full disk too.
    pub fn release_permit(&mut self, id: PermitId, out: &mut Output) -> Turn<bool> {
        let permit = self.state.permits.permits.get(&id.lsn);
        if permit.is_none_or(|permit| permit.epoch != id.epoch) {
            return Ok(false);
        }
        let removed = Removed { permits: vec![id.lsn.0], ..Removed::default() };
        let mut draft = self.draft();
        draft.state(Change::Removed(removed));
        self.commit(draft, out);
        Ok(true)
    }
}
