//! Messages by a name, wherever they are.

use std::time::Duration;

use qbroker_proto::v1::{self, find_messages_request::Key};

use super::{Event, ListedMessage, admin};
use crate::connection::Client;
use crate::error::Error;

/// By what messages are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindBy {
    /// The id that the publisher chose.
    MessageId(String),
    /// The application's own id.
    CorrelationId(String),
    /// What kind of work it is.
    MessageType(String),
}

/// Which messages to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindQuery {
    /// Their name.
    pub by: FindBy,
    /// Only those that are, or ended, in this queue; empty: any.
    pub queue: String,
    /// How many on a page, at most 1,000; 0: 50.
    pub page_size: u32,
    /// Of the page before; empty: the first page.
    pub page_token: String,
}

impl FindQuery {
    /// All messages of this name.
    #[must_use]
    pub fn new(by: FindBy) -> Self {
        Self { by, queue: String::new(), page_size: 0, page_token: String::new() }
    }
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there are few, and most are there")]
pub enum FoundMessage {
    /// It is there; without its payload.
    There(ListedMessage),
    /// It is done, and ended so.
    Done(Event),
}

/// A page of messages that were found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FoundPage {
    /// What is on it; it may be less than was asked for.
    pub items: Vec<FoundMessage>,
    /// Gets the next page; empty: this was the last one.
    pub next_page_token: String,
    /// The broker's index knows what the log tells up to here.
    pub indexed_sequence: u64,
    /// Nothing is missing up to there.
    pub complete: bool,
}

impl Client {
    /// Finds dead letters, messages that wait for their time, and those that are done and have an
    /// outcome, by a name.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SEARCH_NOT_READY` or `INVALID_ARGUMENT`, or what kept the client from
    /// asking.
    pub async fn find_messages(&self, query: FindQuery) -> Result<FoundPage, Error> {
        let key = match query.by {
            FindBy::MessageId(name) => Key::MessageId(name),
            FindBy::CorrelationId(name) => Key::CorrelationId(name),
            FindBy::MessageType(name) => Key::MessageType(name),
        };
        let request = v1::FindMessagesRequest {
            key: Some(key),
            queue: query.queue,
            page_size: query.page_size.try_into().unwrap_or(i32::MAX),
            page_token: query.page_token,
        };
        let call = |channel, request| async move { admin(channel).find_messages(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        let found = |found: v1::FoundMessage| match (found.message, found.end) {
            (Some(message), _) => Some(FoundMessage::There(message.into())),
            (None, end) => end.map(|end| FoundMessage::Done(end.into())),
        };
        Ok(FoundPage {
            items: response.messages.into_iter().filter_map(found).collect(),
            next_page_token: response.next_page_token,
            indexed_sequence: response.indexed_sequence.try_into().unwrap_or_default(),
            complete: response.complete,
        })
    }
}
