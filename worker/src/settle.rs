//! What the broker is told about a job that has ended.

use std::time::Duration;

use qbroker_client::{Limit, Message, Outcome};

use crate::actor::ActorOptions;
use crate::backoff;
use crate::context::Context;
use crate::failure::{JobError, JobResult, Verdict};
use crate::middleware::Settlement;
use crate::overrides;

/// The broker refuses longer delays, and a settlement that is refused leaves the message leased.
const DELAY_MAX: Duration = Duration::from_hours(365 * 24);

/// What becomes of a job. `random` is 0 to 1, for the backoff.
pub(crate) fn decide(
    result: &JobResult,
    context: &Context,
    options: &ActorOptions,
    random: f64,
) -> Settlement {
    let Err(error) = result else { return Settlement::Ack };
    match error.verdict() {
        Verdict::Skip => Settlement::Ack,
        Verdict::GiveUp => Settlement::DeadLetter { exhausted: false },
        Verdict::Release { delay } => {
            Settlement::Release { delay: delay.map(|delay| delay.min(DELAY_MAX)) }
        }
        Verdict::Lost => Settlement::Nothing,
        Verdict::Retry { delay } => {
            let retries = context.failures();
            if retries_max(context.message(), options).is_some_and(|max| max <= retries) {
                return Settlement::DeadLetter { exhausted: true };
            }
            let backoff = || backoff_delay(context.message(), options, retries, random);
            Settlement::Retry { delay: delay.unwrap_or_else(backoff).min(DELAY_MAX) }
        }
    }
}

/// The message's own limit, which it was sent with; else the actor's.
fn retries_max(message: &Message, options: &ActorOptions) -> Option<u32> {
    match message.max_attempts {
        Some(Limit::AtMost(attempts)) => Some(attempts.saturating_sub(1)),
        Some(Limit::Unlimited) => None,
        None => options.max_retries,
    }
}

fn backoff_delay(message: &Message, options: &ActorOptions, retries: u32, random: f64) -> Duration {
    let own = |key| overrides::duration(&message.headers, key);
    let min = own(overrides::MIN_BACKOFF_MS).unwrap_or(options.min_backoff);
    let max = own(overrides::MAX_BACKOFF_MS).unwrap_or(options.max_backoff);
    backoff::delay(retries, min, max, random)
}

/// The settlement in the client's words; `None`: nothing is to be told.
pub(crate) fn outcome(
    settlement: Settlement,
    error: Option<&JobError>,
    message: &Message,
) -> Option<Outcome> {
    let failure = error.map(JobError::to_failure);
    Some(match settlement {
        Settlement::Ack => Outcome::Ack,
        Settlement::Retry { delay } => Outcome::Nack { delay: Some(delay), failure },
        // The broker counts as the worker does, and knows the reason by that.
        Settlement::DeadLetter { exhausted: true } if message.max_attempts.is_some() => {
            Outcome::Nack { delay: None, failure }
        }
        Settlement::DeadLetter { .. } => Outcome::DeadLetter { failure },
        Settlement::Release { delay } => Outcome::Release { delay },
        Settlement::Nothing => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qbroker_client::Leased;

    use super::*;
    use crate::context::States;
    use crate::failure::{Release, Retry};
    use crate::trace::TraceContext;

    /// The settlement of a job that failed with `error`, of an actor with two retries.
    fn settled(error: JobError, change: impl FnOnce(&mut Leased)) -> Settlement {
        let mut leased = Leased::default();
        change(&mut leased);
        let context = Context::new(
            "a",
            leased.into(),
            None,
            Arc::new(States::default()),
            TraceContext::root(),
        );
        let options = ActorOptions { max_retries: Some(2), ..ActorOptions::default() };
        decide(&Err(error), &context, &options, 0.0)
    }

    fn failed() -> JobError {
        JobError::new("no")
    }

    const EXHAUSTED: Settlement = Settlement::DeadLetter { exhausted: true };

    #[test]
    fn the_messages_limit_goes_before_the_actors() {
        let delay = Duration::from_secs(30);
        assert_eq!(settled(failed(), |job| job.failures = 1), Settlement::Retry { delay });
        assert_eq!(settled(failed(), |job| job.failures = 2), EXHAUSTED);
        let own = |limit, failures| {
            settled(failed(), |job| {
                job.message.max_attempts = Some(limit);
                job.failures = failures;
            })
        };
        assert_eq!(own(Limit::AtMost(1), 0), EXHAUSTED);
        let delay = Duration::from_mins(1);
        assert_eq!(own(Limit::AtMost(4), 2), Settlement::Retry { delay });
        assert!(matches!(own(Limit::Unlimited, 1_000), Settlement::Retry { .. }));
    }

    #[test]
    fn the_messages_backoff_goes_before_the_actors() {
        let after = |failures, min: &str, max: &str| {
            settled(failed(), |job| {
                job.failures = failures;
                let headers = &mut job.message.headers;
                headers.insert(overrides::MIN_BACKOFF_MS.to_owned(), min.to_owned());
                headers.insert(overrides::MAX_BACKOFF_MS.to_owned(), max.to_owned());
            })
        };
        let retry = |ms| Settlement::Retry { delay: Duration::from_millis(ms) };
        assert_eq!(after(0, "100", "1000"), retry(100));
        assert_eq!(after(1, "100", "150"), retry(75));
        assert_eq!(after(0, "soon", "never"), retry(15_000));
    }

    #[test]
    fn no_delay_is_longer_than_the_broker_takes() {
        let year = Duration::from_hours(365 * 24);
        let retry = JobError::new(Retry::after(Duration::MAX));
        assert_eq!(settled(retry, |_| ()), Settlement::Retry { delay: year });
        let release = JobError::new(Release::after(2 * year));
        assert_eq!(settled(release, |_| ()), Settlement::Release { delay: Some(year) });
    }

    #[test]
    fn only_failures_are_retried() {
        for (error, settlement) in [
            (failed().give_up(), Settlement::DeadLetter { exhausted: false }),
            (JobError::skip("needless"), Settlement::Ack),
            (JobError::new(Release::now()), Settlement::Release { delay: None }),
            (JobError::of_kind("LeaseLost", "gone", Verdict::Lost), Settlement::Nothing),
        ] {
            assert_eq!(settled(error, |job| job.failures = 9), settlement);
        }
    }

    #[test]
    fn the_broker_counts_what_has_a_limit_of_its_own() {
        let mut message = Leased::default().message;
        let told = |message: &Message| outcome(EXHAUSTED, Some(&failed()), message);
        let failure = Some(failed().to_failure());
        assert_eq!(told(&message), Some(Outcome::DeadLetter { failure: failure.clone() }));
        message.max_attempts = Some(Limit::AtMost(3));
        assert_eq!(told(&message), Some(Outcome::Nack { delay: None, failure }));
    }
}
