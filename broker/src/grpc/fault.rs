//! Why a request fails, from its form to the queues, and how that is told: the one place that knows
//! gRPC codes and reasons.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qbroker_proto::v1::{ItemError, SettleFailure};
use qbroker_storage::{FollowError, Lsn, ReadError};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::features::FIND_MESSAGES;
use crate::engine::Stopped;
use crate::queue::refused::Refused;

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "qbroker";
/// The trailer with the reason alone, for clients that cannot read the details.
pub(super) const REASON_TRAILER: &str = "qbroker-reason";
/// When a full disk or a full table is worth another try.
const RETRY_FULL: Duration = Duration::from_secs(5);
/// When a full queue is worth another try: it is drained sooner than a disk.
const RETRY_QUEUE_FULL: Duration = Duration::from_secs(1);
/// When a counter that somebody else changes may be within bounds.
const RETRY_COUNTER: Duration = Duration::from_secs(1);
/// When others have been read.
const RETRY_READING: Duration = Duration::from_secs(1);
/// When a broker that stops may be back.
const RETRY_STOPPING: Duration = Duration::from_secs(1);

/// Why a request, or one item of it, is not done.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    #[error("the search index is off in this broker; it is on with the setting search-index")]
    SearchOff,
    #[error("the batch has {size} {unit}; at most {limit} are allowed, so split it")]
    BatchTooLarge { size: usize, limit: usize, unit: &'static str },
    #[error("{field} has {size} bytes; at most {limit} are allowed")]
    FieldTooLarge { field: &'static str, size: usize, limit: usize },
    #[error("large requests that are being read take {max} bytes, the most they may; try again")]
    NoRoomToRead { max: usize },
    #[error("{0} is empty; name at least one")]
    Empty(&'static str),
    #[error("these {} bytes are not a lease token of this broker", .0.len())]
    TokenInvalid(Bytes),
    #[error("another stream took the place of this one, and its leases")]
    ConsumerReplaced,
    #[error("an operator ended this stream; it should not come back by itself")]
    ConsumerDisconnected,
    #[error(
        "what happened from sequence {from} on is gone from the log, which goes back to {oldest}; \
         begin there, or at 0 for what happens from now on"
    )]
    EventsGone { from: Lsn, oldest: Lsn },
    #[error("the search index is being opened; ask again")]
    SearchNotReady,
    #[error("the server is stopping; nothing of this was done, so try again")]
    ShuttingDown,
    #[error("the server stopped before it could answer; what was asked may have been done")]
    Stopped,
    #[error("a stored record cannot be read: {0}; `qbroker data verify --data-dir DIR` tells more")]
    Damaged(String),
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<FollowError> for Fault {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Gone { from, oldest } => Self::EventsGone { from, oldest },
            FollowError::Unreadable(error) => error.into(),
        }
    }
}

/// An answer of the engine, with either way to fail.
pub(super) fn flat<T>(answer: Result<Result<T, Refused>, Stopped>) -> Result<T, Fault> {
    Ok(answer??)
}

impl Fault {
    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    /// Why a request could not be read to its end: as [`Self::while_reading`] says, or what was sent is
    /// not of the form that the protocol says.
    pub(crate) fn unreadable(status: &Status) -> Self {
        let causes = std::iter::successors(status.source(), |&error| error.source());
        let own = { causes }.find_map(|error| error.downcast_ref::<Self>());
        own.cloned().unwrap_or_else(|| Self::Unreadable(status.message().to_owned()))
    }

    /// The status of a request that is not read on.
    pub(super) fn while_reading(self) -> Status {
        let mut status = self.to_status();
        status.set_source(Arc::new(self));
        status
    }

