//! A worker in a test: started, waited for, stopped; what fails for good fails the test.
//!
//! The broker is a real one. In the test's own process, over a temporary folder and free ports, it is
//! `qbroker::embedded::Broker`, of the crate `qbroker`:
//!
//! ```
//! use std::time::Duration;
//! use qbroker_worker::{BoxError, Broker, Worker, actor};
//!
//! #[actor(queue = "mail", max_retries = 0)]
//! async fn greet(name: String) -> Result<(), BoxError> {
//!     if name.is_empty() { Err("nobody to greet".into()) } else { Ok(()) }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let server = qbroker::embedded::Broker::start().await?;
//!     let broker = Broker::connect(server.url()).await?;
//!     let worker = Worker::new(broker.clone()).register(greet).start();
//!
//!     greet::send(&broker, "Ann").await?;
//!     worker.join("mail", Duration::from_secs(60)).await?;
//!
//!     greet::send(&broker, "").await?;
//!     let failed = worker.join("mail", Duration::from_secs(60)).await;
//!     assert!(failed.unwrap_err().to_string().contains("nobody to greet"));
//!
//!     worker.stop().await?;
//!     server.stop().await?;
//!     Ok(())
//! }
//! ```

use std::time::{Duration, Instant};

use qbroker_client::{Error, MessageQuery, QueueStats, Reason};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::report::ReportedFailure;
use crate::worker::{Worker, WorkerError};

/// How often a queue that is not empty yet is looked at for failures.
const LOOK: Duration = Duration::from_millis(100);

/// A worker that runs in the background, from [`Worker::start`]. Dropped, it stops in order, and nobody
/// waits for that.
#[derive(Debug)]
pub struct RunningWorker {
    broker: Broker,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

/// Why a queue was not done to the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A job of it failed for good: it is in the dead-letter queue.
    #[error("the job {message_id} of {actor} failed for good: {failure}")]
    Failed {
        /// The actor's name, as the message has it.
        actor: String,
        /// The message's id.
        message_id: String,
        /// Why.
        failure: ReportedFailure,
    },
    /// The time was over before the queue was empty.
    #[error(
        "after {timeout:?} there are {} ready, {} scheduled and {} leased messages in {queue}",
        .stats.ready, .stats.scheduled, .stats.leased
    )]
    TimedOut {
        /// The queue.
        queue: String,
        /// How long it was waited for.
        timeout: Duration,
        /// What it still held.
        stats: Box<QueueStats>,
    },
    /// The broker could not be asked.
    #[error(transparent)]
    Broker(#[from] Error),
}

impl Worker {
    /// Runs in the background, for a test; as [`Worker::run_until`] otherwise.
    pub fn start(self) -> RunningWorker {
        let broker = self.broker().clone();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(self.run_until(async {
            // Without a sender nobody waits for it any more.
            stopped.await.ok();
        }));
        RunningWorker { broker, stop, task }
    }
}

impl RunningWorker {
    /// Waits until a queue holds nothing that is ready, scheduled or leased, retries included. The first
    /// job of it that fails for good ends the waiting with its failure; so does one that did before.
    ///
    /// # Errors
    ///
    /// See [`JoinError`].
    pub async fn join(&self, queue: &str, timeout: Duration) -> Result<(), JoinError> {
        let (client, started) = (self.broker.client(), Instant::now());
        loop {
            let (is_empty, stats) = match client.wait_queue_empty(queue, LOOK).await {
                // Nothing was ever sent to it.
                Err(error) if error.reason() == Some(&Reason::QueueNotFound) => return Ok(()),
                answered => answered?,
            };
            if 0 < stats.dead {
                self.fail(queue).await?;
            }
            if is_empty {
                return Ok(());
            }
            if timeout <= started.elapsed() {
                let (queue, stats) = (queue.to_owned(), Box::new(stats));
                return Err(JoinError::TimedOut { queue, timeout, stats });
            }
        }
    }

    /// Fails with the first dead letter of a queue, where there is one still.
    async fn fail(&self, queue: &str) -> Result<(), JoinError> {
        let client = self.broker.client();
        let policy = client.get_queue(queue).await?.policy;
        let letters = policy.dead_letter_queue.unwrap_or_else(|| format!("{queue}.dead"));
        let page = client.list_messages(&letters, MessageQuery::default()).await?;
        for letter in page.items {
            let message = letter.message;
            let Some(info) = message.dead_letter.filter(|info| info.source_queue == queue) else {
                continue;
            };
            let failure = info.failure.map_or_else(
                || ReportedFailure {
                    kind: format!("{:?}", info.reason),
                    message: "the broker gave it up".to_owned(),
                },
                |failure| ReportedFailure { kind: failure.kind, message: failure.message },
            );
            let (actor, message_id) = (message.message_type, message.message_id);
            return Err(JoinError::Failed { actor, message_id, failure });
        }
        Ok(())
    }

    /// Tells the worker to stop, and waits until it has.
    ///
    /// # Errors
    ///
    /// As [`Worker::run_until`].
    ///
    /// # Panics
    ///
    /// Where the worker did.
    pub async fn stop(self) -> Result<(), WorkerError> {
        let Self { stop, task, .. } = self;
        drop(stop);
        match task.await {
            Ok(ended) => ended,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
