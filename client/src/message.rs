//! Messages, as they are published and as they are received.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use qbroker_proto::v1::{self, outgoing_message::Schedule};

use crate::admin::Limit;
use crate::time;

/// A message to publish.
///
/// ```
/// use std::time::Duration;
/// use qbroker_client::OutgoingMessage;
///
/// let reminder = OutgoingMessage::new(r#"{"user": 7}"#)
///     .queue("mails")
///     .message_type("send_reminder")
///     .content_type("application/json")
///     .header("tenant", "acme")
///     .delay(Duration::from_secs(3600));
/// # drop(reminder);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "a message does nothing until it is published"]
pub struct OutgoingMessage(pub(crate) v1::OutgoingMessage);

impl OutgoingMessage {
    /// A message with this content. Payloads are not copied: hand in [`Bytes`] where there are some.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self(v1::OutgoingMessage { payload: payload.into(), ..v1::OutgoingMessage::default() })
    }

    /// Another content.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.0.payload = payload.into();
        self
    }

    /// Where to, instead of the publisher's queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.0.queue = queue.into();
        self
    }

    /// An id of your own, 1-64 characters of `[A-Za-z0-9_-]`.
    ///
    /// Inside the queue's dedup window a second message of this id is not stored; its receipt says
    /// `duplicate`. Default: the broker makes one.
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.0.message_id = id.into();
        self
    }

    /// What the payload is, `application/json` say.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.0.content_type = content_type.into();
        self
    }

    /// What kind of work this is.
    pub fn message_type(mut self, message_type: impl Into<String>) -> Self {
        self.0.message_type = message_type.into();
        self
    }

    /// The application's own id; need not be unique.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = id.into();
        self
    }

    /// Adds a header, or replaces it. Keys are lower case.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.insert(key.into(), value.into());
        self
    }

    /// How urgent it is, 0 (the default) to 9: none is delivered as long as there is a more urgent one.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = priority.into();
        self
    }

    /// Waits no longer than this, delays included: then it is a dead letter. Zero: for ever, whatever the
    /// queue says.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = Some(time::duration(ttl));
        self
    }

    /// Failures until it is dead-lettered, instead of the queue's limit.
    pub fn max_attempts(mut self, max: Limit) -> Self {
        self.0.max_attempts = Some(max.into_wire());
        self
    }

    /// Those of one queue that share a key (256 bytes at most) are delivered one at a time, in the order
    /// of their publishing: the next one once the one before it is done, retries included.
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.0.ordering_key = key.into();
        self
    }

    /// Whose it is: messages of different keys (256 bytes at most; tenants, say) share the queue fairly,
    /// however many of one key there are.
    pub fn fairness_key(mut self, key: impl Into<String>) -> Self {
        self.0.fairness_key = key.into();
        self
    }

    /// A job that must not wait twice: while an unfinished message of the queue has this key (256 bytes
    /// at most), another one is not stored; its receipt says `duplicate`.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.0.unique_key = key.into();
        self
    }

    /// Delivered no earlier than this long after it was accepted.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.schedule = Some(Schedule::Delay(time::duration(delay)));
        self
    }

    /// Delivered no earlier than at this time, by the broker's clock.
    pub fn deliver_time(mut self, time: SystemTime) -> Self {
        self.0.schedule = Some(Schedule::DeliverTime(time.into()));
        self
    }

    /// What it takes of a publisher's budget and of the broker's: never less than it has encoded.
    pub(crate) fn cost(&self) -> usize {
        let message = &self.0;
        let headers = message.headers.iter();
        headers.map(|(key, value)| key.len() + value.len() + HEADER_OVERHEAD_BYTES).sum::<usize>()
            + message.message_id.len()
            + message.queue.len()
            + message.payload.len()
            + message.content_type.len()
            + message.message_type.len()
            + message.correlation_id.len()
            + message.ordering_key.len()
            + message.unique_key.len()
            + message.fairness_key.len()
            + MESSAGE_OVERHEAD_BYTES
    }
}

/// The names and lengths of a header's parts on the wire, and then some.
const HEADER_OVERHEAD_BYTES: usize = 32;

