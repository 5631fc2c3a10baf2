//! The file: what it says of each queue, and how that is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qbroker::exit::Exit;
use qbroker_client::{Limit, Overflow, Queue, QueuePolicy, RetryPolicy};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::queue::overflow;

/// Grows when a reader of older versions would misunderstand the file.
const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definitions {
    version: u32,
    pub(super) queues: Vec<Definition>,
}

/// What is said of one queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) description: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub(super) policy: Policy,
}

/// A queue's policy, by the names of the protocol; what is not said has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_duration: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<Most>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_crashes: Option<Most>,
    #[serde(skip_serializing_if = "Retry::is_empty")]
    retry: Retry,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard_dead_letters: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_window: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_payload_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_levels: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_ttl: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_leased: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_delivery_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_leased_per_fairness_key: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fairness_weights: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_messages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overflow: Option<OverflowWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome_retention: Option<Span>,
}

/// What a full queue does, by the word that the command line has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct OverflowWord(Overflow);

impl TryFrom<String> for OverflowWord {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        overflow::parse(&word).map(Self)
    }
}

impl From<OverflowWord> for String {
    fn from(word: OverflowWord) -> Self {
        overflow::show(word.0).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_backoff: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_backoff: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multiplier: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<f64>,
}

/// A duration as people write it: "30s", "1h 30m".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let span = humantime::parse_duration(&text);
        let span = span.map_err(|error| format!("\"{text}\" is no duration: {error}"))?;
        if span.subsec_nanos() % 1_000_000 != 0 {
            return Err(format!("\"{text}\" is finer than a millisecond"));
        }
        Ok(Self(span))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        humantime::format_duration(span.0).to_string()
    }
}

/// A limit as people write it: a number, or "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
struct Most(Limit);

impl TryFrom<Value> for Most {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number @ 1..) => Ok(Self(Limit::AtMost(number))),
            _ if value == "unlimited" => Ok(Self(Limit::Unlimited)),
            _ => Err(format!("{value} is neither a number from 1 nor \"unlimited\"")),
        }
    }
}

impl From<Most> for Value {
    fn from(most: Most) -> Self {
        crate::cli::limit::show(Some(most.0))
    }
}

impl Definitions {
    /// A file of these queues.
    pub(super) fn of(queues: Vec<Definition>) -> Self {
        Self { version: VERSION, queues }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Where it is none, where another version wrote it, where it holds a field that is not known, and
    /// where it names a queue twice.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let refuse = |why: String| Failure::new(Exit::Data, format!("no definitions: {why}"));
        let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                let why = format!("version {version} is not known here, only {VERSION}");
                return Err(refuse(why));
            }
            None => return Err(refuse("\"version\" is missing".to_owned())),
        }
        // Once more from the text: what is wrong is then told with its place.
        let parsed: Self = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let mut names = BTreeSet::new();
        match parsed.queues.iter().find(|queue| !names.insert(queue.name.as_str())) {
            Some(twice) => Err(refuse(format!("queue \"{}\" is there twice", twice.name))),
            None => Ok(parsed),
        }
    }

    /// What [`Self::parse`] reads.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("keys are strings") + "\n"
    }
}

impl Definition {
    /// What a queue is; its policy must be as it was set.
    pub(super) fn of(queue: &Queue) -> Self {
        Self {
            name: queue.name.clone(),
            description: queue.description.clone(),
            labels: queue.labels.clone().into_iter().collect(),
            policy: Policy::of(queue.policy.clone()),
        }
    }
}

impl Policy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of(policy: QueuePolicy) -> Self {
        // Nothing that can be set may be missing here: it would not be exported.
        let QueuePolicy {
            lease_duration,
            max_attempts,
            max_crashes,
            retry: RetryPolicy { initial_backoff, max_backoff, multiplier, jitter },
            dead_letter_queue,
            discard_dead_letters,
            retention,
            dedup_window,
            max_payload_bytes,
            priority_levels,
            message_ttl,
            max_leased,
            max_delivery_rate,
            max_leased_per_fairness_key,
            fairness_weights,
            max_messages,
            max_bytes,
            overflow,
            retention_bytes,
            outcome_retention,
        } = policy;
        Self {
            lease_duration: lease_duration.map(Span),
            max_attempts: max_attempts.map(Most),
            max_crashes: max_crashes.map(Most),
            retry: Retry {
                initial_backoff: initial_backoff.map(Span),
                max_backoff: max_backoff.map(Span),
                multiplier,
                jitter,
            },
            dead_letter_queue,
            discard_dead_letters,
            retention: retention.map(Span),
            dedup_window: dedup_window.map(Span),
            max_payload_bytes,
            priority_levels,
            message_ttl: message_ttl.map(Span),
            max_leased,
            max_delivery_rate,
            max_leased_per_fairness_key,
            fairness_weights: fairness_weights.into_iter().collect(),
            max_messages,
            max_bytes,
            overflow: overflow.map(OverflowWord),
            retention_bytes,
            outcome_retention: outcome_retention.map(Span),
        }
    }
}

