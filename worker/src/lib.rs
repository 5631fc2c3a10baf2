//! Background jobs on qbroker: write a function, send it, have it done.
//!
//! ```no_run
//! use std::time::Duration;
//! use qbroker_worker::{Broker, Context, Worker, actor};
//!
//! # #[derive(Debug)] struct MailError;
//! # impl std::fmt::Display for MailError {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("?") }
//! # }
//! # impl std::error::Error for MailError {}
//! # async fn mail(user_id: u64, email: &str) -> Result<(), MailError> { drop((user_id, email)); Ok(()) }
//! #[actor(queue = "mail", max_retries = 5, min_backoff = "1s", max_backoff = "5m", time_limit = "30s")]
//! async fn send_welcome(ctx: Context, user_id: u64, email: String) -> Result<(), MailError> {
//!     println!("attempt {}", ctx.attempt());
//!     mail(user_id, &email).await
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::connect("http://127.0.0.1:7650").await?;
//!
//! // In the application: on disk when it returns.
//! send_welcome::send(&broker, 123, "user@example.com").await?;
//! send_welcome::with(123, "user@example.com").delay(Duration::from_mins(30)).priority(5).send(&broker).await?;
//!
//! // In the worker: until SIGTERM.
//! Worker::new(broker).register(send_welcome).concurrency(8).run_until_shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - A job that was sent is on disk, and is done **at least once**: again after a failure, after its
//!   worker was killed, or after a crash took back what was not confirmed. Write jobs so that twice is
//!   no harm.
//! - What follows a job (its result, its callbacks, the next step of its pipeline, its arrival in its
//!   group) is in the record that settles it: done if and only if the job is.
//! - A failed attempt is one record in the broker: the message keeps its place, its id and its
//!   arguments, and comes again after the backoff. Nothing is copied, so nothing is lost between two
//!   queues.
//! - A job that runs keeps its lease for as long as its process is there, over restarts of the broker
//!   too. Nothing needs to be sized for long jobs.
//! - What fails for good is in the dead-letter queue (the queue's name and `.dead`), whole, with the
//!   reason: retries used up, given up, of no known actor, or unreadable.
//! - Panics are failures, where panics unwind; with `panic = "abort"` they are crashes, which the broker
//!   counts apart.
//!
//! `docs/worker-guide.md` teaches the rest in one sitting.
#![warn(missing_docs)]

mod actor;
mod answers;
mod defaults;
mod encoding;
mod draft;
mod outgoing;
mod overrides;
mod pipeline;
mod barrier;
mod group;
mod report;
mod broker;
mod results;
mod trace;

mod worker;
mod registry;
mod slots;
mod life;
mod signals;
mod jobs;
mod context;
mod detached;
mod execution;
mod failure;
mod output;
mod settle;
mod ending;
mod follow_up;
mod backoff;
pub mod limit;
mod scheduled;
pub mod testing;
pub mod middleware;

pub use actor::{Actor, ActorOptions, Callback, Work};
pub use barrier::JobBarrier;
pub use broker::Broker;
pub use context::{CancelReason, Context};
pub use defaults::Defaults;
pub use detached::DetachedContext;
pub use encoding::{Encoding, Json};
pub use failure::{
    BoxError, GiveUp, IntoJobError, IntoJobResult, JobError, JobResult, Release, Retry, Verdict,
};
pub use follow_up::WhenDone;
pub use group::{Group, SentGroup};
pub use outgoing::{OutgoingJob, SendError};
pub use output::JobOutput;
pub use pipeline::{Pipeline, SentPipeline};
pub use report::{JobReport, ReportedFailure};
pub use results::ResultError;
pub use trace::{TraceContext, TraceContextError};
pub use worker::{Worker, WorkerError};

pub use qbroker_client::{
    BarrierState, BatchReceipt, CatchUp, CounterChange, QueueShare, Receipt, ScheduleSpec,
};

