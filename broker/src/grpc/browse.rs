//! Looking into a queue without consuming from it.

use std::sync::Arc;

use qbroker_proto::v1::*;
use qbroker_storage::Lsn;

use super::convert::time::to_timestamp;
use super::convert::{delivery, filter, outgoing};
use super::fault::Fault;
use super::listing;
use super::records::{self, Parts};
use crate::engine::{Core, Engine, Scan};
use crate::queue::filter::{Filter, Needs};
use crate::queue::ids::{ConsumerId, QueueId};
use crate::queue::index::{Cursor, Index as _, Lookup, Message as Held, State, StateSet};
use crate::queue::time::Now;

/// Payload bytes shown of a listed message where the client does not say.
const SHOWN_BYTES: i32 = 4_096;
const SHOWN_BYTES_MAX: i32 = 1 << 20;
/// Messages that are looked at for a page of what a filter means; then it ends as it is.
const PAGE_EXAMINED: u64 = 10_000;
/// Bytes that are read to find out what a filter means; then the page ends as it is.
const PAGE_READ_BYTES: u64 = 32 << 20;

/// What the core knows of a message, and who holds it until when.
pub(super) struct Listed {
    birth: Lsn,
    pub(super) held: Held,
    consumer: Option<ConsumerId>,
    lease_expire_ms: Option<u64>,
}

impl Listed {
    pub(super) fn new(core: &Core, (birth, held): (Lsn, Held), now: Now) -> Self {
        let lease = core.lease(birth);
        let left_ms = |deadline: u64| deadline.saturating_sub(now.boot_ms);
        let deadline = lease.and_then(|lease| lease.deadline);
        let lease_expire_ms =
            deadline.map(|deadline| now.wall_ms.saturating_add(left_ms(deadline)));
        Self { birth, held, consumer: lease.map(|lease| lease.consumer), lease_expire_ms }
    }
}

/// A page of a queue's messages, in their order.
pub(super) async fn list_messages(
    engine: &Arc<Engine>,
    request: ListMessagesRequest,
) -> Result<ListMessagesResponse, Fault> {
    let size = listing::page_size(request.page_size)?;
    let encoded = request.filter.as_ref().map(prost::Message::encode_to_vec);
    let filter = filter::optional(request.filter)?;
    let shown = match request.max_payload_bytes.unwrap_or(SHOWN_BYTES) {
        shown @ 0..=SHOWN_BYTES_MAX => usize::try_from(shown).unwrap_or_default(),
        _ => return Err(Fault::invalid("max_payload_bytes", "it is not within 0 to 1 MiB")),
    };
    let asked = encoded.map(|bytes| format!("{bytes:02x?}")).unwrap_or_default();
    let question = [request.queue.as_str(), asked.as_str()];
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(listing::parse_cursor(listing::from_token(&question, token)?)?),
    };
    let (listed, next) = match filter.terms.is_empty() {
        true => all(engine, &request.queue, after, size).await?,
        false => meant(engine, &request.queue, &filter, after, size).await?,
    };
    let token = |cursor| listing::to_token(&question, &listing::cursor_text(cursor));
    let next_page_token = next.map(token).unwrap_or_default();
    let messages = read(engine, &request.queue, &listed, shown).await?;
    Ok(ListMessagesResponse { messages, next_page_token })
}

/// A page, and where the next one goes on.
type Page = (Vec<Listed>, Option<Cursor>);

/// A page of all messages.
async fn all(
    engine: &Arc<Engine>,
    queue: &str,
    after: Option<Cursor>,
    size: usize,
) -> Result<Page, Fault> {
    let now = engine.clock().now();
    let found = |core: &Core| match core.queue(queue) {
        Ok(queue) => page(core, queue.id(), after, size + 1, now).map(Ok),
        Err(refused) => Ok(Err(refused)),
    };
    let mut listed = engine.find(found).await??;
    let mut held = listing::Held::default();
    let fit = |(_, listed): &(_, Listed)| held.takes(u64::from(listed.held.size));
    let count = listed.iter().take(size).map(fit).take_while(|fits| *fits).count();
    let more = count < listed.len();
    listed.truncate(count);
    let next = listed.last().filter(|_| more).map(|(cursor, _)| *cursor);
    Ok((listed.into_iter().map(|(_, listed)| listed).collect(), next))
}

/// A page of what a filter means: it ends early, perhaps with nothing on it, where too much had to be
/// looked at.
async fn meant(
    engine: &Arc<Engine>,
    queue: &str,
    filter: &Filter,
    mut after: Option<Cursor>,
    size: usize,
) -> Result<Page, Fault> {
    let queue = engine.ask(|core| core.queue(queue).map(|queue| queue.id())).await??;
    let (mut found, mut held) = (Vec::new(), listing::Held::default());
    let (mut examined, mut bytes) = (0, 0);
    let next = 'page: loop {
        let (needs, wanted) = (Needs::default(), size - found.len());
        let scanned = engine.scan(Scan { queue, filter, after, needs, wanted }).await?;
        for candidate in scanned.found.iter().map(|found| found.candidate) {
            if !held.takes(u64::from(candidate.message.size)) {
                break 'page after;
            }
            found.push(candidate.birth);
            after = Some(candidate.cursor);
        }
        examined += scanned.examined;
        bytes += scanned.bytes;
        after = scanned.after;
        match scanned.is_end {
            true => break None,
            false if PAGE_EXAMINED <= examined || PAGE_READ_BYTES <= bytes => break after,
            false if size <= found.len() => break after,
            false => {}
        }
    };
    let now = engine.clock().now();
    let listed = engine.find(|core| {
        let listed = found.iter().map(|&birth| {
            let held = core.index().message(birth)?.filter(|held| held.queue == queue);
            Ok(held.map(|held| Listed::new(core, (birth, held), now)))
        });
        // What has changed its state since is shown as it is now.
        listed.filter_map(Result::transpose).collect::<Lookup<Vec<Listed>>>()
    });
    Ok((listed.await?, next))
}