impl From<Policy> for QueuePolicy {
    fn from(policy: Policy) -> Self {
        let duration = |span: Option<Span>| span.map(|span| span.0);
        let limit = |most: Option<Most>| most.map(|most| most.0);
        Self {
            lease_duration: duration(policy.lease_duration),
            max_attempts: limit(policy.max_attempts),
            max_crashes: limit(policy.max_crashes),
            retry: RetryPolicy {
                initial_backoff: duration(policy.retry.initial_backoff),
                max_backoff: duration(policy.retry.max_backoff),
                multiplier: policy.retry.multiplier,
                jitter: policy.retry.jitter,
            },
            dead_letter_queue: policy.dead_letter_queue,
            discard_dead_letters: policy.discard_dead_letters,
            retention: duration(policy.retention),
            dedup_window: duration(policy.dedup_window),
            max_payload_bytes: policy.max_payload_bytes,
            priority_levels: policy.priority_levels,
            message_ttl: duration(policy.message_ttl),
            max_leased: policy.max_leased,
            max_delivery_rate: policy.max_delivery_rate,
            max_leased_per_fairness_key: policy.max_leased_per_fairness_key,
            fairness_weights: policy.fairness_weights.into_iter().collect(),
            max_messages: policy.max_messages,
            max_bytes: policy.max_bytes,
            overflow: policy.overflow.map(|word| word.0),
            retention_bytes: policy.retention_bytes,
            outcome_retention: duration(policy.outcome_retention),
        }
    }
}

impl Retry {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
      "version": 1,
      "queues": [
        {
          "name": "mails",
          "description": "to people",
          "labels": { "team": "a" },
          "policy": {
            "lease_duration": "1m 30s",
            "max_attempts": 3,
            "max_crashes": "unlimited",
            "retry": { "initial_backoff": "500ms", "jitter": 0.5 },
            "dead_letter_queue": "graves",
            "discard_dead_letters": false,
            "retention": "30days",
            "dedup_window": "0s",
            "max_payload_bytes": 7,
            "priority_levels": 3,
            "message_ttl": "1h",
            "max_leased": 8,
            "max_delivery_rate": 0.5,
            "max_leased_per_fairness_key": 2,
            "fairness_weights": { "acme": 3 },
            "max_messages": 1000,
            "max_bytes": 5000000000,
            "overflow": "drop-oldest",
            "retention_bytes": 9,
            "outcome_retention": "7days"
          }
        },
        { "name": "plain" }
      ]
    }"#;

    fn refused(text: &str) -> String {
        Definitions::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_says_what_it_says_and_is_written_so_again() {
        let definitions = Definitions::parse(TEXT).unwrap();
        let mut expected: Value = serde_json::from_str(TEXT).unwrap();
        let written: Value = serde_json::from_str(&definitions.to_text()).unwrap();
        assert_eq!(written, expected.take());
        for queue in definitions.queues {
            let policy = QueuePolicy::from(queue.policy.clone());
            assert_eq!(Policy::of(policy), queue.policy, "nothing is lost on the way");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let with = |field: &str| TEXT.replacen("\"max_attempts\": 3", field, 1);
        for (text, word) in [
            (with("\"max_attemps\": 3"), "unknown field `max_attemps`, expected one of"),
            (with("\"max_attempts\": 0"), "0 is neither a number from 1 nor"),
            (with("\"max_attempts\": \"many\""), "line 10"),
            (TEXT.replacen("1m 30s", "soon", 1), "\"soon\" is no duration"),
            (TEXT.replacen("500ms", "5us", 1), "finer than a millisecond"),
            (TEXT.replacen("plain", "mails", 1), "\"mails\" is there twice"),
            (TEXT.replacen("\"version\": 1", "\"version\": 2", 1), "version 2 is not known"),
            (TEXT.replacen("\"version\": 1,", "", 1), "\"version\" is missing"),
            (TEXT.replacen("\"queues\"", "\"users\": [], \"queues\"", 1), "unknown field `users`"),
            ("{".to_owned(), "line 1"),
        ] {
            let refused = refused(&text);
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
