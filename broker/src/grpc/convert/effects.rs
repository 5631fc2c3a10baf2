//! What is done together with a settlement.

use std::sync::Arc;

use bytes::BytesMut;
use qbroker_proto::v1::effect::Kind;
use qbroker_proto::v1::{self, MessagePatch};
use qbroker_storage::StoredRecord;

use super::batch::outgoing_message;
use super::settlements::Reading;
use super::{bounds, delivery, state};
use crate::grpc::fault::Fault;
use crate::queue::body::StoredMessage;
use crate::queue::state::StateChange;
use crate::queue::{Effects, Patch};

/// Barriers that one settlement may complete: what they publish then is part of its commit, beside what
/// it has itself.
const ARRIVALS_MAX: usize = 2;

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
    let arrivals = effects.iter().filter(|it| matches!(it.kind, Some(Kind::Arrive(_)))).count();
    if ARRIVALS_MAX < arrivals {
        let (size, limit, unit) = (arrivals, ARRIVALS_MAX, "arrivals in one settlement");
        return Err(Fault::BatchTooLarge { size, limit, unit });
    }
    for effect in effects {
        match effect.kind {
            Some(Kind::Publish(message)) => {
                let message = outgoing_message(message, &nowhere, hasher, &mut prefixes)?;
                understood.publish.push(message);
            }
            Some(Kind::StoreValue(store)) => {
                understood.changes.push(StateChange::Store(state::store_value(store)?));
            }
            Some(Kind::AddToCounter(add)) => {
                understood.changes.push(StateChange::Add(state::add_to_counter(add)?));
            }
            Some(Kind::Arrive(arrive)) => {
                understood.changes.push(StateChange::Arrive(state::arrive(arrive, hasher)?));
            }
            None => {
                let why = "each is one that this server knows";
                return Err(Fault::invalid("effects", why));
            }
        }
    }
    Ok(understood)
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
