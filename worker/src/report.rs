//! What an actor's callbacks are told about a job.

use qbroker_client::Leased;
use serde::{Deserialize, Serialize};

use crate::failure::JobError;

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
    pub(crate) fn new(actor: &str, leased: &Leased, error: Option<&JobError>) -> Self {
        let message = &leased.message;
        let failure = error.map(|error| ReportedFailure {
            kind: error.kind().to_owned(),
            message: error.error().to_string(),
        });
        Self {
            actor: actor.to_owned(),
            queue: message.queue.clone(),
            message_id: message.message_id.clone(),
            correlation_id: message.correlation_id.clone(),
            attempt: leased.attempt,
            failure,
            // Of another encoding there is nothing that could be shown.
            arguments: serde_json::from_slice(&message.payload).unwrap_or_default(),
        }
    }
}
