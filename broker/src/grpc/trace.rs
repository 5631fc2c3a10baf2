//! What happened to one message: from its records while it is there, from its outcome afterwards.

use std::sync::Arc;

use prost::Message as _;
use qbroker_proto::v1::trace_message_request::Key;
use qbroker_proto::v1::*;
use qbroker_storage::Lsn;

use super::convert::event::{Names, stored_event};
use super::convert::{bounds, names};
use super::fault::Fault;
use super::{Context, find, messages};
use crate::engine::{Core, Engine, Stopped, Traces};
use crate::queue::MessageName;
use crate::queue::index::Index as _;
use crate::queue::outcomes::{StoredEvent, StoredOutcome};
use crate::queue::refused::Refused;
use crate::search::Attribute;

/// Bytes shown of the payload.
const SHOWN_BYTES: i32 = 4_096;

/// Messages of one correlation id that are told of: the latest.
const TOGETHER_MAX: usize = 10;

/// Tells what happened to a message, or to those of a correlation id.
pub(super) async fn trace(
    context: &Context,
    request: TraceMessageRequest,
) -> Result<TraceMessageResponse, Fault> {
    let TraceMessageRequest { key, queue } = request;
    let (id, births) = match key {
        Some(Key::MessageId(id)) => {
            let births = births_named(context, &queue, &id).await?;
            (id, births)
        }
        Some(Key::CorrelationId(id)) => {
            bounds::text("correlation_id", &id, 256)?;
            let attribute = Attribute::CorrelationId;
            let births = find::births(context, attribute, &id, TOGETHER_MAX).await?;
            (id, births)
        }
        None => return Err(Fault::invalid("key", "neither of its fields is set")),
    };
    let mut response = TraceMessageResponse::default();
    for birth in births {
        let Some((outcome, is_there)) = told(&context.engine, birth).await? else { continue };
        let is_in = |event: &StoredEvent| {
            queue.is_empty() || event.queue == queue || event.to_queue == queue
        };
        if !outcome.events.iter().any(is_in) {
            continue;
        }
        if is_there {
            response.message = message(context, birth).await?.or(response.message);
        }
        let names = Names {
            message_id: outcome.message_id,
            message_type: outcome.message_type,
            correlation_id: outcome.correlation_id,
        };
        let events = outcome.events.into_iter();
        response.events.extend(events.map(|event| stored_event(event, birth, &names)));
    }
    if response.events.is_empty() {
        return Err(Refused::MessageNotFound(id).into());
    }
    response.events.sort_by_key(|event| event.sequence);
    Ok(response)
}

/// The message of an id: as it is known in its queue, else as it is found.
async fn births_named(context: &Context, queue: &str, id: &str) -> Result<Vec<Lsn>, Fault> {
    let is_known = !queue.is_empty() || id.starts_with(names::SERVER_ID_START) || id.is_empty();
    if is_known || context.search.is_none() {
        let name = names::name(id.to_owned(), queue, context.hasher)?;
        let known = birth_of(&context.engine, queue, &name).await?;
        if known.is_some() || context.search.is_none() {
            return Ok(known.into_iter().collect());
        }
    }
    bounds::id("message_id", id)?;
    find::births(context, Attribute::MessageId, id, 1).await
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
                step: core.last_step(it.queue, birth),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::stage::Stage;
    use crate::queue::policy::Policy;
    use crate::queue::{CreateQueue, Outcome};

    /// A message that was handed back so often, and its trace.
    async fn traced(releases: usize) -> Vec<MessageEvent> {
        let mut stage = Stage::set();
        let policy = Policy { outcome_retention_ms: Some(60_000), ..Policy::default() };
        let create = CreateQueue { name: "q".to_owned(), policy, ..CreateQueue::default() };
        let engine = &stage.context.engine;
        let (_, made) = engine.turn(|core, now, out| core.create_queue(&create, now, out)).unwrap();
        made.unwrap();
        stage.publish("q");
        let (birth, ()) = stage.context.engine.look(|_| ());
        for _ in 0..releases {
            let token = stage.lease("q");
            stage.settle(token, Outcome::Release { delay_ms: 0 });
        }
        stage.write();
        let key = Some(Key::MessageId(format!("q.{birth}")));
        let request = TraceMessageRequest { key, queue: String::new() };
        trace(&stage.context, request).await.unwrap().events
    }

    #[tokio::test]
    async fn the_latest_forty_steps_are_told_beside_the_publish() {
        use MessageEventKind::{Leased, Published, Released};
        let all = traced(20).await;
        assert_eq!(all.len(), 1 + 40);
        let latest = traced(21).await;
        assert_eq!(latest.len(), 1 + 40);
        for told in [&all, &latest] {
            let kinds = [told[0].kind(), told[1].kind(), told[2].kind()];
            assert_eq!(kinds, [Published, Leased, Released]);
        }
        // Two steps for each time.
        assert_eq!(latest[1].sequence, all[1].sequence + 2, "the first two are not told");
    }
}
