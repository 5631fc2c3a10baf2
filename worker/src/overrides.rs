//! What a message says about its own treatment, in headers that every language can write.

use std::collections::HashMap;
use std::time::Duration;

/// How long an attempt may take, in milliseconds.
pub(crate) const TIME_LIMIT_MS: &str = "job-time-limit-ms";

/// The wait before the first retry, in milliseconds.
pub(crate) const MIN_BACKOFF_MS: &str = "job-min-backoff-ms";

/// The longest wait before a retry, in milliseconds.
pub(crate) const MAX_BACKOFF_MS: &str = "job-max-backoff-ms";

/// How long its result is kept, in milliseconds.
pub(crate) const RESULT_TTL_MS: &str = "job-result-ttl-ms";

/// Whether its context tells of a shutdown: `1` or `0`.
pub(crate) const NOTIFY_SHUTDOWN: &str = "job-notify-shutdown";

/// Told of it when it is done, when an attempt has failed, and when the last one has: JSON messages.
pub(crate) const ON_SUCCESS: &str = "job-on-success";
pub(crate) const ON_FAILURE: &str = "job-on-failure";
pub(crate) const ON_EXHAUSTED: &str = "job-on-exhausted";

/// The steps after it, as a JSON list of messages.
pub(crate) const THEN: &str = "job-then";

/// The barrier of the group that it belongs to.
pub(crate) const GROUP: &str = "job-group";

/// What it is called there.
pub(crate) const MEMBER: &str = "job-member";

/// Its result is wanted there.
pub(crate) const BRINGS: &str = "job-brings";

/// The arguments of a message whose payload is what a group's members brought.
pub(crate) const ARGUMENTS: &str = "job-arguments";

/// The argument that this fills.
pub(crate) const FILLS: &str = "job-fills";

/// The yes or no in this header; `None` where it is missing or neither.
pub(crate) fn flag(headers: &HashMap<String, String>, key: &str) -> Option<bool> {
    match headers.get(key)?.as_str() {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

/// The duration in this header; `None` where it is missing or no number.
pub(crate) fn duration(headers: &HashMap<String, String>, key: &str) -> Option<Duration> {
    headers.get(key)?.parse().ok().map(Duration::from_millis)
}
