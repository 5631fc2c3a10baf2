//! Pulls answered lately, so that one whose answer was lost can be tried again.

use std::collections::{BTreeMap, VecDeque};

use qbroker_storage::Lsn;

use super::Core;
use super::dispatch::Delivery;
use super::ids::SessionId;
use super::index::{Index, Lookup};
use super::record::Granted;
use super::settled::{Key, REMEMBERED_MS};

/// A pull as its client names it.
pub(super) type RequestKey = (SessionId, String);

/// Invariant: every request is in `order` once; `leases` counts the leases of all of them.
#[derive(Debug, Default)]
pub(super) struct PulledLately {
    requests: BTreeMap<RequestKey, Pulled>,
    /// As they were answered.
    order: VecDeque<RequestKey>,
    leases: usize,
}

#[derive(Debug)]
struct Pulled {
    wall_ms: u64,
    leases: Vec<Key>,
}

impl PulledLately {
    fn leases(&self, key: &RequestKey) -> Option<&[Key]> {
        self.requests.get(key).map(|pulled| &*pulled.leases)
    }

    /// A pull got leases; a pull of several queues gets them in several steps.
    pub(super) fn remember(
        &mut self,
        key: RequestKey,
        wall_ms: u64,
        leases: impl IntoIterator<Item = Key>,
        max: usize,
    ) {
        self.requests
            .entry(key)
            .or_insert_with_key(|key| {
                self.order.push_back(key.clone());
                Pulled { wall_ms, leases: Vec::new() }
            })
            .leases
            .extend(leases.into_iter().inspect(|_| self.leases += 1));
        let too_old = wall_ms.saturating_sub(REMEMBERED_MS);
        while let Some(first) = self.order.front() {
            let is_over = max < self.leases || self.requests[first].wall_ms < too_old;
            if !is_over {
                return;
            }
            let first = self.order.pop_front().expect("it was found just now");
            let forgotten = self.requests.remove(&first).expect("what is in order is remembered");
            self.leases -= forgotten.leases.len();
        }
    }

    /// A lease was never told of: its message could not be read. Who got nothing else is not remembered,
    /// so that the pull goes on, and does not look answered with nothing.
    fn take_back(&mut self, lease: Key) {
        // Grants grow with the order, and most that cannot be read were granted just now.
        let leases_at = |at: &usize| &self.requests[&self.order[*at]].leases;
        let is_later = |at: &usize| leases_at(at).last().is_some_and(|last| lease.1 <= last.1);
        let mut latest_first = (0..self.order.len()).rev().take_while(is_later);
        let Some(at) = latest_first.find(|at| leases_at(at).contains(&lease)) else { return };
        let key = &self.order[at];
        let pulled = self.requests.get_mut(key).expect("what is in order is remembered");
        pulled.leases.retain(|other| *other != lease);
        self.leases -= 1;
        if pulled.leases.is_empty() {
            self.requests.remove(key);
            self.order.remove(at);
        }
    }

    /// Every request with its time and its leases, as they were answered.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestKey, u64, &[Key])> {
        self.order.iter().map(|key| {
            let pulled = &self.requests[key];
            (key, pulled.wall_ms, &*pulled.leases)
        })
    }
}

impl<I: Index> Core<I> {
    /// What a pull has got before under this name, as far as it still holds; `None` where nothing is
    /// known of it.
    pub(super) fn pulled_before(&self, key: &RequestKey) -> Lookup<Option<Vec<Delivery>>> {
        let Some(leases) = self.pulled.leases(key) else { return Ok(None) };
        let mut deliveries = Vec::with_capacity(leases.len());
        for &(birth, grant) in leases {
            let Some(lease) = self.leases.get(birth).filter(|lease| lease.grant == grant) else {
                continue;
            };
            let message =
                self.index.message(birth)?.expect("a lease is of a message that is there");
            let queue = self.catalog.get(message.queue).expect("a message's queue is there");
            deliveries.push(Delivery {
                token: lease.token(birth),
                queue: queue.name.clone(),
                priority: message.priority,
                failures: message.failures,
                crashes: message.crashes,
                last_failure: message.last_failure,
                dead_letter: message.dead_letter,
                duration_ms: lease.duration_ms,
                timed: true,
                size: message.size,
                content: message.content(birth),
            });
        }
        Ok(Some(deliveries))
    }

    /// The message of a lease cannot be read, and the lease is about to end.
    pub(super) fn note_unreadable(&mut self, birth: Lsn) {
        if let Some(lease) = self.leases.get(birth) {
            self.pulled.take_back((birth, lease.grant));
        }
    }

    pub(super) fn note_pulled(&mut self, lsn: Lsn, granted: &Granted) {
        let key = (SessionId(granted.session), granted.request.clone());
        let leases = granted.births.iter().map(|birth| (Lsn(*birth), lsn));
        self.pulled.remember(key, granted.wall_ms, leases, self.limits.pulled_max);
    }
}