/// The names and lengths of a message's fields on the wire, and what is kept around it in memory.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// A stored message.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The publisher's id, or the broker's.
    pub message_id: String,
    /// The queue it is in.
    pub queue: String,
    /// The content.
    pub payload: Bytes,
    /// What the payload is; may be empty.
    pub content_type: String,
    /// The application's headers.
    pub headers: HashMap<String, String>,
    /// What kind of work this is; may be empty.
    pub message_type: String,
    /// The application's own id; may be empty.
    pub correlation_id: String,
    /// How urgent it is; larger is more.
    pub priority: u8,
    /// Its place in the broker's log: unique, growing.
    pub sequence: u64,
    /// When it was accepted, by the broker's clock.
    pub publish_time: Option<SystemTime>,
    /// When it became deliverable, where it was delayed.
    pub deliver_time: Option<SystemTime>,
    /// When its time to live ends, where it has one.
    pub expire_time: Option<SystemTime>,
    /// Failures until it is dead-lettered, where the queue's limit does not hold.
    pub max_attempts: Option<Limit>,
    /// Those that share it come one at a time, in order; may be empty.
    pub ordering_key: String,
    /// Whose it is, among those that share the queue; may be empty.
    pub fairness_key: String,
    /// What it is the only one of in its queue; may be empty.
    pub unique_key: String,
    /// How it became a dead letter, where it is one.
    pub dead_letter: Option<DeadLetterInfo>,
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        Self {
            message_id: message.message_id,
            queue: message.queue,
            payload: message.payload,
            content_type: message.content_type,
            headers: message.headers,
            message_type: message.message_type,
            correlation_id: message.correlation_id,
            priority: message.priority.try_into().unwrap_or(u8::MAX),
            sequence: message.sequence.try_into().unwrap_or_default(),
            publish_time: message.publish_time.and_then(time::system_time),
            deliver_time: message.deliver_time.and_then(time::system_time),
            expire_time: message.expire_time.and_then(time::system_time),
            max_attempts: message.max_attempts.map(Limit::from_wire),
            ordering_key: message.ordering_key,
            unique_key: message.unique_key,
            fairness_key: message.fairness_key,
            dead_letter: message.dead_letter.map(DeadLetterInfo::from),
        }
    }
}

/// A message under a lease: yours until you settle it or the lease ends.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Leased {
    /// Names the lease; opaque, valid on any connection.
    pub lease_token: Bytes,
    /// The message.
    pub message: Message,
    /// Which attempt this is, from 1: 1 + failures + crashes.
    pub attempt: u32,
    /// How often it was nacked before.
    pub failures: u32,
    /// How often its lease ended by time or with a lost session.
    pub crashes: u32,
    /// What the latest nack told.
    pub last_failure: Option<Failure>,
    /// Failures at which a nack dead-letters it: its own limit, else that of its queue when it was
    /// delivered; `None` of a broker that does not tell. See
    /// [`Settlement::max_attempts`](crate::Settlement::max_attempts).
    pub max_attempts: Option<Limit>,
    /// When the broker sent it; `None` of one that does not tell.
    pub(crate) sent: Option<Sent>,
}

/// When a delivery was sent by the broker's clock, and when it arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sent {
    time: SystemTime,
    arrived: Instant,
}

impl Sent {
    /// What arrives now was sent then.
    pub(crate) fn at(time: prost_types::Timestamp) -> Option<Self> {
        Some(Self { time: time::system_time(time)?, arrived: Instant::now() })
    }
}

impl Leased {
    /// The present time by the broker's wall clock, which alone counts for the times in a message: what
    /// it was when it sent this, and how long ago that arrived. So a worker's own clock may be wrong.
    ///
    /// `None` of a broker that does not tell.
    #[must_use]
    pub fn broker_time(&self) -> Option<SystemTime> {
        let Sent { time, arrived } = self.sent?;
        time.checked_add(arrived.elapsed())
    }
}

impl From<v1::Delivery> for Leased {
    fn from(delivery: v1::Delivery) -> Self {
        Self {
            lease_token: delivery.lease_token,
            message: delivery.message.unwrap_or_default().into(),
            attempt: count(delivery.attempt),
            failures: count(delivery.failures),
            crashes: count(delivery.crashes),
            last_failure: delivery.last_failure.map(Failure::from),
            max_attempts: delivery.max_attempts.map(Limit::from_wire),
            sent: None,
        }
    }
}

/// What the broker keeps of a failure, and of its kind: no more is sent.
const FAILURE_BYTES_MAX: usize = 4096;
const FAILURE_KIND_BYTES_MAX: usize = 256;

