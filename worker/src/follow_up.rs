//! What is done in the very record that settles a job: its result, its callbacks, the next step of its
//! pipeline, its arrival at the barrier of its group, and what it asked for itself.

use std::time::Duration;

use bytes::Bytes;
use qbroker_client::{CounterChange, Settlement as Told};

use crate::actor::{ActorOptions, Callback};
use crate::broker::Broker;
use crate::context::Context;
use crate::defaults::Defaults;
use crate::draft::Draft;
use crate::failure::{BoxError, JobResult, Verdict};
use crate::middleware::Settlement;
use crate::outgoing::{OutgoingJob, SendError};
use crate::overrides;
use crate::pipeline::Rest;
use crate::report::JobReport;
use crate::results;

/// What a job wants to be done in the record that settles it as done, or not at all: all of it or
/// nothing, whatever crashes. From [`Context::when_done`].
///
/// Where the job fails, nothing of it is done, and the next attempt begins with an empty one.
#[derive(Debug, Default)]
pub struct WhenDone {
    jobs: Vec<OutgoingJob>,
    values: Vec<(String, Bytes, Option<Duration>)>,
    counters: Vec<CounterChange>,
    arrivals: Vec<(String, String, Bytes)>,
}

impl WhenDone {
    /// Sends a job.
    pub fn send(&mut self, job: OutgoingJob) -> &mut Self {
        self.jobs.push(job);
        self
    }

    /// Stores a value in the broker's state; `None`: until it is deleted.
    pub fn store(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> &mut Self {
        self.values.push((key.into(), value.into(), ttl));
        self
    }

    /// Changes a counter. Where that would pass its bounds, the job is not done: see `CallbackNotSent`
    /// in the guide.
    pub fn count(&mut self, change: CounterChange) -> &mut Self {
        self.counters.push(change);
        self
    }

    /// Arrives at a barrier. Of barriers, that of the job's group included, a job arrives at two at
    /// most.
    pub fn arrive(
        &mut self,
        barrier: impl Into<String>,
        member_id: impl Into<String>,
        value: impl Into<Bytes>,
    ) -> &mut Self {
        self.arrivals.push((barrier.into(), member_id.into(), value.into()));
        self
    }
}

/// What is done together with a settlement.
#[derive(Debug, Default)]
pub(crate) struct FollowUp {
    jobs: Vec<OutgoingJob>,
    values: Vec<(String, Bytes, Option<Duration>)>,
    counters: Vec<CounterChange>,
    arrivals: Vec<Arrival>,
}

#[derive(Debug)]
struct Arrival {
    barrier: String,
    member: String,
    value: Bytes,
    failed: bool,
}

impl FollowUp {
    /// What a job with this end is followed by.
    ///
    /// # Errors
    ///
    /// What comes after it cannot be read or written.
    pub(crate) fn of(
        context: &Context,
        options: &ActorOptions,
        treatment: &Defaults,
        result: &JobResult,
        settlement: Settlement,
    ) -> Result<Self, BoxError> {
        let is_done = settlement == Settlement::Ack && !is_skipped(result);
        let mut follow_up = Self::default();
        follow_up.call_back(context, options, result, settlement)?;
        if is_done {
            follow_up.add(context.take_when_done());
        }
        if settlement == Settlement::Ack || matches!(settlement, Settlement::DeadLetter { .. }) {
            follow_up.end(context, treatment, result, is_done)?;
        }
        Ok(follow_up)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
            && self.values.is_empty()
            && self.counters.is_empty()
            && self.arrivals.is_empty()
    }

    /// What a failure with this end is followed by without the jobs that it should send.
    ///
    /// # Errors
    ///
    /// As [`FollowUp::of`].
    pub(crate) fn without_jobs(
        context: &Context,
        treatment: &Defaults,
        result: &JobResult,
        settlement: Settlement,
    ) -> Result<Self, BoxError> {
        let mut follow_up = Self::default();
        if matches!(settlement, Settlement::DeadLetter { .. }) {
            follow_up.end(context, treatment, result, false)?;
        }
        Ok(follow_up)
    }

    fn add(&mut self, asked: WhenDone) {
        let WhenDone { jobs, values, counters, arrivals } = asked;
        self.jobs.extend(jobs);
        self.values.extend(values);
        self.counters.extend(counters);
        self.arrivals.extend(arrivals.into_iter().map(|(barrier, member, value)| Arrival {
            barrier,
            member,
            value,
            failed: false,
        }));
    }

