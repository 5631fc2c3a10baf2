//! Who consumes: what a stream's client says of itself, where it comes from, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::{ConsumerEvent, Engine, Outbox, State};
use crate::queue::Window;
use crate::queue::ids::{ConsumerId, LeaseToken};

/// Who opened a stream; for people, and of this connection alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub remote_address: String,
    /// Whose token it uses; empty where none is asked for.
    pub principal: String,
    /// Wall clock.
    pub connect_ms: u64,
    pub client_id: String,
    pub hostname: String,
    pub pid: i32,
    pub sdk: String,
    pub sdk_version: String,
    pub labels: BTreeMap<String, String>,
}

/// A connected stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) outbox: Arc<Outbox<ConsumerEvent>>,
    pub(super) about: Arc<About>,
}

/// A connected stream as operators see it.
#[derive(Clone, Debug)]
pub struct Connected {
    pub id: ConsumerId,
    pub about: Arc<About>,
    /// What the client calls its session.
    pub session: String,
    pub queues: Vec<Arc<str>>,
    pub window: Window,
    pub outstanding_messages: u32,
    pub outstanding_bytes: u64,
    pub draining: bool,
}

impl Engine {
    /// Up to `max` connected streams after this one, the oldest first; where `queue` is not empty,
    /// those that consume from it. The answer counts once the log is durable up to the LSN.
    pub fn connected(&self, after: ConsumerId, max: usize, queue: &str) -> (Lsn, Vec<Connected>) {
        let state = self.state.lock();
        let consumes = |queues: &[Arc<str>]| {
            queue.is_empty() || queues.binary_search_by(|other| (**other).cmp(queue)).is_ok()
        };
        let matching =
            state.core.consumers_after(after).filter(|(_, consumer)| consumes(&consumer.queues));
        // Whoever is open has an outbox: both come and go under the lock.
        let connected = matching.take(max).filter_map(|(id, consumer)| {
            Some(Connected {
                id,
                about: state.consumers.get(&id)?.about.clone(),
                session: state.core.session_name(consumer.session).to_owned(),
                queues: consumer.queues.clone(),
                window: consumer.window,
                outstanding_messages: consumer.outstanding_messages,
                outstanding_bytes: consumer.outstanding_bytes,
                draining: consumer.is_draining(),
            })
        });
        (state.core.last_lsn(), connected.collect())
    }
}

impl State {
    pub(super) fn tell(&self, consumer: ConsumerId, lsn: Lsn, event: ConsumerEvent) {
        if let Some(stream) = self.consumers.get(&consumer) {
            stream.outbox.push(lsn, event);
        }
    }

    /// Takes lost leases back that a consumer was not told of, and leaves those that it was. Who reads
    /// nothing loses leases again and again, and would have all of them lined up.
    pub(super) fn take_back(&self, consumer: ConsumerId, leases: &mut Vec<LeaseToken>) {
        let Some(stream) = self.consumers.get(&consumer) else { return };
        let mut lost: BTreeSet<LeaseToken> = leases.iter().copied().collect();
        stream.outbox.retain(|event| {
            let ConsumerEvent::Deliver(deliveries) = event else { return true };
            deliveries.retain(|delivery| !lost.remove(&delivery.token));
            !deliveries.is_empty()
        });
        leases.retain(|lease| lost.contains(lease));
    }
}
