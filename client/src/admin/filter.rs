//! Which messages a call means.

use std::time::SystemTime;

use bytes::Bytes;
use qbroker_proto::v1::{self, filter_term::Kind};

use super::MessageState;
use crate::message::DeadLetterReason;

/// Conditions that all must hold for a message to be meant.
///
/// A filter without any is refused, unless it is [`MessageFilter::all`]: an empty one never means
/// everything. So is one with an empty text.
///
/// ```
/// use qbroker_client::{MessageFilter, MessageState};
///
/// let filter = MessageFilter::new().state(MessageState::Parked).header("tenant", "acme");
/// # drop(filter);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "a filter does nothing by itself"]
pub struct MessageFilter(v1::MessageFilter);

impl MessageFilter {
    /// No condition yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every message of the queue.
    pub fn all() -> Self {
        Self(v1::MessageFilter { all: true, terms: Vec::new() })
    }

    /// One of these ids, 1,000 at most: those that publishers chose, and `q.` with a sequence.
    pub fn ids<T: Into<String>>(self, ids: impl IntoIterator<Item = T>) -> Self {
        let ids = ids.into_iter().map(Into::into).collect();
        self.with(Kind::MessageIds(v1::IdList { ids }))
    }

    /// In this state.
    pub fn state(self, state: MessageState) -> Self {
        self.with(Kind::State(state.into_wire().into()))
    }

    /// Accepted at this time or later, by the broker's clock.
    pub fn published_after(self, time: SystemTime) -> Self {
        self.with(Kind::PublishedAfter(time.into()))
    }

    /// Accepted before this time, by the broker's clock.
    pub fn published_before(self, time: SystemTime) -> Self {
        self.with(Kind::PublishedBefore(time.into()))
    }

    /// With this header, and this whole value.
    pub fn header(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Kind::Header(v1::HeaderEquals { key: key.into(), value: value.into() }))
    }

    /// With this message type.
    pub fn message_type(self, message_type: impl Into<String>) -> Self {
        self.with(Kind::MessageType(message_type.into()))
    }

    /// With this correlation id.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.with(Kind::CorrelationId(id.into()))
    }

    /// Whose last failure is of this type.
    pub fn failure_type(self, failure_type: impl Into<String>) -> Self {
        self.with(Kind::FailureType(failure_type.into()))
    }

    /// A dead letter for this reason.
    pub fn dead_letter_reason(self, reason: DeadLetterReason) -> Self {
        self.with(Kind::DeadLetterReason(reason.into_wire().into()))
    }

    /// A dead letter from this queue.
    pub fn source_queue(self, queue: impl Into<String>) -> Self {
        self.with(Kind::SourceQueue(queue.into()))
    }

    /// With these 1 to 256 bytes somewhere in its payload.
    pub fn payload_contains(self, bytes: impl Into<Bytes>) -> Self {
        self.with(Kind::PayloadContains(bytes.into()))
    }

    /// What both say together.
    pub fn and(mut self, other: Self) -> Self {
        self.0.terms.extend(other.0.terms);
        self.0.all |= other.0.all;
        self
    }

    fn with(mut self, kind: Kind) -> Self {
        self.0.terms.push(v1::FilterTerm { kind: Some(kind) });
        self
    }

    /// As it is asked for.
    pub(super) fn into_wire(self) -> v1::MessageFilter {
        self.0
    }
}
