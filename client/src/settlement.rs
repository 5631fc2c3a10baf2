//! What a consumer says about a message it had.

use std::time::Duration;

use bytes::Bytes;
use qbroker_proto::v1::{self, settlement};

use crate::message::Failure;
use crate::time;

/// What became of the work on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: the message is gone for good.
    Ack,
    /// Failed: counts a failure; the message comes again, or is dead-lettered at `max_attempts`.
    Nack {
        /// When it comes again; `None`: by the queue's retry policy.
        delay: Option<Duration>,
        /// Why, for the next attempt and for people.
        failure: Option<Failure>,
    },
    /// Handed back unprocessed: counts nothing, and the message takes its old place.
    Release {
        /// When it comes again; `None`: at once.
        delay: Option<Duration>,
    },
    /// Given up: to the dead-letter queue now.
    DeadLetter {
        /// Why, for people.
        failure: Option<Failure>,
    },
}

impl Outcome {
    fn into_wire(self) -> settlement::Outcome {
        match self {
            Self::Ack => settlement::Outcome::Ack(v1::Ack {}),
            Self::Nack { delay, failure } => settlement::Outcome::Nack(v1::Nack {
                delay: delay.map(time::duration),
                failure: failure.map(Into::into),
                patch: None,
            }),
            Self::Release { delay } => {
                settlement::Outcome::Release(v1::Release { delay: delay.map(time::duration) })
            }
            Self::DeadLetter { failure } => settlement::Outcome::DeadLetter(v1::DeadLetter {
                failure: failure.map(Into::into),
                patch: None,
            }),
        }
    }

    /// The settlement of the lease that `token` names.
    pub(crate) fn of(self, token: Bytes) -> v1::Settlement {
        v1::Settlement { lease_token: token, outcome: Some(self.into_wire()), effects: Vec::new() }
    }
}
