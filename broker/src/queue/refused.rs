//! Why a command is refused. Nothing has changed then, and nothing was logged.

use qbroker_storage::Lsn;

use super::ids::ConsumerId;

/// Each variant has one stable reason on the wire (`grpc/fault.rs`).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("queue \"{0}\" does not exist; create it, or publish to it with auto-create on")]
    QueueNotFound(String),
    #[error("queue \"{0}\" exists already; update it, or allow an equal one when creating it")]
    QueueExists(String),
    #[error("queue \"{name}\" holds {messages} messages; purge it first, or delete with force")]
    QueueNotEmpty { name: String, messages: u64 },
    #[error(
        "queue \"{0}\" is paused and takes no messages; resume it, or wait until somebody does"
    )]
    QueuePaused(String),
    #[error("queue name \"{name}\" is not allowed: {why}")]
    QueueName { name: String, why: &'static str },
    #[error("queue \"{name}\" has changed since (etag {actual}); read it again")]
    EtagMismatch { name: String, actual: String },
    #[error("{field}: {why}")]
    Policy { field: &'static str, why: String },
    #[error("\"{name}\" cannot be the dead-letter queue of \"{of}\": {why}")]
    DeadLetterQueue { name: String, of: String, why: &'static str },
    #[error("the batch is empty; send at least one message")]
    EmptyBatch,
    #[error("message {index} has {bytes} payload bytes; queue \"{queue}\" allows {max}")]
    MessageTooLarge { index: usize, bytes: u64, max: u64, queue: String },
    #[error("priority {priority} is not within 0 to {max}, which queue \"{queue}\" allows")]
    Priority { priority: u8, max: u8, queue: String },
    #[error("queue \"{queue}\" is full: its {bound} is {max}; publish again when there is room")]
    QueueFull { queue: String, bound: &'static str, max: u64 },
    /// It would not fit the queue were it empty.
    #[error(
        "{size} is beyond {bound} of queue \"{queue}\", which is {max}; it can never be stored like this"
    )]
    LargerThanQueue {
        queue: String,
        bound: &'static str,
        size: u64,
        max: u64,
        /// One message is enough for that; otherwise the batch may be split.
        is_one_message: bool,
    },
    #[error("message id \"{id}\" occurs twice in the batch")]
    DuplicateInBatch { id: String },
    #[error(
        "the disk is full up to its reserve (the broker's `disk-reserve`); free space, lower the reserve, or let consumers drain"
    )]
    DiskFull,
    #[error("{what}: the limit of {max} is reached")]
    Limit { what: &'static str, max: usize },
    #[error("{0} leases are held at once, the most there may be; settle some")]
    LeasesFull(usize),
    #[error("the lease has ended; the message may be held by somebody else")]
    LeaseLost,
    #[error("the lease was settled before, as {0}")]
    AlreadySettled(&'static str),
    #[error("producer \"{0}\" is not known with this epoch; begin anew under another id")]
    ProducerUnknown(String),
    #[error("producer \"{0}\" was opened by another stream")]
    ProducerFenced(String),
    #[error("batch {got} came where batch {expected} is next")]
    BatchOutOfOrder { expected: u64, got: u64 },
    #[error("session \"{0}\" is not known; its grace is over, or it never was")]
    SessionLost(String),
    #[error("consumer \"{0}\" is not connected; it may have gone, or come back under another name")]
    ConsumerNotFound(ConsumerId),
    #[error("consumer \"{0}\" is of another session; name a stream of this one, or none")]
    StreamOfOtherSession(ConsumerId),
    #[error("the lease token occurs twice in the call")]
    TokenTwice,
    #[error("the value has {bytes} bytes; at most {max} are allowed")]
    ValueTooLarge { bytes: u64, max: u64 },
    #[error("the key \"{0}\" is changed twice in the settlement")]
    KeyTwice(String),
    #[error(
        "the counter \"{key}\", {value} now, cannot be changed so: it would pass its bounds, or is \
         there already"
    )]
    Counter { key: String, value: i64 },
    /// One item of a call, as whoever took the call in has found it.
    #[error("{why}")]
    Unfit { reason: &'static str, why: String, values: Vec<(&'static str, String)> },
    #[error(
        "message \"{0}\" is not there; it may be done or in another queue, and an id that its \
         publisher chose is known within the queue's dedup window only: use q.<sequence>"
    )]
    MessageNotFound(String),
    #[error("message \"{0}\" is with a consumer; only what waits can be changed so")]
    MessageLeased(String),
    #[error("message \"{0}\" cannot be read; `qbroker data verify` tells more")]
    MessageUnreadable(String),
    #[error("message \"{0}\" is no dead letter of another queue; name where it is to go")]
    NotDeadLetter(String),
    #[error("queue \"{0}\" is both where messages are and where they are to go")]
    MoveToItself(String),
    #[error("message \"{id}\" has {bytes} payload bytes; queue \"{queue}\" allows {max}")]
    TooLargeFor { id: String, bytes: u64, max: u64, queue: String },
    #[error("queue \"{queue}\" has lately got another message with the id of \"{id}\"")]
    DuplicateMessageId { id: String, queue: String },
    #[error("queue \"{queue}\" has another unfinished message with the unique key of \"{id}\"")]
    UniqueKeyHeld { id: String, queue: String },
    #[error("operation o.{0} is not known; it may have ended long ago")]
    OperationNotFound(Lsn),
    #[error("schedule \"{0}\" does not exist; create it")]
    ScheduleNotFound(String),
}

