//! Queues and their policies.

use std::collections::{BTreeMap, HashMap};

use qbroker_proto::v1::{self, OverflowPolicy, QueuePolicy, QueueState, QueueStats, RetryPolicy};

use super::batch::{IdHasher, KEY_BYTES_MAX};
use super::time::{duration_ms, to_duration, to_timestamp};
use crate::grpc::fault::Fault;
use crate::queue::index::Counts;
use crate::queue::index::fairness_hash;
use crate::queue::policy::{self, FairnessWeight, Overflow, Policy, Retry};
use crate::queue::{Limits, Queue};

/// What of a queue a client may set.
#[derive(Clone, Debug, Default)]
pub(in crate::grpc) struct NewQueue {
    pub(in crate::grpc) description: String,
    pub(in crate::grpc) labels: BTreeMap<String, String>,
    pub(in crate::grpc) policy: Policy,
}

pub(in crate::grpc) fn new_queue(
    queue: v1::Queue,
    limits: &Limits,
    hasher: IdHasher,
) -> Result<NewQueue, Fault> {
    super::bounds::text("description", &queue.description, 1024)?;
    Ok(NewQueue {
        description: queue.description,
        labels: labels(queue.labels)?,
        policy: new_policy(queue.policy.unwrap_or_default(), limits, hasher)?,
    })
}

fn labels(labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, Fault> {
    let allowed =
        |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'.' | b'-');
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if 64 < labels.len() || 4096 < bytes {
        return Err(Fault::invalid("labels", "at most 64 labels of 4096 bytes together"));
    }
    if let Some(key) =
        labels.keys().find(|key| key.is_empty() || 63 < key.len() || !key.bytes().all(allowed))
    {
        let why = format!("\"{key}\" is not 1 to 63 characters of [a-z0-9_.-]");
        return Err(Fault::invalid("labels", why));
    }
    Ok(labels.into_iter().collect())
}

fn new_policy(policy: QueuePolicy, limits: &Limits, hasher: IdHasher) -> Result<Policy, Fault> {
    let duration = |field, duration| duration_ms(field, duration, 0, u64::MAX);
    let max_payload_bytes = match policy.max_payload_bytes {
        None => None,
        Some(bytes) => {
            let bytes = u64::try_from(bytes).unwrap_or_default();
            if !(1..=limits.payload_bytes_max).contains(&bytes) {
                let why = format!("it is not within 1 to {}", limits.payload_bytes_max);
                return Err(Fault::invalid("policy.max_payload_bytes", why));
            }
            Some(bytes)
        }
    };
    Ok(Policy {
        lease_duration_ms: duration("policy.lease_duration", policy.lease_duration)?,
        max_attempts: policy.max_attempts,
        max_crashes: policy.max_crashes,
        retry: policy.retry.map(new_retry).transpose()?,
        dead_letter_queue: policy.dead_letter_queue.filter(|name| !name.is_empty()),
        discard_dead_letters: policy.discard_dead_letters,
        retention_ms: duration("policy.retention", policy.retention)?,
        dedup_window_ms: duration("policy.dedup_window", policy.dedup_window)?,
        max_payload_bytes,
        priority_levels: priority_levels(policy.priority_levels)?,
        message_ttl_ms: duration("policy.message_ttl", policy.message_ttl)?,
        outcome_retention_ms: duration("policy.outcome_retention", policy.outcome_retention)?,
        max_leased: policy.max_leased.map(|max| u32::try_from(max).unwrap_or_default()),
        max_delivery_rate: policy.max_delivery_rate,
        max_leased_per_fairness_key: policy
            .max_leased_per_fairness_key
            .map(|max| u32::try_from(max).unwrap_or_default()),
        fairness_weights: fairness_weights(policy.fairness_weights, hasher)?,
        retention_bytes: size("policy.retention_bytes", policy.retention_bytes)?,
        max_messages: size("policy.max_messages", policy.max_messages)?,
        max_bytes: size("policy.max_bytes", policy.max_bytes)?,
        overflow: new_overflow(policy.overflow)?.map(i32::from),
    })
}

/// Shares of keys, in the order of their hashes.
fn fairness_weights(
    weights: HashMap<String, i32>,
    hasher: IdHasher,
) -> Result<Vec<FairnessWeight>, Fault> {
    let weight = |(key, weight): (String, i32)| {
        super::bounds::text("policy.fairness_weights", &key, KEY_BYTES_MAX)?;
        let weight = u32::try_from(weight).unwrap_or_default();
        // Those without a key are told by their hash, zero.
        let hash = hasher.key_hash(&key).map_or(0, fairness_hash);
        Ok(FairnessWeight { key, hash, weight })
    };
    let mut weights: Vec<_> = weights.into_iter().map(weight).collect::<Result<_, Fault>>()?;
    weights.sort_by(|a, b| (a.hash, &a.key).cmp(&(b.hash, &b.key)));
    Ok(weights)
}

