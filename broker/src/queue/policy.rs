//! What a queue does with its messages: its policy, the defaults, the bounds.

use prost::Message;

use super::flow::Rate;
use super::refused::Refused;

/// A queue's policy as its owner set it; what is unset keeps the default below, also when a later
/// version changes that default.
#[derive(Clone, PartialEq, Message)]
pub struct Policy {
    #[prost(uint64, optional, tag = "1")]
    pub lease_duration_ms: Option<u64>,
    /// Failures until dead-lettered; -1: no limit.
    #[prost(sint32, optional, tag = "2")]
    pub max_attempts: Option<i32>,
    /// Ends of leases by lost sessions or by time until dead-lettered; -1: no limit.
    #[prost(sint32, optional, tag = "3")]
    pub max_crashes: Option<i32>,
    #[prost(message, optional, tag = "4")]
    pub retry: Option<Retry>,
    #[prost(string, optional, tag = "5")]
    pub dead_letter_queue: Option<String>,
    #[prost(bool, optional, tag = "6")]
    pub discard_dead_letters: Option<bool>,
    #[prost(uint64, optional, tag = "7")]
    pub retention_ms: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub dedup_window_ms: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub max_payload_bytes: Option<u64>,
    /// How many priorities there are, from 0 on.
    #[prost(uint32, optional, tag = "30")]
    pub priority_levels: Option<u32>,
    /// How long messages may wait that do not say; 0: for ever.
    #[prost(uint64, optional, tag = "31")]
    pub message_ttl_ms: Option<u64>,
    /// Leases at a time, over all consumers; unset: no limit.
    #[prost(uint32, optional, tag = "37")]
    pub max_leased: Option<u32>,
    /// Deliveries a second, over all consumers; unset: no limit.
    #[prost(double, optional, tag = "38")]
    pub max_delivery_rate: Option<f64>,
    /// Leases of one fairness key at a time; unset: no limit.
    #[prost(uint32, optional, tag = "51")]
    pub max_leased_per_fairness_key: Option<u32>,
    /// Shares of fairness keys, by hash; 1 where a key is not named.
    #[prost(message, repeated, tag = "52")]
    pub fairness_weights: Vec<FairnessWeight>,
    /// Bytes that it may hold as a dead-letter queue; the oldest go beyond that. Unset: no limit.
    #[prost(uint64, optional, tag = "39")]
    pub retention_bytes: Option<u64>,
    /// Messages at most, whatever they do; unset: no limit.
    #[prost(uint64, optional, tag = "44")]
    pub max_messages: Option<u64>,
    /// Their stored bytes at most; unset: no limit.
    #[prost(uint64, optional, tag = "45")]
    pub max_bytes: Option<u64>,
    /// What happens to a publish beyond these.
    #[prost(enumeration = "Overflow", optional, tag = "46")]
    pub overflow: Option<i32>,
    /// How long outcomes of finished messages are kept; 0: not at all.
    #[prost(uint64, optional, tag = "59")]
    pub outcome_retention_ms: Option<u64>,
}

/// The share of a fairness key.
#[derive(Clone, PartialEq, Message)]
pub struct FairnessWeight {
    #[prost(string, tag = "1")]
    pub key: String,
    /// As messages of the key have it.
    #[prost(fixed32, tag = "2")]
    pub hash: u32,
    #[prost(uint32, tag = "3")]
    pub weight: u32,
}

/// What happens to a publish that its queue has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum Overflow {
    /// It is refused.
    RejectPublish = 0,
    /// The oldest ready messages are deleted.
    DropOldest = 1,
    /// The oldest ready messages are dead-lettered.
    DeadLetterOldest = 2,
}

/// Backoff after a failure: `initial * multiplier^(failures - 1)`, at most `max`, less up to
/// `jitter` of it by chance.
#[derive(Clone, PartialEq, Message)]
pub struct Retry {
    #[prost(uint64, optional, tag = "1")]
    pub initial_ms: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub max_ms: Option<u64>,
    #[prost(double, optional, tag = "3")]
    pub multiplier: Option<f64>,
    /// 0.0 to 1.0.
    #[prost(double, optional, tag = "4")]
    pub jitter: Option<f64>,
}

const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;

