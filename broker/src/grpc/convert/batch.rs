//! Messages that clients hand in, a batch at a time.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use qbroker_proto::raw::PublishRequest;
use qbroker_proto::v1::{OutgoingMessage, outgoing_message::Schedule};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::bounds;
use super::time::{duration_ms, timestamp_ms};
use crate::grpc::fault::Fault;
use crate::queue::body::StoredMessage;
use crate::queue::policy::{TTL_MS_MAX, check_attempts};
use crate::queue::{NewDue, NewMessage};

/// What a batch may be, as the server was set.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct BatchLimits {
    pub(in crate::grpc) messages_max: usize,
    pub(in crate::grpc) bytes_max: usize,
}

/// Bytes of each of a message's keys.
pub(super) const KEY_BYTES_MAX: usize = 256;

/// What a small message has before its payload, about.
const PREFIX_BYTES: usize = 16;
/// Memory that a stream makes at once for that.
const PREFIXES_BYTES: usize = 4 << 10;

/// Hashes message ids with the log's own key, so that nobody can choose ids that collide.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct IdHasher {
    pub(in crate::grpc) key: [u8; 16],
}

impl IdHasher {
    pub(super) fn hash(self, id: &str) -> u128 {
        use std::hash::Hasher as _;
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(id.as_bytes());
        hasher.finish128().as_u128()
    }

    /// Half of [`Self::hash`]; none for an empty key.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash")]
    pub(super) fn key_hash(self, key: &str) -> Option<u64> {
        (!key.is_empty()).then(|| self.hash(key) as u64)
    }
}

/// A batch that is refused for its form.
pub(in crate::grpc) struct Malformed {
    /// Position of the message that caused it; 0 where the batch as a whole did.
    pub(in crate::grpc) index: usize,
    pub(in crate::grpc) fault: Fault,
    /// What the request has, as it is encoded.
    pub(in crate::grpc) bytes: usize,
}

/// Takes in batches that come one after the other; what they have in common is made once.
#[derive(Debug)]
pub(in crate::grpc) struct Intake {
    limits: BatchLimits,
    hasher: IdHasher,
    /// Of the last batch; the next one's is mostly the same.
    queue: Arc<str>,
    /// One piece of memory for what stands before the payloads of many messages.
    prefixes: BytesMut,
}

impl Intake {
    /// Of one batch.
    pub(in crate::grpc) fn new(limits: BatchLimits, hasher: IdHasher) -> Self {
        Self { limits, hasher, queue: Arc::default(), prefixes: BytesMut::new() }
    }

    /// Of batches that may have one message each.
    pub(in crate::grpc) fn of_stream(limits: BatchLimits, hasher: IdHasher) -> Self {
        let prefixes = BytesMut::with_capacity(PREFIXES_BYTES);
        Self { prefixes, ..Self::new(limits, hasher) }
    }

    /// The messages of a batch.
    pub(in crate::grpc) fn take(
        &mut self,
        request: PublishRequest,
    ) -> Result<Vec<NewMessage>, Malformed> {
        let bytes = check_batch(&request, self.limits).map_err(|fault| {
            let bytes = request.encoded_len();
            Malformed { index: 0, fault, bytes }
        })?;
        if *self.queue != *request.queue {
            self.queue = request.queue.into();
        }
        self.prefixes.reserve(PREFIX_BYTES * request.messages.len());
        let each = request.messages.into_iter().enumerate();
        each.map(|(index, message)| {
            let message = new_message(message, &self.queue, self.hasher, &mut self.prefixes);
            message.map_err(|fault| Malformed { index, fault, bytes })
        })
        .collect()
    }
}

/// Refuses a batch that is empty or too large as a whole; else says how large it is.
pub(in crate::grpc) fn check_batch(
    request: &PublishRequest,
    limits: BatchLimits,
) -> Result<usize, Fault> {
    bounds::batch("messages", request.messages.len(), limits.messages_max, "messages")?;
    let size = request.encoded_len();
    if limits.bytes_max < size {
        return Err(Fault::BatchTooLarge { size, limit: limits.bytes_max, unit: "bytes" });
    }
    Ok(size)
}

fn new_message(
    encoded: Bytes,
    default_queue: &Arc<str>,
    hasher: IdHasher,
    prefixes: &mut BytesMut,
) -> Result<NewMessage, Fault> {
    let message = OutgoingMessage::decode(encoded)
        .map_err(|error| Fault::invalid("messages", format!("one cannot be read: {error}")))?;
    outgoing_message(message, default_queue, hasher, prefixes)
}

/// One message, for a queue of its own or the default one.
pub(super) fn outgoing_message(
    message: OutgoingMessage,
    default_queue: &Arc<str>,
    hasher: IdHasher,
    prefixes: &mut BytesMut,
) -> Result<NewMessage, Fault> {
    bounds::id("message_id", &message.message_id)?;
    bounds::headers(&message.headers)?;
    bounds::text("content_type", &message.content_type, 128)?;
    bounds::text("message_type", &message.message_type, 256)?;
    bounds::text("correlation_id", &message.correlation_id, 256)?;
    bounds::text("ordering_key", &message.ordering_key, KEY_BYTES_MAX)?;
    bounds::text("fairness_key", &message.fairness_key, KEY_BYTES_MAX)?;
    bounds::text("unique_key", &message.unique_key, KEY_BYTES_MAX)?;
    let due = message.schedule.map(new_due).transpose()?;
    let priority = bounds::priority(message.priority)?;
    let ttl_ms = duration_ms("ttl", message.ttl, 0, TTL_MS_MAX)?;
    let attempts = message.max_attempts.map_or(Ok(()), check_attempts);
    attempts.map_err(|why| Fault::invalid("max_attempts", why))?;
    let ordering_hash = hasher.key_hash(&message.ordering_key);
    let fairness_hash = hasher.key_hash(&message.fairness_key);
    let unique_hash = hasher.key_hash(&message.unique_key);
    let stored = StoredMessage {
        message_id: message.message_id.clone(),
        content_type: message.content_type,
        headers: message.headers.into_iter().collect(),
        message_type: message.message_type,
        correlation_id: message.correlation_id,
        payload: message.payload,
        ordering_key: message.ordering_key,
        unique_key: message.unique_key,
        fairness_key: message.fairness_key,
    };
    let has_id = !message.message_id.is_empty();
    Ok(NewMessage {
        queue: if message.queue.is_empty() { default_queue.clone() } else { message.queue.into() },
        id_hash: has_id.then(|| hasher.hash(&message.message_id)),
        message_id: message.message_id,
        payload_bytes: stored.payload.len() as u64,
        due,
        priority,
        ttl_ms,
        max_attempts: message.max_attempts,
        unique_hash,
        ordering_hash,
        fairness_hash,
        body: stored.into_body(prefixes),
    })
}

pub(super) fn new_due(schedule: Schedule) -> Result<NewDue, Fault> {
    match schedule {
        Schedule::Delay(delay) => {
            // A delay has no horizon.
            let ms = duration_ms("delay", Some(delay), 0, u64::MAX)?;
            Ok(NewDue::After(ms.unwrap_or_default()))
        }
        Schedule::DeliverTime(time) => Ok(NewDue::At(timestamp_ms("deliver_time", time)?)),
    }
}
