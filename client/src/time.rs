//! Durations and times between the standard library's form and the wire's.

use std::time::{Duration, SystemTime};

/// A duration for the wire. One beyond what it can carry (10,000 years) becomes the longest it can,
/// which the broker refuses by its own bounds.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// A duration from the wire; `None` where it is negative.
pub(crate) fn from_wire(duration: prost_types::Duration) -> Option<Duration> {
    duration.try_into().ok()
}

/// A time from the wire; `None` where the platform cannot hold it.
pub(crate) fn system_time(time: prost_types::Timestamp) -> Option<SystemTime> {
    time.try_into().ok()
}
