//! A barrier whose end sends jobs.

use std::borrow::Cow;
use std::time::Duration;

use qbroker_client::NewBarrier;

use crate::broker::Broker;
use crate::group::gather;
use crate::outgoing::SendError;
use crate::pipeline::Pipeline;

/// A barrier to be made in the broker: so many parties arrive in any order, and when the last one has,
/// jobs are sent, exactly once.
///
/// A [`Group`](crate::Group) has one for its members, and is easier. One by itself is for parties that
/// nobody sends together: jobs arrive in the record that settles them as done, by
/// [`WhenDone::arrive`](crate::WhenDone::arrive), other programs by the client's `state().arrive(...)`.
/// Each counts once, by its name, however often it arrives.
///
/// A completion made by `after` gets what they brought as its first argument, a `Vec`: each brings a JSON
/// value. Those whose names are numbers come by these, others as they arrived.
///
/// ```no_run
/// use std::time::Duration;
/// use qbroker_worker::{BoxError, Broker, Context, JobBarrier, actor};
///
/// #[actor]
/// async fn import(ctx: Context, day: String, region: String) -> Result<(), BoxError> {
///     let rows: u64 = 1_000;
///     ctx.when_done(|then| {
///         then.arrive(format!("import/{day}"), region, rows.to_string());
///     });
///     Ok(())
/// }
///
/// #[actor]
/// async fn close_day(rows: Vec<u64>, day: String) {
///     println!("{day}: {} rows", rows.iter().sum::<u64>());
/// }
///
/// # async fn example(broker: Broker) -> Result<(), BoxError> {
/// let barrier = JobBarrier::new("import/monday", 3).ttl(Duration::from_hours(12));
/// barrier.on_complete(close_day::after("monday")).create(&broker).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a barrier is there only when it is created"]
pub struct JobBarrier {
    key: Cow<'static, str>,
    parties: u32,
    ttl: Option<Duration>,
    on_complete: Vec<Pipeline>,
    on_expire: Vec<Pipeline>,
}

impl JobBarrier {
    /// A barrier of so many parties, 1 to 100,000, under this key of 1 to 256 bytes.
    pub fn new(key: impl Into<Cow<'static, str>>, parties: u32) -> Self {
        let (on_complete, on_expire) = (Vec::new(), Vec::new());
        Self { key: key.into(), parties, ttl: None, on_complete, on_expire }
    }

    /// When it ends uncompleted, 1 s to 365 days. Default: 15 min.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sent when all have arrived.
    pub fn on_complete(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_complete.push(job.into());
        self
    }

    /// Sent when they have not by its time.
    pub fn on_expire(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_expire.push(job.into());
        self
    }

    /// Makes it; `false` where there is one under this key, in whatever state, which stays as it is.
    ///
    /// # Errors
    ///
    /// A job of it cannot be written, or the broker does not take it.
    pub async fn create(self, broker: &Broker) -> Result<bool, SendError> {
        let barrier = self.written(broker)?;
        Ok(broker.client().state().create_barrier(barrier).await?)
    }

    fn written(self, broker: &Broker) -> Result<NewBarrier, SendError> {
        let Self { key, parties, ttl, on_complete, on_expire } = self;
        let collects = on_complete.iter().any(Pipeline::fills);
        let mut barrier = NewBarrier::new(key, parties);
        if let Some(ttl) = ttl {
            barrier = barrier.ttl(ttl);
        }
        if collects {
            barrier = barrier.collect_values();
        }
        let message = |mut pipeline: Pipeline, gathers| {
            pipeline.fill(&broker.defaults);
            let mut job = pipeline.into_first()?;
            broker.prepare(&mut job);
            if gathers {
                gather(&mut job)?;
            }
            Ok::<_, SendError>(job.take_draft()?.into_message())
        };
        for pipeline in on_complete {
            barrier = barrier.on_complete(message(pipeline, collects)?);
        }
        for pipeline in on_expire {
            barrier = barrier.on_expire(message(pipeline, false)?);
        }
        Ok(barrier)
    }

    #[cfg(test)]
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    #[cfg(test)]
    pub(crate) fn parties(&self) -> u32 {
        self.parties
    }
}
