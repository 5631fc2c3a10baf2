//! Queues that stand still for a while.

use std::time::Duration;

use qbroker_proto::v1;

use super::{Queue, admin, queue};
use crate::connection::Client;
use crate::error::Error;

impl Client {
    /// Stops deliveries from a queue until [`Client::resume_queue`], over restarts of the broker too;
    /// with `publishing` it also refuses publishes. Leases go on, and can be settled.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// client.pause_queue("mails", false).await?;
    /// // The mail server can be restarted now.
    /// client.resume_queue("mails").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn pause_queue(&self, name: &str, publishing: bool) -> Result<Queue, Error> {
        let request = v1::PauseQueueRequest { name: name.to_owned(), pause_publishing: publishing };
        let call = |channel, request| async move { admin(channel).pause_queue(request).await };
        queue(self.call(true, Duration::ZERO, request, call).await?.queue)
    }

    /// Lets a queue go on that was paused; one that was not is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND`, or what kept the client from asking.
    pub async fn resume_queue(&self, name: &str) -> Result<Queue, Error> {
        let request = v1::ResumeQueueRequest { name: name.to_owned() };
        let call = |channel, request| async move { admin(channel).resume_queue(request).await };
        queue(self.call(true, Duration::ZERO, request, call).await?.queue)
    }
}
