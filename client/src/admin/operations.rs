//! Work on many messages, done by the broker: begun, watched, ended.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use qbroker_proto::v1;

use super::{MessageFilter, Page, admin};
use crate::connection::Client;
use crate::error::{Error, Refusal};
use crate::time;

/// How often [`Client::wait_operation`] asks.
const LOOK: Duration = Duration::from_millis(200);

/// Work on many messages. It goes on when whoever began it is gone, and over restarts of the broker.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Operation {
    /// `o.` and a number; empty where it was only counted.
    pub operation_id: String,
    /// How far it is.
    pub state: OperationState,
    /// What it does.
    pub kind: OperationKind,
    /// Messages that matched so far.
    pub matched: u64,
    /// Of these, done.
    pub done: u64,
    /// Of these, refused when it last looked at them; they are where they were.
    pub failed: u64,
    /// The refused ones by reason.
    pub failed_reasons: HashMap<String, u64>,
    /// Why it failed; where it did not, why the first of the messages did that failed.
    pub error: Option<Refusal>,
    /// Messages it has looked at.
    pub examined: u64,
    /// Messages there were to be looked at when it began.
    pub total: u64,
    /// The queue that it works on.
    pub queue: String,
    /// Where messages go; empty: to their source queues, or nowhere.
    pub destination_queue: String,
    /// When it began.
    pub create_time: Option<SystemTime>,
    /// When it ended.
    pub end_time: Option<SystemTime>,
}

impl Operation {
    /// Whether it goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == OperationState::Running
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationState {
    /// At work.
    Running,
    /// Done; what was refused is counted.
    Succeeded,
    /// It could not go on.
    Failed,
    /// Somebody ended it.
    Canceled,
    /// A state that this client does not know, of a newer broker.
    Unknown,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// It deletes messages.
    Delete,
    /// It moves messages.
    Move,
    /// Something that this client does not know, of a newer broker.
    Unknown,
}

/// How an operation goes about it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OperationOptions {
    /// Messages a second; 0: as fast as it goes.
    pub max_rate: f64,
    /// Messages at most; 0: all that match.
    pub limit: u64,
    /// Counts only: nothing is done.
    pub count_only: bool,
    /// Moved messages begin anew with their failures and crashes; of no use elsewhere.
    pub reset_attempts: bool,
}

impl Client {
    /// Begins to delete what a filter means; running messages are taken from their workers, who are
    /// told. [`Client::wait_operation`] waits for its end.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::{MessageFilter, OperationOptions};
    ///
    /// let stale = MessageFilter::new().header("tenant", "gone");
    /// let begun = client.delete_matching("mails", stale, OperationOptions::default()).await?;
    /// let ended = client.wait_operation(&begun.operation_id, |_| ()).await?;
    /// println!("{} deleted", ended.done);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `INVALID_ARGUMENT`, `QUEUE_NOT_FOUND`, `LIMIT_REACHED`; otherwise it may
    /// or may not have begun.
    pub async fn delete_matching(
        &self,
        queue: &str,
        filter: MessageFilter,
        options: OperationOptions,
    ) -> Result<Operation, Error> {
        let request = v1::DeleteMessagesRequest {
            queue: queue.to_owned(),
            filter: Some(filter.into_wire()),
            validate_only: options.count_only,
            max_rate: options.max_rate,
            limit: options.limit.try_into().unwrap_or(i64::MAX),
        };
        let call = |channel, request| async move { admin(channel).delete_messages(request).await };
        let begun = self.call(options.count_only, Duration::ZERO, request, call).await?;
        operation(begun.operation)
    }