    /// The stable reason; `types.proto` lists them.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.reason(),
            Self::Invalid { .. } | Self::Unreadable(_) => "INVALID_ARGUMENT",
            Self::SearchOff => "FEATURE_UNSUPPORTED",
            Self::BatchTooLarge { .. } => "BATCH_TOO_LARGE",
            Self::FieldTooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::NoRoomToRead { .. } => "LIMIT_REACHED",
            Self::Empty(_) => "EMPTY_BATCH",
            Self::TokenInvalid(_) => "TOKEN_INVALID",
            Self::ConsumerReplaced => "CONSUMER_REPLACED",
            Self::ConsumerDisconnected => "CONSUMER_DISCONNECTED",
            Self::EventsGone { .. } => "EVENTS_GONE",
            Self::SearchNotReady => "SEARCH_NOT_READY",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Stopped => "OUTCOME_UNKNOWN",
            Self::Damaged(_) => "DATA_DAMAGED",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Refused(refused) => refused_code(refused),
            Self::Invalid { .. }
            | Self::Unreadable(_)
            | Self::BatchTooLarge { .. }
            | Self::FieldTooLarge { .. }
            | Self::Empty(_)
            | Self::TokenInvalid(_) => Code::InvalidArgument,
            Self::NoRoomToRead { .. } => Code::ResourceExhausted,
            Self::SearchOff => Code::Unimplemented,
            Self::ConsumerReplaced | Self::ConsumerDisconnected => Code::Aborted,
            Self::EventsGone { .. } => Code::OutOfRange,
            Self::SearchNotReady | Self::ShuttingDown | Self::Stopped => Code::Unavailable,
            Self::Damaged(_) => Code::DataLoss,
        }
    }

    /// When the same request may succeed with nothing changed by the caller.
    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::NoRoomToRead { .. } => Some(RETRY_READING),
            _ => retry_delay(self.reason()),
        }
    }

    /// The values of the message, by the names that the list of reasons gives.
    fn metadata(&self) -> HashMap<String, String> {
        self.values().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn values(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Refused(refused) => refused.values(),
            Self::Invalid { field, .. } => vec![("field", (*field).to_owned())],
            Self::NoRoomToRead { .. } => vec![("limit", "max_unfinished_bytes".to_owned())],
            Self::SearchOff => vec![("feature", FIND_MESSAGES.to_owned())],
            Self::BatchTooLarge { size, limit, .. } => {
                vec![("size", size.to_string()), ("limit", limit.to_string())]
            }
            Self::FieldTooLarge { field, size, limit } => vec![
                ("field", (*field).to_owned()),
                ("size", size.to_string()),
                ("limit", limit.to_string()),
            ],
            Self::EventsGone { oldest, .. } => vec![("oldest_sequence", oldest.to_string())],
            _ => Vec::new(),
        }
    }

    /// The refusal of one item, to be told in its place among those of the core.
    pub(crate) fn into_refused(self) -> Refused {
        match self {
            Self::Refused(refused) => refused,
            other => {
                let (reason, why) = (other.reason(), other.to_string());
                Refused::Unfit { reason, why, values: other.values() }
            }
        }
    }

    /// The error of one item in an answer that is OK as a whole.
    pub(crate) fn to_item(&self) -> ItemError {
        let metadata = self.metadata();
        ItemError { metadata, ..retold(self.reason().to_owned(), self.to_string()) }
    }

    /// The status of a call that fails as a whole.
    pub(crate) fn to_status(&self) -> Status {
        self.to_status_with(Vec::new())
    }

    /// [`Self::to_status`] for a batch, with the position of the message that caused it.
    pub(crate) fn to_status_at(&self, index: usize) -> Status {
        self.to_status_with(vec![("index".to_owned(), index.to_string())])
    }

    fn to_status_with(&self, more: Vec<(String, String)>) -> Status {
        let mut values = self.metadata();
        values.extend(more);
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason(), DOMAIN, values);
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        if let Self::Invalid { field, why } = self {
            details.add_bad_request_violation(*field, why);
        }
        let mut trailers = MetadataMap::new();
        trailers.insert(REASON_TRAILER, AsciiMetadataValue::from_static(self.reason()));
        let message = self.to_string();
        Status::with_error_details_and_metadata(self.code(), message, details, trailers)
    }
}

/// An error of which the log keeps the reason and the sentence, as when it was made, and perhaps the
/// values.
pub(crate) fn retold(reason: String, message: String) -> ItemError {
    let delay = retry_delay(&reason);
    ItemError {
        reason,
        message,
        metadata: HashMap::new(),
        retryable: delay.is_some(),
        retry_delay: delay.and_then(|delay| delay.try_into().ok()),
    }
}

