//! What happened to one message: from its records while it is there, from its outcome afterwards.

use std::sync::Arc;

use prost::Message as _;
use qbroker_proto::v1::trace_message_request::Key;
use qbroker_proto::v1::*;
use qbroker_storage::Lsn;

use super::convert::event::{Names, stored_event};
use super::convert::names;
use super::fault::Fault;
use super::{Context, messages};
use crate::engine::{Core, Engine, Stopped, Traces};
use crate::queue::MessageName;
use crate::queue::index::Index as _;
use crate::queue::outcomes::{StoredEvent, StoredOutcome};
use crate::queue::refused::Refused;

/// Bytes shown of the payload.
const SHOWN_BYTES: i32 = 4_096;

/// Tells what happened to a message.
pub(super) async fn trace(
    context: &Context,
    request: TraceMessageRequest,
) -> Result<TraceMessageResponse, Fault> {
    let TraceMessageRequest { key, queue } = request;
    let id = match key {
        Some(Key::MessageId(id)) => id,
        Some(Key::CorrelationId(_)) => {
            return Err(Fault::Unsupported { field: "correlation_id", feature: "find_messages" });
        }
        None => return Err(Fault::invalid("key", "neither of its fields is set")),
    };
    let name = names::name(id, &queue, context.hasher)?;
    let birth = birth_of(&context.engine, &queue, &name).await?;
    let not_found = || Fault::Refused(Refused::MessageNotFound(name.id.clone()));
    let birth = birth.ok_or_else(not_found)?;
    let (outcome, is_there) = told(&context.engine, birth).await?.ok_or_else(not_found)?;
    let is_in =
        |event: &StoredEvent| queue.is_empty() || event.queue == queue || event.to_queue == queue;
    if !outcome.events.iter().any(is_in) {
        return Err(not_found());
    }
    let message = if is_there { message(context, birth).await? } else { None };
    let names = Names {
        message_id: outcome.message_id,
        message_type: outcome.message_type,
        correlation_id: outcome.correlation_id,
    };
    let events = outcome.events.into_iter().map(|event| stored_event(event, birth, &names));
    Ok(TraceMessageResponse { events: events.collect(), message })
}

/// The message of a name, whether it is done or not.
async fn birth_of(engine: &Engine, queue: &str, name: &MessageName) -> Result<Option<Lsn>, Fault> {
    let now = engine.clock().now();
    let birth = |core: &Core| Ok(core.birth_named(core.queue_of_names(queue)?, name, now));
    let birth: Result<_, Refused> = engine.ask(birth).await?;
    Ok(birth?)
}

/// A message's life, and whether it goes on.
async fn told(engine: &Arc<Engine>, birth: Lsn) -> Result<Option<(StoredOutcome, bool)>, Fault> {
    let there = engine
        .find(|core| {
            let message = core.index().message(birth)?;
            let grant = core.lease(birth).map(|lease| lease.grant).unwrap_or_default();
            Ok(message.map(|it| Traces {
                birth,
                content: it.content(birth),
                last_failure: it.last_failure,
                dead_letter: it.dead_letter,
                grant,
                end: Lsn(0),
            }))
        })
        .await?;
    if let Some(traces) = there {
        return Ok(Some((history(engine, traces).await?, true)));
    }
    if let Some(finished) = engine.ask(|core| core.unwritten_outcome(birth)).await? {
        return Ok(Some((history(engine, finished.into()).await?, false)));
    }
    let looking = engine.clone();
    let record = tokio::task::spawn_blocking(move || looking.outcome_record(birth));
    let Some(record) = record.await.map_err(|_| Stopped)? else { return Ok(None) };
    engine.durable(record).await?;
    let read = engine.read(vec![record]).await?.pop().expect("an answer for each");
    // Forgotten meanwhile, it is not there.
    let Ok(record) = read else { return Ok(None) };
    let body = bytes::Bytes::from(record.body.parts().concat());
    let outcome = StoredOutcome::decode(body).map_err(|error| Fault::Damaged(error.to_string()))?;
    Ok(Some((outcome, false)))
}

async fn history(engine: &Arc<Engine>, traces: Traces) -> Result<StoredOutcome, Stopped> {
    let engine = engine.clone();
    let reading = tokio::task::spawn_blocking(move || engine.history(traces));
    reading.await.map_err(|_| Stopped)
}

/// The message as it lies there, unless it is done meanwhile.
async fn message(context: &Context, birth: Lsn) -> Result<Option<MessageInfo>, Fault> {
    let request = GetMessageRequest {
        queue: String::new(),
        message_id: format!("q.{birth}"),
        max_payload_bytes: Some(SHOWN_BYTES),
    };
    match messages::get(context, request).await {
        Ok(found) => Ok(found.message),
        Err(Fault::Refused(Refused::MessageNotFound(_))) => Ok(None),
        Err(fault) => Err(fault),
    }
}
