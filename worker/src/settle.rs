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