fn retry_delay(reason: &str) -> Option<Duration> {
    match reason {
        "DISK_FULL" | "LIMIT_REACHED" | "LEASES_FULL" => Some(RETRY_FULL),
        "QUEUE_FULL" => Some(RETRY_QUEUE_FULL),
        "COUNTER_OUT_OF_BOUNDS" => Some(RETRY_COUNTER),
        "SHUTTING_DOWN" | "OUTCOME_UNKNOWN" | "SEARCH_NOT_READY" => Some(RETRY_STOPPING),
        _ => None,
    }
}

/// A settlement or an extension that failed.
pub(crate) fn settle_failure(token: Bytes, fault: &Fault) -> SettleFailure {
    SettleFailure { lease_token: token, error: Some(fault.to_item()) }
}

fn refused_code(refused: &Refused) -> Code {
    match refused {
        Refused::QueueNotFound(_)
        | Refused::MessageNotFound(_)
        | Refused::OperationNotFound(_)
        | Refused::ScheduleNotFound(_)
        | Refused::ConsumerNotFound(_) => Code::NotFound,
        Refused::QueueExists(_) => Code::AlreadyExists,
        Refused::QueueName { .. }
        | Refused::Policy { .. }
        | Refused::EmptyBatch
        | Refused::MessageTooLarge { .. }
        | Refused::TooLargeFor { .. }
        | Refused::MoveToItself(_)
        | Refused::StreamOfOtherSession(_)
        | Refused::LargerThanQueue { .. }
        | Refused::Priority { .. }
        | Refused::DuplicateInBatch { .. }
        | Refused::TokenTwice
        | Refused::KeyTwice(_)
        | Refused::ValueTooLarge { .. }
        | Refused::Unfit { .. }
        | Refused::BatchOutOfOrder { .. } => Code::InvalidArgument,
        Refused::QueueNotEmpty { .. }
        | Refused::QueuePaused(_)
        | Refused::Counter { .. }
        | Refused::DeadLetterQueue { .. }
        | Refused::LeaseLost
        | Refused::MessageLeased(_)
        | Refused::NotDeadLetter(_)
        | Refused::DuplicateMessageId { .. }
        | Refused::UniqueKeyHeld { .. }
        | Refused::AlreadySettled(_)
        | Refused::SessionLost(_)
        | Refused::ProducerUnknown(_) => Code::FailedPrecondition,
        Refused::MessageUnreadable(_) => Code::DataLoss,
        Refused::EtagMismatch { .. } | Refused::ProducerFenced(_) => Code::Aborted,
        Refused::DiskFull
        | Refused::QueueFull { .. }
        | Refused::Limit { .. }
        | Refused::LeasesFull(_) => Code::ResourceExhausted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_keeps_of_a_refusal_is_told_as_the_refusal_was() {
        let refusals = [
            Refused::DiskFull,
            Refused::Limit { what: "queues", max: 1 },
            Refused::LeasesFull(1),
            Refused::QueueFull { queue: "q".to_owned(), bound: "max_bytes", max: 1 },
            Refused::EmptyBatch,
            Refused::QueueNotFound("q".to_owned()),
        ];
        for refused in refusals {
            let worth_retrying = refused_code(&refused) == Code::ResourceExhausted;
            let fault = Fault::from(refused);
            let told = fault.to_item();
            let retold = retold(fault.reason().to_owned(), fault.to_string());
            assert_eq!((retold.retryable, told.retryable), (worth_retrying, worth_retrying));
            assert_eq!(ItemError { metadata: told.metadata.clone(), ..retold }, told);
        }
        assert!(Fault::ShuttingDown.to_item().retryable);
    }

    /// A client repeats what was refused as nothing of it was done; of this it cannot know that.
    #[test]
    fn a_log_that_stopped_is_no_refusal() {
        let (refused, unknown) = (Fault::ShuttingDown.to_status(), Fault::Stopped.to_status());
        let reason = |status: &Status| status.get_details_error_info().map(|info| info.reason);
        assert_eq!((refused.code(), unknown.code()), (Code::Unavailable, Code::Unavailable));
        assert_eq!(reason(&refused).as_deref(), Some("SHUTTING_DOWN"));
        assert_eq!(reason(&unknown).as_deref(), Some("OUTCOME_UNKNOWN"));
    }
}
