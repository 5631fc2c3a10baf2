//! A look at the messages of a queue, without leasing them.

use std::time::{Duration, SystemTime};

use qbroker_proto::v1;

use super::{MessageFilter, Page, admin};
use crate::connection::Client;
use crate::error::{Error, Refusal};
use crate::message::{Failure, Message, count};
use crate::time;

/// Which messages to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MessageQuery {
    /// How many on a page, at most 1,000; 0: 50.
    pub page_size: u32,
    /// Of the page before; empty: the first page.
    pub page_token: String,
    /// How many bytes of each payload to show. `None`: 4,096.
    pub max_payload_bytes: Option<u32>,
    /// Which messages. `None`: every message. With terms a page may hold fewer than asked for, or none,
    /// and still name a next one.
    pub filter: Option<MessageFilter>,
}

/// A message where it lies.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ListedMessage {
    /// The message; its payload may be cut.
    pub message: Message,
    /// The payload is longer than shown.
    pub payload_truncated: bool,
    /// Where it is in its life.
    pub state: MessageState,
    /// Of the running attempt where it is leased, else of the next.
    pub attempt: u32,
    /// When its lease ends unless it is renewed.
    pub lease_expire_time: Option<SystemTime>,
    /// Which consumer has it; empty where none does.
    pub consumer_id: String,
    /// Why it cannot be read, where the broker's disk has damaged it: nothing but the queue and the
    /// sequence of `message` is known then.
    pub error: Option<Refusal>,
    /// What its attempts told, the oldest first; only of [`Client::get_message`].
    pub attempts: Vec<Attempt>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// From 1, in the queue it was in then.
    pub attempt: u32,
    /// When it was leased for it, by the broker's clock; `None` where an older broker wrote it.
    pub start_time: Option<SystemTime>,
    /// When it was settled, by the broker's clock.
    pub end_time: Option<SystemTime>,
    /// How it failed.
    pub failure: Failure,
    /// Which consumer had it; empty for a single call.
    pub consumer_id: String,
}

impl From<v1::AttemptInfo> for Attempt {
    fn from(info: v1::AttemptInfo) -> Self {
        Self {
            attempt: count(info.attempt),
            start_time: info.start_time.and_then(time::system_time),
            end_time: info.end_time.and_then(time::system_time),
            failure: info.failure.unwrap_or_default().into(),
            consumer_id: info.consumer_id,
        }
    }
}

impl From<v1::MessageInfo> for ListedMessage {
    fn from(info: v1::MessageInfo) -> Self {
        Self {
            state: MessageState::from_wire(info.state()),
            message: info.message.unwrap_or_default().into(),
            payload_truncated: info.payload_truncated,
            attempt: count(info.attempt),
            lease_expire_time: info.lease_expire_time.and_then(time::system_time),
            consumer_id: info.consumer_id,
            error: info.error.map(Refusal::from),
            attempts: info.attempts.into_iter().map(Attempt::from).collect(),
        }
    }
}

/// Where a stored message is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageState {
    /// Waiting for a consumer.
    Ready,
    /// Waiting for its time.
    Scheduled,
    /// With a consumer.
    Leased,
    /// Given up in place; not delivered any more.
    Parked,
    /// Waiting for another one of its ordering key.
    Behind,
    /// A state that this client does not know, of a newer broker.
    Unknown,
}

impl MessageState {
    pub(super) fn into_wire(self) -> v1::MessageState {
        match self {
            Self::Ready => v1::MessageState::Ready,
            Self::Scheduled => v1::MessageState::Scheduled,
            Self::Leased => v1::MessageState::Leased,
            Self::Parked => v1::MessageState::Parked,
            Self::Behind => v1::MessageState::Behind,
            Self::Unknown => v1::MessageState::Unspecified,
        }
    }

    fn from_wire(state: v1::MessageState) -> Self {
        match state {
            v1::MessageState::Ready => Self::Ready,
            v1::MessageState::Scheduled => Self::Scheduled,
            v1::MessageState::Leased => Self::Leased,
            v1::MessageState::Parked => Self::Parked,
            v1::MessageState::Behind => Self::Behind,
            v1::MessageState::Unspecified => Self::Unknown,
        }
    }
}

impl Client {
    /// Returns one message, named as for [`Client::update_messages`], with its whole payload: where it
    /// is in its life, who has it, and what its attempts told.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `MESSAGE_NOT_FOUND`, or what kept the client from asking.
    pub async fn get_message(&self, queue: &str, id: &str) -> Result<ListedMessage, Error> {
        let (queue, message_id) = (queue.to_owned(), id.to_owned());
        let request = v1::GetMessageRequest { queue, message_id, max_payload_bytes: None };
        let call = |channel, request| async move { admin(channel).get_message(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        let info = response.message.map(ListedMessage::from);
        info.ok_or_else(|| Error::Protocol("an answer without its message".to_owned()))
    }

    /// Returns a page of a queue's messages without leasing them: ready ones as they would be
    /// delivered, then scheduled, leased and parked ones.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn list_messages(
        &self,
        queue: &str,
        query: MessageQuery,
    ) -> Result<Page<ListedMessage>, Error> {
        let request = v1::ListMessagesRequest {
            queue: queue.to_owned(),
            page_size: query.page_size.try_into().unwrap_or(i32::MAX),
            page_token: query.page_token,
            filter: query.filter.map(MessageFilter::into_wire),
            max_payload_bytes: query
                .max_payload_bytes
                .map(|bytes| bytes.try_into().unwrap_or(i32::MAX)),
        };
        let call = |channel, request| async move { admin(channel).list_messages(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Page {
            items: response.messages.into_iter().map(ListedMessage::from).collect(),
            next_page_token: response.next_page_token,
        })
    }
}
