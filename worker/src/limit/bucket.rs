//! How many jobs do something between two strokes of the clock.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use qbroker_client::CounterChange;

use super::LimitError;
use crate::context::Context;
use crate::failure::Release;

/// At most so many jobs, over all workers, in each stretch of time: in each minute of the broker's
/// clock, say.
///
/// One counter, however large the limit. At the edge of two buckets twice as many may follow each other;
/// where that matters, take [`WindowLimit`](super::WindowLimit).
///
/// ```
/// use std::time::Duration;
/// use qbroker_worker::{BoxError, Context, actor};
/// use qbroker_worker::limit::BucketLimit;
///
/// #[actor]
/// async fn send_sms(ctx: Context, to: String) -> Result<(), BoxError> {
///     BucketLimit::new("sms", 5_000, Duration::from_secs(60)).acquire(&ctx).await?;
///     # drop(to);
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct BucketLimit {
    key: Cow<'static, str>,
    limit: u32,
    bucket: Duration,
}

/// The longest that the broker keeps a counter by itself.
const TTL_MAX: Duration = Duration::from_hours(365 * 24);

impl BucketLimit {
    /// At most `limit` in each `bucket` of at least 1 ms, under this key of 1 to 220 bytes.
    pub fn new(key: impl Into<Cow<'static, str>>, limit: u32, bucket: Duration) -> Self {
        Self { key: key.into(), limit, bucket: bucket.max(Duration::from_millis(1)) }
    }

    /// Counts this job.
    ///
    /// # Errors
    ///
    /// The bucket is full, and the job comes again when it is over; or the broker could not be asked.
    /// See [`LimitError`].
    ///
    /// # Panics
    ///
    /// In a [`detached`](Context::detached) context without a broker.
    pub async fn acquire(&self, context: &Context) -> Result<(), LimitError> {
        // What is before 1970 is a clock that nobody has set.
        let since = context.broker_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (number, left) = bucket(since, self.bucket);
        let one = CounterChange::new(format!("limit/{}@{number}", self.key), 1)
            .maximum(self.limit.into())
            // Beyond its end, for jobs that heard of the time before it.
            .ttl(self.bucket.saturating_mul(2).clamp(Duration::from_secs(1), TTL_MAX));
        match context.broker().client().state().add(one).await?.applied {
            true => Ok(()),
            false => Err(LimitError::Reached {
                key: self.key.clone().into_owned(),
                release: Release::after(left),
            }),
        }
    }
}

/// The number of the bucket at this time, and how long it lasts from then.
fn bucket(since: Duration, bucket: Duration) -> (u128, Duration) {
    let (now, length) = (since.as_millis(), bucket.as_millis());
    let left = length - now % length;
    (now / length, Duration::from_millis(left.try_into().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_clock() {
        let ms = Duration::from_millis;
        assert_eq!(bucket(ms(0), ms(1_000)), (0, ms(1_000)));
        assert_eq!(bucket(ms(1_999), ms(1_000)), (1, ms(1)));
        assert_eq!(bucket(ms(2_000), ms(1_000)), (2, ms(1_000)));
    }
}
