//! Messages as calls name them.

use qbroker_proto::v1::{UpdateMessagesRequest, outgoing_message, update_messages_request};
use qbroker_storage::Lsn;

use super::batch::{IdHasher, new_due};
use super::bounds;
use crate::grpc::fault::Fault;
use crate::queue::{MessageName, NamedBy, UpdateMessages};

/// How ids begin that the server makes; the sequence follows.
pub(in crate::grpc) const SERVER_ID_START: &str = "q.";

/// The name that a client uses, in `queue` or, where that is empty, in any.
pub(in crate::grpc) fn name(
    id: String,
    queue: &str,
    hasher: IdHasher,
) -> Result<MessageName, Fault> {
    let by = match id.strip_prefix(SERVER_ID_START) {
        Some(sequence) => {
            let birth = sequence.parse().map_err(|_| {
                Fault::invalid("message_id", "q. must be followed by a sequence in decimal")
            })?;
            NamedBy::Birth(Lsn(birth))
        }
        None if id.is_empty() => return Err(Fault::invalid("message_id", "it is empty")),
        None if queue.is_empty() => {
            let why = "it is needed for an id that the publisher chose; q.<sequence> needs none";
            return Err(Fault::invalid("queue", why));
        }
        None => {
            bounds::id("message_id", &id)?;
            NamedBy::Hash(hasher.hash(&id))
        }
    };
    Ok(MessageName { id, by })
}

/// Names of a call.
pub(in crate::grpc) fn names(
    ids: Vec<String>,
    queue: &str,
    hasher: IdHasher,
) -> Result<Vec<MessageName>, Fault> {
    bounds::batch("message_ids", ids.len(), bounds::NAMES_MAX, "message ids")?;
    ids.into_iter().map(|id| name(id, queue, hasher)).collect()
}

/// What a call changes, and of which messages.
pub(in crate::grpc) fn update(
    request: UpdateMessagesRequest,
    hasher: IdHasher,
) -> Result<(UpdateMessages, Vec<MessageName>), Fault> {
    use update_messages_request::Schedule;
    let UpdateMessagesRequest { queue, message_ids, priority, schedule } = request;
    let messages = names(message_ids, &queue, hasher)?;
    let schedule = schedule.map(|schedule| match schedule {
        Schedule::DeliverTime(time) => outgoing_message::Schedule::DeliverTime(time),
        Schedule::Delay(delay) => outgoing_message::Schedule::Delay(delay),
    });
    let priority = priority.map(bounds::priority).transpose()?;
    let due = schedule.map(new_due).transpose()?;
    if priority.is_none() && due.is_none() {
        return Err(Fault::invalid("priority", "neither a priority nor a time is given"));
    }
    Ok((UpdateMessages { queue, priority, due }, messages))
}
