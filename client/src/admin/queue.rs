//! Queues and their policies, as they are declared and described.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use qbroker_proto::v1;

use crate::time;

/// A queue to create.
///
/// ```
/// use std::time::Duration;
/// use qbroker_client::{Limit, QueuePolicy, QueueSpec};
///
/// let spec = QueueSpec::new("mails").policy(QueuePolicy {
///     max_attempts: Some(Limit::AtMost(5)),
///     retention: Some(Duration::from_secs(30 * 24 * 3600)),
///     ..QueuePolicy::default()
/// });
/// # drop(spec);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// For programs.
    pub labels: HashMap<String, String>,
    /// What should not be default.
    pub policy: QueuePolicy,
}

impl QueueSpec {
    /// A queue of this name with the default policy.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Replaces the policy.
    #[must_use]
    pub fn policy(mut self, policy: QueuePolicy) -> Self {
        self.policy = policy;
        self
    }

    pub(super) fn into_wire(self) -> v1::Queue {
        v1::Queue {
            name: self.name,
            description: self.description,
            labels: self.labels,
            policy: Some(self.policy.into_wire()),
            ..v1::Queue::default()
        }
    }
}

/// How a queue works. A field that is `None` has the broker's default; what the broker returns has
/// every field filled in that applies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueuePolicy {
    /// How long a lease lasts where the consumer does not say. Default: 30 s.
    pub lease_duration: Option<Duration>,
    /// Failures until dead-lettered. Default: 20.
    pub max_attempts: Option<Limit>,
    /// Leases that end without a settlement until dead-lettered. Default: 5.
    pub max_crashes: Option<Limit>,
    /// How long a nacked message waits.
    pub retry: RetryPolicy,
    /// Where dead letters go. Default: the queue's name and `.dead`.
    pub dead_letter_queue: Option<String>,
    /// Deletes what would be dead-lettered. Default: false.
    pub discard_dead_letters: Option<bool>,
    /// Older messages are deleted; zero: never. Default: never, on a dead-letter queue 7 days.
    pub retention: Option<Duration>,
    /// How long a message id is remembered; zero: not at all. Default: 5 min.
    pub dedup_window: Option<Duration>,
    /// The largest payload. Default: the broker's limit.
    pub max_payload_bytes: Option<u32>,
    /// How many priorities there are, from 0 on; 1 to 10. Default: 10.
    pub priority_levels: Option<u32>,
    /// How long messages may wait that do not say; zero: for ever. Default: for ever.
    pub message_ttl: Option<Duration>,
    /// Leases at a time, over all consumers. Default: no limit.
    pub max_leased: Option<u32>,
    /// Deliveries a second, over all consumers. Default: no limit.
    pub max_delivery_rate: Option<f64>,
    /// Leases of one fairness key at a time. Default: no limit.
    pub max_leased_per_fairness_key: Option<u32>,
    /// Shares of fairness keys, 1 to 1,000; at most 1,000 keys. A key that is not named has 1.
    pub fairness_weights: HashMap<String, u32>,
    /// Messages at most, in whatever state. Default: no limit.
    pub max_messages: Option<u64>,
    /// Bytes at most, counted as [`QueueStats::bytes`] are. Default: no limit.
    pub max_bytes: Option<u64>,
    /// What happens to a publish beyond these. Default: it is refused.
    pub overflow: Option<Overflow>,
    /// Bytes that it keeps as a dead-letter queue; the oldest go beyond that. Default: no limit.
    pub retention_bytes: Option<u64>,
    /// How long it can be told what became of finished messages. `None`: not at all.
    pub outcome_retention: Option<Duration>,
}

/// What happens to a publish that its queue has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// It is refused with `QUEUE_FULL`.
    RejectPublish,
    /// The oldest ready messages are deleted.
    DropOldest,
    /// The oldest ready messages are dead-lettered.
    DeadLetterOldest,
}

impl Overflow {
    fn into_wire(self) -> v1::OverflowPolicy {
        match self {
            Self::RejectPublish => v1::OverflowPolicy::RejectPublish,
            Self::DropOldest => v1::OverflowPolicy::DropOldest,
            Self::DeadLetterOldest => v1::OverflowPolicy::DeadLetterOldest,
        }
    }