/// Reads what is listed; what was finished meanwhile is left out, what cannot be read says so.
pub(super) async fn read(
    engine: &Arc<Engine>,
    queue: &str,
    listed: &[Listed],
    shown: usize,
) -> Result<Vec<MessageInfo>, Fault> {
    let part = |listed: &Listed| Parts {
        birth: listed.birth,
        content: listed.held.content(listed.birth),
        last_failure: listed.held.last_failure,
        dead_letter: listed.held.dead_letter,
    };
    let parts: Vec<Parts> = listed.iter().map(part).collect();
    let mut messages = Vec::with_capacity(listed.len());
    for (listed, stored) in listed.iter().zip(records::read(engine, &parts).await?) {
        let is_there = || engine.look(|core| core.index().message(listed.birth)).1;
        // A patch that came meanwhile took the place of what was read.
        let is_as_listed = || match is_there() {
            Ok(found) => found.is_some_and(|found| found.patched == listed.held.patched),
            Err(_) => true,
        };
        let told = |stored| delivery::message(queue, listed.held.priority, &stored);
        match stored.and_then(told) {
            Ok(message) => messages.push(message_info(listed, message, shown)),
            Err(fault) if is_as_listed() => {
                let message = unreadable(queue, listed.birth);
                let error = Some(fault.to_item());
                messages.push(MessageInfo { error, ..message_info(listed, message, shown) });
            }
            Err(_) => {}
        }
    }
    Ok(messages)
}

fn page(
    core: &Core,
    id: QueueId,
    after: Option<Cursor>,
    max: usize,
    now: Now,
) -> Lookup<Vec<(Cursor, Listed)>> {
    let mut cursors = Vec::new();
    core.index().list(id, StateSet::ALL, after, max, &mut cursors)?;
    let mut listed = Vec::with_capacity(cursors.len());
    for cursor in cursors {
        let birth = cursor.birth;
        if let Some(held) = core.index().message(birth)? {
            listed.push((cursor, Listed::new(core, (birth, held), now)));
        }
    }
    Ok(listed)
}

/// What is known of a message without its records.
fn unreadable(queue: &str, birth: Lsn) -> Message {
    let (queue, sequence) = (queue.to_owned(), outgoing::sequence(birth));
    Message { queue, sequence, ..Message::default() }
}

fn message_info(listed: &Listed, mut message: Message, shown: usize) -> MessageInfo {
    let Listed { birth, held, consumer, lease_expire_ms } = listed;
    let state = match held.state {
        State::Ready => MessageState::Ready,
        State::Scheduled(_) => MessageState::Scheduled,
        State::Leased => MessageState::Leased,
        State::Parked => MessageState::Parked,
        State::Behind => MessageState::Behind,
    };
    if let State::Scheduled(due) = held.state {
        message.deliver_time = Some(to_timestamp(due.wall_ms));
    }
    let payload_truncated = shown < message.payload.len();
    message.payload.truncate(shown);
    debug_assert_eq!(message.sequence, outgoing::sequence(*birth));
    let consumer = consumer.filter(|consumer| *consumer != ConsumerId::NONE);
    MessageInfo {
        message: Some(message),
        state: state.into(),
        attempt: held.attempt().cast_signed(),
        lease_expire_time: lease_expire_ms.map(to_timestamp),
        consumer_id: consumer.map(|consumer| consumer.to_string()).unwrap_or_default(),
        payload_truncated,
        ..MessageInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::stage::Stage;

    #[tokio::test]
    async fn a_mebibyte_of_each_payload_is_shown_and_not_one_byte_more() {
        let mut stage = Stage::set();
        stage.publish("q");
        stage.write();
        let shown = async |bytes: i32| {
            let (queue, max_payload_bytes) = ("q".to_owned(), Some(bytes));
            let request = ListMessagesRequest { queue, max_payload_bytes, ..Default::default() };
            list_messages(&stage.context.engine, request).await
        };
        for bytes in [0, 1 << 20] {
            assert_eq!(shown(bytes).await.unwrap().messages.len(), 1, "{bytes}");
        }
        for bytes in [-1, (1 << 20) + 1] {
            let refused = shown(bytes).await.unwrap_err();
            let is_it = matches!(refused, Fault::Invalid { field: "max_payload_bytes", .. });
            assert!(is_it, "{bytes}: {refused}");
        }
    }
}
