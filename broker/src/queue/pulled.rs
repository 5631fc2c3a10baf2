//! Pulls answered lately, so that one whose answer was lost can be tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::Core;
use super::dispatch::Delivery;
use super::ids::SessionId;
use super::index::{Index, Lookup};
use super::record::Granted;
use super::settled::{Key, REMEMBERED_MS};
use super::shared_map::SharedMap;

/// A pull as its client names it.
pub(super) type RequestKey = (SessionId, String);

/// Invariant: every request of `numbers` is in `pulls` once, under its number; `leases` counts the leases
/// of all of them.
#[derive(Debug, Default)]
pub(super) struct PulledLately {
    numbers: BTreeMap<RequestKey, u64>,
    pulls: Pulls,
    leases: usize,
}

/// Pulls in the order in which they were answered, numbered.
pub(super) type Pulls = SharedMap<u64, Pulled>;

/// What one pull got, and when.
#[derive(Clone, Debug)]
pub(super) struct Pulled {
    pub(super) key: Arc<RequestKey>,
    pub(super) wall_ms: u64,
    pub(super) leases: Arc<Vec<Key>>,
}

impl PulledLately {
    fn leases(&self, key: &RequestKey) -> Option<&[Key]> {
        self.numbers.get(key).map(|number| &**self.numbered(*number).leases)
    }

    fn numbered(&self, number: u64) -> &Pulled {
        self.pulls.get(&number).expect("a request's number is of a pull")
    }

    /// A pull got leases; a pull of several queues gets them in several steps.
    pub(super) fn remember(
        &mut self,
        key: RequestKey,
        wall_ms: u64,
        leases: impl IntoIterator<Item = Key>,
        max: usize,
    ) {
        let next = self.pulls.iter().next_back().map_or(0, |(last, _)| last + 1);
        let pulls = &mut self.pulls;
        let number = *self.numbers.entry(key).or_insert_with_key(|key| {
            let (key, leases) = (Arc::new(key.clone()), Arc::default());
            pulls.insert(next, Pulled { key, wall_ms, leases });
            next
        });
        let pulled = self.pulls.get_mut(&number).expect("a request's number is of a pull");
        let known = Arc::make_mut(&mut pulled.leases);
        known.extend(leases.into_iter().inspect(|_| self.leases += 1));
        let too_old = wall_ms.saturating_sub(REMEMBERED_MS);
        while let Some((_, first)) = self.pulls.first() {
            if self.leases <= max && too_old <= first.wall_ms {
                return;
            }
            let (_, first) = self.pulls.pop_first().expect("it was found just now");
            self.numbers.remove(&*first.key);
            self.leases -= first.leases.len();
        }
    }

    /// A lease was never told of: its message could not be read. Who got nothing else is not remembered,
    /// so that the pull goes on, and does not look answered with nothing.
    fn take_back(&mut self, lease: Key) {
        // Grants grow with the order, and most that cannot be read were granted just now.
        let is_later = |pulled: &Pulled| pulled.leases.last().is_some_and(|last| lease.1 <= last.1);
        let number_of =
            |(number, pulled): (&u64, &Pulled)| pulled.leases.contains(&lease).then_some(*number);
        let latest_first = self.pulls.iter().rev();
        let found = latest_first.take_while(|(_, pulled)| is_later(pulled)).find_map(number_of);
        let Some(number) = found else { return };
        let pulled = self.pulls.get_mut(&number).expect("it was found just now");
        Arc::make_mut(&mut pulled.leases).retain(|other| *other != lease);
        self.leases -= 1;
        if pulled.leases.is_empty() {
            let key = pulled.key.clone();
            self.pulls.remove(&number);
            self.numbers.remove(&*key);
        }
    }

    /// Every pull, as it is at this moment. Cheap.
    pub(super) fn frozen(&self) -> Pulls {
        self.pulls.clone()
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
                failures_max: message.failures_max(queue.definition.policy.failures_max()),
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
