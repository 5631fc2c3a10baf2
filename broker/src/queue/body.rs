//! What stands in the bodies of records: read when somebody looks, never to decide.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use qbroker_storage::Body;

/// A message as its producer handed it in, less what the record's head says.
#[derive(Clone, PartialEq, Message)]
pub struct StoredMessage {
    /// Empty: the id is made of the LSN.
    #[prost(string, tag = "1")]
    pub message_id: String,
    #[prost(string, tag = "2")]
    pub content_type: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub headers: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    pub message_type: String,
    #[prost(string, tag = "5")]
    pub correlation_id: String,
    #[prost(bytes = "bytes", tag = "15")]
    pub payload: Bytes,
    #[prost(string, tag = "51")]
    pub ordering_key: String,
    #[prost(string, tag = "52")]
    pub unique_key: String,
    #[prost(string, tag = "53")]
    pub fairness_key: String,
}

/// The number of the payload's field, which stands last so that it need not be copied.
pub const PAYLOAD_TAG: u32 = 15;

impl StoredMessage {
    /// The record's body: the small fields encoded into `room`, which they share with those of
    /// other messages; the payload as it came.
    pub fn into_body(mut self, room: &mut BytesMut) -> Body {
        let payload = std::mem::take(&mut self.payload);
        self.encode(room).expect("a BytesMut grows");
        if !payload.is_empty() {
            encode_key(PAYLOAD_TAG, WireType::LengthDelimited, room);
            encode_varint(payload.len() as u64, room);
        }
        Body::new(room.split().freeze(), payload)
    }
}

/// Why an attempt failed, in the application's words.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StoredFailure {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, tag = "3")]
    pub details: String,
    /// The failures of the message before this one, the oldest first: their own records go.
    #[prost(message, repeated, tag = "4")]
    pub earlier: Vec<StoredAttempt>,
}

/// An attempt that told a failure.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StoredAttempt {
    /// From 1; 0: an older version wrote it.
    #[prost(uint32, tag = "1")]
    pub attempt: u32,
    /// Wall clock; 0: unknown.
    #[prost(uint64, tag = "2")]
    pub start_ms: u64,
    #[prost(uint64, tag = "3")]
    pub end_ms: u64,
    /// The stream that settled it; 0: a single call.
    #[prost(uint64, tag = "4")]
    pub consumer: u64,
    #[prost(message, required, tag = "5")]
    pub failure: StoredFailure,
}

/// Bytes of a failure that are kept; what is longer is cut, never refused.
pub const FAILURE_BYTES_MAX: usize = 4096;
/// Failures that the record of a later one carries.
pub const EARLIER_MAX: usize = 9;
/// Bytes of each of them: its type and its message, but no details.
pub const EARLIER_BYTES_MAX: usize = 512;

impl StoredFailure {
    /// A failure alone, cut to `max` bytes in all: the type first, then the message, then the details.
    pub fn cut(kind: &str, message: &str, details: &str, max: usize) -> Self {
        let kind = prefix(kind, max.min(256));
        let message = prefix(message, max - kind.len());
        let details = prefix(details, max - kind.len() - message.len());
        let [kind, message, details] = [kind, message, details].map(str::to_owned);
        Self { kind, message, details, earlier: Vec::new() }
    }

    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        self.kind.is_empty() && self.message.is_empty() && self.details.is_empty()
    }
}

/// The latest of these attempts as the record of the next failure carries them.
pub fn earlier(mut attempts: Vec<StoredAttempt>) -> Vec<StoredAttempt> {
    attempts.drain(..attempts.len().saturating_sub(EARLIER_MAX));
    for StoredAttempt { failure, .. } in &mut attempts {
        *failure = StoredFailure::cut(&failure.kind, &failure.message, "", EARLIER_BYTES_MAX);
    }
    attempts
}

/// The longest prefix of at most `max` bytes that ends between characters.
pub(super) fn prefix(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max.min(text.len()))]
}

/// Where a dead letter came from, and its last failure.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StoredDeadLetter {
    #[prost(string, tag = "1")]
    pub source_queue: String,
    #[prost(message, optional, tag = "2")]
    pub failure: Option<StoredFailure>,
}

impl StoredDeadLetter {
    /// The queue that a dead letter came from, of its record's body.
    pub fn source_queue(body: &Body) -> Result<String, prost::DecodeError> {
        let [first, second] = body.parts().clone();
        Self::decode(first.chain(second)).map(|letter| letter.source_queue)
    }
}

/// The body of a small message, in one piece.
pub fn small_body(message: &impl Message) -> Body {
    Body::new(Bytes::from(message.encode_to_vec()), Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_as_the_message_it_was_made_of() {
        let message = StoredMessage {
            message_id: "job-1".to_owned(),
            headers: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            payload: Bytes::from_static(b"payload"),
            ..StoredMessage::default()
        };
        let [prefix, payload] = message.clone().into_body(&mut BytesMut::new()).parts().clone();
        assert_eq!(StoredMessage::decode(prefix.chain(payload)).unwrap(), message);
    }

    #[test]
    fn a_failure_is_cut_between_characters() {
        let failure = StoredFailure::cut("E", &"\u{e4}".repeat(9), "details", 10);
        assert_eq!((failure.kind.len(), failure.message.len(), failure.details.len()), (1, 8, 1));
    }

    #[test]
    fn the_nine_latest_failures_are_carried_and_each_is_cut() {
        let attempt = |number: u32, bytes: usize| {
            let failure = StoredFailure::cut("E", &"x".repeat(bytes), "at 1", FAILURE_BYTES_MAX);
            StoredAttempt { attempt: number, failure, ..StoredAttempt::default() }
        };
        let carried = earlier((1..=9).map(|number| attempt(number, 511)).collect());
        assert_eq!((carried.len(), carried[0].attempt), (9, 1));
        let all = carried.iter().chain(&carried[..1]).cloned();
        let carried = earlier(all.chain([attempt(11, 512)]).collect());
        let numbers: Vec<u32> = carried.iter().map(|it| it.attempt).collect();
        assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 9, 1, 11], "the latest nine");
        for StoredAttempt { failure, .. } in carried {
            let StoredFailure { kind, message, details, earlier } = failure;
            assert_eq!((kind.len(), message.len(), details.len(), earlier.len()), (1, 511, 0, 0));
        }
    }
}
