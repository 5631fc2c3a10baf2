//! Messages by the names that the search index knows: it says where to look, and what is told was looked
//! at there.

use prost::Message as _;
use qbroker_proto::v1::find_messages_request::Key;
use qbroker_proto::v1::*;
use qbroker_storage::{Lsn, StoredRecord};

use super::convert::bounds;
use super::convert::event::{self, stored_event};
use super::convert::outgoing::sequence;
use super::fault::Fault;
use super::{Context, listing, messages};
use crate::engine::Stopped;
use crate::queue::outcomes::StoredOutcome;
use crate::queue::refused::Refused;
use crate::search::{Attribute, Named, Names, Search, named};

/// Places that one page looks at: most may be of messages that are gone.
const LOOKED_AT_MAX: usize = 4_096;

/// Finds messages, a page at a time.
pub(super) async fn find(
    context: &Context,
    request: FindMessagesRequest,
) -> Result<FindMessagesResponse, Fault> {
    let FindMessagesRequest { key, queue, page_size, page_token } = request;
    let (attribute, name) = match key {
        Some(Key::MessageId(name)) => (Attribute::MessageId, name),
        Some(Key::CorrelationId(name)) => (Attribute::CorrelationId, name),
        Some(Key::MessageType(name)) => (Attribute::MessageType, name),
        None => return Err(Fault::invalid("key", "none of its fields is set")),
    };
    if name.is_empty() {
        return Err(Fault::invalid("key", "it is empty"));
    }
    bounds::text("key", &name, 256)?;
    let size = listing::page_size(page_size)?;
    let number = attribute.number().to_string();
    let question = [number.as_str(), name.as_str(), queue.as_str()];
    let after = match page_token.as_str() {
        "" => Lsn(0),
        token => listing::parse_lsn(listing::from_token(&question, token)?)?,
    };
    let search = search(context)?;
    // Before the look: what it tells of is looked at then.
    let progress = search.progress();
    let places = places(search, attribute, name.clone(), after, LOOKED_AT_MAX).await?;
    let is_last = places.len() < LOOKED_AT_MAX;
    let (mut found, mut last, mut held) = (Vec::new(), None, listing::Held::default());
    for &place in &places {
        if found.len() == size {
            break;
        }
        if let Some(one) = look(context, attribute, &name, &queue, place).await? {
            if !held.takes(one.encoded_len() as u64) {
                break;
            }
            found.push(one);
        }
        last = Some(place);
    }
    let more = !is_last || last != places.last().copied();
    let token = |last: Lsn| listing::to_token(&question, &last.to_string());
    Ok(FindMessagesResponse {
        messages: found,
        next_page_token: last.filter(|_| more).map(token).unwrap_or_default(),
        indexed_sequence: sequence(progress.applied),
        complete: !progress.filling && !progress.full,
    })
}

/// The latest messages of a name, in order.
pub(super) async fn births(
    context: &Context,
    attribute: Attribute,
    name: &str,
    max: usize,
) -> Result<Vec<Lsn>, Fault> {
    let search = search(context)?;
    let named = name.to_owned();
    let looking =
        tokio::task::spawn_blocking(move || search.latest(attribute, &named, LOOKED_AT_MAX));
    let latest = looking.await.map_err(|_| Stopped)?.map_err(|_| Fault::SearchNotReady)?;
    let mut births = Vec::new();
    for place in latest.into_iter().rev() {
        if births.len() == max {
            break;
        }
        if let Some((found, _)) = found_there(context, attribute, name, place).await?
            && !births.contains(&found.birth)
        {
            births.push(found.birth);
        }
    }
    births.reverse();
    Ok(births)
}

fn search(context: &Context) -> Result<Search, Fault> {
    context.search.clone().ok_or(Fault::SearchOff)
}

async fn places(
    search: Search,
    attribute: Attribute,
    name: String,
    after: Lsn,
    max: usize,
) -> Result<Vec<Lsn>, Fault> {
    let looking = tokio::task::spawn_blocking(move || search.find(attribute, &name, after, max));
    looking.await.map_err(|_| Stopped)?.map_err(|_| Fault::SearchNotReady)
}

/// The message of a place, where it has this name and the log keeps what is there.
async fn found_there(
    context: &Context,
    attribute: Attribute,
    name: &str,
    place: Lsn,
) -> Result<Option<(Named, StoredRecord)>, Fault> {
    if !context.engine.log().liveness().is_kept(place) {
        return Ok(None);
    }
    let read = context.engine.read(vec![place]).await?.pop().expect("an answer for each");
    let Ok(record) = read else { return Ok(None) };
    let found = named(place, &record).filter(|found| found.names.get(attribute) == name);
    Ok(found.map(|found| (found, record)))
}

async fn look(
    context: &Context,
    attribute: Attribute,
    name: &str,
    queue: &str,
    place: Lsn,
) -> Result<Option<FoundMessage>, Fault> {
    let Some((found, record)) = found_there(context, attribute, name, place).await? else {
        return Ok(None);
    };
    let birth = found.birth;
    let is_there = |at: &str| queue.is_empty() || at == queue;
    if !found.is_done {
        let request = GetMessageRequest {
            queue: String::new(),
            message_id: format!("q.{birth}"),
            max_payload_bytes: Some(0),
        };
        return match messages::get(context, request).await {
            Ok(found) => Ok(found.message.and_then(|info| {
                let at = &info.message.as_ref()?.queue;
                is_there(at).then(|| FoundMessage { message: Some(info.clone()), end: None })
            })),
            Err(Fault::Refused(Refused::MessageNotFound(_))) => Ok(None),
            Err(fault) => Err(fault),
        };
    }
    // What is told of a turn is told once it is durable.
    context.engine.durable(place).await?;
    let Names { message_id, correlation_id, message_type } = found.names;
    let names = event::Names { message_id, message_type, correlation_id };
    let body = bytes::Bytes::from(record.body.parts().concat());
    let end = StoredOutcome::decode(body).ok().and_then(|mut outcome| outcome.events.pop());
    let end = end.filter(|end| is_there(&end.queue));
    Ok(end.map(|end| FoundMessage { message: None, end: Some(stored_event(end, birth, &names)) }))
}
