//! What the broker is told about a job that has ended.

use std::time::Duration;

use qbroker_client::{Leased, Limit, Message, Outcome, Settlement as Whole};

use crate::backoff;
use crate::context::Context;
use crate::defaults::Defaults;
use crate::failure::{JobError, JobResult, Verdict};
use crate::middleware::Settlement;
use crate::{outgoing, overrides};

/// The broker refuses longer delays, and a settlement that is refused leaves the message leased.
const DELAY_MAX: Duration = Duration::from_hours(365 * 24);

/// What becomes of a job. `random` is 0 to 1, for the backoff.
pub(crate) fn decide(
    result: &JobResult,
    context: &Context,
    treatment: &Defaults,
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
            let failures = context.failures();
            let limit = attempts_max(context.leased(), treatment);
            if matches!(limit, Limit::AtMost(attempts) if attempts <= failures.saturating_add(1)) {
                return Settlement::DeadLetter { exhausted: true };
            }
            let backoff = || backoff_delay(context.message(), treatment, failures, random);
            Settlement::Retry { delay: delay.unwrap_or_else(backoff).min(DELAY_MAX) }
        }
    }
}

/// The message's own limit, which it was sent with; else the actor's, within the queue's as the delivery
/// told it.
fn attempts_max(leased: &Leased, treatment: &Defaults) -> Limit {
    leased.message.max_attempts.unwrap_or_else(|| {
        let actors = outgoing::attempts(treatment.max_retries);
        match (actors, leased.max_attempts) {
            (Limit::AtMost(one), Some(Limit::AtMost(other))) => Limit::AtMost(one.min(other)),
            (Limit::Unlimited, Some(queues)) => queues,
            (actors, None | Some(Limit::Unlimited)) => actors,
        }
    })
}

fn backoff_delay(message: &Message, treatment: &Defaults, retries: u32, random: f64) -> Duration {
    let own = |key| overrides::duration(&message.headers, key);
    let min = own(overrides::MIN_BACKOFF_MS).unwrap_or(treatment.min_backoff);
    let max = own(overrides::MAX_BACKOFF_MS).unwrap_or(treatment.max_backoff);
    backoff::delay(retries, min, max, random)
}

/// The settlement in the client's words; `None`: nothing is to be told.
///
/// A nack names the limit by which it was decided: were it the queue's as it is by then, a failure that
/// is told as one of many could be the last, without all that follows from the last one.
pub(crate) fn whole(
    settlement: Settlement,
    error: Option<&JobError>,
    leased: &Leased,
    treatment: &Defaults,
) -> Option<Whole> {
    let failure = error.map(JobError::to_failure);
    let nack = |delay, failure| {
        let whole = Whole::from(Outcome::Nack { delay, failure });
        match leased.max_attempts {
            Some(_) => whole.max_attempts(attempts_max(leased, treatment)),
            None => whole,
        }
    };
    Some(match settlement {
        Settlement::Ack => Outcome::Ack.into(),
        Settlement::Retry { delay } => nack(Some(delay), failure),
        // The broker counts as the worker does, and knows the reason by that.
        Settlement::DeadLetter { exhausted: true }
            if leased.message.max_attempts.or(leased.max_attempts).is_some() =>
        {
            nack(None, failure)
        }
        Settlement::DeadLetter { .. } => Outcome::DeadLetter { failure }.into(),
        Settlement::Release { delay } => Outcome::Release { delay }.into(),
        Settlement::Nothing => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        let treatment = Defaults::new().max_retries(2);
        decide(&Err(error), &context, &treatment, 0.0)
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
    fn a_message_without_a_limit_has_the_actors_within_the_queues() {
        let within = |queues, failures| {
            settled(failed(), |job| (job.max_attempts, job.failures) = (Some(queues), failures))
        };
        assert!(matches!(within(Limit::AtMost(2), 0), Settlement::Retry { .. }));
        assert_eq!(within(Limit::AtMost(2), 1), EXHAUSTED);
        assert!(matches!(within(Limit::AtMost(9), 1), Settlement::Retry { .. }));
        assert_eq!(within(Limit::AtMost(9), 2), EXHAUSTED);
        assert_eq!(within(Limit::Unlimited, 2), EXHAUSTED);
    }

    #[test]
    fn the_broker_counts_as_the_worker_does() {
        let treatment = Defaults::new().max_retries(2);
        let failure = Some(failed().to_failure());
        let nack = |delay| Whole::from(Outcome::Nack { delay, failure: failure.clone() });
        let told = |settlement, leased: &Leased| {
            whole(settlement, Some(&failed()), leased, &treatment).expect("something is told")
        };
        let mut leased = Leased::default();
        let delay = Duration::from_secs(1);
        let retry = Settlement::Retry { delay };
        // A broker that tells no limit is told what became of it.
        let dead: Whole = Outcome::DeadLetter { failure: failure.clone() }.into();
        assert_eq!(told(EXHAUSTED, &leased), dead);
        assert_eq!(told(retry, &leased), nack(Some(delay)));
        for (queues, limit) in [(Limit::AtMost(2), 2), (Limit::AtMost(9), 3), (Limit::Unlimited, 3)]
        {
            leased.max_attempts = Some(queues);
            let limit = Limit::AtMost(limit);
            assert_eq!(told(EXHAUSTED, &leased), nack(None).max_attempts(limit));
            assert_eq!(told(retry, &leased), nack(Some(delay)).max_attempts(limit));
        }
        let own = Limit::AtMost(7);
        leased.message.max_attempts = Some(own);
        assert_eq!(told(EXHAUSTED, &leased), nack(None).max_attempts(own));
    }
}
