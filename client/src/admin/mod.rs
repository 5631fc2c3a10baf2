//! Administration: queues, a look at their messages, the broker.

mod change;
mod consumers;
mod filter;
mod events;
mod find;
mod messages;
mod operations;
mod pause;
mod purge;
mod queue;
mod trace;
mod watch;

use std::collections::HashMap;
use std::time::Duration;

use qbroker_proto::v1::{self, admin_service_client::AdminServiceClient};

use crate::connection::{Channel, Client, MESSAGE_BYTES_MAX, random_id};
use crate::error::Error;
use crate::time;
pub use change::MessageUpdate;
pub use consumers::{ConnectedConsumer, ConsumerQuery};
pub use events::{Event, EventKind, EventQuery, Events};
pub use filter::MessageFilter;
pub use find::{FindBy, FindQuery, FoundMessage, FoundPage};
pub use messages::{Attempt, ListedMessage, MessageQuery, MessageState};
pub use operations::{Operation, OperationKind, OperationOptions, OperationState};
pub use queue::{
    Limit, Overflow, Queue, QueuePolicy, QueueSpec, QueueState, QueueStats, RetryPolicy,
};
pub use trace::Trace;
pub use watch::{StatsRound, StatsWatch, WatchedQueue};

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Gets the next page; empty: this was the last one.
    pub next_page_token: String,
}

/// Which queues to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueQuery {
    /// Only queues with this in their name; empty: all.
    pub name_contains: String,
    /// Only queues in one of these states; empty: all.
    pub states: Vec<QueueState>,
    /// How many on a page, at most 1,000; 0: 50.
    pub page_size: u32,
    /// Of the page before; empty: the first page.
    pub page_token: String,
    /// Of each policy what was set, with the defaults left out.
    pub policy_as_set: bool,
    /// Which come first.
    pub order: QueueOrder,
}

/// Which queues of a list come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueOrder {
    /// By name.
    #[default]
    Name,
    /// Those with the most ready messages.
    MostReady,
    /// Those with the most messages in their dead-letter queues.
    MostDead,
}

impl QueueOrder {
    fn into_wire(self) -> String {
        let order_by = match self {
            Self::Name => "",
            Self::MostReady => "ready desc",
            Self::MostDead => "dead desc",
        };
        order_by.to_owned()
    }
}

/// What to change about a queue: what is set, and nothing else.
///
/// ```
/// use qbroker_client::{Limit, QueuePolicy, QueueUpdate};
///
/// let update = QueueUpdate::new("mails")
///     .policy(QueuePolicy { max_attempts: Some(Limit::AtMost(5)), ..QueuePolicy::default() })
///     .reset("policy.retention");
/// # drop(update);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an update does nothing until `update_queue`"]
pub struct QueueUpdate {
    queue: v1::Queue,
    paths: Vec<String>,
    create_missing: bool,
}

impl QueueUpdate {
    /// No change yet of the queue of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let queue = v1::Queue { name: name.into(), ..v1::Queue::default() };
        Self { queue, paths: Vec::new(), create_missing: false }
    }

    /// Replaces the description.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.queue.description = description.into();
        self.paths.push("description".to_owned());
        self
    }

    /// Replaces the labels.
    pub fn labels(mut self, labels: HashMap<String, String>) -> Self {
        self.queue.labels = labels;
        self.paths.push("labels".to_owned());
        self
    }

    /// Changes the fields of the policy that are set here. A second call replaces the first.
    pub fn policy(mut self, policy: QueuePolicy) -> Self {
        self.paths.retain(|path| !path.starts_with("policy."));
        self.paths.extend(policy.paths());
        self.queue.policy = Some(policy.into_wire());
        self
    }

    /// Replaces the whole policy: what is not set here returns to its default.
    pub fn whole_policy(mut self, policy: QueuePolicy) -> Self {
        self.paths.retain(|path| !path.starts_with("policy"));
        self.paths.push("policy".to_owned());
        self.queue.policy = Some(policy.into_wire());
        self
    }

    /// Returns a field to its default, `policy.max_attempts` say; after [`QueueUpdate::policy`].
    pub fn reset(mut self, path: impl Into<String>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Refuses the update where the queue has changed since it was read with this etag.
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.queue.etag = etag.into();
        self
    }

    /// Creates the queue where it is missing.
    pub fn create_missing(mut self) -> Self {
        self.create_missing = true;
        self
    }
}

/// What a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// The protocol's version that it speaks.
    pub protocol: u32,
    /// What a receipt means: `fsync`.
    pub durability: String,
    /// Features of the protocol that it has.
    pub features: Vec<String>,
    /// Its limits by name.
    pub limits: HashMap<String, i64>,
}

