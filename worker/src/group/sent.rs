//! A group that was sent: waited for, and its results.

use std::time::{Duration, Instant};

use qbroker_client::{Barrier, BarrierState, Error};
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::report::ReportedFailure;
use crate::results::ResultError;

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
