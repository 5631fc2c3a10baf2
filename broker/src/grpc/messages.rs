//! Calls about single messages, by their names.

use qbroker_proto::v1::*;

use super::Context;
use super::convert::names;
use super::fault::Fault;
use crate::queue::{NotDone, UpdateMessages};

/// Messages that one turn changes: each may bring a page of its neighbours into memory.
const NAMES_PER_TURN: usize = 64;

/// Gives messages another priority or another time.
pub(super) async fn update(
    context: &Context,
    request: UpdateMessagesRequest,
) -> Result<UpdateMessagesResponse, Fault> {
    let ids = request.message_ids.clone();
    let whole = names::update(request, context.hasher)?;
    let mut errors = Vec::new();
    let chunks = whole.messages.chunks(NAMES_PER_TURN).zip(ids.chunks(NAMES_PER_TURN));
    for (messages, ids) in chunks {
        let part = UpdateMessages { messages: messages.to_vec(), ..whole.clone() };
        let updated = |core: &mut _, now, out: &mut _| {
            crate::engine::Core::update_messages(core, &part, now, out)
        };
        let refused = context.engine.call(updated).await??;
        errors.extend(message_errors(refused, ids));
    }
    Ok(UpdateMessagesResponse { errors })
}

/// What of a call failed, by the names that it gave.
fn message_errors(refused: NotDone, ids: &[String]) -> impl Iterator<Item = MessageError> {
    refused.into_iter().map(|(position, refused)| MessageError {
        message_id: ids[position].clone(),
        error: Some(Fault::from(refused).to_item()),
    })
}
