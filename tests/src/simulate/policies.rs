//! Policies of queues: as they are made, as operators change them, for the broker and for the model.

use qbroker::queue::policy::{self, FairnessWeight, Retry};

use super::audit;
use super::model::{Overflow, Policy, Wrong};
use super::plan::{Change, GRAVES, INTERVALS_MS, LETTERS};

/// With what a queue is made.
pub(super) fn made(queue: usize) -> Policy {
    match queue {
        0 => Policy {
            max_attempts: Some(3),
            max_crashes: Some(2),
            backoff_ms: 1_000,
            ..Policy::DEFAULT
        },
        1 => Policy {
            max_attempts: Some(2),
            max_crashes: Some(1),
            backoff_ms: 0,
            max_leased: Some(4),
            ..Policy::DEFAULT
        },
        3 => Policy {
            max_messages: Some(6),
            overflow: Overflow::DeadLetterOldest,
            ..Policy::DEFAULT
        },
        4 => Policy { max_messages: Some(8), retention_ms: Some(60_000), ..Policy::DEFAULT },
        5 => Policy { max_leased_of_key: Some(2), weights: [1, 3, 2, 1], ..Policy::DEFAULT },
        6 => Policy { interval_ms: Some(500), ..Policy::DEFAULT },
        7 => Policy { retention_bytes: Some(3_000), ..Policy::DEFAULT },
        _ => Policy {
            max_attempts: Some(2),
            max_crashes: Some(3),
            ttl_ms: Some(20_000),
            discards: true,
            max_messages: Some(12),
            overflow: Overflow::DropOldest,
            ..Policy::DEFAULT
        },
    }
}

/// A policy with something else in it.
pub(super) fn changed(mut policy: Policy, change: Change, made: Policy) -> Policy {
    let overflow =
        |of: usize| [Overflow::Reject, Overflow::DropOldest, Overflow::DeadLetterOldest][of];
    match change {
        Change::Attempts(max) => policy.max_attempts = max,
        Change::Crashes(max) => policy.max_crashes = max,
        Change::Backoff(ms) => policy.backoff_ms = ms,
        Change::Ttl(ms) => policy.ttl_ms = ms,
        Change::Letters(of) => policy.letters = [None, Some(LETTERS), Some(GRAVES)][of],
        Change::Discards(discards) => policy.discards = discards,
        Change::Messages(max, of) => (policy.max_messages, policy.overflow) = (max, overflow(of)),
        Change::Bytes(max, of) => (policy.max_bytes, policy.overflow) = (max, overflow(of)),
        Change::Retention(ms) => policy.retention_ms = ms,
        Change::Leased(max) => policy.max_leased = max,
        Change::LeasedOfKey(max) => policy.max_leased_of_key = max,
        Change::Weights(weights) => policy.weights = weights,
        Change::Interval(ms) => policy.interval_ms = ms,
        Change::DedupWindow(ms) => policy.dedup_ms = ms,
        Change::RetentionBytes(max) => policy.retention_bytes = max,
        Change::Back => policy = made,
    }
    policy
}

/// Deliveries a second with so many milliseconds between them.
fn rate_of(interval_ms: u64) -> f64 {
    1_000.0 / interval_ms as f64
}

/// A policy as the broker is told of it.
pub(super) fn told(it: &Policy) -> policy::Policy {
    let limit = |max: Option<u32>| Some(max.map_or(-1, |max| i32::try_from(max).expect("small")));
    let leases = |max: usize| u32::try_from(max).expect("small");
    let weight =
        |(hash, &weight): (u32, &u32)| FairnessWeight { key: format!("t-{hash}"), hash, weight };
    let overflow = match it.overflow {
        Overflow::Reject => policy::Overflow::RejectPublish,
        Overflow::DropOldest => policy::Overflow::DropOldest,
        Overflow::DeadLetterOldest => policy::Overflow::DeadLetterOldest,
    };
    policy::Policy {
        max_attempts: limit(it.max_attempts),
        max_crashes: limit(it.max_crashes),
        retry: Some(Retry { initial_ms: Some(it.backoff_ms), ..Retry::default() }),
        message_ttl_ms: it.ttl_ms,
        dead_letter_queue: it.letters.map(str::to_owned),
        discard_dead_letters: Some(it.discards),
        max_messages: it.max_messages.map(|max| max as u64),
        max_bytes: it.max_bytes,
        overflow: Some(overflow.into()),
        retention_ms: it.retention_ms,
        max_leased: it.max_leased.map(leases),
        max_leased_per_fairness_key: it.max_leased_of_key.map(leases),
        fairness_weights: (1..).zip(&it.weights).map(weight).collect(),
        max_delivery_rate: it.interval_ms.map(rate_of),
        dedup_window_ms: Some(it.dedup_ms),
        retention_bytes: it.retention_bytes,
        ..policy::Policy::default()
    }
}

/// The policy that a queue has, with what counts where nothing was said.
pub(super) fn seen(it: &policy::Policy) -> Result<Policy, Wrong> {
    let leases = |max: u32| usize::try_from(max).expect("small");
    let overflow = match it.overflow() {
        policy::Overflow::RejectPublish => Overflow::Reject,
        policy::Overflow::DropOldest => Overflow::DropOldest,
        policy::Overflow::DeadLetterOldest => Overflow::DeadLetterOldest,
    };
    let weight = |at: usize| {
        let named = it.fairness_weights.iter().find(|named| named.hash as usize == at + 1);
        named.map_or(1, |named| named.weight)
    };
    let retry = it.retry.clone().unwrap_or_default();
    let interval = |rate: f64| {
        let found = INTERVALS_MS.into_iter().find(|ms| rate_of(*ms) == rate);
        found.ok_or_else(|| format!("nobody asked for a rate of {rate}"))
    };
    Ok(Policy {
        max_attempts: it.failures_max(),
        max_crashes: it.crashes_max(),
        backoff_ms: retry.initial(),
        ttl_ms: it.message_ttl_ms,
        letters: it.dead_letter_queue.as_deref().map(audit::known).transpose()?,
        discards: it.discards_dead_letters(),
        max_messages: it.max_messages.map(|max| usize::try_from(max).expect("small")),
        max_bytes: it.max_bytes,
        overflow,
        retention_ms: it.retention_ms,
        max_leased: it.max_leased.map(leases),
        max_leased_of_key: it.max_leased_per_fairness_key.map(leases),
        weights: std::array::from_fn(weight),
        interval_ms: it.max_delivery_rate.map(interval).transpose()?,
        dedup_ms: it.dedup_ms(),
        retention_bytes: it.retention_bytes,
    })
}
