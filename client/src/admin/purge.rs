//! Queues are emptied.

use std::time::Duration;

use qbroker_proto::v1;

use super::{MessageState, admin};
use crate::connection::Client;
use crate::error::Error;

impl Client {
    /// Deletes the messages of a queue that are in one of `states`; none named: ready, scheduled and
    /// parked. Returns how many went.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`; otherwise they may or may not be gone.
    pub async fn purge_queue(&self, name: &str, states: &[MessageState]) -> Result<u64, Error> {
        self.purge(name, states, false).await
    }

    /// As [`Client::purge_queue`], and then also what came from this queue into its dead-letter queue.
    ///
    /// # Errors
    ///
    /// As [`Client::purge_queue`].
    pub async fn purge_queue_and_dead_letters(
        &self,
        name: &str,
        states: &[MessageState],
    ) -> Result<u64, Error> {
        self.purge(name, states, true).await
    }

    async fn purge(
        &self,
        name: &str,
        states: &[MessageState],
        include_dead_letters: bool,
    ) -> Result<u64, Error> {
        let request = v1::PurgeQueueRequest {
            name: name.to_owned(),
            states: states.iter().map(|state| state.into_wire() as i32).collect(),
            include_dead_letters,
        };
        // Not repeated: the count would be of the second time only.
        let call = |channel, request| async move { admin(channel).purge_queue(request).await };
        let response = self.call(false, Duration::ZERO, request, call).await?;
        Ok(response.purged.try_into().unwrap_or_default())
    }
}
