//! Calls about single messages, by their names: looked at, changed, deleted.

use qbroker_proto::v1::*;

use super::browse::Listed;
use super::convert::names;
use super::fault::{Fault, flat};
use super::{Context, attempts, browse};
use crate::queue::refused::Refused;
use crate::queue::{MessageName, NotDone};

/// Messages that one turn changes: each may bring a page of its neighbours into memory.
const NAMES_PER_TURN: usize = 64;

/// Gives messages another priority or another time.
pub(super) async fn update(
    context: &Context,
    request: UpdateMessagesRequest,
) -> Result<UpdateMessagesResponse, Fault> {
    let (update, names) = names::update(request, context.hasher)?;
    let mut errors = Vec::new();
    for names in names.chunks(NAMES_PER_TURN) {
        let updated =
            context.engine.call(|core, now, out| core.update_messages(&update, names, now, out));
        errors.extend(message_errors(flat(updated.await)?, names));
    }
    Ok(UpdateMessagesResponse { errors })
}

/// Deletes messages; whoever holds one is told.
pub(super) async fn delete(
    context: &Context,
    request: DeleteMessagesByIdRequest,
) -> Result<DeleteMessagesByIdResponse, Fault> {
    let DeleteMessagesByIdRequest { queue, message_ids } = request;
    let names = names::names(message_ids, &queue, context.hasher)?;
    let mut errors = Vec::new();
    for names in names.chunks(NAMES_PER_TURN) {
        let deleted =
            context.engine.call(|core, now, out| core.delete_messages(&queue, names, now, out));
        errors.extend(message_errors(flat(deleted.await)?, names));
    }
    Ok(DeleteMessagesByIdResponse { errors })
}

/// Returns a message, who holds it, and what its attempts told.
pub(super) async fn get(
    context: &Context,
    request: GetMessageRequest,
) -> Result<GetMessageResponse, Fault> {
    let GetMessageRequest { queue, message_id, max_payload_bytes } = request;
    let shown = match max_payload_bytes.map(usize::try_from) {
        None => usize::MAX,
        Some(Ok(shown)) => shown,
        Some(Err(_)) => {
            return Err(Fault::invalid("max_payload_bytes", "it must not be negative"));
        }
    };
    let name = names::name(message_id, &queue, context.hasher)?;
    let engine = &context.engine;
    let now = engine.clock().now();
    let found = engine.find(|core| {
        let queue = match core.queue_of_names(&queue) {
            Ok(queue) => queue,
            Err(refused) => return Ok(Err(refused)),
        };
        let found = core.message_named(queue, &name, now)?;
        Ok(found.map(|(birth, held)| {
            let of = core.queue_by_id(held.queue).expect("a message's queue is there");
            (of.name.clone(), Listed::new(core, (birth, held), now))
        }))
    });
    let (queue, listed) = found.await??;
    let attempts = attempts::read(engine, &listed.held).await?;
    let read = browse::read(engine, &queue, &[listed], shown).await?.pop();
    // Finished meanwhile, it is not there.
    let info = read.ok_or(Refused::MessageNotFound(name.id))?;
    Ok(GetMessageResponse { message: Some(MessageInfo { attempts, ..info }) })
}

/// What of a call failed, by the names that it gave.
fn message_errors(refused: NotDone, names: &[MessageName]) -> impl Iterator<Item = MessageError> {
    refused.into_iter().map(|(position, refused)| MessageError {
        message_id: names[position].id.clone(),
        error: Some(Fault::from(refused).to_item()),
    })
}
