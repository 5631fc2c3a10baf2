//! How long a failed job waits: Dramatiq's formula.

use std::time::Duration;

/// No backoff is longer, whatever an actor says.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_hours(7 * 24);

/// Doublings beyond this change nothing.
const DOUBLINGS_MAX: u32 = 32;

/// The wait before the retry after `retries` earlier ones.
///
/// `min` doubled for each earlier retry, times a random factor of 1 to 2; where that is above `max`,
/// `max` times a random factor of a half to 1. `random` is 0 to 1.
pub(crate) fn delay(retries: u32, min: Duration, max: Duration, random: f64) -> Duration {
    let max = max.min(BACKOFF_MAX);
    let doubled = min.as_secs_f64() * 2_f64.powi(retries.min(DOUBLINGS_MAX).cast_signed());
    let jittered = doubled * (1.0 + random);
    if max.as_secs_f64() < jittered {
        max.mul_f64(0.5 + random / 2.0)
    } else {
        Duration::from_secs_f64(jittered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn the_default_schedule_is_that_of_dramatiq() {
        let seconds = |retries, random| {
            delay(retries, Duration::from_secs(15), 7 * DAY, random).as_secs_f64()
        };
        for (retries, least, most) in [(0, 15.0, 30.0), (1, 30.0, 60.0), (2, 60.0, 120.0)] {
            assert!((seconds(retries, 0.0) - least).abs() < 1e-6, "{retries}");
            assert!((seconds(retries, 1.0) - most).abs() < 1e-6, "{retries}");
        }
    }

    #[test]
    fn it_stays_between_half_of_the_longest_and_the_longest() {
        for retries in [16, 20, 32, 33, u32::MAX] {
            let longest = |random| delay(retries, Duration::from_secs(15), DAY, random);
            assert_eq!((longest(0.0), longest(1.0)), (DAY / 2, DAY));
        }
    }

    #[test]
    fn nothing_is_longer_than_a_week() {
        assert_eq!(delay(40, DAY, 365 * DAY, 1.0), 7 * DAY);
        assert_eq!(delay(3, Duration::ZERO, DAY, 0.7), Duration::ZERO);
    }
}