    fn call_back(
        &mut self,
        context: &Context,
        options: &ActorOptions,
        result: &JobResult,
        settlement: Settlement,
    ) -> Result<(), BoxError> {
        let failed = matches!(settlement, Settlement::Retry { .. } | Settlement::DeadLetter { .. });
        let done = settlement == Settlement::Ack && result.is_ok();
        let exhausted = settlement == Settlement::DeadLetter { exhausted: true };
        let due: [(bool, &str, Option<Callback>); 3] = [
            (done, overrides::ON_SUCCESS, options.on_success),
            (failed, overrides::ON_FAILURE, options.on_failure),
            (exhausted, overrides::ON_EXHAUSTED, options.on_exhausted),
        ];
        for (_, key, actors) in due.into_iter().filter(|(due, ..)| *due) {
            let report = || JobReport::new(context.leased(), result);
            if let Some(own) = context.message().headers.get(key) {
                self.jobs.push(own_callback(own, &report())?);
            } else if let Some(callback) = actors {
                self.jobs.push(callback(report()));
            }
        }
        Ok(())
    }

    /// The job has ended: done, needless or given up.
    fn end(
        &mut self,
        context: &Context,
        treatment: &Defaults,
        result: &JobResult,
        is_done: bool,
    ) -> Result<(), BoxError> {
        let message = context.message();
        let headers = &message.headers;
        let rest = match Rest::read(headers.get(overrides::THEN)) {
            // Where nothing comes after it, it does not matter what would have.
            Err(_) if !is_done => Rest::default(),
            read => read?,
        };
        // What is skipped returns nothing, and is no failure.
        let ended = if is_skipped(result) { None } else { Some(result) };
        let told = || ended.map_or_else(|| r#"{"Ok":null}"#.to_owned(), results::stored);
        let failed = ended.is_some_and(Result::is_err);
        let own = overrides::duration(headers, overrides::RESULT_TTL_MS);
        let ttl = own.or_else(|| treatment.store_results.then_some(treatment.result_ttl));
        if let Some(ttl) = ttl.filter(|_| !message.message_id.is_empty()) {
            self.values.push((results::key(&message.message_id), told().into(), Some(ttl)));
            // Who waits for the end of the pipeline need not wait for it in vain.
            if let Some(last) = rest.last_id().filter(|_| failed) {
                self.values.push((results::key(last), told().into(), Some(ttl)));
            }
        }
        let goes_on = is_done && !rest.is_empty();
        if let (Some(barrier), Some(member), false) =
            (headers.get(overrides::GROUP), headers.get(overrides::MEMBER), goes_on)
        {
            let brings = headers.contains_key(overrides::BRINGS);
            let value = if brings { told().into() } else { Bytes::new() };
            let (barrier, member) = (barrier.clone(), member.clone());
            self.arrivals.push(Arrival { barrier, member, value, failed });
        }
        if let (true, Ok(output)) = (goes_on, result) {
            self.jobs.extend(rest.into_next(output.json())?);
        }
        Ok(())
    }

    /// Makes its jobs ready to be sent, and adds everything to a settlement.
    ///
    /// # Errors
    ///
    /// A job of it cannot be written.
    pub(crate) fn add_to(
        &mut self,
        mut told: Told,
        broker: &Broker,
        context: &Context,
    ) -> Result<Told, SendError> {
        for job in &mut self.jobs {
            job.trace.get_or_insert_with(|| context.trace());
            broker.prepare(job);
            told = told.publish(job.take_draft()?.into_message());
        }
        for (key, value, ttl) in self.values.drain(..) {
            told = told.store(key, value, ttl);
        }
        for change in self.counters.drain(..) {
            told = told.count(change);
        }
        for Arrival { barrier, member, value, failed } in self.arrivals.drain(..) {
            told = told.arrive(&barrier, &member, value, failed);
        }
        Ok(told)
    }

    /// Tells the middleware what became of its jobs.
    pub(crate) fn sent(&self, broker: &Broker, sent: Result<(), &SendError>) {
        for job in &self.jobs {
            broker.sent(job, sent);
        }
    }
}

/// What a message itself asks for, told of this.
fn own_callback(text: &str, report: &JobReport) -> Result<OutgoingJob, BoxError> {
    let mut draft: Draft = serde_json::from_str(text)?;
    draft.fill_in(&serde_json::to_string(report)?)?;
    Ok(OutgoingJob::of_draft(draft))
}

/// The job need not be done, and what would come after it neither.
fn is_skipped(result: &JobResult) -> bool {
    result.as_ref().is_err_and(|error| error.verdict() == Verdict::Skip)
}
