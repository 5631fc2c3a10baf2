//! How jobs are treated where neither their message nor their actor says.

use std::time::Duration;

use crate::actor::ActorOptions;
use crate::backoff::BACKOFF_MAX;

/// How jobs are treated where neither the job nor its actor says: what Dramatiq takes as arguments of its
/// middleware. What is not set here is as [`ActorOptions`] tells.
///
/// A job's own option counts first, then its actor's, then these, of the [`Broker`](crate::Broker) over
/// which it is sent or done. `max_retries` and `max_age` are written into a message when it is sent, so the
/// application should have the same defaults as its workers; the others count where the job is done. A
/// schedule that [`OutgoingJob::schedule`](crate::OutgoingJob::schedule) makes knows no broker: its job says
/// by itself what is to be otherwise.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use qbroker_worker::{Broker, Defaults};
///
/// let defaults = Defaults::new().max_retries(5).time_limit(Duration::from_secs(30));
/// let broker = Broker::connect("http://127.0.0.1:7650").await?.defaults(defaults);
/// # drop(broker); Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a broker has to be given it"]
pub struct Defaults {
    pub(crate) max_retries: Option<u32>,
    pub(crate) min_backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) notify_shutdown: bool,
    pub(crate) store_results: bool,
    pub(crate) result_ttl: Duration,
}

impl Default for Defaults {
    /// Dramatiq's.
    fn default() -> Self {
        Self {
            max_retries: Some(20),
            min_backoff: Duration::from_secs(15),
            max_backoff: BACKOFF_MAX,
            time_limit: Some(Duration::from_mins(10)),
            max_age: None,
            notify_shutdown: false,
            store_results: false,
            result_ttl: Duration::from_mins(10),
        }
    }
}

impl Defaults {
    /// Those that hold where nobody says anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a failed job is tried again; `None`: without end.
    pub fn max_retries(mut self, retries: impl Into<Option<u32>>) -> Self {
        self.max_retries = retries.into();
        self
    }

    /// The wait before the first retry.
    pub fn min_backoff(mut self, backoff: Duration) -> Self {
        self.min_backoff = backoff;
        self
    }

    /// The longest wait before a retry, at most 7 days.
    pub fn max_backoff(mut self, backoff: Duration) -> Self {
        self.max_backoff = backoff;
        self
    }

    /// How long an attempt may take; `None`: as long as it likes.
    pub fn time_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.time_limit = limit.into();
        self
    }

    /// How long after it was sent a job still makes sense; `None`: always, or as its queue says.
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// A job's context says so when the worker stops.
    pub fn notify_shutdown(mut self, notify: bool) -> Self {
        self.notify_shutdown = notify;
        self
    }

    /// What jobs return is kept.
    pub fn store_results(mut self, store: bool) -> Self {
        self.store_results = store;
        self
    }

    /// How long.
    pub fn result_ttl(mut self, ttl: Duration) -> Self {
        self.result_ttl = ttl;
        self
    }

    /// How the jobs of an actor are treated: as it says, and else as these do.
    pub(crate) fn of_actor(&self, options: &ActorOptions) -> Self {
        // The largest stands for no limit.
        let limit = |own: Option<Duration>, default| match own {
            None => default,
            Some(own) => (own != Duration::MAX).then_some(own),
        };
        Self {
            max_retries: match options.max_retries {
                None => self.max_retries,
                Some(own) => (own != u32::MAX).then_some(own),
            },
            min_backoff: options.min_backoff.unwrap_or(self.min_backoff),
            max_backoff: options.max_backoff.unwrap_or(self.max_backoff),
            time_limit: limit(options.time_limit, self.time_limit),
            max_age: limit(options.max_age, self.max_age),
            notify_shutdown: options.notify_shutdown.unwrap_or(self.notify_shutdown),
            store_results: options.store_results.unwrap_or(self.store_results),
            result_ttl: options.result_ttl.unwrap_or(self.result_ttl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_actor_says_goes_before_the_defaults() {
        let minute = Duration::from_mins(1);
        let defaults = Defaults::new().max_retries(3).time_limit(minute).max_age(minute);
        let defaults = defaults.min_backoff(minute).store_results(true).result_ttl(minute);
        assert_eq!(defaults.of_actor(&ActorOptions::default()), defaults);
        let options = ActorOptions {
            max_retries: Some(u32::MAX),
            time_limit: Some(Duration::MAX),
            max_age: Some(2 * minute),
            store_results: Some(false),
            ..ActorOptions::default()
        };
        let of_actor = defaults.max_retries(None).time_limit(None).max_age(2 * minute);
        assert_eq!(defaults.of_actor(&options), of_actor.store_results(false));
    }
}