fn priority_levels(levels: Option<i32>) -> Result<Option<u32>, Fault> {
    let negative = |_| Fault::invalid("policy.priority_levels", "it must not be negative");
    levels.map(u32::try_from).transpose().map_err(negative)
}

fn size(field: &'static str, size: Option<i64>) -> Result<Option<u64>, Fault> {
    let negative = |_| Fault::invalid(field, "it must not be negative");
    size.map(u64::try_from).transpose().map_err(negative)
}

fn new_overflow(overflow: i32) -> Result<Option<Overflow>, Fault> {
    match OverflowPolicy::try_from(overflow) {
        Ok(OverflowPolicy::Unspecified) => Ok(None),
        Ok(OverflowPolicy::RejectPublish) => Ok(Some(Overflow::RejectPublish)),
        Ok(OverflowPolicy::DropOldest) => Ok(Some(Overflow::DropOldest)),
        Ok(OverflowPolicy::DeadLetterOldest) => Ok(Some(Overflow::DeadLetterOldest)),
        Err(_) => Err(Fault::invalid("policy.overflow", format!("{overflow} is no such policy"))),
    }
}

fn to_overflow(overflow: Overflow) -> OverflowPolicy {
    match overflow {
        Overflow::RejectPublish => OverflowPolicy::RejectPublish,
        Overflow::DropOldest => OverflowPolicy::DropOldest,
        Overflow::DeadLetterOldest => OverflowPolicy::DeadLetterOldest,
    }
}

fn new_retry(retry: RetryPolicy) -> Result<Retry, Fault> {
    let duration = |field, duration| duration_ms(field, duration, 0, u64::MAX);
    Ok(Retry {
        initial_ms: duration("policy.retry.initial_backoff", retry.initial_backoff)?,
        max_ms: duration("policy.retry.max_backoff", retry.max_backoff)?,
        multiplier: retry.multiplier,
        jitter: retry.jitter,
    })
}

/// Takes what `mask` names from `new`, and the rest from what is stored.
pub(in crate::grpc) fn merge(
    stored: NewQueue,
    new: NewQueue,
    mask: &[String],
) -> Result<NewQueue, Fault> {
    if mask.is_empty() {
        return Err(Fault::invalid("update_mask", "it is empty; name what is to be changed"));
    }
    let mut merged = stored;
    let policy = &mut merged.policy;
    for path in mask {
        let retry = new.policy.retry.clone().unwrap_or_default();
        match path.as_str() {
            "description" => merged.description.clone_from(&new.description),
            "labels" => merged.labels.clone_from(&new.labels),
            "policy" => policy.clone_from(&new.policy),
            "policy.lease_duration" => policy.lease_duration_ms = new.policy.lease_duration_ms,
            "policy.max_attempts" => policy.max_attempts = new.policy.max_attempts,
            "policy.max_crashes" => policy.max_crashes = new.policy.max_crashes,
            "policy.retry" => policy.retry.clone_from(&new.policy.retry),
            "policy.retry.initial_backoff" => kept(policy).initial_ms = retry.initial_ms,
            "policy.retry.max_backoff" => kept(policy).max_ms = retry.max_ms,
            "policy.retry.multiplier" => kept(policy).multiplier = retry.multiplier,
            "policy.retry.jitter" => kept(policy).jitter = retry.jitter,
            "policy.dead_letter_queue" => {
                policy.dead_letter_queue.clone_from(&new.policy.dead_letter_queue);
            }
            "policy.discard_dead_letters" => {
                policy.discard_dead_letters = new.policy.discard_dead_letters;
            }
            "policy.retention" => policy.retention_ms = new.policy.retention_ms,
            "policy.dedup_window" => policy.dedup_window_ms = new.policy.dedup_window_ms,
            "policy.max_payload_bytes" => policy.max_payload_bytes = new.policy.max_payload_bytes,
            "policy.message_ttl" => policy.message_ttl_ms = new.policy.message_ttl_ms,
            "policy.outcome_retention" => {
                policy.outcome_retention_ms = new.policy.outcome_retention_ms;
            }
            "policy.priority_levels" => policy.priority_levels = new.policy.priority_levels,
            "policy.max_leased" => policy.max_leased = new.policy.max_leased,
            "policy.max_delivery_rate" => policy.max_delivery_rate = new.policy.max_delivery_rate,
            "policy.max_leased_per_fairness_key" => {
                policy.max_leased_per_fairness_key = new.policy.max_leased_per_fairness_key;
            }
            "policy.fairness_weights" => {
                policy.fairness_weights.clone_from(&new.policy.fairness_weights);
            }
            "policy.max_messages" => policy.max_messages = new.policy.max_messages,
            "policy.max_bytes" => policy.max_bytes = new.policy.max_bytes,
            "policy.overflow" => policy.overflow = new.policy.overflow,
            "policy.retention_bytes" => policy.retention_bytes = new.policy.retention_bytes,
            other => {
                let why = format!("\"{other}\" is not a field that can be changed");
                return Err(Fault::invalid("update_mask", why));
            }
        }
    }
    Ok(merged)
}