/// Long enough for a job whose worker renews it, short enough that a dead pull's work moves on.
pub const LEASE_DURATION_MS: u64 = 30 * SECOND_MS;
/// With the default backoff the last attempt comes some eleven hours after the first.
pub const MAX_ATTEMPTS: i32 = 20;
/// A job that kills its worker may take this many down before it is put aside.
pub const MAX_CRASHES: i32 = 5;
/// How long a message waits after its first failure.
pub const INITIAL_BACKOFF_MS: u64 = 5 * SECOND_MS;
/// How long a message waits at most after a failure.
pub const MAX_BACKOFF_MS: u64 = 60 * 60 * SECOND_MS;
/// How much longer each failure makes the backoff.
pub const MULTIPLIER: f64 = 2.0;
/// What part of a backoff is left to chance, so that failures together do not return together.
pub const JITTER: f64 = 0.25;
/// How long a dead letter stays.
pub const DEAD_LETTER_RETENTION_MS: u64 = 7 * DAY_MS;
/// How long a message id is remembered: longer than a client tries again.
pub const DEDUP_WINDOW_MS: u64 = 5 * 60 * SECOND_MS;

/// The most urgent a message can be: each priority that is in use costs a line of the index.
pub const PRIORITY_MAX: u8 = 9;

/// Fairness keys whose shares one policy names.
pub const FAIRNESS_WEIGHTS_MAX: usize = 1_000;
/// The largest share: more would be the others' standstill.
pub const FAIRNESS_WEIGHT_MAX: u32 = 1_000;

/// Nobody counts further; who wants no limit says so.
pub const ATTEMPTS_MAX: i32 = 1_000_000;
/// The broker holds no more leases than that.
pub const LEASED_MAX: u32 = 1_000_000;
/// A delivery each quarter of an hour; who wants less, pauses.
pub const DELIVERY_RATE_MIN: f64 = 0.001;
/// More than a broker delivers.
pub const DELIVERY_RATE_MAX: f64 = 1_000_000.0;
/// Leases shorter than this end while the delivery is still on its way.
pub const LEASE_DURATION_MS_MIN: u64 = SECOND_MS;
/// Whose work takes longer extends its lease.
pub const LEASE_DURATION_MS_MAX: u64 = DAY_MS / 2;
/// Ids are remembered in memory; a longer window would be cut by their number anyway.
pub const DEDUP_WINDOW_MS_MAX: u64 = DAY_MS;
/// Who wants a message to wait longer sets no time to live.
pub const TTL_MS_MAX: u64 = 3_650 * DAY_MS;
/// Longer than anybody asks what became of a job; who must know for ever, writes it down.
pub const OUTCOME_RETENTION_MS_MAX: u64 = 365 * DAY_MS;
/// Bytes of a queue's name.
pub const NAME_BYTES_MAX: usize = 120;
/// What is appended to a queue's name for its dead letters.
pub const DEAD_LETTER_SUFFIX: &str = ".dead";

impl Policy {
    /// How long a lease lasts.
    pub fn lease_ms(&self) -> u64 {
        self.lease_duration_ms.unwrap_or(LEASE_DURATION_MS)
    }

    /// Failures until dead-lettered; `None`: no limit.
    pub fn failures_max(&self) -> Option<u32> {
        u32::try_from(self.max_attempts.unwrap_or(MAX_ATTEMPTS)).ok()
    }

    /// Crashes until dead-lettered; `None`: no limit.
    pub fn crashes_max(&self) -> Option<u32> {
        u32::try_from(self.max_crashes.unwrap_or(MAX_CRASHES)).ok()
    }

    /// Whether dead letters go for good.
    pub fn discards_dead_letters(&self) -> bool {
        self.discard_dead_letters.unwrap_or(false)
    }