    fn from_wire(overflow: v1::OverflowPolicy) -> Option<Self> {
        match overflow {
            v1::OverflowPolicy::Unspecified => None,
            v1::OverflowPolicy::RejectPublish => Some(Self::RejectPublish),
            v1::OverflowPolicy::DropOldest => Some(Self::DropOldest),
            v1::OverflowPolicy::DeadLetterOldest => Some(Self::DeadLetterOldest),
        }
    }
}

/// How long a nacked message waits: `initial_backoff` times `multiplier` for each failure before,
/// at most `max_backoff`, shortened by a random part of at most `jitter` of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetryPolicy {
    /// Default: 5 s.
    pub initial_backoff: Option<Duration>,
    /// Default: 1 h.
    pub max_backoff: Option<Duration>,
    /// Default: 2.0.
    pub multiplier: Option<f64>,
    /// Default: 0.25.
    pub jitter: Option<f64>,
}

/// A number, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No limit.
    Unlimited,
    /// At most this many; at least 1.
    AtMost(u32),
}

impl Limit {
    pub(crate) fn into_wire(self) -> i32 {
        match self {
            Self::Unlimited => -1,
            Self::AtMost(limit) => limit.try_into().unwrap_or(i32::MAX),
        }
    }

    pub(crate) fn from_wire(limit: i32) -> Self {
        u32::try_from(limit).map_or(Self::Unlimited, Self::AtMost)
    }
}

impl QueuePolicy {
    pub(super) fn into_wire(self) -> v1::QueuePolicy {
        v1::QueuePolicy {
            lease_duration: self.lease_duration.map(time::duration),
            max_attempts: self.max_attempts.map(Limit::into_wire),
            max_crashes: self.max_crashes.map(Limit::into_wire),
            retry: self.retry.into_wire(),
            dead_letter_queue: self.dead_letter_queue,
            discard_dead_letters: self.discard_dead_letters,
            retention: self.retention.map(time::duration),
            dedup_window: self.dedup_window.map(time::duration),
            max_payload_bytes: self
                .max_payload_bytes
                .map(|bytes| bytes.try_into().unwrap_or(i32::MAX)),
            priority_levels: self
                .priority_levels
                .map(|levels| levels.try_into().unwrap_or(i32::MAX)),
            message_ttl: self.message_ttl.map(time::duration),
            max_leased: self.max_leased.map(|max| max.try_into().unwrap_or(i32::MAX)),
            max_delivery_rate: self.max_delivery_rate,
            max_leased_per_fairness_key: self
                .max_leased_per_fairness_key
                .map(|max| max.try_into().unwrap_or(i32::MAX)),
            fairness_weights: self
                .fairness_weights
                .into_iter()
                .map(|(key, weight)| (key, weight.try_into().unwrap_or(i32::MAX)))
                .collect(),
            max_messages: self.max_messages.map(wire_size),
            max_bytes: self.max_bytes.map(wire_size),
            overflow: self.overflow.map_or(0, |overflow| overflow.into_wire().into()),
            retention_bytes: self.retention_bytes.map(wire_size),
            outcome_retention: self.outcome_retention.map(time::duration),
        }
    }

    fn from_wire(policy: v1::QueuePolicy) -> Self {
        let overflow = Overflow::from_wire(policy.overflow());
        Self {
            overflow,
            lease_duration: policy.lease_duration.and_then(time::from_wire),
            max_attempts: policy.max_attempts.map(Limit::from_wire),
            max_crashes: policy.max_crashes.map(Limit::from_wire),
            retry: RetryPolicy::from_wire(policy.retry.unwrap_or_default()),
            dead_letter_queue: policy.dead_letter_queue,
            discard_dead_letters: policy.discard_dead_letters,
            retention: policy.retention.and_then(time::from_wire),
            dedup_window: policy.dedup_window.and_then(time::from_wire),
            max_payload_bytes: policy.max_payload_bytes.and_then(|bytes| bytes.try_into().ok()),
            priority_levels: policy.priority_levels.and_then(|levels| levels.try_into().ok()),
            message_ttl: policy.message_ttl.and_then(time::from_wire),
            max_leased: policy.max_leased.and_then(|max| max.try_into().ok()),
            max_delivery_rate: policy.max_delivery_rate,
            max_leased_per_fairness_key: policy
                .max_leased_per_fairness_key
                .and_then(|max| max.try_into().ok()),
            fairness_weights: policy
                .fairness_weights
                .into_iter()
                .filter_map(|(key, weight)| Some((key, weight.try_into().ok()?)))
                .collect(),
            max_messages: policy.max_messages.and_then(|max| max.try_into().ok()),
            max_bytes: policy.max_bytes.and_then(|max| max.try_into().ok()),
            retention_bytes: policy.retention_bytes.and_then(|max| max.try_into().ok()),
            outcome_retention: policy.outcome_retention.and_then(time::from_wire),
        }
    }

