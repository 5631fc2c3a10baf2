//! Durations and timestamps.

use prost_types::{Duration, Timestamp};

use crate::grpc::fault::Fault;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// No duration on the wire is longer, unless its field says so.
pub(in crate::grpc) const DURATION_MS_MAX: u64 = 365 * DAY_MS;

/// The last second that a `Timestamp` may name: 9999-12-31T23:59:59Z (timestamp.proto).
const TIMESTAMP_SECONDS_MAX: u64 = 253_402_300_799;

/// Whole milliseconds of a duration that must be within bounds, both included; fractions count as
/// a whole one, so that a delay is never early.
pub(in crate::grpc) fn duration_ms(
    field: &'static str,
    duration: Option<Duration>,
    min_ms: u64,
    max_ms: u64,
) -> Result<Option<u64>, Fault> {
    let Some(duration) = duration else { return Ok(None) };
    let malformed = || Fault::invalid(field, "a duration must not be negative or malformed");
    let seconds = u64::try_from(duration.seconds).map_err(|_| malformed())?;
    let nanos = u64::try_from(duration.nanos).map_err(|_| malformed())?;
    if 1_000_000_000 <= nanos {
        return Err(malformed());
    }
    let ms = seconds.saturating_mul(1_000).saturating_add(nanos.div_ceil(1_000_000));
    if (min_ms..=max_ms).contains(&ms) {
        return Ok(Some(ms));
    }
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
    let why = format!("{} is not within {} to {}", seconds(ms), seconds(min_ms), seconds(max_ms));
    Err(Fault::Invalid { field, why })
}

/// Milliseconds since 1970 of a timestamp, rounded up; a time before that is 1970.
pub(in crate::grpc) fn timestamp_ms(field: &'static str, time: Timestamp) -> Result<u64, Fault> {
    let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| Fault::invalid(field, "a timestamp's nanos are malformed"))?;
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    if TIMESTAMP_SECONDS_MAX < seconds {
        return Err(Fault::invalid(field, "a timestamp must be before the year 10000"));
    }
    Ok(seconds.saturating_mul(1_000).saturating_add(nanos.div_ceil(1_000_000)))
}

pub(in crate::grpc) fn to_duration(ms: u64) -> Duration {
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).expect("below a second");
    Duration { seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX), nanos }
}

/// A time as clients can read it: one that a delay has put beyond the last is told as that.
pub(in crate::grpc) fn to_timestamp(ms: u64) -> Timestamp {
    let Duration { seconds, nanos } = to_duration(ms.min(TIMESTAMP_SECONDS_MAX * 1_000 + 999));
    Timestamp { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up_and_kept_within_bounds() {
        let parse =
            |seconds, nanos| duration_ms("delay", Some(Duration { seconds, nanos }), 0, 2_000);
        assert_eq!(parse(1, 1).unwrap(), Some(1_001));
        assert_eq!(parse(2, 0).unwrap(), Some(2_000));
        for (seconds, nanos) in [(2, 1), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert!(parse(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
        assert_eq!(duration_ms("delay", None, 1, 2).unwrap(), None);
    }

    #[test]
    fn times_read_as_they_were_written() {
        assert_eq!(timestamp_ms("t", to_timestamp(1_234_567)).unwrap(), 1_234_567);
        assert_eq!(timestamp_ms("t", Timestamp { seconds: -5, nanos: 0 }).unwrap(), 0);
        let last = Timestamp { seconds: 253_402_300_799, nanos: 999_000_000 };
        assert_eq!(to_timestamp(u64::MAX), last);
        assert!(timestamp_ms("t", last).is_ok());
        assert!(timestamp_ms("t", Timestamp { seconds: last.seconds + 1, nanos: 0 }).is_err());
    }
}
