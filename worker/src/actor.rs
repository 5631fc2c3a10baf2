//! What kind of work there is: an actor's name, options, arguments and code.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use qbroker_client::CatchUp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::encoding::Encoding;
use crate::failure::{IntoJobResult, JobResult};
use crate::outgoing::OutgoingJob;
use crate::report::JobReport;

/// A kind of job. [`#[actor]`](crate::actor) makes one of a function; one that carries state is
/// written by hand:
///
/// ```
/// use qbroker_worker::{Actor, ActorOptions, Context, Json, Work};
///
/// struct Resize { pixels_max: u32 }
///
/// impl Actor for Resize {
///     const NAME: &'static str = "resize";
///     type Args = (String, u32);
///     type Encoding = Json;
///
///     fn options(&self) -> ActorOptions {
///         let mut options = ActorOptions::default();
///         options.queue = "images".into();
///         options
///     }
///
///     fn work(&self, _context: Context, (path, pixels): Self::Args) -> Work {
///         let pixels = pixels.min(self.pixels_max);
///         Work::blocking(move || resize(&path, pixels))
///     }
/// }
///
/// fn resize(path: &str, pixels: u32) -> Result<(), std::io::Error> {
///     # drop((path, pixels));
///     Ok(())
/// }
/// ```
pub trait Actor: Send + Sync + 'static {
    /// Its name, the `message_type` of its messages.
    const NAME: &'static str;

    /// What a job of it is told.
    type Args: Serialize + DeserializeOwned + Send + 'static;

    /// How that is written into messages.
    type Encoding: Encoding;

    /// Where its jobs wait, how often they are tried, how long they may take.
    fn options(&self) -> ActorOptions {
        ActorOptions::default()
    }

    /// The work of one job.
    fn work(&self, context: Context, arguments: Self::Args) -> Work;
}

/// Makes a job of an actor that another one has to say something to.
///
/// `notify::with` is one where `notify` is an actor whose only argument is a [`JobReport`].
pub type Callback = fn(JobReport) -> OutgoingJob;

/// How the jobs of an actor are treated. What is `None` here is as its broker's
/// [`Defaults`](crate::Defaults) say; the defaults below are those where they say nothing.
///
/// ```
/// use std::time::Duration;
/// use qbroker_worker::ActorOptions;
///
/// let mut options = ActorOptions::default();
/// options.queue = "mail".into();
/// options.max_retries = Some(5);
/// options.time_limit = Some(Duration::from_secs(30));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActorOptions {
    /// The queue of its messages. Default: `default`.
    pub queue: Cow<'static, str>,
    /// How urgent they are, 0 to 9; larger is more. Default: 0.
    pub priority: u8,
    /// How often a failed job is tried again; `u32::MAX`: without end. Default: 20, which takes about
    /// five weeks. It is written into each message when it is sent, and holds there.
    pub max_retries: Option<u32>,
    /// The wait before the first retry, doubled for each further one and lengthened at random by up to
    /// as much again. Default: 15 s.
    pub min_backoff: Option<Duration>,
    /// The longest wait before a retry. Default and most: 7 days.
    pub max_backoff: Option<Duration>,
    /// How long one attempt may take; `Duration::MAX`: as long as it likes. Default: 10 min.
    ///
    /// Then a future is dropped, and the attempt has failed. A blocking function cannot be stopped:
    /// its context says that it should. One that does not stop within the worker's grace has failed all
    /// the same, and keeps its slot until it returns.
    pub time_limit: Option<Duration>,
    /// How long after it was sent a job still makes sense, delays and retries included; then it is
    /// dead-lettered; `Duration::MAX`: always, or as its queue says. Default: that.
    pub max_age: Option<Duration>,
    /// A job's context says so when the worker stops. Default: false.
    pub notify_shutdown: Option<bool>,
    /// What a job returns is kept, or how it failed for good; see
    /// [`Broker::result`](crate::Broker::result). Default: false.
    pub store_results: Option<bool>,
    /// How long, from the end of the job on; at most 365 days. Default: 10 min.
    pub result_ttl: Option<Duration>,
    /// When the broker sends a job of it by itself: a cron expression, or `@every 30s`. A worker makes
    /// the schedule when it starts, under the actor's name; its jobs have no arguments. Default: never.
    pub schedule: Option<Cow<'static, str>>,
    /// The time zone of its schedule, by its IANA name. Default: UTC.
    pub time_zone: Cow<'static, str>,
    /// What becomes of ticks of its schedule that the broker missed. Default: the last one is sent.
    pub catch_up: CatchUp,
    /// Each job of its schedule is delayed by up to this, at most 24 h. Default: not at all.
    pub jitter: Duration,
    /// A tick of its schedule is skipped while the job before is not done. Default: it is not.
    pub skip_if_unfinished: bool,
    /// Told of each job that was done.
    pub on_success: Option<Callback>,
    /// Told of each attempt that failed.
    pub on_failure: Option<Callback>,
    /// Told of each job whose last retry has failed.
    pub on_exhausted: Option<Callback>,
}

impl Default for ActorOptions {
    fn default() -> Self {
        Self {
            queue: Cow::Borrowed("default"),
            priority: 0,
            max_retries: None,
            min_backoff: None,
            max_backoff: None,
            time_limit: None,
            max_age: None,
            notify_shutdown: None,
            store_results: None,
            result_ttl: None,
            schedule: None,
            time_zone: Cow::Borrowed(""),
            catch_up: CatchUp::Last,
            jitter: Duration::ZERO,
            skip_if_unfinished: false,
            on_success: None,
            on_failure: None,
            on_exhausted: None,
        }
    }
}

/// The work of one job: a future, or a function that blocks a thread.
pub struct Work(pub(crate) Kind);

pub(crate) enum Kind {
    Future(Pin<Box<dyn Future<Output = JobResult> + Send>>),
    Blocking(Box<dyn FnOnce() -> JobResult + Send>),
}

impl Work {
    /// What the attribute makes of an `async fn`; not for use by hand.
    #[doc(hidden)]
    pub fn of_future(future: impl Future<Output = JobResult> + Send + 'static) -> Self {
        Self(Kind::Future(Box::pin(future)))
    }

    /// What the attribute makes of another function; not for use by hand.
    #[doc(hidden)]
    pub fn of_function(function: impl FnOnce() -> JobResult + Send + 'static) -> Self {
        Self(Kind::Blocking(Box::new(function)))
    }

    /// Work that waits more than it computes.
    pub fn future<F>(future: F) -> Self
    where
        F: Future<Output: IntoJobResult> + Send + 'static,
    {
        Self(Kind::Future(Box::pin(async move { future.await.into_job_result() })))
    }

    /// Work that computes, or that waits without `.await`: it has a thread to itself.
    pub fn blocking<T: IntoJobResult>(function: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Kind::Blocking(Box::new(move || function().into_job_result())))
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Future(_) => f.write_str("Work::future"),
            Kind::Blocking(_) => f.write_str("Work::blocking"),
        }
    }
}
