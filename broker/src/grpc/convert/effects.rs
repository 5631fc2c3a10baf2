//! What is done together with a settlement.

use std::sync::Arc;

use bytes::BytesMut;
use qbroker_proto::v1::effect::Kind;
use qbroker_proto::v1::{self, MessagePatch};
use qbroker_storage::StoredRecord;

use super::batch::outgoing_message;
use super::settlements::Reading;
use super::{bounds, delivery};
use crate::grpc::fault::Fault;
use crate::queue::body::StoredMessage;
use crate::queue::{Effects, Patch};

/// The effects of one settlement, which has so many bytes as it is encoded.
pub(super) fn effects(
    effects: Vec<v1::Effect>,
    size: usize,
    reading: Reading,
) -> Result<Effects, Fault> {
    let Reading { hasher, limits, .. } = reading;
    if limits.messages_max < effects.len() {
        let (size, limit, unit) = (effects.len(), limits.messages_max, "effects");
        return Err(Fault::BatchTooLarge { size, limit, unit });
    }
    if limits.bytes_max < size {
        let (limit, unit) = (limits.bytes_max, "bytes in one settlement");
        return Err(Fault::BatchTooLarge { size, limit, unit });
    }
    let nowhere: Arc<str> = Arc::from("");
    let mut prefixes = BytesMut::new();
    let mut understood = Effects::default();
    for effect in effects {
        match effect.kind {
            Some(Kind::Publish(message)) => {
                let message = outgoing_message(message, &nowhere, hasher, &mut prefixes)?;
                understood.publish.push(message);
            }
            Some(Kind::StoreValue(_)) => return Err(state("store_value")),
            Some(Kind::AddToCounter(_)) => return Err(state("add_to_counter")),
            Some(Kind::Arrive(_)) => return Err(state("arrive")),
            None => {
                let why = "each is one that this server knows";
                return Err(Fault::invalid("effects", why));
            }
        }
    }
    Ok(understood)
}

fn state(field: &'static str) -> Fault {
    Fault::Unsupported { field, feature: "state" }
}

/// Refuses what no message may have.
pub(super) fn check_patch(patch: &MessagePatch) -> Result<(), Fault> {
    let content_type = patch.content_type.as_deref().unwrap_or_default();
    bounds::text("content_type", content_type, 128)?;
    patch.priority.map_or(Ok(0), bounds::priority)?;
    patch.headers.as_ref().map_or(Ok(()), |headers| bounds::headers(&headers.entries))
}

/// The new content of a message: what the patch has of it, and the rest as it is stored.
pub(in crate::grpc) fn patched(patch: MessagePatch, stored: &StoredRecord) -> Result<Patch, Fault> {
    let published = delivery::facts(stored)?;
    let mut message: StoredMessage = delivery::body(stored)?;
    let MessagePatch { payload, content_type, priority, headers } = patch;
    message.payload = payload.unwrap_or(message.payload);
    message.content_type = content_type.unwrap_or(message.content_type);
    if let Some(headers) = headers {
        message.headers = headers.entries.into_iter().collect();
    }
    let priority = priority.map(bounds::priority).transpose()?;
    let payload_bytes = message.payload.len() as u64;
    let body = message.into_body(&mut BytesMut::new());
    Ok(Patch { published, priority, payload_bytes, body })
}
