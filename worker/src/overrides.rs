//! What a message says about its own treatment, in headers that every language can write.

use std::collections::HashMap;
use std::time::Duration;

/// How long an attempt may take, in milliseconds.
pub(crate) const TIME_LIMIT_MS: &str = "job-time-limit-ms";

/// The wait before the first retry, in milliseconds.
pub(crate) const MIN_BACKOFF_MS: &str = "job-min-backoff-ms";

/// The longest wait before a retry, in milliseconds.
pub(crate) const MAX_BACKOFF_MS: &str = "job-max-backoff-ms";

/// The duration in this header; `None` where it is missing or no number.
pub(crate) fn duration(headers: &HashMap<String, String>, key: &str) -> Option<Duration> {
    headers.get(key)?.parse().ok().map(Duration::from_millis)
}