/// Makes an actor of a function: a type of its name, with which jobs are sent and done.
///
/// An `async fn` is run as a future; any other function has a thread to itself. It returns nothing, or
/// a `Result<T, E>` of any value that serde can write as JSON, with any error. Its arguments are serde types that it owns; the first one may be a
/// [`Context`], which is not sent. What serde should know about an argument stands on it
/// (`#[serde(default)] retries: u32`).
///
/// Of `#[actor] async fn greet(name: String)` come:
///
/// - `greet::send(&broker, "Ann").await`: sends a job;
/// - `greet::with("Ann")`: an [`OutgoingJob`], which takes options before it is sent;
/// - `greet::after()`: the same without the first argument, which is what the job before it in a
///   [`Pipeline`] returned (with JSON, and where the first argument has no `rename`);
/// - `greet::call("Ann".to_owned()).await`: the function itself, for tests;
/// - `greet`: an [`Actor`], for [`Worker::register`].
///
/// Since `greet` is a type and its one value, no variable in the same scope can have that name: actors
/// are best called by verbs.
///
/// # Options
///
/// What the broker's [`Defaults`] say counts where an option with (d) is not given.
///
/// | | default | |
/// | --- | --- | --- |
/// | `name = "..."` | the function's | the actor's name in messages |
/// | `queue = "..."` | `default` | where its messages wait |
/// | `priority = 0..=9` | 0 | the larger first |
/// | `max_retries = n` or `"unlimited"` | 20 (d) | retries after the first failure |
/// | `min_backoff = "15s"` | 15 s (d) | the wait before the first retry, then doubled |
/// | `max_backoff = "7d"` | 7 d (d) | the longest wait |
/// | `time_limit = "30s"` or `"none"` | 10 min (d) | of one attempt |
/// | `max_age = "1h"` or `"none"` | none (d) | after which the job makes no sense |
/// | `notify_shutdown` | no (d) | [`Context::canceled`] tells of a shutdown |
/// | `throws(Pattern, ...)` | | errors that no retry would mend: dead-lettered at once |
/// | `retry_when = f` | | `fn(retries: u32, error: &E) -> bool`; `false` gives up |
/// | `store_results` | no (d) | what it returns is kept: [`Broker::result`] |
/// | `result_ttl = "10m"` | 10 min (d) | how long |
/// | `on_success = actor` | | is sent a [`JobReport`] of each job that was done |
/// | `on_failure = actor` | | of each attempt that failed |
/// | `on_exhausted = actor` | | of each job whose last retry failed |
/// | `schedule = "30 3 * * *"` | | a job every time, of an actor without arguments; in the broker, once for all workers |
/// | `time_zone = "Europe/Berlin"` | UTC | of its schedule |
/// | `catch_up = CatchUp::All` | the last | which ticks are sent that the broker missed |
/// | `jitter = "5m"` | none | each job of its schedule is delayed by up to this |
/// | `skip_if_unfinished` | no | no job while the one before is not done |
/// | `encoding = Type` | [`Json`] | how arguments are written |
///
/// Durations are numbers with units (`ms`, `s`, `m`, `h`, `d`) or expressions.
///
/// ```
/// use qbroker_worker::actor;
///
/// #[derive(Debug, thiserror::Error)]
/// enum PaymentError {
///     #[error("the card was declined")]
///     Declined,
///     #[error("the bank is away: {0}")]
///     Bank(#[from] std::io::Error),
/// }
///
/// #[actor(queue = "payments", max_retries = 8, throws(PaymentError::Declined))]
/// fn charge(order: u64, cents: u64) -> Result<(), PaymentError> {
///     if cents == 0 { Err(PaymentError::Declined) } else { drop(order); Ok(()) }
/// }
///
/// assert!(charge::call(7, 0).is_err());
/// let job = charge::with(7, 1000).priority(3);
/// assert_eq!((job.actor(), job.queue_name()), ("charge", "payments"));
/// ```
pub use qbroker_worker_macros::actor;

/// What the attribute's code needs; not for use by hand.
#[doc(hidden)]
pub mod export {
    pub use serde;
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/worker-guide.md")]
struct Guide;
