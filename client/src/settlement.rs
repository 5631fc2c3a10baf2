//! What a consumer says about a message it had.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use qbroker_proto::v1::{self, effect, settlement};

use crate::admin::Limit;
use crate::message::{Failure, OutgoingMessage};
use crate::state::{self, CounterChange};
use crate::time;

/// The largest limit of failures that a broker takes.
const ATTEMPTS_MAX: u32 = 1_000_000;

/// The longest that a message may wait; of a longer delay the broker would end the stream.
const DELAY_MAX: Duration = Duration::from_hours(365 * 24);

fn wire_delay(delay: Duration) -> prost_types::Duration {
    time::duration(delay.min(DELAY_MAX))
}

/// What became of the work on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: the message is gone for good.
    Ack,
    /// Failed: counts a failure; the message comes again, or is dead-lettered at `max_attempts`.
    Nack {
        /// When it comes again, within 365 days; `None`: by the queue's retry policy.
        delay: Option<Duration>,
        /// Why, for the next attempt and for people.
        failure: Option<Failure>,
    },
    /// Handed back unprocessed: counts nothing, and the message takes its old place.
    Release {
        /// When it comes again, within 365 days; `None`: at once.
        delay: Option<Duration>,
    },
    /// Given up: to the dead-letter queue now.
    DeadLetter {
        /// Why, for people.
        failure: Option<Failure>,
    },
}

impl Outcome {
    fn into_wire(
        self,
        patch: Option<v1::MessagePatch>,
        max_attempts: Option<Limit>,
    ) -> settlement::Outcome {
        match self {
            Self::Ack => settlement::Outcome::Ack(v1::Ack {}),
            Self::Nack { delay, failure } => settlement::Outcome::Nack(v1::Nack {
                delay: delay.map(wire_delay),
                failure: failure.map(Into::into),
                patch,
                max_attempts: max_attempts.map(Limit::into_wire),
            }),
            Self::Release { delay } => {
                settlement::Outcome::Release(v1::Release { delay: delay.map(wire_delay) })
            }
            Self::DeadLetter { failure } => settlement::Outcome::DeadLetter(v1::DeadLetter {
                failure: failure.map(Into::into),
                patch,
            }),
        }
    }
}

/// An outcome with what is done together with it: all of it, in one step on the broker's disk, or
/// nothing.
///
/// Where the broker refuses a part, the lease stays: nothing was done, the settlement included.
///
/// ```no_run
/// # async fn example(delivery: qbroker_client::Delivery) -> Result<(), qbroker_client::Error> {
/// use qbroker_client::{OutgoingMessage, Settlement};
///
/// let next = OutgoingMessage::new("resized").queue("publish-image");
/// delivery.settle(Settlement::ack().publish(next)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a settlement does nothing until it is handed in"]
pub struct Settlement {
    outcome: Outcome,
    patch: Option<Patch>,
    max_attempts: Option<Limit>,
    effects: Vec<effect::Kind>,
}

impl From<Outcome> for Settlement {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, patch: None, max_attempts: None, effects: Vec::new() }
    }
}

impl Settlement {
    /// Done.
    pub fn ack() -> Self {
        Outcome::Ack.into()
    }

    /// Failed, to be tried again by the queue's retry policy.
    pub fn nack(failure: Failure) -> Self {
        Outcome::Nack { delay: None, failure: Some(failure) }.into()
    }

    /// Given up.
    pub fn dead_letter(failure: Failure) -> Self {
        Outcome::DeadLetter { failure: Some(failure) }.into()
    }

    /// Changes the message for what comes next. Of a nack and of a dead-letter; with any other outcome
    /// there is nothing to change, and it is left out.
    pub fn patch(mut self, patch: Patch) -> Self {
        self.patch = Some(patch);
        self
    }

    /// The limit of failures that a nack goes by, whatever its queue's is by then:
    /// [`Leased::max_attempts`](crate::Leased::max_attempts), or less. So who does something together with
    /// the last failure knows that it is the last, or is not. A limit of the message's own counts first. Of
    /// any other outcome than a nack it is left out, and a broker before feature "nack_max_attempts" passes
    /// over it. 0 counts as 1, and more than 1,000,000 as that.
    pub fn max_attempts(mut self, max: Limit) -> Self {
        self.max_attempts = Some(match max {
            // The broker would refuse the whole call for it, other messages' settlements included.
            Limit::AtMost(max) => Limit::AtMost(max.clamp(1, ATTEMPTS_MAX)),
            Limit::Unlimited => max,
        });
        self
    }

    /// Publishes a message, which must name its queue.
    pub fn publish(mut self, message: OutgoingMessage) -> Self {
        self.effects.push(effect::Kind::Publish(message.0));
        self
    }

    /// Stores a value under a key; `None`: until it is deleted.
    pub fn store(
        mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Self {
        let (key, value, ttl) = (key.into(), value.into(), ttl.map(time::duration));
        let store = v1::StoreValue { key, value, ttl, if_absent: false };
        self.effects.push(effect::Kind::StoreValue(store));
        self
    }

    /// Changes a counter; where that would pass its bounds, the settlement is refused.
    pub fn count(mut self, change: CounterChange) -> Self {
        self.effects.push(effect::Kind::AddToCounter(change.0));
        self
    }

    /// Arrives at a barrier; where that is not open, or the member has arrived, nothing is done there.
    pub fn arrive(
        mut self,
        barrier: &str,
        member_id: &str,
        value: impl Into<Bytes>,
        failed: bool,
    ) -> Self {
        let arrive = state::arrival(barrier, member_id, value.into(), failed);
        self.effects.push(effect::Kind::Arrive(arrive));
        self
    }

    /// The settlement of the lease that `token` names.
    pub(crate) fn of(self, token: Bytes) -> v1::Settlement {
        let effect = |kind| v1::Effect { kind: Some(kind) };
        let patch = self.patch.map(|patch| patch.0);
        v1::Settlement {
            lease_token: token,
            outcome: Some(self.outcome.into_wire(patch, self.max_attempts)),
            effects: self.effects.into_iter().map(effect).collect(),
        }
    }
}

/// Another content for a message that is given back: what is not set stays as it is.
///
/// ```
/// use qbroker_client::Patch;
///
/// let patch = Patch::new().payload(r#"{"user": 7, "tries": 2}"#).priority(0);
/// # drop(patch);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "a patch does nothing until it is settled with"]
pub struct Patch(v1::MessagePatch);

impl Patch {
    /// One that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another payload.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.0.payload = Some(payload.into());
        self
    }

    /// Another content type.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.0.content_type = Some(content_type.into());
        self
    }

    /// Another priority.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = Some(priority.into());
        self
    }

    /// These headers instead of all that there are.
    pub fn headers(mut self, headers: HashMap<String, String>) -> Self {
        self.0.headers = Some(v1::Headers { entries: headers });
        self
    }
}
