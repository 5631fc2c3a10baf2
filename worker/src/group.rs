//! Jobs side by side, and what is sent when all of them have ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use qbroker_client::{Barrier, BarrierMember, BarrierState, Error, NewBarrier};
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::draft::{self, Draft};
use crate::failure::BoxError;
use crate::outgoing::{OutgoingJob, SendError};
use crate::overrides;
use crate::pipeline::{Pipeline, random_id};
use crate::report::ReportedFailure;
use crate::results::ResultError;

/// Jobs, or pipelines, that are done side by side.
///
/// Each member counts once however often it is delivered: its arrival at the group's barrier is in the
/// record that settles it. A member that fails for good arrives too, as failed. What stands in
/// [`Group::on_complete`] is published in the record of the last arrival, exactly once.
///
/// A completion made by `after` gets the results of the members as its first argument, in their order:
/// a `Vec<Result<T, ReportedFailure>>`. Together they may have some 200 KiB; what is larger is better
/// kept elsewhere. One made by `with` has all arguments of its own.
///
/// ```no_run
/// use qbroker_worker::{BoxError, Broker, Group, ReportedFailure, actor};
///
/// #[actor]
/// async fn count_words(url: String) -> Result<u64, BoxError> {
///     Ok(url.len() as u64)
/// }
///
/// #[actor]
/// async fn sum_up(counts: Vec<Result<u64, ReportedFailure>>, title: String) {
///     let sum: u64 = counts.iter().flatten().sum();
///     println!("{title}: {sum}");
/// }
///
/// # async fn example(broker: Broker) -> Result<(), BoxError> {
/// let pages = ["https://example.org/a", "https://example.org/b"];
/// let group = Group::new(pages.map(count_words::with)).on_complete(sum_up::after("all pages"));
/// group.send(&broker).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a group does nothing until it is sent"]
pub struct Group {
    id: Option<String>,
    members: Vec<Pipeline>,
    on_complete: Vec<Pipeline>,
    on_expire: Vec<Pipeline>,
    ttl: Duration,
}

/// How long a group may take unless it says otherwise: Dramatiq's.
const TTL: Duration = Duration::from_hours(24);

/// Messages that are sent at once, and their bytes: what a broker takes by default, with room.
const BATCH_MESSAGES: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

impl Group {
    /// A group of these members, 1 to 100,000.
    pub fn new<M: Into<Pipeline>>(members: impl IntoIterator<Item = M>) -> Self {
        let members = members.into_iter().map(Into::into).collect();
        let (on_complete, on_expire) = (Vec::new(), Vec::new());
        Self { id: None, members, on_complete, on_expire, ttl: TTL }
    }

    /// Sent when all members have ended, done or failed for good.
    pub fn on_complete(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_complete.push(job.into());
        self
    }

    /// Sent when they have not by the group's time. A member that the broker gives up by itself (its
    /// workers crash, its own time is over, somebody deletes it) never ends.
    pub fn on_expire(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_expire.push(job.into());
        self
    }

    /// How long the members may take together, at most 365 days. Default: 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// A name of its own, at most 40 characters of `[A-Za-z0-9_-]`, from which its messages have their
    /// ids. One that could not be sent to the end is sent again under its name: inside the queues' dedup
    /// window no member is sent twice.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The results of all members are kept for this long.
    pub fn store_results(mut self, ttl: Duration) -> Self {
        self.members = self.members.into_iter().map(|member| member.store_results(ttl)).collect();
        self
    }

    /// Sends its members, a thousand at a time; all are on the broker's disk when this returns. Where it
    /// fails, some may be: send it again under the same [`Group::id`].
    ///
    /// # Errors
    ///
    /// It has no members, one cannot be written, or the broker does not take it.
    pub async fn send(mut self, broker: &Broker) -> Result<SentGroup, SendError> {
        if self.members.is_empty() {
            return Err(SendError::EmptyGroup);
        }
        let id = self.id.take().unwrap_or_else(random_id);
        let barrier = key(&id);
        let collects = self.on_complete.iter().any(Pipeline::fills);
        let mut jobs = Vec::with_capacity(self.members.len());
        let mut message_ids = Vec::with_capacity(self.members.len());
        for (number, mut member) in std::mem::take(&mut self.members).into_iter().enumerate() {
            member.set_header(overrides::GROUP, &barrier);
            member.set_header(overrides::MEMBER, &number.to_string());
            if collects {
                member.set_header(overrides::BRINGS, "1");
            }
            let (job, mut ids) = member.into_job(&format!("{id}-{number}"))?;
            jobs.push(job);
            message_ids.push(ids.pop().expect("a pipeline has a last step"));
        }
        let new = self.barrier(&id, barrier.clone(), jobs.len(), collects, broker)?;
        broker.client().state().create_barrier(new).await?;
        for batch in batches(jobs) {
            broker.send_all(batch).await?;
        }
        Ok(SentGroup { barrier, message_ids })
    }