    /// The paths of the fields that are set, as an update mask names them.
    pub(super) fn paths(&self) -> Vec<String> {
        let set = [
            ("lease_duration", self.lease_duration.is_some()),
            ("max_attempts", self.max_attempts.is_some()),
            ("max_crashes", self.max_crashes.is_some()),
            ("retry.initial_backoff", self.retry.initial_backoff.is_some()),
            ("retry.max_backoff", self.retry.max_backoff.is_some()),
            ("retry.multiplier", self.retry.multiplier.is_some()),
            ("retry.jitter", self.retry.jitter.is_some()),
            ("dead_letter_queue", self.dead_letter_queue.is_some()),
            ("discard_dead_letters", self.discard_dead_letters.is_some()),
            ("retention", self.retention.is_some()),
            ("dedup_window", self.dedup_window.is_some()),
            ("max_payload_bytes", self.max_payload_bytes.is_some()),
            ("priority_levels", self.priority_levels.is_some()),
            ("message_ttl", self.message_ttl.is_some()),
            ("max_leased", self.max_leased.is_some()),
            ("outcome_retention", self.outcome_retention.is_some()),
            ("max_delivery_rate", self.max_delivery_rate.is_some()),
            ("max_leased_per_fairness_key", self.max_leased_per_fairness_key.is_some()),
            ("fairness_weights", !self.fairness_weights.is_empty()),
            ("max_messages", self.max_messages.is_some()),
            ("max_bytes", self.max_bytes.is_some()),
            ("overflow", self.overflow.is_some()),
            ("retention_bytes", self.retention_bytes.is_some()),
        ];
        set.iter().filter(|(_, set)| *set).map(|(path, _)| format!("policy.{path}")).collect()
    }
}

fn wire_size(size: u64) -> i64 {
    size.try_into().unwrap_or(i64::MAX)
}

impl RetryPolicy {
    fn into_wire(self) -> Option<v1::RetryPolicy> {
        let set = self != Self::default();
        set.then(|| v1::RetryPolicy {
            initial_backoff: self.initial_backoff.map(time::duration),
            max_backoff: self.max_backoff.map(time::duration),
            multiplier: self.multiplier,
            jitter: self.jitter,
        })
    }

    fn from_wire(retry: v1::RetryPolicy) -> Self {
        Self {
            initial_backoff: retry.initial_backoff.and_then(time::from_wire),
            max_backoff: retry.max_backoff.and_then(time::from_wire),
            multiplier: retry.multiplier,
            jitter: retry.jitter,
        }
    }
}

/// A queue as the broker describes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// For programs.
    pub labels: HashMap<String, String>,
    /// How it works, defaults filled in.
    pub policy: QueuePolicy,
    /// Whether it works.
    pub state: QueueState,
    /// Paused, and refuses publishes too.
    pub publishing_paused: bool,
    /// Its figures at this moment.
    pub stats: QueueStats,
    /// When it was created.
    pub create_time: Option<SystemTime>,
    /// When description, labels or policy were changed.
    pub update_time: Option<SystemTime>,
    /// Changes with description, labels and policy; see [`QueueUpdate::etag`](crate::QueueUpdate).
    pub etag: String,
}

impl From<v1::Queue> for Queue {
    fn from(queue: v1::Queue) -> Self {
        Self {
            state: QueueState::from_wire(queue.state()),
            publishing_paused: queue.publishing_paused,
            name: queue.name,
            description: queue.description,
            labels: queue.labels,
            policy: QueuePolicy::from_wire(queue.policy.unwrap_or_default()),
            stats: queue.stats.unwrap_or_default().into(),
            create_time: queue.create_time.and_then(time::system_time),
            update_time: queue.update_time.and_then(time::system_time),
            etag: queue.etag,
        }
    }
}

/// Whether a queue works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueState {
    /// It does.
    Active,
    /// An operator has stopped it; see [`Client::pause_queue`](crate::Client::pause_queue).
    Paused,
}

impl QueueState {
    pub(super) fn into_wire(self) -> i32 {
        let state = match self {
            Self::Active => v1::QueueState::Active,
            Self::Paused => v1::QueueState::Paused,
        };
        state.into()
    }