fn kept(policy: &mut Policy) -> &mut Retry {
    policy.retry.get_or_insert_default()
}

/// What of a stored queue a client may set.
pub(in crate::grpc) fn settable(queue: &Queue) -> NewQueue {
    NewQueue {
        description: queue.definition.description.clone(),
        labels: queue.definition.labels.clone(),
        policy: queue.definition.policy.clone(),
    }
}

/// Figures of a queue that stand outside of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) counts: Counts,
    pub(crate) dead: u64,
    pub(crate) oldest_ready_ms: Option<u64>,
    pub(crate) consumers: usize,
}

/// A queue as clients see it, its defaults filled in.
pub(in crate::grpc) fn to_queue(queue: &Queue, figures: Figures, limits: &Limits) -> v1::Queue {
    let definition = &queue.definition;
    v1::Queue {
        name: definition.name.clone(),
        description: definition.description.clone(),
        labels: definition.labels.clone().into_iter().collect(),
        policy: Some(to_policy(queue, limits)),
        state: state(queue).into(),
        stats: Some(to_stats(queue, figures)),
        create_time: Some(to_timestamp(definition.create_ms)),
        update_time: Some(to_timestamp(definition.update_ms)),
        etag: queue.etag(),
        publishing_paused: definition.publishing_paused,
    }
}

/// What changes about a queue by itself, and whether it works.
pub(in crate::grpc) fn to_watched(queue: &Queue, figures: Figures) -> v1::Queue {
    v1::Queue {
        name: queue.definition.name.clone(),
        state: state(queue).into(),
        publishing_paused: queue.definition.publishing_paused,
        stats: Some(to_stats(queue, figures)),
        ..v1::Queue::default()
    }
}

/// Whether a queue works.
pub(in crate::grpc) fn state(queue: &Queue) -> QueueState {
    if queue.definition.paused { QueueState::Paused } else { QueueState::Active }
}

/// A policy as it was set; what is unset has its default.
pub(in crate::grpc) fn as_set(policy: &Policy) -> QueuePolicy {
    // Nothing that can be set may be missing here: it would be lost on its way to another broker.
    let Policy {
        lease_duration_ms,
        max_attempts,
        max_crashes,
        retry,
        dead_letter_queue,
        discard_dead_letters,
        retention_ms,
        dedup_window_ms,
        max_payload_bytes,
        priority_levels,
        message_ttl_ms,
        max_leased,
        max_delivery_rate,
        max_leased_per_fairness_key,
        fairness_weights,
        retention_bytes,
        max_messages,
        max_bytes,
        overflow: _,
        outcome_retention_ms,
    } = policy.clone();
    let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    let overflow = policy.overflow.map(|_| to_overflow(policy.overflow()).into());
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    QueuePolicy {
        lease_duration: lease_duration_ms.map(to_duration),
        max_attempts,
        max_crashes,
        retry: retry.map(|Retry { initial_ms, max_ms, multiplier, jitter }| RetryPolicy {
            initial_backoff: initial_ms.map(to_duration),
            max_backoff: max_ms.map(to_duration),
            multiplier,
            jitter,
        }),
        dead_letter_queue,
        discard_dead_letters,
        retention: retention_ms.map(to_duration),
        dedup_window: dedup_window_ms.map(to_duration),
        max_payload_bytes: max_payload_bytes.and_then(|bytes| i32::try_from(bytes).ok()),
        priority_levels: priority_levels.map(number),
        message_ttl: message_ttl_ms.map(to_duration),
        max_leased: max_leased.map(number),
        max_delivery_rate,
        max_leased_per_fairness_key: max_leased_per_fairness_key.map(number),
        fairness_weights: fairness_weights
            .into_iter()
            .map(|FairnessWeight { key, weight, .. }| (key, weight.cast_signed()))
            .collect(),
        retention_bytes: retention_bytes.map(size),
        max_messages: max_messages.map(size),
        max_bytes: max_bytes.map(size),
        overflow: overflow.unwrap_or_default(),
        outcome_retention: outcome_retention_ms.map(to_duration),
    }
}