    /// Deliveries a second; `None`: as many as there are.
    pub(super) fn delivery_rate(&self) -> Option<Rate> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was checked to be far below 2^63, and not below zero"
        )]
        let thousandths = |rate: f64| Rate(((rate * 1_000.0).round() as u64).max(1));
        self.max_delivery_rate.map(thousandths)
    }

    /// Whether it limits deliveries.
    pub(super) fn limits_deliveries(&self) -> bool {
        self.max_leased.is_some() || self.max_delivery_rate.is_some()
    }

    /// The share of the fairness key with this hash.
    pub(super) fn fairness_weight(&self, hash: u32) -> u32 {
        let named = self.fairness_weights.binary_search_by_key(&hash, |it| it.hash);
        named.map_or(1, |at| self.fairness_weights[at].weight)
    }

    /// How long a message id is remembered.
    pub fn dedup_ms(&self) -> u64 {
        self.dedup_window_ms.unwrap_or(DEDUP_WINDOW_MS)
    }

    /// How long outcomes of finished messages are kept; `None`: there are none.
    pub fn outcomes_ms(&self) -> Option<u64> {
        self.outcome_retention_ms.filter(|ms| *ms != 0)
    }

    /// The most urgent a message of the queue can be.
    pub fn priority_max(&self) -> u8 {
        let levels = self.priority_levels.and_then(|levels| u8::try_from(levels).ok());
        levels.map_or(PRIORITY_MAX, |levels| levels.saturating_sub(1))
    }

    /// How long a message may stay; `None`: for ever.
    pub fn stays_ms(&self, is_dead_letter_queue: bool) -> Option<u64> {
        let default = is_dead_letter_queue.then_some(DEAD_LETTER_RETENTION_MS);
        self.retention_ms.or(default).filter(|ms| *ms != 0)
    }

    /// How long a message waits after its `failures`th failure. `chance` is in 0.0..1.0.
    pub fn backoff_ms(&self, failures: u32, chance: f64) -> u64 {
        let retry = self.retry.clone().unwrap_or_default();
        if retry.initial() == 0 {
            return 0;
        }
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = retry.factor().powi(exponent) * to_f64(retry.initial());
        let bounded = grown.min(to_f64(retry.longest()));
        let backoff = bounded * (1.0 - retry.spread() * chance);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in 0..=max_ms"
        )]
        let backoff = backoff as u64;
        backoff
    }

    /// Checks every value that is set.
    pub fn check(&self) -> Result<(), Refused> {
        let retry = self.retry.clone().unwrap_or_default();
        within(
            "lease_duration",
            self.lease_duration_ms,
            LEASE_DURATION_MS_MIN,
            LEASE_DURATION_MS_MAX,
        )?;
        within("dedup_window", self.dedup_window_ms, 0, DEDUP_WINDOW_MS_MAX)?;
        within("message_ttl", self.message_ttl_ms, 0, TTL_MS_MAX)?;
        within("retention", self.retention_ms.filter(|ms| *ms != 0), SECOND_MS, 3_650 * DAY_MS)?;
        let outcomes_ms = self.outcomes_ms();
        within("outcome_retention", outcomes_ms, SECOND_MS, OUTCOME_RETENTION_MS_MAX)?;
        within("max_payload_bytes", self.max_payload_bytes, 1, u64::MAX)?;
        let levels_max = u64::from(PRIORITY_MAX) + 1;
        within("priority_levels", self.priority_levels.map(u64::from), 1, levels_max)?;
        within("retry.initial_backoff", retry.initial_ms, 0, 365 * DAY_MS)?;
        within("retry.max_backoff", retry.max_ms, 0, 365 * DAY_MS)?;
        limit("max_attempts", self.max_attempts)?;
        limit("max_crashes", self.max_crashes)?;
        within("max_leased", self.max_leased.map(u64::from), 1, u64::from(LEASED_MAX))?;
        let per_key = self.max_leased_per_fairness_key.map(u64::from);
        within("max_leased_per_fairness_key", per_key, 1, u64::from(LEASED_MAX))?;
        self.check_fairness_weights()?;
        within("max_messages", self.max_messages, 1, u64::MAX)?;
        within("max_bytes", self.max_bytes, 1, u64::MAX)?;
        within("retention_bytes", self.retention_bytes, 1, u64::MAX)?;
        let (slowest, fastest) = (DELIVERY_RATE_MIN, DELIVERY_RATE_MAX);
        between("max_delivery_rate", self.max_delivery_rate, slowest, fastest)?;
        between("retry.multiplier", retry.multiplier, 1.0, 100.0)?;
        between("retry.jitter", retry.jitter, 0.0, 1.0)?;
        if retry.longest() < retry.initial() {
            let why =
                format!("{} ms is less than the initial {} ms", retry.longest(), retry.initial());
            return Err(Refused::Policy { field: "retry.max_backoff", why });
        }
        Ok(())
    }
}

impl Policy {
    fn check_fairness_weights(&self) -> Result<(), Refused> {
        let field = "fairness_weights";
        let weights = &self.fairness_weights;
        if FAIRNESS_WEIGHTS_MAX < weights.len() {
            let why = format!("{} keys; at most {FAIRNESS_WEIGHTS_MAX}", weights.len());
            return Err(Refused::Policy { field, why });
        }
        let bad = |it: &&FairnessWeight| !(1..=FAIRNESS_WEIGHT_MAX).contains(&it.weight);
        weights.iter().find(bad).map_or(Ok(()), |it| {
            let why =
                format!("{} of \"{}\" is not within 1 to {FAIRNESS_WEIGHT_MAX}", it.weight, it.key);
            Err(Refused::Policy { field, why })
        })
    }
}

