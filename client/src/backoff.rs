//! How long to wait before the next try.

use std::time::Duration;

/// Waits that double from `initial` to `max`, each shortened by a random part of up to a half, so
/// that many clients that lost the same broker do not come back at the same moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, next: initial }
    }

    /// The next wait, at least what the broker asked for.
    pub(crate) fn next_delay(&mut self, asked: Option<Duration>) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(rand::random_range(0.5..=1.0)).max(asked.unwrap_or_default())
    }

    /// To be called once a try has succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_bound_and_begin_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for full in [100, 200, 400, 400] {
            let delay = backoff.next_delay(None);
            assert!(ms(full / 2) <= delay && delay <= ms(full), "{delay:?} of {full} ms");
        }
        assert_eq!(backoff.next_delay(Some(ms(5000))), ms(5000));
        backoff.reset();
        assert!(backoff.next_delay(None) <= ms(100));
    }
}