    pub(super) fn from_wire(state: v1::QueueState) -> Self {
        match state {
            v1::QueueState::Paused => Self::Paused,
            v1::QueueState::Unspecified | v1::QueueState::Active | v1::QueueState::Deleting => {
                Self::Active
            }
        }
    }
}

/// A queue's figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages that could be delivered now.
    pub ready: u64,
    /// Messages waiting for their time.
    pub scheduled: u64,
    /// Messages with consumers.
    pub leased: u64,
    /// Messages in its dead-letter queue.
    pub dead: u64,
    /// Messages given up in place.
    pub parked: u64,
    /// Waiting for others of their ordering key.
    pub behind: u64,
    /// Payload, headers and keys of what it holds.
    pub bytes: u64,
    /// When the oldest of the ready messages, whatever its priority, came into the queue.
    pub oldest_ready_time: Option<SystemTime>,
    /// Consumers connected.
    pub consumers: u64,
    /// Messages that came in since it was created, as the totals below: published, or dead letters of
    /// other queues.
    pub published_total: u64,
    /// Leases granted.
    pub delivered_total: u64,
    /// Messages done.
    pub acked_total: u64,
    /// Failures that returned the message.
    pub retried_total: u64,
    /// Messages given up.
    pub dead_lettered_total: u64,
    /// Leases that ended by time or with a lost session.
    pub expired_leases_total: u64,
    /// Messages whose time to live ended.
    pub expired_total: u64,
    /// Messages deleted: by name, by a purge, or older than the retention.
    pub deleted_total: u64,
    /// Messages that operations moved elsewhere.
    pub moved_total: u64,
    /// Messages deleted because the queue held more than it may.
    pub dropped_total: u64,
}

impl From<v1::QueueStats> for QueueStats {
    fn from(stats: v1::QueueStats) -> Self {
        let count = |wire: i64| u64::try_from(wire).unwrap_or_default();
        Self {
            ready: count(stats.ready),
            scheduled: count(stats.scheduled),
            leased: count(stats.leased),
            dead: count(stats.dead),
            parked: count(stats.parked),
            behind: count(stats.behind),
            bytes: count(stats.bytes),
            oldest_ready_time: stats.oldest_ready_time.and_then(time::system_time),
            consumers: count(stats.consumers.into()),
            published_total: count(stats.published_total),
            delivered_total: count(stats.delivered_total),
            acked_total: count(stats.acked_total),
            retried_total: count(stats.retried_total),
            dead_lettered_total: count(stats.dead_lettered_total),
            expired_leases_total: count(stats.expired_leases_total),
            expired_total: count(stats.expired_total),
            deleted_total: count(stats.deleted_total),
            moved_total: count(stats.moved_total),
            dropped_total: count(stats.dropped_total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_goes_to_the_wire_and_back_unchanged() {
        let policy = QueuePolicy {
            lease_duration: Some(Duration::from_millis(1500)),
            max_attempts: Some(Limit::AtMost(3)),
            max_crashes: Some(Limit::Unlimited),
            retry: RetryPolicy { jitter: Some(0.0), ..RetryPolicy::default() },
            dead_letter_queue: Some("graves".to_owned()),
            discard_dead_letters: Some(false),
            retention: Some(Duration::ZERO),
            dedup_window: Some(Duration::from_secs(1)),
            max_payload_bytes: Some(7),
            priority_levels: Some(3),
            message_ttl: Some(Duration::from_secs(60)),
            max_leased: Some(8),
            max_delivery_rate: Some(0.5),
            max_leased_per_fairness_key: Some(2),
            fairness_weights: HashMap::from([("acme".to_owned(), 3)]),
            max_messages: Some(1_000),
            max_bytes: Some(1 << 40),
            overflow: Some(Overflow::DeadLetterOldest),
            retention_bytes: Some(9),
            outcome_retention: Some(Duration::from_secs(60)),
        };
        assert_eq!(QueuePolicy::from_wire(policy.clone().into_wire()), policy);
    }

    #[test]
    fn only_what_is_set_is_named_in_an_update() {
        let policy = QueuePolicy {
            max_attempts: Some(Limit::AtMost(3)),
            retry: RetryPolicy { jitter: Some(0.5), ..RetryPolicy::default() },
            ..QueuePolicy::default()
        };
        assert_eq!(policy.paths(), ["policy.max_attempts", "policy.retry.jitter"]);
        assert!(QueuePolicy::default().paths().is_empty());
    }
}
