//! What an actor's callbacks are told about a job.

use std::fmt;

use qbroker_client::Leased;
use serde::{Deserialize, Serialize};

use crate::failure::{JobError, JobResult};
use crate::output::JobOutput;

/// A job that has ended, or one attempt of it: the argument of a callback.
///
/// ```
/// use qbroker_worker::{Context, JobReport, actor};
///
/// #[actor(queue = "mail", max_retries = 3, on_exhausted = tell_support)]
/// async fn send_invoice(order: u64) -> Result<(), std::io::Error> {
///     # drop(order);
///     Ok(())
/// }
///
/// #[actor]
/// async fn tell_support(report: JobReport) {
///     let why = report.failure.map(|failure| failure.message).unwrap_or_default();
///     println!("{} {} failed for good: {why}", report.actor, report.arguments);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobReport {
    /// Its actor.
    pub actor: String,
    /// The queue it was in.
    pub queue: String,
    /// Its message's id.
    pub message_id: String,
    /// Its message's own id of the application; may be empty.
    pub correlation_id: String,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// How it failed; `None`: it was done.
    pub failure: Option<ReportedFailure>,
    /// What it was told, where that is JSON.
    pub arguments: serde_json::Value,
    /// What it returned, where it was done.
    #[serde(default)]
    pub result: serde_json::Value,
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReportedFailure {
    /// The error's type.
    pub kind: String,
    /// One line for people.
    pub message: String,
}

impl JobReport {
    pub(crate) fn new(leased: &Leased, result: &JobResult) -> Self {
        let message = &leased.message;
        let failure = result.as_ref().err().map(ReportedFailure::new);
        let returned = result.as_ref().map_or("null", JobOutput::json);
        Self {
            actor: message.message_type.clone(),
            queue: message.queue.clone(),
            message_id: message.message_id.clone(),
            correlation_id: message.correlation_id.clone(),
            attempt: leased.attempt,
            failure,
            // Of another encoding there is nothing that could be shown.
            arguments: serde_json::from_slice(&message.payload).unwrap_or_default(),
            // A number that only a wider type can hold is nothing that could be shown either.
            result: serde_json::from_str(returned).unwrap_or_default(),
        }
    }
}

impl ReportedFailure {
    pub(crate) fn new(error: &JobError) -> Self {
        Self { kind: error.kind().to_owned(), message: error.error().to_string() }
    }
}

impl fmt::Display for ReportedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}
