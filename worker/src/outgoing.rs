//! A job on its way to the broker.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use qbroker_client::{Limit, OutgoingMessage, Receipt};

use crate::actor::{Actor, ActorOptions};
use crate::broker::Broker;
use crate::encoding::Encoding;
use crate::failure::BoxError;
use crate::overrides;
use crate::trace::TraceContext;

/// A job that is not sent yet: `send_welcome::with(123, "user@example.com")`.
///
/// ```no_run
/// use std::time::Duration;
/// use qbroker_worker::{Broker, SendError, actor};
///
/// #[actor(queue = "mail")]
/// async fn remind(user_id: u64) {
///     # drop(user_id);
/// }
///
/// # async fn example(broker: Broker) -> Result<(), SendError> {
/// remind::with(7).delay(Duration::from_mins(30)).priority(5).send(&broker).await?;
/// # Ok(()) }
/// ```
#[must_use = "a job does nothing until it is sent"]
pub struct OutgoingJob {
    pub(crate) message: OutgoingMessage,
    pub(crate) trace: Option<TraceContext>,
    /// Why there is no payload.
    pub(crate) error: Option<BoxError>,
    actor: &'static str,
    queue: Cow<'static, str>,
}

impl OutgoingJob {
    /// A job of this actor. `#[actor]` makes a `with` that takes the arguments one by one.
    pub fn new<A: Actor>(actor: &A, arguments: &A::Args) -> Self {
        let options = actor.options();
        let (payload, error) = match A::Encoding::encode(arguments) {
            Ok(payload) => (payload, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let message = OutgoingMessage::new(payload)
            .queue(&*options.queue)
            .message_type(A::NAME)
            .content_type(A::Encoding::CONTENT_TYPE)
            .max_attempts(attempts(options.max_retries));
        let ActorOptions { queue, priority, max_age, .. } = options;
        let job = Self { message, trace: None, error, actor: A::NAME, queue };
        let job = if priority == 0 { job } else { job.priority(priority) };
        match max_age {
            Some(age) => job.max_age(age),
            None => job,
        }
    }

    /// Its actor's name.
    #[must_use]
    pub fn actor(&self) -> &'static str {
        self.actor
    }

    /// The queue it is for.
    #[must_use]
    pub fn queue_name(&self) -> &str {
        &self.queue
    }

    /// Another queue than its actor's.
    pub fn queue(mut self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.queue = queue.into();
        let queue = self.queue.clone();
        self.change(|message| message.queue(queue))
    }

    /// Done no earlier than this long after the broker has it. There is no horizon, and no memory
    /// that a waiting job would cost.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|message| message.delay(delay))
    }

    /// Done no earlier than at this time, by the broker's clock.
    pub fn at(self, time: SystemTime) -> Self {
        self.change(|message| message.deliver_time(time))
    }

    /// How urgent it is, 0 to 9, instead of its actor's priority: the larger first.
    pub fn priority(self, priority: u8) -> Self {
        self.change(|message| message.priority(priority))
    }

    /// How long it makes sense, instead of its actor's `max_age`.
    pub fn max_age(self, age: Duration) -> Self {
        // To the broker, none at all means for ever.
        self.change(|message| message.ttl(age.max(Duration::from_millis(1))))
    }

    /// How often it is tried again when it fails, instead of its actor's `max_retries`; `None`: without
    /// end.
    pub fn max_retries(self, retries: impl Into<Option<u32>>) -> Self {
        let attempts = attempts(retries.into());
        self.change(|message| message.max_attempts(attempts))
    }

    /// How long an attempt may take, instead of its actor's `time_limit`.
    pub fn time_limit(self, limit: Duration) -> Self {
        self.header(overrides::TIME_LIMIT_MS, millis(limit))
    }

    /// The wait before the first retry, instead of its actor's `min_backoff`.
    pub fn min_backoff(self, backoff: Duration) -> Self {
        self.header(overrides::MIN_BACKOFF_MS, millis(backoff))
    }

    /// The longest wait before a retry, instead of its actor's `max_backoff`.
    pub fn max_backoff(self, backoff: Duration) -> Self {
        self.header(overrides::MAX_BACKOFF_MS, millis(backoff))
    }

    /// An id of your own, 1-64 characters of `[A-Za-z0-9_-]`: inside the queue's dedup window (5
    /// minutes unless it says otherwise) a second job of this id is not stored.
    pub fn message_id(self, id: impl Into<String>) -> Self {
        self.change(|message| message.message_id(id))
    }

    /// The application's own id; need not be unique.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.change(|message| message.correlation_id(id))
    }

    /// Adds a header, or replaces it. Keys are lower case.
    pub fn header(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|message| message.header(key, value))
    }

    /// Adds a header, or replaces it; for middleware.
    pub fn set_header(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.message = std::mem::take(&mut self.message).header(key, value);
    }

    /// The trace that it belongs to, instead of that of the job that sends it.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Sends it; it is on the broker's disk when this returns.
    ///
    /// # Errors
    ///
    /// It cannot be encoded, or the broker does not take it; see [`SendError`].
    pub async fn send(self, broker: &Broker) -> Result<Receipt, SendError> {
        broker.send(self).await
    }

    fn change(mut self, change: impl FnOnce(OutgoingMessage) -> OutgoingMessage) -> Self {
        self.message = change(self.message);
        self
    }
}

impl fmt::Debug for OutgoingJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingJob")
            .field("actor", &self.actor)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// The most attempts that the broker counts, short of no limit.
const ATTEMPTS_MAX: u32 = 1_000_000;

/// Attempts are the first one and the retries.
fn attempts(retries: Option<u32>) -> Limit {
    let limit = |retries: u32| Limit::AtMost(retries.saturating_add(1).min(ATTEMPTS_MAX));
    retries.map_or(Limit::Unlimited, limit)
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Why a job was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Its arguments cannot be encoded; nothing was sent.
    #[error("the arguments of {actor} cannot be encoded: {source}")]
    Encode {
        /// Whose arguments.
        actor: &'static str,
        /// Why not.
        source: BoxError,
    },
    /// The broker refused it, or it is not known whether it has it; see [`qbroker_client::Error`].
    #[error(transparent)]
    Broker(#[from] qbroker_client::Error),
    /// The broker has not answered in time: it may have the job, now or as soon as it can be reached.
    #[error("the broker has not answered within {0:?}; it may yet take the job")]
    TimedOut(Duration),
}