/// Why an attempt failed, in the application's words. The broker cuts what is longer than 4 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// Exception or error class.
    pub kind: String,
    /// One line for people.
    pub message: String,
    /// Traceback or other detail.
    pub details: String,
}

impl Failure {
    /// A failure of this kind with this message.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), details: String::new() }
    }

    /// Adds a traceback or other detail.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

impl From<v1::Failure> for Failure {
    fn from(failure: v1::Failure) -> Self {
        Self { kind: failure.r#type, message: failure.message, details: failure.details }
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        let mut left = FAILURE_BYTES_MAX;
        let mut cut = |mut text: String, max: usize| {
            text.truncate(text.floor_char_boundary(max.min(left)));
            left -= text.len();
            text
        };
        Self {
            r#type: cut(failure.kind, FAILURE_KIND_BYTES_MAX),
            message: cut(failure.message, usize::MAX),
            details: cut(failure.details, usize::MAX),
        }
    }
}

/// How a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterInfo {
    /// The queue in which it failed.
    pub source_queue: String,
    /// Why it was given up.
    pub reason: DeadLetterReason,
    /// The last failure, where the consumer told one.
    pub failure: Option<Failure>,
    /// How often it had been delivered, without releases.
    pub attempts: u32,
    /// When, by the broker's clock.
    pub dead_letter_time: Option<SystemTime>,
}

impl From<v1::DeadLetterInfo> for DeadLetterInfo {
    fn from(info: v1::DeadLetterInfo) -> Self {
        Self {
            reason: DeadLetterReason::from_wire(info.reason()),
            source_queue: info.source_queue,
            failure: info.failure.map(Failure::from),
            attempts: count(info.attempts),
            dead_letter_time: info.dead_letter_time.and_then(time::system_time),
        }
    }
}

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// Its failures reached the queue's `max_attempts`.
    MaxAttempts,
    /// Its leases ended without a settlement `max_crashes` times.
    MaxCrashes,
    /// Its time to live ended.
    Expired,
    /// A consumer gave it up.
    ByConsumer,
    /// The queue was full.
    Overflow,
    /// A reason that this client does not know, of a newer broker.
    Unknown,
}

impl DeadLetterReason {
    pub(crate) fn into_wire(self) -> v1::DeadLetterReason {
        match self {
            Self::MaxAttempts => v1::DeadLetterReason::MaxAttempts,
            Self::MaxCrashes => v1::DeadLetterReason::MaxCrashes,
            Self::Expired => v1::DeadLetterReason::Expired,
            Self::ByConsumer => v1::DeadLetterReason::ByConsumer,
            Self::Overflow => v1::DeadLetterReason::Overflow,
            Self::Unknown => v1::DeadLetterReason::Unspecified,
        }
    }

    pub(crate) fn from_wire(reason: v1::DeadLetterReason) -> Self {
        match reason {
            v1::DeadLetterReason::MaxAttempts => Self::MaxAttempts,
            v1::DeadLetterReason::MaxCrashes => Self::MaxCrashes,
            v1::DeadLetterReason::Expired => Self::Expired,
            v1::DeadLetterReason::ByConsumer => Self::ByConsumer,
            v1::DeadLetterReason::Overflow => Self::Overflow,
            v1::DeadLetterReason::Unspecified => Self::Unknown,
        }
    }
}

/// A count that is never negative, from the wire's signed one.
pub(crate) fn count(wire: i32) -> u32 {
    wire.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_message_costs_no_less_than_its_encoding() {
        let long = "x".repeat(300);
        let mut message = OutgoingMessage::new(long.clone())
            .queue(long.clone())
            .message_id(long.clone())
            .content_type(long.clone())
            .message_type(long.clone())
            .correlation_id(long.clone())
            .ordering_key(long.clone())
            .unique_key(long.clone())
            .fairness_key(long.clone())
            .priority(u8::MAX)
            .ttl(Duration::MAX)
            .max_attempts(Limit::Unlimited)
            .delay(Duration::MAX);
        for number in 0..64 {
            message = message.header(number.to_string(), &long);
        }
        let encoded = message.0.encoded_len();
        assert!(encoded <= message.cost(), "{encoded} bytes cost {}", message.cost());
        let small = OutgoingMessage::new("");
        assert!(small.0.encoded_len() <= small.cost());
    }
}
