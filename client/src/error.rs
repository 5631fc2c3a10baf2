//! What can go wrong, typed by what the caller can do about it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use qbroker_proto::v1;
use tonic_types::StatusExt as _;

use crate::options::and_causes;
pub use crate::reason::Reason;

/// The broker said no: nothing of what was asked has been done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people: one sentence of the broker with the values in it.
    pub message: String,
    /// The values by name, as the protocol's list of reasons gives them ("queue", "limit", ...).
    pub metadata: HashMap<String, String>,
    /// The same request can succeed later with nothing changed by the caller.
    pub retryable: bool,
    /// How long to wait before that, where the broker said it.
    pub retry_delay: Option<Duration>,
}

impl Refusal {
    /// Of what the broker would refuse, and was not sent for that.
    pub(crate) fn unsent(reason: Reason, message: String) -> Self {
        Self { reason, message, metadata: HashMap::new(), retryable: false, retry_delay: None }
    }

    /// Where what has answered is no broker, the same with where it is: with its URL as `stranger` in the
    /// metadata.
    fn at(mut self, url: &str) -> Self {
        if let Some(answer) = self.message.strip_prefix(NO_GRPC) {
            self.message = format!("what answers at {url} is no qbroker: {answer}");
            self.metadata.insert("stranger".to_owned(), url.to_owned());
        }
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<v1::ItemError> for Refusal {
    fn from(error: v1::ItemError) -> Self {
        Self {
            reason: Reason::from_wire(&error.reason),
            message: error.message,
            metadata: error.metadata,
            retryable: error.retryable,
            retry_delay: error.retry_delay.and_then(|delay| Duration::try_from(delay).ok()),
        }
    }
}

/// Why one request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker refused it: nothing was done.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The connection could not be made or broke, or the broker stopped before it could answer: the
    /// request may have been done, unless the connection was never made.
    #[error("no connection to the broker: {0}")]
    Disconnected(String),
    /// There was no answer in time: the request may have been done.
    #[error("no answer from the broker within {0:?}")]
    TimedOut(Duration),
    /// The publisher or consumer was closed, or had failed, before this.
    #[error("closed: {0}")]
    Closed(String),
    /// The broker forgot the producer, or ended the stream, while this was unanswered: it may or may not
    /// be done.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The lease ended before the settlement: the message is, or was, somebody else's.
    #[error("lease lost: {0}")]
    LeaseLost(String),
    /// The broker answered something the protocol does not allow.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// An option cannot be used; nothing was tried.
    #[error("bad option: {0}")]
    Option(String),
}

impl Error {
    /// Why the broker refused, where it did.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Refused(refusal) => Some(&refusal.reason),
            Self::LeaseLost(_) => Some(&Reason::LeaseLost),
            Self::Disconnected(_)
            | Self::TimedOut(_)
            | Self::Closed(_)
            | Self::OutcomeUnknown(_)
            | Self::Protocol(_)
            | Self::Option(_) => None,
        }
    }

    /// Whether the same request can succeed later with nothing changed by the caller.
    ///
    /// It says nothing about doing things twice: after [`Error::Disconnected`] and
    /// [`Error::TimedOut`] the first request may have been done.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.retryable,
            Self::Disconnected(_) | Self::TimedOut(_) => true,
            Self::Closed(_)
            | Self::OutcomeUnknown(_)
            | Self::LeaseLost(_)
            | Self::Protocol(_)
            | Self::Option(_) => false,
        }
    }

    /// Whether the same request can succeed later, be it that somebody has to do something first: it is
    /// retryable, or its queue is paused until it is resumed.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        self.is_retryable() || self.reason() == Some(&Reason::QueuePaused)
    }

    /// How long to wait before trying again, where the broker said it.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_delay,
            Self::Disconnected(_)
            | Self::TimedOut(_)
            | Self::Closed(_)
            | Self::OutcomeUnknown(_)
            | Self::LeaseLost(_)
            | Self::Protocol(_)
            | Self::Option(_) => None,
        }
    }

    /// What somebody is told who comes after this has ended everything.
    pub(crate) fn closed(&self) -> Self {
        match self {
            Self::Closed(_) => self.clone(),
            Self::Refused(_)
            | Self::Disconnected(_)
            | Self::TimedOut(_)
            | Self::OutcomeUnknown(_)
            | Self::LeaseLost(_)
            | Self::Protocol(_)
            | Self::Option(_) => Self::Closed(self.to_string()),
        }
    }

    /// What somebody is told whose request was sent and not answered when this ended the stream.
    pub(crate) fn unanswered(&self) -> Self {
        match self {
            Self::Refused(refusal) => Self::OutcomeUnknown(refusal.to_string()),
            other => other.clone(),
        }
    }

    /// The same with where it was met, which the transport does not say.
    pub(crate) fn at(self, url: &str) -> Self {
        match self {
            Self::Disconnected(why) if !why.starts_with(url) => {
                Self::Disconnected(format!("{url}: {why}"))
            }
            Self::Refused(refusal) => Self::Refused(refusal.at(url)),
            other => other,
        }
    }

    /// Whether nothing can have been done, so that trying again cannot do it twice.
    pub(crate) fn nothing_was_done(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl From<v1::ItemError> for Error {
    fn from(error: v1::ItemError) -> Self {
        match Refusal::from(error) {
            Refusal { reason: Reason::LeaseLost, message, .. } => Self::LeaseLost(message),
            refusal => Self::Refused(refusal),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let trailer = status.metadata().get(REASON_TRAILER).and_then(|v| v.to_str().ok());
        let reason = match info.map(|info| info.reason.as_str()).or(trailer) {
            Some(reason) => Reason::from_wire(reason),
            None => match Reason::of_bare_status(status.code()) {
                Some(reason) => reason,
                None => return without_reason(&status),
            },
        };
        if reason == Reason::OutcomeUnknown {
            return Self::Disconnected(status.message().to_owned());
        }
        Self::Refused(Refusal {
            retryable: matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::ResourceExhausted
            ),
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            reason,
        })
    }
}

/// The trailer that repeats the reason for clients that cannot read the details.
const REASON_TRAILER: &str = "qbroker-reason";

/// A status that the transport made, not the broker.
fn without_reason(status: &tonic::Status) -> Error {
    Error::Disconnected(and_causes(status.message().to_owned(), status))
}

/// How the transport says that an answer was HTTP, and no gRPC.
const NO_GRPC: &str = "grpc-status header missing, mapped from ";

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};
    use tonic_types::ErrorDetails;

    #[test]
    fn a_status_with_details_is_a_refusal_with_its_values() {
        let mut details = ErrorDetails::with_error_info(
            "QUEUE_NOT_FOUND",
            "qbroker",
            [("queue".to_owned(), "mails".to_owned())],
        );
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::NotFound, "no queue mails", details);

        let error = Error::from(status);

        assert_eq!(error.reason(), Some(&Reason::QueueNotFound));
        assert_eq!(error.retry_delay(), Some(Duration::from_secs(3)));
        assert!(!error.is_retryable());
        let Error::Refused(refusal) = &error else { panic!("{error:?}") };
        assert_eq!(refusal.metadata["queue"], "mails");
        assert_eq!(error.to_string(), "the broker refused: QUEUE_NOT_FOUND: no queue mails");
    }

    #[test]
    fn a_trailer_is_enough_to_know_the_reason() {
        let mut status = Status::unavailable("stopping");
        status.metadata_mut().insert(REASON_TRAILER, "SHUTTING_DOWN".parse().unwrap());
        let error = Error::from(status);
        assert_eq!(error.reason(), Some(&Reason::ShuttingDown));
        assert!(error.is_retryable() && error.nothing_was_done());
    }

    #[test]
    fn an_outcome_that_the_broker_does_not_know_is_no_refusal() {
        let mut status = Status::unavailable("the log has stopped");
        status.metadata_mut().insert(REASON_TRAILER, "OUTCOME_UNKNOWN".parse().unwrap());
        let error = Error::from(status);
        assert_eq!(error, Error::Disconnected("the log has stopped".to_owned()));
        assert!(error.is_retryable() && !error.nothing_was_done());
    }

    #[test]
    fn a_reason_this_client_does_not_know_is_kept() {
        let mut status = Status::failed_precondition("?");
        status.metadata_mut().insert(REASON_TRAILER, "QUEUE_SOLD".parse().unwrap());
        assert_eq!(Error::from(status).reason(), Some(&Reason::Other("QUEUE_SOLD".to_owned())));
    }

    #[test]
    fn a_broken_connection_is_no_refusal() {
        let error = Error::from(Status::unavailable("tcp connect error"));
        assert!(matches!(error, Error::Disconnected(_)), "{error:?}");
        assert!(error.is_retryable() && !error.nothing_was_done());
    }

    #[test]
    fn where_it_was_met_is_told_once_and_so_is_its_cause() {
        let cause = std::io::Error::other("stream closed");
        let mut status = Status::unavailable("transport error");
        status.set_source(std::sync::Arc::new(cause));
        let error = Error::from(status).at("http://b:1");
        assert_eq!(error, Error::Disconnected("http://b:1: stream closed".to_owned()));
        assert_eq!(error.clone().at("http://b:1"), error);
    }

    #[test]
    fn what_answers_without_a_status_is_no_broker() {
        let message = format!("{NO_GRPC}HTTP status code 404");
        let error = Error::from(Status::unimplemented(message)).at("http://b:1");
        let Error::Refused(refusal) = &error else { panic!("{error:?}") };
        let told = "what answers at http://b:1 is no qbroker: HTTP status code 404";
        assert_eq!(refusal.message, told);
        assert_eq!(refusal.metadata["stranger"], "http://b:1");
    }

    #[test]
    fn a_missing_token_is_known_by_its_code() {
        let error = Error::from(Status::unauthenticated("who?"));
        assert_eq!(error.reason(), Some(&Reason::Unauthenticated));
        assert!(!error.is_retryable());
    }
}
