//! A queue as it is printed.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use qbroker_client::{Queue, QueuePolicy, QueueState};
use serde_json::{Value, json};

use super::overflow;
use crate::cli::globals::Globals;
use crate::cli::limit;
use crate::cli::output::{Column, Item, column, time};

/// The columns of a list.
pub(super) const LIST: [Column; 9] = [
    column("NAME", "name"),
    column("READY", "ready"),
    column("SCHEDULED", "scheduled"),
    column("LEASED", "leased"),
    column("PARKED", "parked"),
    column("DEAD", "dead_letters"),
    column("CONSUMERS", "consumers"),
    column("OLDEST", "oldest_ready_age"),
    column("STATE", "state"),
];

/// What is shown of a queue that was just made: what most want to see of their policy.
pub(super) const MADE: [Column; 6] = [
    column("NAME", "name"),
    column("LEASE DURATION", "lease_duration"),
    column("MAX ATTEMPTS", "max_attempts"),
    column("MAX CRASHES", "max_crashes"),
    column("DEAD-LETTER QUEUE", "dead_letter_queue"),
    column("RETENTION", "retention"),
];

/// What is shown of one queue.
pub(super) const DETAILS: [Column; 50] = [
    column("NAME", "name"),
    column("STATE", "state"),
    column("PUBLISHING PAUSED", "publishing_paused"),
    column("DESCRIPTION", "description"),
    column("LABELS", "labels"),
    column("CREATED", "create_time"),
    column("UPDATED", "update_time"),
    column("READY", "ready"),
    column("SCHEDULED", "scheduled"),
    column("LEASED", "leased"),
    column("PARKED", "parked"),
    column("BEHIND", "behind"),
    column("DEAD LETTERS", "dead_letters"),
    column("BYTES", "bytes"),
    column("CONSUMERS", "consumers"),
    column("OLDEST READY", "oldest_ready_age"),
    column("PUBLISHED", "published_total"),
    column("DELIVERED", "delivered_total"),
    column("ACKED", "acked_total"),
    column("RETRIED", "retried_total"),
    column("DEAD-LETTERED", "dead_lettered_total"),
    column("LEASES EXPIRED", "expired_leases_total"),
    column("EXPIRED", "expired_total"),
    column("DELETED", "deleted_total"),
    column("MOVED", "moved_total"),
    column("DROPPED", "dropped_total"),
    column("LEASE DURATION", "lease_duration"),
    column("MAX ATTEMPTS", "max_attempts"),
    column("MAX CRASHES", "max_crashes"),
    column("RETRY INITIAL", "retry_initial"),
    column("RETRY MAX", "retry_max"),
    column("RETRY MULTIPLIER", "retry_multiplier"),
    column("RETRY JITTER", "retry_jitter"),
    column("DEAD-LETTER QUEUE", "dead_letter_queue"),
    column("DISCARD DEAD LETTERS", "discard_dead_letters"),
    column("RETENTION", "retention"),
    column("DEDUP WINDOW", "dedup_window"),
    column("MAX PAYLOAD BYTES", "max_payload_bytes"),
    column("PRIORITY LEVELS", "priority_levels"),
    column("MESSAGE TTL", "message_ttl"),
    column("MAX LEASED", "max_leased"),
    column("MAX DELIVERY RATE", "max_delivery_rate"),
    column("MAX LEASED PER FAIRNESS KEY", "max_leased_per_fairness_key"),
    column("FAIRNESS WEIGHTS", "fairness_weights"),
    column("MAX MESSAGES", "max_messages"),
    column("MAX BYTES", "max_bytes"),
    column("OVERFLOW", "overflow"),
    column("RETENTION BYTES", "retention_bytes"),
    column("OUTCOME RETENTION", "outcome_retention"),
    column("ETAG", "etag"),
];

/// The queue by key: its figures, its policy and what describes it, side by side.
pub(super) fn item(queue: &Queue) -> Item {
    let labels: BTreeMap<_, _> = queue.labels.iter().collect();
    let described = json!({
        "name": queue.name,
        "state": if queue.state == QueueState::Paused { "paused" } else { "active" },
        "publishing_paused": queue.publishing_paused,
        "description": queue.description,
        "labels": labels,
        "create_time": time(queue.create_time),
        "update_time": time(queue.update_time),
        "etag": queue.etag,
    });
    let mut item = Item::new();
    for part in [described, figures(queue, SystemTime::now()), policy(&queue.policy)] {
        let Value::Object(part) = part else { unreachable!("each part was made as an object") };
        item.extend(part);
    }
    item
}

