//! What happened to one message, or to those of a correlation id.

use std::time::Duration;

use qbroker_proto::v1::{self, trace_message_request::Key};

use super::{Event, ListedMessage, admin};
use crate::connection::Client;
use crate::error::Error;

/// A message's life, or those of several, as far as the broker knows it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The message, where it is still there.
    pub message: Option<ListedMessage>,
}

impl Client {
    /// Tells what happened to a message, named as for [`Client::update_messages`]: also to one that is
    /// done, where its queue keeps outcomes
    /// ([`QueuePolicy::outcome_retention`](crate::QueuePolicy::outcome_retention)).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `MESSAGE_NOT_FOUND`, or what kept the client from asking.
    pub async fn trace_message(&self, queue: &str, id: &str) -> Result<Trace, Error> {
        self.trace(queue, Key::MessageId(id.to_owned())).await
    }

    /// Tells what happened to the messages of a correlation id: to the ten latest of those that
    /// [`Client::find_messages`] finds. [`Trace::message`] is the latest of them that is still there.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `MESSAGE_NOT_FOUND`, or as for [`Client::find_messages`].
    pub async fn trace_correlated(
        &self,
        queue: &str,
        correlation_id: &str,
    ) -> Result<Trace, Error> {
        self.trace(queue, Key::CorrelationId(correlation_id.to_owned())).await
    }

    async fn trace(&self, queue: &str, key: Key) -> Result<Trace, Error> {
        let request = v1::TraceMessageRequest { key: Some(key), queue: queue.to_owned() };
        let call = |channel, request| async move { admin(channel).trace_message(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Trace {
            events: response.events.into_iter().map(Event::from).collect(),
            message: response.message.map(ListedMessage::from),
        })
    }
}
