//! Results of jobs: kept in the broker in the record that settles the job, and waited for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use qbroker_client::{Error, Reason};
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::failure::{JobError, JobResult};
use crate::report::ReportedFailure;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// None appeared in time: the job is not done, or keeps none, or its time is over.
    #[error("there is no result after {0:?}")]
    Missing(Duration),
    /// The job failed for good.
    #[error("the job failed: {0}")]
    Failed(ReportedFailure),
    /// It is not of this type.
    #[error("the result is of another type: {0}")]
    Undecodable(#[from] serde_json::Error),
    /// The broker could not be asked.
    #[error(transparent)]
    Broker(#[from] Error),
}

/// The longest that the broker is asked to wait at once.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Keys that one question may have.
const KEYS_MAX: usize = 1_000;

impl Broker {
    /// The result of the job with this message id, as soon as it is there.
    ///
    /// It is kept where the job's actor says `store_results`, or the job
    /// [`OutgoingJob::store_result`](crate::OutgoingJob::store_result): as its value, or as the failure
    /// with which the job was given up. It is there if and only if the job is done: both are one record.
    /// A job that the broker gives up by itself (its workers crash, its time is over, somebody deletes
    /// it) has none.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use qbroker_worker::{BoxError, Broker, actor};
    ///
    /// #[actor(store_results, result_ttl = "1h")]
    /// async fn add(a: i64, b: i64) -> Result<i64, BoxError> {
    ///     a.checked_add(b).ok_or("it is too much".into())
    /// }
    ///
    /// # async fn example(broker: Broker) -> Result<(), BoxError> {
    /// let job = add::send(&broker, 1, 2).await?;
    /// let sum: i64 = broker.result(&job.message_id, Duration::from_secs(10)).await?;
    /// # drop(sum); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ResultError`].
    pub async fn result<T: DeserializeOwned>(
        &self,
        message_id: &str,
        timeout: Duration,
    ) -> Result<T, ResultError> {
        let mut results = self.results(&[message_id.to_owned()], timeout).await?;
        let result = results.pop().flatten().ok_or(ResultError::Missing(timeout))?;
        result.map_err(ResultError::Failed)
    }

    /// The results of jobs in the order of their message ids, as soon as all of them are there or the
    /// time is over; `None` of those that have none by then.
    ///
    /// # Errors
    ///
    /// One is of another type, or the broker could not be asked.
    pub async fn results<T: DeserializeOwned>(
        &self,
        message_ids: &[String],
        timeout: Duration,
    ) -> Result<Vec<Option<Result<T, ReportedFailure>>>, ResultError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(message_ids.len());
        let (mut at_once, mut rest) = (KEYS_MAX, message_ids);
        while !rest.is_empty() {
            let (ids, others) = rest.split_at(rest.len().min(at_once));
            let keys: Vec<String> = ids.iter().map(|id| key(id)).collect();
            let found = match self.wait_for_all(&keys, started, timeout).await {
                // Fewer, where the values of all are more than one answer may have.
                Err(error) if error.reason() == Some(&Reason::BatchTooLarge) && 1 < ids.len() => {
                    at_once = ids.len() / 2;
                    continue;
                }
                found => found?,
            };
            for key in keys {
                let result = found.get(&key).map(|json| serde_json::from_slice(json));
                results.push(result.transpose()?);
            }
            rest = others;
        }
        Ok(results)
    }

    async fn wait_for_all(
        &self,
        keys: &[String],
        started: Instant,
        timeout: Duration,
    ) -> Result<std::collections::HashMap<String, Bytes>, Error> {
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let wait = left.min(WAIT_MAX);
            let found = self.client().state().get_all(keys, wait).await?;
            if found.len() == keys.len() || wait == left {
                return Ok(found);
            }
        }
    }

    /// Forgets the result of a job before its time; whether there was one.
    ///
    /// # Errors
    ///
    /// What kept the broker from it.
    pub async fn forget_result(&self, message_id: &str) -> Result<bool, Error> {
        self.client().state().delete(&key(message_id)).await
    }
}

/// Where the result of the job with this message id is: ids of the broker's are unique, and one's own
/// should be.
pub(crate) fn key(message_id: &str) -> String {
    format!("result/{message_id}")
}

/// A result as it is kept: `{"Ok": ...}`, or `{"Err": {"kind": ..., "message": ...}}`.
pub(crate) fn stored(result: &JobResult) -> String {
    match result {
        Ok(output) => format!(r#"{{"Ok":{}}}"#, output.json()),
        Err(error) => stored_failure(error),
    }
}

/// A failure as it is kept.
pub(crate) fn stored_failure(error: &JobError) -> String {
    let failure = serde_json::to_string(&ReportedFailure::new(error));
    format!(r#"{{"Err":{}}}"#, failure.expect("two texts can be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::JobOutput;

    #[test]
    fn a_result_that_is_kept_is_read_as_it_was() {
        let result = JobOutput::new(&vec![1, 2]);
        let read: Result<Vec<u8>, ReportedFailure> =
            serde_json::from_str(&stored(&result)).expect("it was written here");
        assert_eq!(read, Ok(vec![1, 2]));
        let failed = stored(&Err(JobError::new("no \"way\"")));
        let read: Result<(), ReportedFailure> =
            serde_json::from_str(&failed).expect("it was written here");
        assert_eq!(read.expect_err("it failed").to_string(), "Error: no \"way\"");
        let nothing: Result<(), ReportedFailure> =
            serde_json::from_str(&stored(&Ok(JobOutput::none()))).expect("it was written here");
        assert_eq!(nothing, Ok(()));
    }
}
