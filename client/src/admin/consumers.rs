//! Consumers that are connected, as operators see them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use qbroker_proto::v1;

use super::{Page, admin};
use crate::connection::Client;
use crate::error::Error;
use crate::time;

/// Which consumers to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerQuery {
    /// Only consumers of this queue; empty: all.
    pub queue: String,
    /// How many on a page, at most 1,000; 0: 50.
    pub page_size: u32,
    /// Of the page before; empty: the first page.
    pub page_token: String,
}

/// A consumer's stream that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectedConsumer {
    /// Names it.
    pub consumer_id: String,
    /// The session that its leases belong to.
    pub session_id: String,
    /// Where it connects from.
    pub remote_address: String,
    /// The name of its token; empty where none was asked for.
    pub principal: String,
    /// What it consumes.
    pub queues: Vec<String>,
    /// Messages delivered and unsettled.
    pub outstanding_messages: u32,
    /// Bytes of them.
    pub outstanding_bytes: u64,
    /// How many messages may be delivered and unsettled at a time.
    pub window: u32,
    /// It takes nothing more.
    pub draining: bool,
    /// When its stream was opened.
    pub connect_time: Option<SystemTime>,
    /// The application's name for it.
    pub client_id: String,
    /// The host that it says it runs on.
    pub hostname: String,
    /// Its process there.
    pub pid: i32,
    /// Its client library, and that one's version.
    pub sdk: String,
    /// As given by the library.
    pub sdk_version: String,
    /// Anything else that it says of itself.
    pub labels: HashMap<String, String>,
}

impl From<v1::Consumer> for ConnectedConsumer {
    fn from(consumer: v1::Consumer) -> Self {
        let client = consumer.client.unwrap_or_default();
        Self {
            consumer_id: consumer.consumer_id,
            session_id: consumer.session_id,
            remote_address: consumer.remote_address,
            principal: consumer.principal,
            queues: consumer.queues,
            outstanding_messages: consumer.outstanding_messages.try_into().unwrap_or_default(),
            outstanding_bytes: consumer.outstanding_bytes.try_into().unwrap_or_default(),
            window: consumer.max_outstanding_messages.try_into().unwrap_or_default(),
            draining: consumer.draining,
            connect_time: consumer.connect_time.and_then(time::system_time),
            client_id: client.client_id,
            hostname: client.hostname,
            pid: client.pid,
            sdk: client.sdk,
            sdk_version: client.sdk_version,
            labels: client.labels,
        }
    }
}

impl Client {
    /// Returns a page of the consumers that are connected, the oldest first.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn list_consumers(
        &self,
        query: ConsumerQuery,
    ) -> Result<Page<ConnectedConsumer>, Error> {
        let request = v1::ListConsumersRequest {
            page_size: query.page_size.try_into().unwrap_or(i32::MAX),
            page_token: query.page_token,
            queue: query.queue,
        };
        let call = |channel, request| async move { admin(channel).list_consumers(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Page {
            items: response.consumers.into_iter().map(ConnectedConsumer::from).collect(),
            next_page_token: response.next_page_token,
        })
    }

    /// Ends a consumer's stream; it fails with `CONSUMER_DISCONNECTED`. What it holds waits for its
    /// session's grace. With `end_session` all that the session holds is lost at once, which counts as
    /// crashes, and its other consumers end, too.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::ConsumerQuery;
    ///
    /// let query = ConsumerQuery { queue: "mails".to_owned(), ..ConsumerQuery::default() };
    /// for consumer in client.list_consumers(query).await?.items {
    ///     client.disconnect_consumer(&consumer.consumer_id, false).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `CONSUMER_NOT_FOUND`; otherwise it may or may not have ended.
    pub async fn disconnect_consumer(
        &self,
        consumer_id: &str,
        end_session: bool,
    ) -> Result<(), Error> {
        let consumer_id = consumer_id.to_owned();
        let request = v1::DisconnectConsumerRequest { consumer_id, end_session };
        let call =
            |channel, request| async move { admin(channel).disconnect_consumer(request).await };
        // Not repeated: the second time it would not be found.
        self.call(false, Duration::ZERO, request, call).await?;
        Ok(())
    }
}
