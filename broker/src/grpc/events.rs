//! What happens to messages, told to who watches: straight from the log, in its order.
//!
//! A watch is a place in the log and nothing else. It reads on only when its client has taken what was
//! read before, so it holds nobody back and needs the same memory however far behind it is.

mod known;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use qbroker_proto::v1::{WatchEventsRequest, WatchEventsResponse};
use qbroker_storage::{Bound, Lsn};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::Context;
use super::convert::bounds;
use super::convert::event;
use super::convert::outgoing::{message_id, sequence};
use super::fault::Fault;
use crate::engine::Engine;
use crate::queue::event::{Event, EventKind, events};
use crate::queue::policy;
use crate::queue::refused::Refused;
use known::Known;

/// Watches at a time: each may read the log from the disk.
pub(super) const WATCHERS_MAX: usize = 100;
/// Queues that one may name.
const QUEUES_MAX: usize = 1_000;
/// What is read of the log at a time.
const STRETCH: Bound = Bound { records: 1_000, bytes: 1 << 20 };
/// Events after which a response is sent; those of one record, at most 4,096, stay together.
const EVENTS_AT_ONCE: usize = 128;
/// Bytes of failures after which a response is sent.
const FAILURE_BYTES_AT_ONCE: usize = 256 << 10;
/// How often a watch says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// Begins to watch.
pub(super) async fn watch(
    context: &Context,
    request: WatchEventsRequest,
) -> Result<impl Stream<Item = Result<WatchEventsResponse, Status>> + use<>, Fault> {
    context.check_running()?;
    let wanted = Wanted::new(&request)?;
    let permit = context.watchers.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refused::Limit { what: "watchers", max: WATCHERS_MAX })?;
    let engine = context.engine.clone();
    let next = engine.log().durable_lsn().next();
    let from = match u64::try_from(request.from_sequence) {
        Ok(0) => next,
        Ok(from) if from <= next.0 => Lsn(from),
        Ok(_) => return Err(Fault::invalid("from_sequence", "the log has not come so far")),
        Err(_) => return Err(Fault::invalid("from_sequence", "it must not be negative")),
    };
    // Whoever asks for what is gone learns it from the call itself.
    engine.follow(from, STRETCH).await??;
    let watch = Watch {
        context: context.clone(),
        engine,
        wanted,
        known: Known::default(),
        next: from,
        heads: Vec::new(),
        at: 0,
        after: from,
        told: None,
        _permit: permit,
    };
    Ok(stream::try_unfold(watch, |mut watch| async move {
        match watch.tell().await {
            Ok(response) => Ok(Some((response, watch))),
            Err(fault) => Err(fault.to_status()),
        }
    }))
}

/// Which events are told.
#[derive(Debug)]
struct Wanted {
    queues: BTreeSet<String>,
    message_id: String,
    correlation_id: String,
}

impl Wanted {
    fn new(request: &WatchEventsRequest) -> Result<Self, Fault> {
        let queues = &request.queues;
        if QUEUES_MAX < queues.len() {
            let (size, limit) = (queues.len(), QUEUES_MAX);
            return Err(Fault::BatchTooLarge { size, limit, unit: "queues" });
        }
        queues.iter().try_for_each(|name| policy::check_name(name))?;
        bounds::text("message_id", &request.message_id, 256)?;
        bounds::text("correlation_id", &request.correlation_id, 256)?;
        Ok(Self {
            queues: queues.iter().cloned().collect(),
            message_id: request.message_id.clone(),
            correlation_id: request.correlation_id.clone(),
        })
    }

    fn queue(&self, name: &str) -> bool {
        self.queues.is_empty() || self.queues.contains(name)
    }

    fn message(&self, event: &Event, names: &event::Names) -> bool {
        let id = || message_id(&names.message_id, event.birth);
        let by_birth = || self.message_id == message_id("", event.birth);
        (self.message_id.is_empty() || self.message_id == id() || by_birth())
            && (self.correlation_id.is_empty() || self.correlation_id == names.correlation_id)
    }
}

/// A watch under way.
struct Watch {
    context: Context,
    engine: Arc<Engine>,
    wanted: Wanted,
    known: Known,
    /// The first record that was not told of.
    next: Lsn,
    /// What was read of the log, and how much of it was told of.
    heads: Vec<(Lsn, Bytes)>,
    at: usize,
    /// Where the log goes on after `heads`.
    after: Lsn,
    /// When something was told last.
    told: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next response. What happens later waits for it to be taken.
    async fn tell(&mut self) -> Result<WatchEventsResponse, Fault> {
        let mut response = WatchEventsResponse::default();
        let mut failure_bytes = 0;
        while self.told.is_some() {
            if self.at == self.heads.len() {
                // What there is goes out before anybody waits.
                if !response.events.is_empty() || self.is_word_due() {
                    break;
                }
                self.read_on().await?;
                continue;
            }
            self.tell_record(&mut response, &mut failure_bytes).await?;
            let is_full = EVENTS_AT_ONCE <= response.events.len();
            if is_full || FAILURE_BYTES_AT_ONCE <= failure_bytes || self.is_word_due() {
                break;
            }
        }
        self.told = Some(Instant::now());
        response.next_sequence = sequence(self.next);
        Ok(response)
    }

    /// Whether somebody whose filter matches nothing should learn how far the watch is.
    fn is_word_due(&self) -> bool {
        self.told.is_none_or(|told| TELL_EVERY <= told.elapsed())
    }

    /// Reads on in the log, once there is something; gives up after a while to say that there is not.
    async fn read_on(&mut self) -> Result<(), Fault> {
        self.next = self.after;
        let word = self.told.map_or(TELL_EVERY, |told| TELL_EVERY.saturating_sub(told.elapsed()));
        tokio::select! {
            durable = self.engine.durable(self.next) => durable?,
            () = tokio::time::sleep(word) => return Ok(()),
            _ = self.context.stopping() => return Err(Fault::ShuttingDown),
        }
        let stretch = self.engine.follow(self.next, STRETCH).await??;
        (self.heads, self.at, self.after) = (stretch.heads, 0, stretch.next);
        Ok(())
    }

    async fn tell_record(
        &mut self,
        response: &mut WatchEventsResponse,
        failure_bytes: &mut usize,
    ) -> Result<(), Fault> {
        let (lsn, head) = &self.heads[self.at];
        let (lsn, told) = (*lsn, events(*lsn, head));
        for event in told.map_err(|error| Fault::Damaged(error.to_string()))? {
            let queue = self.known.queue(&self.engine, event.queue);
            if !self.wanted.queue(&queue) {
                continue;
            }
            let rest = &self.heads[self.at..];
            let names = self.known.message(&self.engine, &event, rest).await?;
            if !self.wanted.message(&event, &names) {
                continue;
            }
            let destination = match event.kind {
                EventKind::DeadLettered { to, .. } | EventKind::Moved { to } => {
                    self.known.queue(&self.engine, to)
                }
                _ => String::new(),
            };
            let failure = match event.has_failure {
                true => self.engine.read(vec![lsn]).await?.pop().and_then(Result::ok),
                false => None,
            };
            let failure = failure.as_ref().and_then(event::failure);
            *failure_bytes += failure.as_ref().map_or(0, prost::Message::encoded_len);
            response.events.push(event::event(&event, &names, queue, destination, failure));
        }
        self.at += 1;
        self.next = lsn.next();
        Ok(())
    }
}