fn to_policy(queue: &Queue, limits: &Limits) -> QueuePolicy {
    let policy = &queue.definition.policy;
    let retry = policy.retry.clone().unwrap_or_default();
    let payload_bytes = policy.max_payload_bytes.unwrap_or(limits.payload_bytes_max);
    let stays_ms = policy.stays_ms(queue.definition.is_dead_letter_queue);
    QueuePolicy {
        lease_duration: Some(to_duration(policy.lease_ms())),
        max_attempts: Some(policy.max_attempts.unwrap_or(policy::MAX_ATTEMPTS)),
        max_crashes: Some(policy.max_crashes.unwrap_or(policy::MAX_CRASHES)),
        retry: Some(RetryPolicy {
            initial_backoff: Some(to_duration(retry.initial())),
            max_backoff: Some(to_duration(retry.longest())),
            multiplier: Some(retry.factor()),
            jitter: Some(retry.spread()),
        }),
        dead_letter_queue: queue.dead_letter_queue_name(),
        discard_dead_letters: Some(policy.discards_dead_letters()),
        retention: Some(to_duration(stays_ms.unwrap_or_default())),
        dedup_window: Some(to_duration(policy.dedup_ms())),
        max_payload_bytes: i32::try_from(payload_bytes).ok(),
        priority_levels: Some(i32::from(policy.priority_max()) + 1),
        message_ttl: Some(to_duration(policy.message_ttl_ms.unwrap_or_default())),
        outcome_retention: Some(to_duration(policy.outcomes_ms().unwrap_or_default())),
        max_leased: policy.max_leased.and_then(|max| i32::try_from(max).ok()),
        max_delivery_rate: policy.max_delivery_rate,
        max_leased_per_fairness_key: policy
            .max_leased_per_fairness_key
            .and_then(|max| i32::try_from(max).ok()),
        fairness_weights: policy
            .fairness_weights
            .iter()
            .map(|it| (it.key.clone(), it.weight.cast_signed()))
            .collect(),
        max_messages: policy.max_messages.and_then(|max| i64::try_from(max).ok()),
        max_bytes: policy.max_bytes.and_then(|max| i64::try_from(max).ok()),
        overflow: to_overflow(policy.overflow()).into(),
        retention_bytes: policy.retention_bytes.and_then(|max| i64::try_from(max).ok()),
    }
}

pub(in crate::grpc) fn to_stats(queue: &Queue, figures: Figures) -> QueueStats {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (counts, totals) = (figures.counts, queue.totals);
    QueueStats {
        ready: number(counts.ready),
        scheduled: number(counts.scheduled),
        leased: number(counts.leased),
        dead: number(figures.dead),
        bytes: number(counts.bytes),
        oldest_ready_time: figures.oldest_ready_ms.map(to_timestamp),
        consumers: i32::try_from(figures.consumers).unwrap_or(i32::MAX),
        published_total: number(totals.published),
        delivered_total: number(totals.delivered),
        acked_total: number(totals.acked),
        retried_total: number(totals.retried),
        dead_lettered_total: number(totals.dead_lettered),
        expired_leases_total: number(totals.expired_leases),
        parked: number(counts.parked),
        behind: number(counts.behind),
        expired_total: number(totals.expired),
        deleted_total: number(totals.deleted),
        moved_total: number(totals.moved),
        dropped_total: number(totals.dropped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_labels_have_bounds_at_them_and_one_beyond() {
        let taken = |queue| new_queue(queue, &Limits::default(), IdHasher { key: [0; 16] }).is_ok();
        let described = |bytes: usize| {
            taken(v1::Queue { description: "d".repeat(bytes), ..v1::Queue::default() })
        };
        assert!(described(1_024) && !described(1_025));
        let labeled = |labels: Vec<(String, String)>| {
            taken(v1::Queue { labels: labels.into_iter().collect(), ..v1::Queue::default() })
        };
        let many = |count: usize| (0..count).map(|number| (format!("k{number}"), String::new()));
        assert!(labeled(many(64).collect()) && !labeled(many(65).collect()));
        let one = |key: usize, value: usize| labeled(vec![("k".repeat(key), "v".repeat(value))]);
        assert!(one(1, 4_095) && !one(1, 4_096));
        assert!(one(63, 0) && !one(64, 0) && !one(0, 0));
        assert!(!labeled(vec![("K".to_owned(), String::new())]));
    }

    #[test]
    fn a_payload_limit_is_within_that_of_the_server() {
        let limits = Limits { payload_bytes_max: 1_000, ..Limits::default() };
        let limited = |bytes| {
            let policy = QueuePolicy { max_payload_bytes: Some(bytes), ..QueuePolicy::default() };
            new_policy(policy, &limits, IdHasher { key: [0; 16] }).is_ok()
        };
        assert!(limited(1) && limited(1_000) && !limited(0) && !limited(1_001) && !limited(-1));
    }
}
