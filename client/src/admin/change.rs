//! Single messages, by their ids: changed and deleted.

use std::time::{Duration, SystemTime};

use qbroker_proto::v1::{self, update_messages_request::Schedule};

use super::admin;
use crate::connection::Client;
use crate::error::{Error, Refusal};
use crate::time;

/// What to change about messages.
///
/// ```
/// use std::time::Duration;
/// use qbroker_client::MessageUpdate;
///
/// let urgent = MessageUpdate::new().priority(9).delay(Duration::ZERO);
/// # drop(urgent);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "an update does nothing until `update_messages`"]
pub struct MessageUpdate {
    priority: Option<i32>,
    schedule: Option<Schedule>,
}

impl MessageUpdate {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes them this urgent.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority.into());
        self
    }

    /// Delivers them no earlier than this long from now; zero: at once.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.schedule = Some(Schedule::Delay(time::duration(delay)));
        self
    }

    /// Delivers them no earlier than at this time, by the broker's clock.
    pub fn deliver_time(mut self, time: SystemTime) -> Self {
        self.schedule = Some(Schedule::DeliverTime(time.into()));
        self
    }
}

impl Client {
    /// Changes messages, named by `q.` and their sequence or, within the queue's dedup window, by the
    /// ids that their publishers chose. `queue` may be empty for the former. Returns the ids that were
    /// refused, `MESSAGE_NOT_FOUND` or `MESSAGE_LEASED` say; the others are changed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `INVALID_ARGUMENT`, `QUEUE_NOT_FOUND` and the like; otherwise they may
    /// or may not have been changed.
    pub async fn update_messages(
        &self,
        queue: &str,
        ids: Vec<String>,
        update: MessageUpdate,
    ) -> Result<Vec<(String, Refusal)>, Error> {
        let request = v1::UpdateMessagesRequest {
            queue: queue.to_owned(),
            message_ids: ids,
            priority: update.priority,
            schedule: update.schedule,
        };
        // A delay that is asked for twice begins anew.
        let call = |channel, request| async move { admin(channel).update_messages(request).await };
        Ok(refusals(self.call(false, Duration::ZERO, request, call).await?.errors))
    }

    /// Deletes messages, whatever they are doing, named as for [`Client::update_messages`]. Returns the
    /// ids that were refused, `MESSAGE_NOT_FOUND` say; the others are gone.
    ///
    /// # Errors
    ///
    /// As [`Client::update_messages`].
    pub async fn delete_messages(
        &self,
        queue: &str,
        ids: Vec<String>,
    ) -> Result<Vec<(String, Refusal)>, Error> {
        let request = v1::DeleteMessagesByIdRequest { queue: queue.to_owned(), message_ids: ids };
        let call =
            |channel, request| async move { admin(channel).delete_messages_by_id(request).await };
        // Not repeated: what the first time has deleted would be told as not found.
        Ok(refusals(self.call(false, Duration::ZERO, request, call).await?.errors))
    }
}

fn refusals(errors: Vec<v1::MessageError>) -> Vec<(String, Refusal)> {
    let refusal = |failed: v1::MessageError| {
        (failed.message_id, Refusal::from(failed.error.unwrap_or_default()))
    };
    errors.into_iter().map(refusal).collect()
}
