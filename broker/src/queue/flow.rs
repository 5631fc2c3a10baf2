//! How fast a queue delivers, and how much at a time: by its policy, over all consumers.
//!
//! The rate is a token bucket that holds what a tenth of a second brings, so that a queue that was
//! idle does not deliver a second's worth at once. All of it belongs to this start.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::Core;
use super::catalog::Queue;
use super::ids::QueueId;
use super::index::Index;
use super::time::Now;

/// A delivery in the unit of buckets; a rate in thousandths gives whole ones each millisecond.
const DELIVERY: u64 = 1_000_000;
/// What a bucket holds, in milliseconds of its rate; one delivery at least.
const BURST_MS: u64 = 100;

/// Deliveries a second, in thousandths, which are also units of a bucket each millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) u64);

impl Rate {
    fn burst(self) -> u64 {
        self.0.saturating_mul(BURST_MS).max(DELIVERY)
    }
}

/// What a queue may deliver by its rate, as of some moment.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    boot_ms: u64,
}

impl Bucket {
    fn full(rate: Rate, boot_ms: u64) -> Self {
        Self { level: rate.burst(), boot_ms }
    }

    fn at(self, rate: Rate, boot_ms: u64) -> Self {
        let passed_ms = boot_ms.saturating_sub(self.boot_ms);
        let level = self.level.saturating_add(passed_ms.saturating_mul(rate.0)).min(rate.burst());
        Self { level, boot_ms }
    }

    /// When it holds a delivery.
    fn next_ms(self, rate: Rate) -> u64 {
        self.boot_ms + DELIVERY.saturating_sub(self.level).div_ceil(rate.0)
    }
}

/// Invariant: a queue that has something ready and somebody in its line, and delivers nothing because
/// of its policy, is in `waiting` or in `full`.
#[derive(Debug, Default)]
pub(super) struct Flow {
    buckets: HashMap<QueueId, Bucket, FxBuildHasher>,
    /// Queues that wait for their next delivery by the rate, with its time on the boot clock.
    waiting: BTreeSet<(u64, QueueId)>,
    /// Queues that wait for one of their leases to end.
    full: BTreeSet<QueueId>,
}

impl Flow {
    fn bucket(&self, queue: QueueId, rate: Rate, boot_ms: u64) -> Bucket {
        let bucket = self.buckets.get(&queue);
        bucket.map_or_else(|| Bucket::full(rate, boot_ms), |bucket| bucket.at(rate, boot_ms))
    }

    fn took(&mut self, queue: QueueId, rate: Rate, deliveries: u64, boot_ms: u64) {
        let mut bucket = self.bucket(queue, rate, boot_ms);
        bucket.level = bucket.level.saturating_sub(deliveries.saturating_mul(DELIVERY));
        self.buckets.insert(queue, bucket);
    }

    /// Whether a queue waits for one of its leases to end.
    pub(super) fn waits_for_leases(&self) -> bool {
        !self.full.is_empty()
    }

    /// A lease of a queue ends; whether the queue has waited for that.
    pub(super) fn lease_ends(&mut self, queue: QueueId) -> bool {
        self.full.remove(&queue)
    }

    /// The queues whose next delivery has come.
    pub(super) fn take_due(&mut self, boot_ms: u64) -> Vec<QueueId> {
        let mut due = Vec::new();
        while let Some(&(time, queue)) = self.waiting.first().filter(|(time, _)| *time <= boot_ms) {
            self.waiting.remove(&(time, queue));
            due.push(queue);
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.waiting.first().map(|&(time, _)| time)
    }

    /// A queue is gone.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.buckets.remove(&queue);
        self.full.remove(&queue);
        self.waiting.retain(|(_, other)| *other != queue);
    }
}

impl<I: Index> Core<I> {
    /// Whether a queue delivers at this moment.
    pub(super) fn is_open(&self, queue: &Queue, now: Now) -> bool {
        0 < self.quota(queue, now) && !self.fairness.is_full(queue.id())
    }

