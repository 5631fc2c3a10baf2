//! Jobs one after the other: each is sent in the record that settles the one before it as done.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::defaults::Defaults;
use crate::draft::Draft;
use crate::failure::BoxError;
use crate::outgoing::{OutgoingJob, SendError};
use crate::overrides;
use crate::report::ReportedFailure;
use crate::results::ResultError;

/// Jobs that are done one after the other.
///
/// The steps to come travel in the headers of the message, which have room for 16 KiB. When a step is
/// done, one record settles it and publishes the next: whatever crashes in between, no step is lost and
/// none is sent twice. A step that fails for good ends the pipeline; redriven from the dead-letter
/// queue, it goes on where it was.
///
/// A step made by `after` gets what the one before it returned as its first argument; one made by
/// `with` has all of its own.
///
/// ```no_run
/// use qbroker_worker::{BoxError, Broker, actor};
///
/// #[actor]
/// async fn download(url: String) -> Result<String, BoxError> {
///     Ok(format!("/tmp/{}", url.len()))
/// }
///
/// #[actor]
/// async fn resize(path: String, pixels: u32) -> Result<String, BoxError> {
///     Ok(format!("{path}.{pixels}"))
/// }
///
/// #[actor]
/// async fn tell(user_id: u64) {
///     println!("user {user_id}: it is done");
/// }
///
/// # async fn example(broker: Broker) -> Result<(), BoxError> {
/// let steps = download::with("https://example.org/a.png").then(resize::after(640));
/// steps.then(tell::with(7)).send(&broker).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a pipeline does nothing until it is sent"]
pub struct Pipeline {
    id: Option<String>,
    /// At least one.
    jobs: Vec<OutgoingJob>,
}

impl From<OutgoingJob> for Pipeline {
    fn from(job: OutgoingJob) -> Self {
        Self { id: None, jobs: vec![job] }
    }
}

impl Pipeline {
    /// Adds a step, or those of another pipeline.
    pub fn then(mut self, next: impl Into<Self>) -> Self {
        self.jobs.extend(next.into().jobs);
        self
    }

    /// A name of its own, at most 40 characters of `[A-Za-z0-9_-]`, from which its messages have their
    /// ids: inside the dedup window of the first queue, a second one of this name is not begun.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The results of all its steps are kept for this long.
    pub fn store_results(mut self, ttl: Duration) -> Self {
        self.jobs = self.jobs.into_iter().map(|job| job.store_result(ttl)).collect();
        self
    }

    /// Its first step is done no earlier than this long after the broker has it.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.jobs[0].draft.set_delay(delay);
        self
    }

    /// Sends it; it is on the broker's disk when this returns.
    ///
    /// # Errors
    ///
    /// It cannot be written, is too large for its headers, or the broker does not take it.
    pub async fn send(mut self, broker: &Broker) -> Result<SentPipeline, SendError> {
        let id = self.id.take().unwrap_or_else(random_id);
        self.fill(&broker.defaults);
        let (job, message_ids) = self.into_job(&id)?;
        broker.send(job).await?;
        Ok(SentPipeline { message_ids })
    }

    /// What its steps do not say is as these say.
    pub(crate) fn fill(&mut self, defaults: &Defaults) {
        self.jobs.iter_mut().for_each(|job| job.fill(defaults));
    }

    /// A header of every step.
    pub(crate) fn set_header(&mut self, key: &str, value: &str) {
        self.jobs.iter_mut().for_each(|job| job.set_header(key, value));
    }

    /// Whether the first step waits for something to fill an argument of its.
    pub(crate) fn fills(&self) -> bool {
        self.jobs[0].draft.fills.is_some()
    }

    /// Its first job, which carries the others.
    ///
    /// # Errors
    ///
    /// A step cannot be written.
    pub(crate) fn into_first(mut self) -> Result<OutgoingJob, SendError> {
        let id = self.id.take().unwrap_or_else(random_id);
        Ok(self.into_job(&id)?.0)
    }

    /// Its first job, which carries the others; and the ids of all.
    pub(crate) fn into_job(mut self, id: &str) -> Result<(OutgoingJob, Vec<String>), SendError> {
        let mut message_ids = Vec::with_capacity(self.jobs.len());
        for (number, job) in self.jobs.iter_mut().enumerate() {
            if job.draft.message_id.is_empty() {
                job.draft.message_id = format!("{id}-{number}");
            }
            message_ids.push(job.draft.message_id.clone());
            if let Some(source) = job.error.take() {
                return Err(SendError::Encode { actor: job.actor().to_owned(), source });
            }
        }
        let mut jobs = self.jobs.into_iter();
        let mut first = jobs.next().expect("a pipeline has a first step");
        let rest: Vec<Draft> = jobs.map(|job| job.draft).collect();
        if !rest.is_empty() {
            let encoded = serde_json::to_string(&rest).map_err(|error| SendError::Encode {
                actor: first.actor().to_owned(),
                source: error.into(),
            })?;
            first.set_header(overrides::THEN, encoded);
        }
        Ok((first, message_ids))
    }
}

/// What comes after a message, from its headers.
#[derive(Debug, Default)]
pub(crate) struct Rest(Vec<Draft>);

impl Rest {
    /// # Errors
    ///
    /// They cannot be read.
    pub(crate) fn read(header: Option<&String>) -> Result<Self, serde_json::Error> {
        header.map_or_else(|| Ok(Self::default()), |text| serde_json::from_str(text).map(Self))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id of the last step, by which who waits for the pipeline knows it.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.0.last().map(|draft| draft.message_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The next step, which carries those after it; `json` is what this one returned.
    ///
    /// # Errors
    ///
    /// It cannot be put together.
    pub(crate) fn into_next(self, json: &str) -> Result<Option<OutgoingJob>, BoxError> {
        let mut steps = self.0.into_iter();
        let Some(mut next) = steps.next() else { return Ok(None) };
        next.fill_in(json)?;
        let rest: Vec<Draft> = steps.collect();
        if !rest.is_empty() {
            next.headers.insert(overrides::THEN.to_owned(), serde_json::to_string(&rest)?);
        }
        Ok(Some(OutgoingJob::of_draft(next)))
    }
}

/// A pipeline that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentPipeline {
    /// The ids of its steps' messages, in their order.
    pub message_ids: Vec<String>,
}

impl SentPipeline {
    /// What the last step returned, as soon as it is there; see [`Broker::result`]. Where a step before
    /// it failed for good, that failure.
    ///
    /// # Errors
    ///
    /// See [`ResultError`].
    pub async fn result<T: DeserializeOwned>(
        &self,
        broker: &Broker,
        timeout: Duration,
    ) -> Result<T, ResultError> {
        let last = self.message_ids.last().expect("a pipeline has a last step");
        broker.result(last, timeout).await
    }

    /// What each step returned; `None` of those that have not after this time.
    ///
    /// # Errors
    ///
    /// See [`Broker::results`].
    pub async fn results<T: DeserializeOwned>(
        &self,
        broker: &Broker,
        timeout: Duration,
    ) -> Result<Vec<Option<Result<T, ReportedFailure>>>, ResultError> {
        broker.results(&self.message_ids, timeout).await
    }
}

/// A name that nobody else has.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
