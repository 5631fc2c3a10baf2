//! What goes around jobs: hooks at every point of their way, and a layer around the work itself.

mod prometheus;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use crate::actor::ActorOptions;
use crate::context::Context;
use crate::execution::Execution;
use crate::failure::{JobError, JobResult};
use crate::outgoing::{OutgoingJob, SendError};
pub use prometheus::Prometheus;

/// The work of one job, with whatever is around it.
pub type JobFuture<'a> = Pin<Box<dyn Future<Output = JobResult> + Send + 'a>>;

/// Sees jobs at every point of their way, and may change what happens to them.
///
/// What begins is seen by the middleware that was added first, first; what ends, last. A hook that
/// panics fails the job that it was called for; once that is settled, it is only logged.
///
/// ```
/// use qbroker_worker::{Context, JobError};
/// use qbroker_worker::middleware::{JobEnd, JobFuture, Middleware, Next};
///
/// /// Jobs of tenants that have left need not be done.
/// struct Tenants;
///
/// impl Middleware for Tenants {
///     fn process<'a>(&'a self, context: &'a Context, next: Next<'a>) -> JobFuture<'a> {
///         Box::pin(async move {
///             if context.message().headers.get("tenant").is_some_and(|tenant| tenant == "gone") {
///                 return Err(JobError::skip("the tenant has left"));
///             }
///             next.run().await
///         })
///     }
///
///     fn after_process(&self, context: &Context, end: &JobEnd<'_>) {
///         println!("{} took {:?}", context.actor(), end.duration);
///     }
/// }
/// ```
#[expect(unused_variables, reason = "what a hook does not do is done with nothing")]
pub trait Middleware: Send + Sync + 'static {
    /// An actor was registered with a worker.
    fn after_declare_actor(&self, actor: &'static str, options: &ActorOptions) {}

    /// A worker has begun to take messages.
    fn after_worker_boot(&self) {}

    /// A worker takes no more messages; jobs may still run.
    fn before_worker_shutdown(&self) {}

    /// A worker has settled its last job.
    fn after_worker_shutdown(&self) {}

    /// A job is about to be sent; headers may be added.
    fn before_enqueue(&self, job: &mut OutgoingJob) {}

    /// A job was sent, or not.
    fn after_enqueue(&self, job: &OutgoingJob, sent: Result<(), &SendError>) {}

    /// The span in which a job runs was made: the place to tell it its parent in a system of traces.
    fn on_span(&self, context: &Context, span: &tracing::Span) {}

    /// A job is about to run. It is counted as running until [`Middleware::after_process`].
    fn before_process(&self, context: &Context) {}

    /// The work of a job: `next.run()` does it. Without that it is not done, and what is returned says
    /// what becomes of it.
    fn process<'a>(&'a self, context: &'a Context, next: Next<'a>) -> JobFuture<'a> {
        next.run()
    }

    /// A job has ended, and it is decided how it will be settled.
    fn after_process(&self, context: &Context, end: &JobEnd<'_>) {}

    /// The broker has the settlement on disk, or has refused it.
    ///
    /// It may be another one than [`Middleware::after_process`] was told of: where the broker does not take
    /// what follows a job that was done, the job has failed, as `CallbackNotSent`.
    ///
    /// Most jobs are told of by one task, one after the other, while others begin: who takes long here has
    /// them wait in memory, and a worker that stops wait for them.
    fn after_settle(
        &self,
        context: &Context,
        settlement: Settlement,
        settled: Result<(), &qbroker_client::Error>,
    ) {
    }

    /// A message was dead-lettered without a job: nobody here can do it.
    fn on_reject(&self, message: &qbroker_client::Message, error: &JobError) {}

    /// How many jobs ignore that they should stop, after that has changed.
    fn on_stuck(&self, jobs: usize) {}
}

/// How a job ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct JobEnd<'a> {
    /// Its result.
    pub result: &'a JobResult,
    /// What the broker will be told.
    pub settlement: Settlement,
    /// How long it took.
    pub duration: Duration,
}

/// What the broker is told about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It failed and comes again.
    Retry {
        /// After this long.
        delay: Duration,
    },
    /// It failed for good.
    DeadLetter {
        /// Its retries are used up; otherwise it was given up.
        exhausted: bool,
    },
    /// It is handed back, uncounted.
    Release {
        /// When it comes again; `None`: at once.
        delay: Option<Duration>,
    },
    /// Nothing: its lease has ended.
    Nothing,
}

/// The rest of the way to the work.
pub struct Next<'a> {
    pub(crate) context: &'a Context,
    pub(crate) rest: &'a [std::sync::Arc<dyn Middleware>],
    pub(crate) execution: &'a Execution<'a>,
}

impl<'a> Next<'a> {
    /// Does the work, with the middleware that is within this one around it.
    #[must_use]
    pub fn run(self) -> JobFuture<'a> {
        let Self { context, rest, execution } = self;
        match rest.split_first() {
            Some((middleware, rest)) => {
                middleware.process(context, Self { context, rest, execution })
            }
            None => Box::pin(execution.run(context)),
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("layers", &self.rest.len()).finish_non_exhaustive()
    }
}
