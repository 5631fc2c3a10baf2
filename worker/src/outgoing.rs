//! A job on its way to the broker.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use qbroker_client::{Limit, Receipt};
use serde::Serialize;

use crate::actor::{Actor, ActorOptions};
use crate::broker::Broker;
use crate::defaults::Defaults;
use crate::draft::{self, Draft};
use crate::encoding::{Encoding, Json};
use crate::failure::BoxError;
use crate::overrides;
use crate::pipeline::Pipeline;
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
    pub(crate) draft: Draft,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) unsaid: Unsaid,
    /// Why it cannot be sent.
    pub(crate) error: Option<BoxError>,
}

/// What neither a job nor its actor says: the defaults of the broker do that it is sent to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unsaid {
    max_retries: bool,
    max_age: bool,
}

impl OutgoingJob {
    /// A job of this actor. `#[actor]` makes a `with` that takes the arguments one by one.
    pub fn new<A: Actor>(actor: &A, arguments: &A::Args) -> Self {
        Self::draft_of(actor, A::Encoding::encode(arguments))
    }

    /// A job that says everything itself.
    pub(crate) fn of_draft(draft: Draft) -> Self {
        Self { draft, trace: None, unsaid: Unsaid::default(), error: None }
    }

    /// A job of this actor that is told nothing.
    pub(crate) fn without_arguments<A: Actor>(actor: &A) -> Self {
        Self::draft_of(actor, Ok(b"{}".to_vec()))
    }

    fn draft_of<A: Actor>(actor: &A, payload: Result<Vec<u8>, BoxError>) -> Self {
        let options = actor.options();
        let (payload, error) = match payload {
            Ok(payload) => (payload, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let unsaid = Unsaid {
            max_retries: options.max_retries.is_none(),
            max_age: options.max_age.is_none(),
        };
        let Defaults { max_age, max_retries, .. } = Defaults::default().of_actor(&options);
        let ActorOptions { queue, priority, .. } = options;
        let draft = Draft {
            queue: queue.into_owned(),
            message_type: A::NAME.to_owned(),
            content_type: A::Encoding::CONTENT_TYPE.to_owned(),
            payload,
            priority,
            ..Draft::default()
        };
        let job = Self { draft, trace: None, unsaid, error }.max_retries(max_retries);
        let job = match max_age {
            Some(age) => job.max_age(age),
            None => job,
        };
        Self { unsaid, ..job }
    }

    /// What is not said is as these say.
    pub(crate) fn fill(&mut self, defaults: &Defaults) {
        let Unsaid { max_retries, max_age } = std::mem::take(&mut self.unsaid);
        if max_retries {
            self.draft.set_attempts(attempts(defaults.max_retries));
        }
        if let Some(age) = defaults.max_age.filter(|_| max_age) {
            self.draft.set_ttl(age);
        }
    }

    /// A job of this actor whose argument `name` is the result of the step before it in a pipeline, or
    /// the results of the group that it completes; `rest` are its other arguments. `#[actor]` makes an
    /// `after` that takes these one by one.
    pub fn following<A: Actor<Encoding = Json>>(
        actor: &A,
        name: &'static str,
        rest: &impl Serialize,
    ) -> Self {
        let mut job = Self::draft_of(actor, Json::encode(rest));
        job.draft.fills = Some(name.to_owned());
        job
    }

    /// Its actor's name.
    #[must_use]
    pub fn actor(&self) -> &str {
        &self.draft.message_type
    }

    /// The queue it is for.
    #[must_use]
    pub fn queue_name(&self) -> &str {
        &self.draft.queue
    }

    /// Another queue than its actor's.
    pub fn queue(self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.change(|draft| draft.queue = queue.into().into_owned())
    }

    /// Done no earlier than this long after the broker has it. There is no horizon, and no memory
    /// that a waiting job would cost.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|draft| draft.set_delay(delay))
    }

    /// Done no earlier than at this time, by the broker's clock.
    pub fn at(self, time: SystemTime) -> Self {
        self.change(|draft| draft.set_time(time))
    }

    /// How urgent it is, 0 to 9, instead of its actor's priority: the larger first.
    pub fn priority(self, priority: u8) -> Self {
        self.change(|draft| draft.priority = priority)
    }

    /// How long it makes sense, instead of its actor's `max_age`.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.unsaid.max_age = false;
        self.change(|draft| draft.set_ttl(age))
    }