    fn barrier(
        self,
        id: &str,
        key: String,
        members: usize,
        collects: bool,
        broker: &Broker,
    ) -> Result<NewBarrier, SendError> {
        let parties = members.try_into().unwrap_or(u32::MAX);
        let mut barrier = NewBarrier::new(key, parties).ttl(self.ttl);
        if collects {
            barrier = barrier.collect_values();
        }
        for (number, pipeline) in self.on_complete.into_iter().enumerate() {
            let (mut job, _) = pipeline.into_job(&format!("{id}-c{number}"))?;
            broker.prepare(&mut job);
            if collects {
                gather(&mut job)?;
            }
            barrier = barrier.on_complete(job.take_draft()?.into_message());
        }
        for (number, pipeline) in self.on_expire.into_iter().enumerate() {
            let (mut job, _) = pipeline.into_job(&format!("{id}-x{number}"))?;
            broker.prepare(&mut job);
            barrier = barrier.on_expire(job.take_draft()?.into_message());
        }
        Ok(barrier)
    }
}

/// Puts the arguments where they stay: the payload becomes what the members brought.
fn gather(job: &mut OutgoingJob) -> Result<(), SendError> {
    let payload = std::mem::take(&mut job.draft.payload);
    let arguments = String::from_utf8(payload).map_err(|_| {
        let source = "only arguments that are a text can wait for others".into();
        SendError::Encode { actor: job.actor().to_owned(), source }
    })?;
    job.set_header(overrides::ARGUMENTS, arguments);
    if let Some(name) = job.draft.fills.take() {
        job.set_header(overrides::FILLS, name);
    }
    "application/x-protobuf".clone_into(&mut job.draft.content_type);
    Ok(())
}

/// The payload that a completion's own would be, with the results of the members in it.
///
/// # Errors
///
/// It is not what a barrier publishes.
pub(crate) fn gathered(
    arguments: &str,
    fills: Option<&String>,
    payload: &Bytes,
) -> Result<String, BoxError> {
    let Some(name) = fills else { return Ok(arguments.to_owned()) };
    let mut members = BarrierMember::all_of(payload)?;
    // They are told in the order of their arrival.
    members.sort_by_key(|member| member.member_id.parse::<usize>().ok());
    let mut values = Vec::with_capacity(members.len());
    for member in &members {
        values.push(std::str::from_utf8(&member.value)?);
    }
    draft::fill(arguments, name, &format!("[{}]", values.join(",")))
}

/// Jobs in as few batches as a broker takes.
fn batches(jobs: Vec<OutgoingJob>) -> Vec<Vec<OutgoingJob>> {
    let mut batches: Vec<Vec<OutgoingJob>> = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        let size = size(&job.draft);
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MESSAGES && bytes <= BATCH_BYTES => batch.push(job),
            _ => {
                bytes = size;
                batches.push(vec![job]);
            }
        }
    }
    batches
}

fn size(draft: &Draft) -> usize {
    let headers = draft.headers.iter().map(|(key, value)| key.len() + value.len());
    draft.payload.len() + headers.sum::<usize>()
}

/// The barrier of the group of this name.
fn key(id: &str) -> String {
    format!("group/{id}")
}

/// A group that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentGroup {
    /// The key of its barrier.
    pub barrier: String,
    /// The id of each member's message; of a pipeline, of its last step.
    pub message_ids: Vec<String>,
}

/// The longest that the broker is asked to wait at once.
const WAIT_MAX: Duration = Duration::from_secs(60);

impl SentGroup {
    /// How far it is, as soon as all members have ended, or after this time; `None` where it is not
    /// known any more.
    ///
    /// # Errors
    ///
    /// What kept the broker from being asked.
    pub async fn wait(&self, broker: &Broker, timeout: Duration) -> Result<Option<Barrier>, Error> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let wait = left.min(WAIT_MAX);
            let barrier = broker.client().state().barrier(&self.barrier, wait).await?;
            let waits = barrier.as_ref().is_some_and(|it| it.state == BarrierState::Open);
            if !waits || wait == left {
                return Ok(barrier);
            }
        }
    }

    /// What each member returned, where that is kept; `None` of those that have not after this time.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(bytes: usize) -> OutgoingJob {
        let draft = Draft { payload: vec![b' '; bytes], ..Draft::default() };
        OutgoingJob { draft, trace: None, error: None }
    }

    #[test]
    fn members_travel_in_batches_that_a_broker_takes() {
        let sizes = |jobs: Vec<OutgoingJob>| batches(jobs).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..2_001).map(|_| job(1)).collect()), [1_000, 1_000, 1]);
        assert_eq!(
            sizes(vec![job(BATCH_BYTES - 1), job(1), job(1), job(BATCH_BYTES + 1)]),
            [2, 1, 1]
        );
    }
}
