//! A queue's policy as flags.

use std::time::Duration;

use clap::Args;
use qbroker_client::{Limit, QueuePolicy, RetryPolicy};

use super::overflow::OverflowArg;
use crate::cli::limit::{self, parse_set};
use crate::cli::size;

/// What may be said about a queue when it is created or updated.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Policy")]
pub(super) struct PolicyArgs {
    /// How long a lease lasts unless it is renewed [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    lease_duration: Option<Duration>,
    /// Failures until a message is dead-lettered, or "unlimited" [default: 20].
    #[arg(long, value_name = "N", value_parser = limit::parse)]
    max_attempts: Option<Limit>,
    /// Crashes (lost leases) until a message is dead-lettered, or "unlimited" [default: 5].
    #[arg(long, value_name = "N", value_parser = limit::parse)]
    max_crashes: Option<Limit>,
    /// How long a message waits after its first failure [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_initial: Option<Duration>,
    /// How long it waits at most [default: 1h].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_max: Option<Duration>,
    /// What the wait grows by with each failure [default: 2].
    #[arg(long, value_name = "FACTOR")]
    retry_multiplier: Option<f64>,
    /// The random part of the wait, 0 to 1 [default: 0.25].
    #[arg(long, value_name = "PART")]
    retry_jitter: Option<f64>,
    /// Where dead letters go [default: the queue's name and .dead].
    #[arg(long, value_name = "QUEUE")]
    dead_letter_queue: Option<String>,
    /// Delete what would be dead-lettered [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    discard_dead_letters: Option<bool>,
    /// Delete messages that are older; 0s: never [default: never; 7days for dead letters].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retention: Option<Duration>,
    /// How long a message id is remembered; 0s: not at all [default: 5min].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    dedup_window: Option<Duration>,
    /// The largest payload, such as 64KiB [default: the broker's].
    #[arg(long, value_name = "SIZE", value_parser = size::parse_payload)]
    max_payload_bytes: Option<u32>,
    /// How many priorities there are, from 0 on [default: 10].
    #[arg(long, value_name = "N")]
    priority_levels: Option<u32>,
    /// How long messages may wait that do not say; 0s: for ever [default: for ever].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    message_ttl: Option<Duration>,
    /// Leases at a time, over all consumers [default: no limit].
    #[arg(long, value_name = "N", value_parser = |text: &str| parse_set::<u32>("max-leased", text))]
    max_leased: Option<u32>,
    /// Deliveries a second, over all consumers [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = |text: &str| parse_set::<f64>("max-delivery-rate", text))]
    max_delivery_rate: Option<f64>,
    /// Leases of one fairness key at a time [default: no limit].
    #[arg(long, value_name = "N", value_parser = |text: &str| parse_set::<u32>("max-leased-per-fairness-key", text))]
    max_leased_per_fairness_key: Option<u32>,
    /// The share of a fairness key, 1 to 1000; may be repeated. On update: replaces all
    /// [default: 1 each].
    #[arg(long = "fairness-weight", value_name = "KEY=WEIGHT", value_parser = weight)]
    fairness_weights: Vec<(String, u32)>,
    /// Messages at most, whatever they do [default: no limit].
    #[arg(long, value_name = "N", value_parser = |text: &str| parse_set::<u64>("max-messages", text))]
    max_messages: Option<u64>,
    /// Bytes at most, such as 10MB or 10MiB [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| size::parse_limit("max-bytes", text))]
    max_bytes: Option<u64>,
    /// What happens to a publish beyond these [default: reject].
    #[arg(long, value_name = "POLICY")]
    overflow: Option<OverflowArg>,
    /// Bytes that it keeps as a dead-letter queue, the newest ones [default: no limit].
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| size::parse_limit("retention-bytes", text))]
    retention_bytes: Option<u64>,
    /// How long it can be told what became of finished messages; 0s: not at all [default: not at all].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    outcome_retention: Option<Duration>,
    /// What the queue is for.
    #[arg(long, value_name = "TEXT")]
    pub(super) description: Option<String>,
    /// A label; may be repeated. On update: replaces all labels.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
}