impl Retry {
    /// The first backoff.
    pub fn initial(&self) -> u64 {
        self.initial_ms.unwrap_or(INITIAL_BACKOFF_MS)
    }

    /// What no backoff exceeds.
    pub fn longest(&self) -> u64 {
        self.max_ms.unwrap_or_else(|| MAX_BACKOFF_MS.max(self.initial()))
    }

    /// How much longer each failure makes it.
    pub fn factor(&self) -> f64 {
        self.multiplier.unwrap_or(MULTIPLIER)
    }

    /// What part of it is left to chance.
    pub fn spread(&self) -> f64 {
        self.jitter.unwrap_or(JITTER)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a backoff needs no more than 53 bits")]
fn to_f64(ms: u64) -> f64 {
    ms as f64
}

fn within(field: &'static str, value: Option<u64>, min: u64, max: u64) -> Result<(), Refused> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Refused::Policy { field, why: format!("{value} is not within {min} to {max}") })
        }
        _ => Ok(()),
    }
}

fn between(field: &'static str, value: Option<f64>, min: f64, max: f64) -> Result<(), Refused> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Refused::Policy { field, why: format!("{value} is not within {min} to {max}") })
        }
        _ => Ok(()),
    }
}

fn limit(field: &'static str, value: Option<i32>) -> Result<(), Refused> {
    value.map_or(Ok(()), check_attempts).map_err(|why| Refused::Policy { field, why })
}

/// Checks a number of attempts, or says why it cannot be one.
pub fn check_attempts(max: i32) -> Result<(), String> {
    if max == -1 || (1..=ATTEMPTS_MAX).contains(&max) {
        return Ok(());
    }
    Err(format!("{max} is neither within 1 to {ATTEMPTS_MAX} nor -1 (no limit)"))
}

