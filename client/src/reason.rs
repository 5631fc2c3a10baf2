//! The stable reasons of the broker's refusals, as the protocol lists them.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $wire:literal,)*) => {
        /// Why the broker refused: the protocol's stable reasons (`types.proto` lists them).
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// A reason that this client does not know, of a newer broker.
            Other(String),
        }

        impl Reason {
            /// The reason as it is on the wire, `QUEUE_NOT_FOUND` say.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $wire,)*
                    Self::Other(reason) => reason,
                }
            }

            pub(crate) fn from_wire(reason: &str) -> Self {
                match reason {
                    $($wire => Self::$name,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }
    };
}

reasons! {
    /// A field is missing, malformed or out of its bounds.
    InvalidArgument = "INVALID_ARGUMENT",
    /// Not a queue name.
    InvalidQueueName = "INVALID_QUEUE_NAME",
    /// Nothing in the request.
    EmptyBatch = "EMPTY_BATCH",
    /// The payload is above the queue's or the broker's limit, or the headers above theirs.
    MessageTooLarge = "MESSAGE_TOO_LARGE",
    /// Too many messages or bytes in one batch.
    BatchTooLarge = "BATCH_TOO_LARGE",
    /// The batch names a message id or lease token twice.
    DuplicateInBatch = "DUPLICATE_IN_BATCH",
    /// A batch number leaves a gap: a bug of the client.
    BatchOutOfOrder = "BATCH_OUT_OF_ORDER",
    /// Not a lease token of this broker.
    TokenInvalid = "TOKEN_INVALID",
    /// No token, or one the broker does not know.
    Unauthenticated = "UNAUTHENTICATED",
    /// The token does not allow this.
    PermissionDenied = "PERMISSION_DENIED",
    /// No such queue.
    QueueNotFound = "QUEUE_NOT_FOUND",
    /// No such message there, or its publisher's id is not remembered any more.
    MessageNotFound = "MESSAGE_NOT_FOUND",
    /// No such operation: it ended long ago, or never was.
    OperationNotFound = "OPERATION_NOT_FOUND",
    /// No such schedule.
    ScheduleNotFound = "SCHEDULE_NOT_FOUND",
    /// The message is no dead letter of another queue; an operation only.
    NotDeadLetter = "NOT_DEAD_LETTER",
    /// The queue has lately got another message of this id; an operation only.
    DuplicateMessageId = "DUPLICATE_MESSAGE_ID",
    /// Another unfinished message of the queue has the message's unique key; an operation only.
    UniqueKeyHeld = "UNIQUE_KEY_HELD",
    /// A queue of that name exists (with another policy, where an equal one is allowed).
    QueueExists = "QUEUE_EXISTS",
    /// The queue holds messages.
    QueueNotEmpty = "QUEUE_NOT_EMPTY",
    /// An operator has stopped publishes to the queue.
    QueuePaused = "QUEUE_PAUSED",
    /// The dead-letter queue named cannot be one.
    DeadLetterQueueInvalid = "DEAD_LETTER_QUEUE_INVALID",
    /// The message is with a consumer.
    MessageLeased = "MESSAGE_LEASED",
    /// A counter would pass its bounds, or is there already.
    CounterOutOfBounds = "COUNTER_OUT_OF_BOUNDS",
    /// The lease ended before this.
    LeaseLost = "LEASE_LOST",
    /// The lease was settled with another outcome.
    AlreadySettled = "ALREADY_SETTLED",
    /// The session's grace is over; its leases ended.
    SessionLost = "SESSION_LOST",
    /// The broker does not know this producer.
    ProducerUnknown = "PRODUCER_UNKNOWN",
    /// Another stream opened this producer.
    ProducerFenced = "PRODUCER_FENCED",
    /// Another stream took this consumer's place.
    ConsumerReplaced = "CONSUMER_REPLACED",
    /// No such consumer is connected.
    ConsumerNotFound = "CONSUMER_NOT_FOUND",
    /// An operator ended this consumer.
    ConsumerDisconnected = "CONSUMER_DISCONNECTED",
    /// The log does not go back any more to where a watch was to begin.
    EventsGone = "EVENTS_GONE",
    /// The queue changed since it was read.
    EtagMismatch = "ETAG_MISMATCH",
    /// Free space is down to the reserve: publishing stops, settling goes on.
    DiskFull = "DISK_FULL",
    /// The queue holds as much as its policy allows.
    QueueFull = "QUEUE_FULL",
    /// The broker holds as many leases as it can.
    LeasesFull = "LEASES_FULL",
    /// Another bound of the broker; metadata "limit" names it.
    LimitReached = "LIMIT_REACHED",
    /// This broker does not have the feature; metadata "feature" names it.
    FeatureUnsupported = "FEATURE_UNSUPPORTED",
    /// The broker is recovering.
    Starting = "STARTING",
    /// The broker's search index is being opened.
    SearchNotReady = "SEARCH_NOT_READY",
    /// The broker is stopping.
    ShuttingDown = "SHUTTING_DOWN",
    /// The broker stopped before it could answer: what was asked may have been done. A call that ends
    /// so fails as [`Error::Disconnected`](crate::Error::Disconnected) instead.
    OutcomeUnknown = "OUTCOME_UNKNOWN",
    /// A stored record fails its checksum.
    DataDamaged = "DATA_DAMAGED",
    /// A bug of the broker.
    Internal = "INTERNAL",
}

impl Reason {
    /// What a status without a reason means where only a server or a proxy before it can send it.
    /// `None` for the codes that the transport itself makes.
    pub(crate) fn of_bare_status(code: tonic::Code) -> Option<Self> {
        use tonic::Code;
        match code {
            Code::InvalidArgument => Some(Self::InvalidArgument),
            Code::Unauthenticated => Some(Self::Unauthenticated),
            Code::PermissionDenied => Some(Self::PermissionDenied),
            Code::Unimplemented => Some(Self::FeatureUnsupported),
            Code::DataLoss => Some(Self::DataDamaged),
            Code::NotFound => Some(Self::Other("NOT_FOUND".to_owned())),
            Code::AlreadyExists => Some(Self::Other("ALREADY_EXISTS".to_owned())),
            Code::FailedPrecondition => Some(Self::Other("FAILED_PRECONDITION".to_owned())),
            Code::Aborted => Some(Self::Other("ABORTED".to_owned())),
            Code::OutOfRange => Some(Self::Other("OUT_OF_RANGE".to_owned())),
            // HTTP/2's ENHANCE_YOUR_CALM comes as RESOURCE_EXHAUSTED.
            Code::ResourceExhausted
            | Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unavailable => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol's reference and this list must not drift apart.
    #[test]
    fn every_reason_of_the_protocol_has_a_variant() {
        let reference = include_str!("../../proto/qbroker/v1/types.proto");
        let table = reference.split("//   -----").nth(1).expect("the table of reasons");
        let listed: Vec<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("//   "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(listed.len() > 25, "{listed:?}");
        for reason in listed {
            let parsed = Reason::from_wire(reason);
            assert!(!matches!(parsed, Reason::Other(_)), "{reason} has no variant");
            assert_eq!(parsed.as_str(), reason);
        }
    }
}