/// The settings by flag, and where they are in the protocol's queue.
const PATHS: &[(&str, &str)] = &[
    ("lease-duration", "policy.lease_duration"),
    ("max-attempts", "policy.max_attempts"),
    ("max-crashes", "policy.max_crashes"),
    ("retry-initial", "policy.retry.initial_backoff"),
    ("retry-max", "policy.retry.max_backoff"),
    ("retry-multiplier", "policy.retry.multiplier"),
    ("retry-jitter", "policy.retry.jitter"),
    ("dead-letter-queue", "policy.dead_letter_queue"),
    ("discard-dead-letters", "policy.discard_dead_letters"),
    ("retention", "policy.retention"),
    ("dedup-window", "policy.dedup_window"),
    ("max-payload-bytes", "policy.max_payload_bytes"),
    ("priority-levels", "policy.priority_levels"),
    ("message-ttl", "policy.message_ttl"),
    ("max-leased", "policy.max_leased"),
    ("max-delivery-rate", "policy.max_delivery_rate"),
    ("max-leased-per-fairness-key", "policy.max_leased_per_fairness_key"),
    ("fairness-weight", "policy.fairness_weights"),
    ("max-messages", "policy.max_messages"),
    ("max-bytes", "policy.max_bytes"),
    ("overflow", "policy.overflow"),
    ("retention-bytes", "policy.retention_bytes"),
    ("outcome-retention", "policy.outcome_retention"),
    ("description", "description"),
    ("label", "labels"),
];

impl PolicyArgs {
    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The policy these flags ask for.
    pub(super) fn policy(&self) -> QueuePolicy {
        QueuePolicy {
            lease_duration: self.lease_duration,
            max_attempts: self.max_attempts,
            max_crashes: self.max_crashes,
            retry: RetryPolicy {
                initial_backoff: self.retry_initial,
                max_backoff: self.retry_max,
                multiplier: self.retry_multiplier,
                jitter: self.retry_jitter,
            },
            dead_letter_queue: self.dead_letter_queue.clone(),
            discard_dead_letters: self.discard_dead_letters,
            retention: self.retention,
            dedup_window: self.dedup_window,
            max_payload_bytes: self.max_payload_bytes,
            priority_levels: self.priority_levels,
            message_ttl: self.message_ttl,
            max_leased: self.max_leased,
            max_delivery_rate: self.max_delivery_rate,
            max_leased_per_fairness_key: self.max_leased_per_fairness_key,
            fairness_weights: self.fairness_weights.iter().cloned().collect(),
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            overflow: self.overflow.map(OverflowArg::policy),
            retention_bytes: self.retention_bytes,
            outcome_retention: self.outcome_retention,
        }
    }
}

/// Where the setting that `flag` names is in the protocol's queue.
pub(super) fn path(flag: &str) -> Result<String, String> {
    let known = PATHS.iter().find(|(name, _)| *name == flag);
    known.map(|(_, path)| (*path).to_owned()).ok_or_else(|| {
        let names: Vec<&str> = PATHS.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let (key, weight) = text.rsplit_once('=').ok_or("a share is KEY=WEIGHT")?;
    let weight = weight.parse().map_err(|_| format!("{weight} is no whole number"))?;
    Ok((key.to_owned(), weight))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PolicyArgs,
    }

    fn parse(line: &[&str]) -> Result<PolicyArgs, clap::Error> {
        let words = std::iter::once("create").chain(line.iter().copied());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn flags_make_a_policy_and_say_nothing_of_the_rest() {
        let line = ["--max-attempts", "unlimited", "--retry-initial", "2s", "--retention", "0s"];
        let expected = QueuePolicy {
            max_attempts: Some(Limit::Unlimited),
            retry: RetryPolicy {
                initial_backoff: Some(Duration::from_secs(2)),
                ..RetryPolicy::default()
            },
            retention: Some(Duration::ZERO),
            ..QueuePolicy::default()
        };
        assert_eq!(parse(&line).unwrap().policy(), expected);
        assert!(parse(&[]).unwrap().is_empty());
        assert!(!parse(&["--label", "a=b"]).unwrap().is_empty());
    }

    #[test]
    fn every_flag_can_be_reset() {
        let flags = Line::command();
        for flag in flags.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(flag == "help" || path(flag).is_ok(), "{flag}");
        }
        assert!(path("colour").is_err());
    }

    #[test]
    fn limits_begin_at_one() {
        assert!(parse(&["--max-attempts", "0"]).is_err());
        assert!(parse(&["--max-crashes", "-1"]).is_err());
        assert!(parse(&["--max-crashes", "many"]).is_err());
    }

    #[test]
    fn who_means_no_limit_is_told_how_to_say_it() {
        for flag in [
            "max-messages",
            "max-bytes",
            "max-leased",
            "max-leased-per-fairness-key",
            "max-delivery-rate",
            "retention-bytes",
        ] {
            for none in ["0", "none"] {
                let refused = parse(&[&format!("--{flag}"), none]).expect_err(none).to_string();
                assert!(refused.contains(&format!("--reset {flag}`")), "{refused}");
            }
            assert!(parse(&[&format!("--{flag}"), "7"]).is_ok());
        }
    }
}