    /// Begins to move what a filter means to another queue; `None`: each dead letter back to its own.
    ///
    /// # Errors
    ///
    /// As [`Client::delete_matching`], and `QUEUE_NOT_FOUND` or `QUEUE_PAUSED` of the destination.
    pub async fn move_messages(
        &self,
        queue: &str,
        destination: Option<&str>,
        filter: MessageFilter,
        options: OperationOptions,
    ) -> Result<Operation, Error> {
        let request = v1::MoveMessagesRequest {
            source_queue: queue.to_owned(),
            filter: Some(filter.into_wire()),
            destination_queue: destination.unwrap_or_default().to_owned(),
            reset_attempts: options.reset_attempts,
            max_rate: options.max_rate,
            limit: options.limit.try_into().unwrap_or(i64::MAX),
            validate_only: options.count_only,
        };
        let call = |channel, request| async move { admin(channel).move_messages(request).await };
        let begun = self.call(options.count_only, Duration::ZERO, request, call).await?;
        operation(begun.operation)
    }

    /// Returns an operation as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `OPERATION_NOT_FOUND`, or what kept the client from asking.
    pub async fn get_operation(&self, id: &str) -> Result<Operation, Error> {
        let request = v1::GetOperationRequest { operation_id: id.to_owned() };
        let call = |channel, request| async move { admin(channel).get_operation(request).await };
        operation(self.call(true, Duration::ZERO, request, call).await?.operation)
    }

    /// Waits until an operation has ended, and returns it; `progress` is told how far it is.
    ///
    /// # Errors
    ///
    /// As [`Client::get_operation`].
    pub async fn wait_operation(
        &self,
        id: &str,
        mut progress: impl FnMut(&Operation),
    ) -> Result<Operation, Error> {
        loop {
            let operation = self.get_operation(id).await?;
            progress(&operation);
            if !operation.is_running() {
                return Ok(operation);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns a page of operations, the latest first. A `page_size` of 0 is 50, an empty token the
    /// first page.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn list_operations(
        &self,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<Operation>, Error> {
        let request = v1::ListOperationsRequest {
            page_size: page_size.try_into().unwrap_or(i32::MAX),
            page_token: page_token.to_owned(),
        };
        let call = |channel, request| async move { admin(channel).list_operations(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Page {
            items: response.operations.into_iter().map(Operation::from).collect(),
            next_page_token: response.next_page_token,
        })
    }

    /// Ends an operation where it is, and returns it; one that has ended stays as it did.
    ///
    /// # Errors
    ///
    /// As [`Client::get_operation`].
    pub async fn cancel_operation(&self, id: &str) -> Result<Operation, Error> {
        let request = v1::CancelOperationRequest { operation_id: id.to_owned() };
        let call = |channel, request| async move { admin(channel).cancel_operation(request).await };
        operation(self.call(true, Duration::ZERO, request, call).await?.operation)
    }
}

fn operation(operation: Option<v1::Operation>) -> Result<Operation, Error> {
    let missing = || Error::Protocol("an answer without its operation".to_owned());
    operation.map(Operation::from).ok_or_else(missing)
}

impl From<v1::Operation> for Operation {
    fn from(it: v1::Operation) -> Self {
        let count = |wire: i64| wire.try_into().unwrap_or_default();
        let reasons = it.failed_reasons.iter().map(|(reason, it)| (reason.clone(), count(*it)));
        Self {
            state: match it.state() {
                v1::OperationState::Running => OperationState::Running,
                v1::OperationState::Succeeded => OperationState::Succeeded,
                v1::OperationState::Failed => OperationState::Failed,
                v1::OperationState::Canceled => OperationState::Canceled,
                v1::OperationState::Unspecified => OperationState::Unknown,
            },
            kind: match it.kind() {
                v1::OperationKind::Delete => OperationKind::Delete,
                v1::OperationKind::Move => OperationKind::Move,
                v1::OperationKind::Unspecified => OperationKind::Unknown,
            },
            matched: count(it.matched),
            done: count(it.done),
            failed: count(it.failed),
            failed_reasons: reasons.collect(),
            error: it.error.map(Refusal::from),
            examined: count(it.examined),
            total: count(it.total),
            operation_id: it.operation_id,
            queue: it.queue,
            destination_queue: it.destination_queue,
            create_time: it.create_time.and_then(time::system_time),
            end_time: it.end_time.and_then(time::system_time),
        }
    }
}