    /// How often it is tried again when it fails, instead of its actor's `max_retries`; `None`: without
    /// end.
    pub fn max_retries(mut self, retries: impl Into<Option<u32>>) -> Self {
        self.unsaid.max_retries = false;
        let attempts = attempts(retries.into());
        self.change(|draft| draft.set_attempts(attempts))
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

    /// Its context tells of a shutdown, or does not, whatever its actor says.
    pub fn notify_shutdown(self, notify: bool) -> Self {
        self.header(overrides::NOTIFY_SHUTDOWN, if notify { "1" } else { "0" })
    }

    /// Told when this one is done, instead of its actor's `on_success`: in the record that settles it. Made
    /// by `after`, it gets a [`JobReport`](crate::JobReport) as its first argument; made by `with`, it has
    /// all arguments of its own. It travels in the message's headers, which have room for 16 KiB.
    ///
    /// ```
    /// use qbroker_worker::{JobReport, actor};
    ///
    /// #[actor]
    /// async fn charge(order: u64) {}
    ///
    /// #[actor]
    /// async fn tell_shop(report: JobReport, shop: String) {}
    ///
    /// let job = charge::with(7).on_success(tell_shop::after("north"));
    /// # drop(job);
    /// ```
    pub fn on_success(self, job: Self) -> Self {
        self.call_back(overrides::ON_SUCCESS, job)
    }

    /// Told of each attempt of this one that failed, instead of its actor's `on_failure`; see
    /// [`OutgoingJob::on_success`].
    pub fn on_failure(self, job: Self) -> Self {
        self.call_back(overrides::ON_FAILURE, job)
    }

    /// Told when its last retry has failed, instead of its actor's `on_exhausted`; see
    /// [`OutgoingJob::on_success`].
    pub fn on_exhausted(self, job: Self) -> Self {
        self.call_back(overrides::ON_EXHAUSTED, job)
    }

    fn call_back(mut self, key: &str, mut job: Self) -> Self {
        if job.unsaid.max_retries {
            // As its actor says where it is done.
            job.draft.max_attempts = None;
        }
        let encoded = match job.error.take() {
            Some(error) => Err(error),
            None => serde_json::to_string(&job.draft).map_err(BoxError::from),
        };
        match encoded {
            Ok(encoded) => self.set_header(key, encoded),
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// An id of your own, 1-64 characters of `[A-Za-z0-9_-]`: inside the queue's dedup window (5
    /// minutes unless it says otherwise) a second job of this id is not stored.
    pub fn message_id(self, id: impl Into<String>) -> Self {
        self.change(|draft| draft.message_id = id.into())
    }

    /// The application's own id; need not be unique.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.change(|draft| draft.correlation_id = id.into())
    }

    /// Jobs of a queue that share an ordering key are done one at a time, in their order, retries
    /// included: those of one customer, say.
    pub fn ordering_key(self, key: impl Into<String>) -> Self {
        self.change(|draft| draft.ordering_key = key.into())
    }

    /// Whose it is: the jobs of different keys share a queue fairly, however many each has.
    pub fn fairness_key(self, key: impl Into<String>) -> Self {
        self.change(|draft| draft.fairness_key = key.into())
    }

    /// While a job of its queue with this key is not done, another one is not stored: the receipt says
    /// `duplicate`.
    pub fn unique_key(self, key: impl Into<String>) -> Self {
        self.change(|draft| draft.unique_key = key.into())
    }

    /// Adds a header, or replaces it. Keys are lower case.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_header(key, value);
        self
    }

    /// Adds a header, or replaces it; for middleware.
    pub fn set_header(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.draft.headers.insert(key.into(), value.into());
    }

    /// Its result is kept for this long once it is done, at most 365 days, whatever its actor says; see
    /// [`Broker::result`].
    pub fn store_result(self, ttl: Duration) -> Self {
        self.header(overrides::RESULT_TTL_MS, millis(ttl))
    }

    /// A pipeline of this job and a next one, which is sent in the record that settles this one as
    /// done.
    pub fn then(self, next: impl Into<Pipeline>) -> Pipeline {
        Pipeline::from(self).then(next)
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

    fn change(mut self, change: impl FnOnce(&mut Draft)) -> Self {
        change(&mut self.draft);
        self
    }

    /// The message that is sent.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) fn take_draft(&mut self) -> Result<Draft, SendError> {
        let fills = self.draft.fills.take();
        let unfilled =
            || fills.map(|name| format!("nothing comes before it to fill {name}").into());
        match self.error.take().or_else(unfilled) {
            Some(source) => Err(SendError::Encode { actor: self.actor().to_owned(), source }),
            None => {
                // Who hears of its sending is told whose it is.
                let Draft { queue, message_type, .. } = &self.draft;
                let (queue, message_type) = (queue.clone(), message_type.clone());
                let rest = Draft { queue, message_type, ..Draft::default() };
                Ok(std::mem::replace(&mut self.draft, rest))
            }
        }
    }
}

impl fmt::Debug for OutgoingJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingJob")
            .field("actor", &self.draft.message_type)
            .field("draft", &self.draft)
            .finish_non_exhaustive()
    }
}

/// The most attempts that the broker counts, short of no limit.
const ATTEMPTS_MAX: u32 = 1_000_000;

/// Attempts are the first one and the retries.
pub(crate) fn attempts(retries: Option<u32>) -> Limit {
    let limit = |retries: u32| Limit::AtMost(retries.saturating_add(1).min(ATTEMPTS_MAX));
    retries.map_or(Limit::Unlimited, limit)
}

fn millis(duration: Duration) -> String {
    draft::millis(duration).to_string()
}

/// Why a job was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Its arguments cannot be encoded; nothing was sent.
    #[error("the arguments of {actor} cannot be encoded: {source}")]
    Encode {
        /// Whose arguments.
        actor: String,
        /// Why not.
        source: BoxError,
    },
    /// The broker refused it, or it is not known whether it has it; see [`qbroker_client::Error`].
    #[error(transparent)]
    Broker(#[from] qbroker_client::Error),
    /// A group has no members; nothing was sent.
    #[error("a group has at least one member")]
    EmptyGroup,
    /// A group within another one has a job for when it expires, but none for when it is complete: its
    /// members are the other's, and expire with that. Nothing was sent.
    #[error("a group within another has no on_expire without an on_complete")]
    NestedExpiry,
    /// A member of a group has a unique key or a message id that another job has, and was not stored: the
    /// group would wait for it until its time is over. The other members are sent.
    #[error("a member of the group is a duplicate of another job: {actor} (member {position})")]
    DuplicateMember {
        /// Whose.
        actor: String,
        /// Which one of the jobs that the group sends first, from 0.
        position: usize,
    },
    /// The broker has not answered in time: it may have the job, now or as soon as it can be reached.
    #[error("the broker has not answered within {0:?}; it may yet take the job")]
    TimedOut(Duration),
}
