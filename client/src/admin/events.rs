//! What happens to messages, as it happens.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use qbroker_proto::v1::{self, MessageEventKind};

use super::admin;
use crate::connection::Client;
use crate::error::Error;
use crate::message::{DeadLetterReason, Failure, count};
use crate::time;

/// Which events to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Where to begin: a sequence from [`Events::next_sequence`], or of a message. 0: from now.
    pub from_sequence: u64,
    /// Only in these queues; empty: all.
    pub queues: Vec<String>,
    /// Only of the message of this id; empty: any.
    pub message_id: String,
    /// Only of messages with this correlation id; empty: any.
    pub correlation_id: String,
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Its place in the broker's log; one record of the log may tell of many messages.
    pub sequence: u64,
    /// When, by the broker's clock.
    pub time: Option<SystemTime>,
    /// What.
    pub kind: EventKind,
    /// In which queue, of what moved the one it left; empty where that is gone.
    pub queue: String,
    /// To which message; `q.` and its sequence where the log does not have its id any more.
    pub message_id: String,
    /// The message's sequence.
    pub message_sequence: u64,
    /// As published.
    pub message_type: String,
    /// As published.
    pub correlation_id: String,
    /// Which attempt began or ended; 0 where it was none, or the log does not say.
    pub attempt: u32,
    /// Which consumer had it, or has it now; empty for single calls.
    pub consumer_id: String,
    /// What failed.
    pub failure: Option<Failure>,
}

/// What happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// It was stored.
    Published,
    /// Its delay or backoff is over.
    Due,
    /// It was delivered.
    Leased,
    /// It is done.
    Acked,
    /// An attempt failed.
    Failed,
    /// It was handed back, or did not arrive.
    Released,
    /// Its lease ended without a settlement.
    LeaseLost,
    /// It was given up.
    DeadLettered {
        /// Where it went; empty: it was deleted.
        to: String,
        /// Why.
        reason: DeadLetterReason,
    },
    /// It was given up in place.
    Parked,
    /// Its time to live or its queue's retention ended, and it is gone.
    Expired,
    /// It went to another queue.
    Moved {
        /// Where to.
        to: String,
    },
    /// Its queue held more than it may, and it was deleted.
    Dropped,
    /// It was deleted or purged.
    Deleted,
    /// Its priority, its time or its content was changed.
    Updated,
    /// Something that this client does not know, of a newer broker.
    Unknown,
}

impl From<v1::MessageEvent> for Event {
    fn from(event: v1::MessageEvent) -> Self {
        Self {
            sequence: event.sequence.try_into().unwrap_or_default(),
            time: event.time.and_then(time::system_time),
            kind: kind(&event),
            queue: event.queue,
            message_id: event.message_id,
            message_sequence: event.message_sequence.try_into().unwrap_or_default(),
            message_type: event.message_type,
            correlation_id: event.correlation_id,
            attempt: count(event.attempt),
            consumer_id: event.consumer_id,
            failure: event.failure.map(Failure::from),
        }
    }
}

fn kind(event: &v1::MessageEvent) -> EventKind {
    let to = || event.destination_queue.clone();
    match event.kind() {
        MessageEventKind::Published => EventKind::Published,
        MessageEventKind::Due => EventKind::Due,
        MessageEventKind::Leased => EventKind::Leased,
        MessageEventKind::Acked => EventKind::Acked,
        MessageEventKind::Failed => EventKind::Failed,
        MessageEventKind::Released => EventKind::Released,
        MessageEventKind::LeaseLost => EventKind::LeaseLost,
        MessageEventKind::DeadLettered => {
            let reason = DeadLetterReason::from_wire(event.dead_letter_reason());
            EventKind::DeadLettered { to: to(), reason }
        }
        MessageEventKind::Parked => EventKind::Parked,
        MessageEventKind::Expired => EventKind::Expired,
        MessageEventKind::Moved => EventKind::Moved { to: to() },
        MessageEventKind::Dropped => EventKind::Dropped,
        MessageEventKind::Deleted => EventKind::Deleted,
        MessageEventKind::Updated => EventKind::Updated,
        MessageEventKind::Unspecified => EventKind::Unknown,
    }
}

/// Events as they happen, in the order of the broker's log; lives through broken connections.
#[derive(Debug)]
#[must_use = "nothing is heard until `next_batch`"]
pub struct Events {
    client: Client,
    request: v1::WatchEventsRequest,
    stream: tonic::Streaming<v1::WatchEventsResponse>,
    next_sequence: u64,
}

impl Events {
    /// Waits for the next events. An empty batch says that nothing happened, every few seconds.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `EVENTS_GONE` where the broker's log does not go back so far any more,
    /// because this was too slow or away for too long; or what kept the client from coming back.
    pub async fn next_batch(&mut self) -> Result<VecDeque<Event>, Error> {
        loop {
            let error = match self.stream.message().await {
                Ok(Some(response)) => {
                    self.next_sequence = response.next_sequence.try_into().unwrap_or_default();
                    self.request.from_sequence = response.next_sequence;
                    return Ok(response.events.into_iter().map(Event::from).collect());
                }
                Ok(None) => Error::Disconnected("the watch ended".to_owned()),
                Err(status) => self.client.met(status.into()),
            };
            if !error.is_retryable() {
                return Err(error);
            }
            self.stream = open(&self.client, self.request.clone()).await?;
        }
    }

    /// Everything before it was told: where another watch goes on. Events may come twice then, never
    /// not at all.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }
}

impl Client {
    /// Watches what happens to messages, from now or from an earlier place of the broker's log on.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::{EventKind, EventQuery};
    ///
    /// let query = EventQuery { queues: vec!["mails".to_owned()], ..EventQuery::default() };
    /// let mut events = client.watch_events(query).await?;
    /// loop {
    ///     for event in events.next_batch().await? {
    ///         if let EventKind::DeadLettered { reason, .. } = event.kind {
    ///             println!("{} was given up: {reason:?}", event.message_id);
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `EVENTS_GONE`, `INVALID_ARGUMENT` or `LIMIT_REACHED`, or what kept the
    /// client from asking.
    pub async fn watch_events(&self, query: EventQuery) -> Result<Events, Error> {
        let request = v1::WatchEventsRequest {
            from_sequence: query.from_sequence.try_into().unwrap_or(i64::MAX),
            queues: query.queues,
            message_id: query.message_id,
            correlation_id: query.correlation_id,
        };
        let stream = open(self, request.clone()).await?;
        let (client, next_sequence) = (self.clone(), query.from_sequence);
        let mut events = Events { client, request, stream, next_sequence };
        // The first answer is empty and says where it begins: what happens from here on is told.
        events.next_batch().await?;
        Ok(events)
    }
}

async fn open(
    client: &Client,
    request: v1::WatchEventsRequest,
) -> Result<tonic::Streaming<v1::WatchEventsResponse>, Error> {
    let call = |channel, request| async move { admin(channel).watch_events(request).await };
    client.call(true, Duration::ZERO, request, call).await
}
