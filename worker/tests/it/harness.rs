//! A broker inside the test, workers on it, and a log that their jobs write.

use std::time::Duration;

use qbroker::embedded;
use qbroker_client::{Client, ListedMessage, MessageQuery, OutgoingMessage};
use qbroker_worker::{Broker, Context, Worker, WorkerError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long anything may take before a test gives up. Far beyond what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something that must happen.
pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// A broker, and what jobs write.
pub(crate) struct Bench {
    server: embedded::Broker,
    pub(crate) broker: Broker,
    writer: Log,
    lines: mpsc::UnboundedReceiver<String>,
}

/// What jobs write to.
#[derive(Clone)]
pub(crate) struct Log(mpsc::UnboundedSender<String>);

impl Log {
    pub(crate) fn write(&self, line: impl Into<String>) {
        self.0.send(line.into()).unwrap();
    }
}

/// Writes a line from inside a job.
pub(crate) fn write(context: &Context, line: impl Into<String>) {
    context.state::<Log>().write(line);
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::over(embedded::Broker::start().await.unwrap()).await
    }

    /// A broker whose time passes when the test says so.
    pub(crate) async fn still() -> Self {
        Self::over(embedded::Broker::start_still().await.unwrap()).await
    }

    async fn over(server: embedded::Broker) -> Self {
        let broker = Broker::connect(server.url()).await.unwrap();
        let (writer, lines) = mpsc::unbounded_channel();
        Self { server, broker, writer: Log(writer), lines }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Lets time pass in a broker whose time stands still.
    pub(crate) fn pass(&self, time: Duration) {
        self.server.pass(time).unwrap();
    }

    pub(crate) fn client(&self) -> &Client {
        self.broker.client()
    }

    /// A worker whose jobs write to this log.
    pub(crate) fn worker(&self) -> Worker {
        self.worker_of(self.broker.clone())
    }

    pub(crate) fn worker_of(&self, broker: Broker) -> Worker {
        Worker::new(broker).state(self.writer.clone())
    }

    pub(crate) fn log(&self) -> Log {
        self.writer.clone()
    }

    /// The next line that a job writes.
    pub(crate) async fn line(&mut self) -> String {
        patiently("a line of a job", self.lines.recv()).await.unwrap()
    }

    pub(crate) async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// Lines that nobody has read.
    pub(crate) fn unread(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// A message that no actor made.
    pub(crate) async fn publish(&self, queue: &str, message: OutgoingMessage) {
        self.client().publish(queue, vec![message]).await.unwrap();
    }

    /// The messages of a queue, once it has so many.
    pub(crate) async fn messages(&self, queue: &str, count: usize) -> Vec<ListedMessage> {
        patiently(&format!("{count} messages in {queue}"), async {
            loop {
                if let Ok(page) = self.client().list_messages(queue, MessageQuery::default()).await
                    && page.items.len() == count
                {
                    return page.items;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Waits until so many messages of a queue wait for a time.
    pub(crate) async fn scheduled(&self, queue: &str, count: u64) {
        let wait = async {
            while self.client().get_queue(queue).await.unwrap().stats.scheduled != count {}
        };
        patiently(&format!("{count} messages that wait in {queue}"), wait).await;
    }

    /// Waits until a queue holds nothing.
    pub(crate) async fn empty(&self, queue: &str) {
        let wait = async {
            while !self.client().wait_queue_empty(queue, Duration::from_secs(20)).await.unwrap().0 {
            }
        };
        patiently(&format!("the end of {queue}"), wait).await;
    }

    pub(crate) async fn stop(self) {
        self.server.stop().await.unwrap();
    }
}

/// A worker that runs.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

pub(crate) fn run(worker: Worker) -> Running {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(worker.run_until(async {
        stopped.await.ok();
    }));
    Running { stop, task }
}

impl Running {
    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), WorkerError> {
        let Self { stop, task } = self;
        drop(stop);
        patiently("the worker's end", task).await.unwrap()
    }

    /// Tells it to stop.
    pub(crate) fn begin_stop(self) -> JoinHandle<Result<(), WorkerError>> {
        drop(self.stop);
        self.task
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        patiently("the worker's end", self.task).await.unwrap()
    }
}