impl Client {
    /// Creates a queue.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::{QueueSpec, Reason};
    ///
    /// match client.create_queue(QueueSpec::new("mails")).await {
    ///     Err(error) if error.reason() == Some(&Reason::QueueExists) => println!("it was there"),
    ///     created => println!("created at {:?}", created?.create_time),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_EXISTS`, `INVALID_QUEUE_NAME`, `INVALID_ARGUMENT` and the
    /// like; otherwise it may or may not have been created.
    pub async fn create_queue(&self, spec: QueueSpec) -> Result<Queue, Error> {
        self.create(spec, false).await
    }

    /// Creates a queue where there is none; an equal one that is there is fine.
    ///
    /// # Errors
    ///
    /// As [`Client::create_queue`]; `QUEUE_EXISTS` where there is one that is not equal.
    pub async fn ensure_queue(&self, spec: QueueSpec) -> Result<Queue, Error> {
        self.create(spec, true).await
    }

    /// Returns one queue.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn get_queue(&self, name: &str) -> Result<Queue, Error> {
        let request = v1::GetQueueRequest { name: name.to_owned() };
        let call = |channel, request| async move { admin(channel).get_queue(request).await };
        queue(self.call(true, Duration::ZERO, request, call).await?.queue)
    }

    /// Returns a page of queues.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn list_queues(&self, query: QueueQuery) -> Result<Page<Queue>, Error> {
        let request = v1::ListQueuesRequest {
            page_size: query.page_size.try_into().unwrap_or(i32::MAX),
            page_token: query.page_token,
            name_contains: query.name_contains,
            states: query.states.into_iter().map(QueueState::into_wire).collect(),
            policy_as_set: query.policy_as_set,
            order_by: query.order.into_wire(),
        };
        let call = |channel, request| async move { admin(channel).list_queues(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Page {
            items: response.queues.into_iter().map(Queue::from).collect(),
            next_page_token: response.next_page_token,
        })
    }

    /// Changes a queue.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, `ETAG_MISMATCH`, `INVALID_ARGUMENT` and the like;
    /// otherwise it may or may not have been changed.
    pub async fn update_queue(&self, update: QueueUpdate) -> Result<Queue, Error> {
        // Done twice, the first time would have changed the etag.
        let repeatable = update.queue.etag.is_empty();
        let request = v1::UpdateQueueRequest {
            queue: Some(update.queue),
            update_mask: Some(prost_types::FieldMask { paths: update.paths }),
            allow_missing: update.create_missing,
        };
        let call = |channel, request| async move { admin(channel).update_queue(request).await };
        queue(self.call(repeatable, Duration::ZERO, request, call).await?.queue)
    }

    /// Deletes a queue; with `force` also one that holds messages.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND` or `QUEUE_NOT_EMPTY`; otherwise it may or may not
    /// have been deleted.
    pub async fn delete_queue(&self, name: &str, force: bool) -> Result<(), Error> {
        let request = v1::DeleteQueueRequest { name: name.to_owned(), force, allow_missing: false };
        let call = |channel, request| async move { admin(channel).delete_queue(request).await };
        self.call(false, Duration::ZERO, request, call).await?;
        Ok(())
    }

    /// Waits up to `wait` until a queue holds nothing ready, scheduled or leased; its figures, and
    /// whether it is so.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn wait_queue_empty(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<(bool, QueueStats), Error> {
        let request = v1::WaitQueueEmptyRequest {
            name: name.to_owned(),
            wait_timeout: Some(time::duration(wait)),
        };
        let call = |channel, request| async move { admin(channel).wait_queue_empty(request).await };
        let response = self.call(true, wait, request, call).await?;
        Ok((response.empty, response.stats.unwrap_or_default().into()))
    }

    /// Returns version, limits and features of the broker.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn server_info(&self) -> Result<ServerInfo, Error> {
        let request = v1::GetServerInfoRequest {};
        let call = |channel, request| async move { admin(channel).get_server_info(request).await };
        let info = self.call(true, Duration::ZERO, request, call).await?;
        Ok(ServerInfo {
            version: info.version,
            protocol: info.protocol.try_into().unwrap_or_default(),
            durability: info.durability,
            features: info.features,
            limits: info.limits,
        })
    }

    async fn create(&self, spec: QueueSpec, allow_existing: bool) -> Result<Queue, Error> {
        let request = v1::CreateQueueRequest {
            queue: Some(spec.into_wire()),
            // So that it can be repeated when its answer is lost.
            request_id: random_id(),
            allow_existing,
        };
        let call = |channel, request| async move { admin(channel).create_queue(request).await };
        queue(self.call(true, Duration::ZERO, request, call).await?.queue)
    }
}

fn admin(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn queue(queue: Option<v1::Queue>) -> Result<Queue, Error> {
    queue.map(Queue::from).ok_or_else(|| Error::Protocol("an answer without its queue".to_owned()))
}