fn figures(queue: &Queue, now: SystemTime) -> Value {
    let stats = &queue.stats;
    // The clocks of two machines may differ: nothing is younger than now.
    let age = |time: SystemTime| now.duration_since(time).unwrap_or(Duration::ZERO);
    let oldest = stats.oldest_ready_time.map(|time| whole_seconds(age(time)));
    json!({
        "ready": stats.ready,
        "scheduled": stats.scheduled,
        "leased": stats.leased,
        "parked": stats.parked,
        "behind": stats.behind,
        "dead_letters": stats.dead,
        "bytes": stats.bytes,
        "consumers": stats.consumers,
        "oldest_ready_time": time(stats.oldest_ready_time),
        "oldest_ready_age": oldest,
        "published_total": stats.published_total,
        "delivered_total": stats.delivered_total,
        "acked_total": stats.acked_total,
        "retried_total": stats.retried_total,
        "dead_lettered_total": stats.dead_lettered_total,
        "expired_leases_total": stats.expired_leases_total,
        "expired_total": stats.expired_total,
        "deleted_total": stats.deleted_total,
        "moved_total": stats.moved_total,
        "dropped_total": stats.dropped_total,
    })
}

fn policy(policy: &QueuePolicy) -> Value {
    let duration = |duration: Option<Duration>| {
        duration.map(|duration| humantime::format_duration(duration).to_string())
    };
    let weights: BTreeMap<_, _> = policy.fairness_weights.iter().collect();
    json!({
        "lease_duration": duration(policy.lease_duration),
        "max_attempts": limit::show(policy.max_attempts),
        "max_crashes": limit::show(policy.max_crashes),
        "retry_initial": duration(policy.retry.initial_backoff),
        "retry_max": duration(policy.retry.max_backoff),
        "retry_multiplier": policy.retry.multiplier,
        "retry_jitter": policy.retry.jitter,
        "dead_letter_queue": policy.dead_letter_queue,
        "discard_dead_letters": policy.discard_dead_letters,
        "retention": duration(policy.retention),
        "dedup_window": duration(policy.dedup_window),
        "max_payload_bytes": policy.max_payload_bytes,
        "priority_levels": policy.priority_levels,
        "message_ttl": duration(policy.message_ttl),
        "max_leased": policy.max_leased,
        "max_delivery_rate": policy.max_delivery_rate,
        "max_leased_per_fairness_key": policy.max_leased_per_fairness_key,
        "fairness_weights": weights,
        "max_messages": policy.max_messages,
        "max_bytes": policy.max_bytes,
        "overflow": policy.overflow.and_then(overflow::show),
        "retention_bytes": policy.retention_bytes,
        "outcome_retention": duration(policy.outcome_retention),
    })
}

/// As long as a person wants to know it.
pub(super) fn whole_seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// Prints how many messages went.
///
/// # Errors
/// Where stdout cannot be written.
pub(super) fn print_purged(globals: &Globals, purged: u64) -> io::Result<()> {
    let mut item = Item::new();
    item.insert("purged".to_owned(), json!(purged));
    globals.output().item(&[column("PURGED", "purged")], item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qbroker_client::QueueStats;
    use qbroker_proto::v1;

    fn queue() -> Queue {
        let oldest = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        v1::Queue {
            name: "mails".to_owned(),
            policy: Some(v1::QueuePolicy { max_attempts: Some(-1), ..v1::QueuePolicy::default() }),
            stats: Some(v1::QueueStats {
                ready: 3,
                oldest_ready_time: Some(oldest.into()),
                ..v1::QueueStats::default()
            }),
            ..v1::Queue::default()
        }
        .into()
    }

    #[test]
    fn every_column_has_its_key() {
        let item = item(&queue());
        for column in LIST.iter().chain(&MADE).chain(&DETAILS) {
            assert!(item.contains_key(column.key), "{}", column.key);
        }
        assert_eq!(item["max_attempts"], "unlimited");
    }

    #[test]
    fn ages_are_whole_seconds_and_never_negative() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(figures(&queue(), at(165))["oldest_ready_age"], "1m 5s");
        assert_eq!(figures(&queue(), at(50))["oldest_ready_age"], "0s");
        let idle = Queue::from(v1::Queue::default());
        assert_eq!(idle.stats, QueueStats::default());
        assert_eq!(figures(&idle, at(0))["oldest_ready_age"], Value::Null);
    }
}