    /// How many messages a queue may deliver at this moment.
    pub(super) fn quota(&self, queue: &Queue, now: Now) -> u64 {
        let policy = &queue.definition.policy;
        let leased = || self.index.counts(queue.id()).leased;
        let left = |max: u32| u64::from(max).saturating_sub(leased());
        let by_rate = |rate| self.flow.bucket(queue.id(), rate, now.boot_ms).level / DELIVERY;
        match (queue.definition.paused, policy.max_leased, policy.delivery_rate()) {
            (true, _, _) => 0,
            (false, max, None) => max.map_or(u64::MAX, left),
            (false, max, Some(rate)) => max.map_or(u64::MAX, left).min(by_rate(rate)),
        }
    }

    /// [`Self::quota`] of a queue by its id.
    pub(super) fn quota_of(&self, queue: QueueId, now: Now) -> u64 {
        self.catalog.get(queue).map_or(0, |queue| self.quota(queue, now))
    }

    /// A queue may deliver nothing, though it could: the core comes back to it when it may.
    pub(super) fn hold_back(&mut self, queue: QueueId, now: Now) {
        let Some(of) = self.catalog.get(queue).filter(|queue| !queue.definition.paused) else {
            return;
        };
        let policy = &of.definition.policy;
        let leased = self.index.counts(queue).leased;
        if policy.max_leased.is_some_and(|max| u64::from(max) <= leased) {
            self.flow.full.insert(queue);
        } else if let Some(rate) = policy.delivery_rate() {
            let next_ms = self.flow.bucket(queue, rate, now.boot_ms).next_ms(rate);
            self.flow.waiting.insert((next_ms, queue));
        }
    }

    /// A queue delivered so many messages.
    pub(super) fn count_deliveries(&mut self, queue: QueueId, deliveries: usize, now: Now) {
        let rate = self.catalog.get(queue).and_then(|of| of.definition.policy.delivery_rate());
        if let Some(rate) = rate {
            self.flow.took(queue, rate, deliveries as u64, now.boot_ms);
        }
    }

    /// Goes back to the queues whose next delivery has come.
    pub(super) fn open_due_queues(&mut self, now: Now) {
        for queue in self.flow.take_due(now.boot_ms) {
            self.consumers.touch(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(1);

    #[test]
    fn in_any_second_there_are_no_more_than_the_rate_and_a_tenth() {
        for rate in [Rate(500), Rate(1_000), Rate(7_300), Rate(100_000), Rate(5_000_000)] {
            let mut flow = Flow::default();
            let mut delivered = std::collections::VecDeque::new();
            let mut total = 0;
            for now in 0..20_000 {
                let allowed = flow.bucket(QUEUE, rate, now).level / DELIVERY;
                flow.took(QUEUE, rate, allowed, now);
                delivered.push_back((now, allowed));
                total += allowed;
                while delivered.front().is_some_and(|(time, _)| *time + 1_000 <= now) {
                    delivered.pop_front();
                }
                let in_a_second: u64 = delivered.iter().map(|(_, count)| count).sum();
                assert!(in_a_second * 10_000 <= rate.0 * 11 + 10_000, "{rate:?}: {in_a_second}");
            }
            let expected = rate.0 * 20 / 1_000;
            assert!(
                (expected..=expected + expected / 10 + 1).contains(&total),
                "{rate:?}: {total}"
            );
        }
    }

    #[test]
    fn the_next_delivery_comes_when_it_is_said_to() {
        for rate in [Rate(1), Rate(333), Rate(1_000), Rate(999_999)] {
            let mut flow = Flow::default();
            let burst = rate.burst() / DELIVERY;
            flow.took(QUEUE, rate, burst, 50);
            let next_ms = flow.bucket(QUEUE, rate, 50).next_ms(rate);
            assert_eq!(flow.bucket(QUEUE, rate, next_ms - 1).level / DELIVERY, 0);
            assert_eq!(flow.bucket(QUEUE, rate, next_ms).level / DELIVERY, 1);
            assert_eq!(flow.bucket(QUEUE, rate, 51).next_ms(rate), next_ms, "whenever one asks");
        }
    }
}