impl Refused {
    /// The reason on the wire: stable, and documented in `types.proto`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueNotFound(_) => "QUEUE_NOT_FOUND",
            Self::QueueExists(_) => "QUEUE_EXISTS",
            Self::QueueNotEmpty { .. } => "QUEUE_NOT_EMPTY",
            Self::QueuePaused(_) => "QUEUE_PAUSED",
            Self::QueueName { .. } => "INVALID_QUEUE_NAME",
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::Policy { .. } | Self::Priority { .. } => "INVALID_ARGUMENT",
            Self::DeadLetterQueue { .. } => "DEAD_LETTER_QUEUE_INVALID",
            Self::EmptyBatch => "EMPTY_BATCH",
            Self::MessageTooLarge { .. }
            | Self::ValueTooLarge { .. }
            | Self::LargerThanQueue { is_one_message: true, .. } => "MESSAGE_TOO_LARGE",
            Self::LargerThanQueue { .. } => "BATCH_TOO_LARGE",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::DuplicateInBatch { .. } | Self::TokenTwice | Self::KeyTwice(_) => {
                "DUPLICATE_IN_BATCH"
            }
            Self::Counter { .. } => "COUNTER_OUT_OF_BOUNDS",
            Self::DiskFull => "DISK_FULL",
            Self::Limit { .. } => "LIMIT_REACHED",
            Self::LeasesFull(_) => "LEASES_FULL",
            Self::Unfit { reason, .. } => reason,
            Self::LeaseLost => "LEASE_LOST",
            Self::AlreadySettled(_) => "ALREADY_SETTLED",
            Self::ProducerUnknown(_) => "PRODUCER_UNKNOWN",
            Self::ProducerFenced(_) => "PRODUCER_FENCED",
            Self::BatchOutOfOrder { .. } => "BATCH_OUT_OF_ORDER",
            Self::SessionLost(_) => "SESSION_LOST",
            Self::ConsumerNotFound(_) => "CONSUMER_NOT_FOUND",
            Self::MessageNotFound(_) => "MESSAGE_NOT_FOUND",
            Self::MessageLeased(_) => "MESSAGE_LEASED",
            Self::MessageUnreadable(_) => "DATA_DAMAGED",
            Self::NotDeadLetter(_) => "NOT_DEAD_LETTER",
            Self::MoveToItself(_) | Self::StreamOfOtherSession(_) => "INVALID_ARGUMENT",
            Self::TooLargeFor { .. } => "MESSAGE_TOO_LARGE",
            Self::DuplicateMessageId { .. } => "DUPLICATE_MESSAGE_ID",
            Self::UniqueKeyHeld { .. } => "UNIQUE_KEY_HELD",
            Self::OperationNotFound(_) => "OPERATION_NOT_FOUND",
            Self::ScheduleNotFound(_) => "SCHEDULE_NOT_FOUND",
        }
    }

    /// The values of the sentence, by the names that the list of reasons gives.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::QueueNotFound(name)
            | Self::QueueExists(name)
            | Self::QueuePaused(name)
            | Self::QueueName { name, .. }
            | Self::QueueNotEmpty { name, .. }
            | Self::DeadLetterQueue { name, .. }
            | Self::EtagMismatch { name, .. } => vec![("queue", name.clone())],
            Self::Policy { field, .. } => vec![("field", format!("policy.{field}"))],
            Self::MessageTooLarge { index, bytes, max, queue } => vec![
                ("field", "payload".to_owned()),
                ("index", index.to_string()),
                ("size", bytes.to_string()),
                ("limit", max.to_string()),
                ("queue", queue.clone()),
            ],
            Self::QueueFull { queue, bound, max } => vec![
                ("field", format!("policy.{bound}")),
                ("limit", max.to_string()),
                ("queue", queue.clone()),
            ],
            Self::LargerThanQueue { queue, bound, size, max, .. } => vec![
                ("field", format!("policy.{bound}")),
                ("size", size.to_string()),
                ("limit", max.to_string()),
                ("queue", queue.clone()),
            ],
            Self::Priority { queue, .. } => {
                vec![("field", "priority".to_owned()), ("queue", queue.clone())]
            }
            Self::MessageNotFound(id)
            | Self::MessageLeased(id)
            | Self::MessageUnreadable(id)
            | Self::NotDeadLetter(id) => vec![("message_id", id.clone())],
            Self::TooLargeFor { id, queue, .. }
            | Self::DuplicateMessageId { id, queue }
            | Self::UniqueKeyHeld { id, queue } => {
                vec![("message_id", id.clone()), ("queue", queue.clone())]
            }
            Self::ConsumerNotFound(id) => vec![("consumer_id", id.to_string())],
            Self::StreamOfOtherSession(id) => {
                vec![("field", "previous_consumer_id".to_owned()), ("consumer_id", id.to_string())]
            }
            Self::MoveToItself(queue) => {
                vec![("field", "destination_queue".to_owned()), ("queue", queue.clone())]
            }
            Self::ScheduleNotFound(name) => vec![("name", name.clone())],
            Self::OperationNotFound(id) => vec![("operation_id", format!("o.{id}"))],
            // The key under which GetServerInfo tells the limit.
            Self::Limit { what, .. } => vec![("limit", format!("max_{what}"))],
            Self::ValueTooLarge { bytes, max } => vec![
                ("field", "value".to_owned()),
                ("size", bytes.to_string()),
                ("limit", max.to_string()),
            ],
            Self::KeyTwice(key) => vec![("key", key.clone())],
            Self::Counter { key, value } => {
                vec![("key", key.clone()), ("value", value.to_string())]
            }
            Self::Unfit { values, .. } => values.clone(),
            Self::LeasesFull(_) => vec![("limit", "max_leases".to_owned())],
            Self::BatchOutOfOrder { expected, got } => {
                vec![("expected", expected.to_string()), ("got", got.to_string())]
            }
            _ => Vec::new(),
        }
    }
}