/// Checks a name that a client gives to a queue.
pub fn check_name(name: &str) -> Result<(), Refused> {
    let longest = NAME_BYTES_MAX
        + if name.ends_with(DEAD_LETTER_SUFFIX) { DEAD_LETTER_SUFFIX.len() } else { 0 };
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let why = match name.as_bytes() {
        [] => "it is empty",
        name if longest < name.len() => "it is longer than 120 characters",
        [first, ..] if !first.is_ascii_alphanumeric() && *first != b'_' => {
            "it must begin with a letter, a digit or _"
        }
        name if !name.iter().copied().all(allowed) => {
            "only letters, digits, _, . and - may occur in it"
        }
        _ => return Ok(()),
    };
    Err(Refused::QueueName { name: name.chars().take(200).collect(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_bound_and_jitter_only_shortens_it() {
        let policy = Policy::default();
        assert_eq!(policy.backoff_ms(1, 0.0), 5_000);
        assert_eq!(policy.backoff_ms(2, 0.0), 10_000);
        assert_eq!(policy.backoff_ms(4, 0.0), 40_000);
        assert_eq!(policy.backoff_ms(4, 0.5), 35_000);
        assert_eq!(policy.backoff_ms(40, 0.0), MAX_BACKOFF_MS);
        assert_eq!(policy.backoff_ms(u32::MAX, 0.0), MAX_BACKOFF_MS);
        let at_once = Retry { initial_ms: Some(0), ..Retry::default() };
        let policy = Policy { retry: Some(at_once), ..Policy::default() };
        assert_eq!(policy.backoff_ms(u32::MAX, 0.0), 0, "infinity times zero is not a number");
    }

    #[test]
    fn values_outside_their_bounds_are_refused_with_the_field() {
        let refused = |policy: Policy| policy.check().unwrap_err().to_string();
        let short = Policy { lease_duration_ms: Some(99), ..Policy::default() };
        assert_eq!(refused(short), "lease_duration: 99 is not within 1000 to 43200000");
        let none = Policy { max_attempts: Some(0), ..Policy::default() };
        assert_eq!(
            refused(none),
            "max_attempts: 0 is neither within 1 to 1000000 nor -1 (no limit)"
        );
        let retry = Retry { multiplier: Some(f64::NAN), ..Retry::default() };
        assert!(Policy { retry: Some(retry), ..Policy::default() }.check().is_err());
    }

    #[test]
    fn names_are_checked_at_the_limit_and_one_beyond() {
        assert!(check_name(&"a".repeat(120)).is_ok());
        assert!(check_name(&"a".repeat(121)).is_err());
        assert!(check_name(&format!("{}.dead", "a".repeat(120))).is_ok());
        for bad in ["", ".a", "-a", "a/b", "a b", "\u{e4}"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    fn small_of(number: u64) -> u32 {
        u32::try_from(number).expect("a small number")
    }

    fn with(set: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy::default();
        set(&mut policy);
        policy
    }

    fn with_retry(set: impl FnOnce(&mut Retry)) -> Policy {
        // Else what is longer than the longest is refused for that.
        let mut retry = Retry { max_ms: Some(365 * DAY_MS), ..Retry::default() };
        set(&mut retry);
        Policy { retry: Some(retry), ..Policy::default() }
    }

    #[test]
    fn every_number_is_allowed_at_its_bounds_and_refused_one_beyond() {
        type Made = fn(u64) -> Policy;
        let numbers: [(&str, u64, u64, Made); 12] = [
            ("lease_duration", 1_000, DAY_MS / 2, |v| with(|p| p.lease_duration_ms = Some(v))),
            ("dedup_window", 0, DAY_MS, |v| with(|p| p.dedup_window_ms = Some(v))),
            ("message_ttl", 0, 3_650 * DAY_MS, |v| with(|p| p.message_ttl_ms = Some(v))),
            ("retention", 1_000, 3_650 * DAY_MS, |v| with(|p| p.retention_ms = Some(v))),
            ("priority_levels", 1, 10, |v| with(|p| p.priority_levels = Some(small_of(v)))),
            ("max_leased", 1, 1_000_000, |v| with(|p| p.max_leased = Some(small_of(v)))),
            ("max_leased_per_fairness_key", 1, 1_000_000, |v| {
                with(|p| p.max_leased_per_fairness_key = Some(small_of(v)))
            }),
            ("max_messages", 1, u64::MAX, |v| with(|p| p.max_messages = Some(v))),
            ("max_bytes", 1, u64::MAX, |v| with(|p| p.max_bytes = Some(v))),
            ("retention_bytes", 1, u64::MAX, |v| with(|p| p.retention_bytes = Some(v))),
            ("retry.initial_backoff", 0, 365 * DAY_MS, |v| {
                with_retry(|it| it.initial_ms = Some(v))
            }),
            ("retry.max_backoff", 5_000, 365 * DAY_MS, |v| with_retry(|it| it.max_ms = Some(v))),
        ];
        let refused_field = |policy: Policy| match policy.check() {
            Ok(()) => None,
            Err(Refused::Policy { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        };
        for (field, min, max, made) in numbers {
            assert_eq!(
                (refused_field(made(min)), refused_field(made(max))),
                (None, None),
                "{field}"
            );
            for beyond in min.checked_sub(1).into_iter().chain(max.checked_add(1)) {
                assert_eq!(refused_field(made(beyond)), Some(field), "{field} {beyond}");
            }
        }
        for attempts in [-1, 1, 1_000_000] {
            let policy =
                with(|p| (p.max_attempts, p.max_crashes) = (Some(attempts), Some(attempts)));
            assert_eq!(refused_field(policy), None, "{attempts}");
        }
        for attempts in [-2, 0, 1_000_001] {
            assert_eq!(
                refused_field(with(|p| p.max_attempts = Some(attempts))),
                Some("max_attempts")
            );
            assert_eq!(
                refused_field(with(|p| p.max_crashes = Some(attempts))),
                Some("max_crashes")
            );
        }
        for (rate, field) in [
            (0.001, None),
            (1_000_000.0, None),
            (0.000_9, Some("max_delivery_rate")),
            (1_000_000.1, Some("max_delivery_rate")),
            (f64::NAN, Some("max_delivery_rate")),
        ] {
            assert_eq!(refused_field(with(|p| p.max_delivery_rate = Some(rate))), field, "{rate}");
        }
        for (multiplier, jitter, field) in [
            (1.0, 0.0, None),
            (100.0, 1.0, None),
            (0.99, 0.0, Some("retry.multiplier")),
            (100.01, 0.0, Some("retry.multiplier")),
            (2.0, -0.01, Some("retry.jitter")),
            (2.0, 1.01, Some("retry.jitter")),
        ] {
            let policy = with_retry(|it| {
                (it.multiplier, it.jitter) = (Some(multiplier), Some(jitter));
            });
            assert_eq!(refused_field(policy), field, "{multiplier} {jitter}");
        }
    }
}
