//! Where jobs are sent to: a client, a publisher, and the middleware around both.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qbroker_client::{BatchReceipt, Client, ClientBuilder, Error, Publisher, Receipt};
use tokio::sync::Mutex;
use tracing::info;

use crate::context::Context;
use crate::defaults::Defaults;
use crate::draft::Draft;
use crate::middleware::Middleware;
use crate::outgoing::{OutgoingJob, SendError};
use crate::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// A broker to send jobs to and to work for; cheap to clone, all clones share the connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use qbroker_worker::{Broker, middleware::Prometheus};
///
/// let broker = Broker::connect("http://127.0.0.1:7650").await?.middleware(Prometheus::new());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Broker {
    client: Client,
    publisher: Arc<Mutex<Option<Publisher>>>,
    pub(crate) middleware: Arc<[Arc<dyn Middleware>]>,
    trace_source: Option<Arc<dyn Fn() -> Option<TraceContext> + Send + Sync>>,
    send_timeout: Duration,
    pub(crate) defaults: Defaults,
}

/// The publisher's own queue; every job names its own.
const QUEUE: &str = "default";

/// How long to wait for a broker that is not there yet, at first and in the end.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

impl Broker {
    /// Connects to a broker with the client's default options.
    ///
    /// # Errors
    ///
    /// The URL cannot be used, or nobody answers at it.
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        Ok(Self::new(Client::connect(url).await?))
    }

    /// As [`Broker::connect`], but waits for a broker that is not there yet, for so long: where both are
    /// started together, nobody says which is first.
    ///
    /// # Errors
    ///
    /// The URL cannot be used, or nobody has answered at it.
    pub async fn wait_for(url: impl Into<String>, patience: Duration) -> Result<Self, Error> {
        Self::wait_with(Client::builder(url), patience).await
    }

    /// As [`Broker::wait_for`], with options of yours: a token, TLS, more connections.
    ///
    /// # Errors
    ///
    /// An option cannot be used, or nobody has answered.
    pub async fn wait_with(client: ClientBuilder, patience: Duration) -> Result<Self, Error> {
        let started = Instant::now();
        let mut delay = FIRST_WAIT;
        loop {
            match client.clone().connect().await.map(Self::new) {
                Err(error) if error.is_retryable() && started.elapsed() + delay < patience => {
                    if delay == FIRST_WAIT {
                        info!(%error, "waiting for the broker");
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(LONGEST_WAIT);
                }
                connected => return connected,
            }
        }
    }

    /// A broker over a client of yours: with a token, TLS, or more connections.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            publisher: Arc::default(),
            middleware: Arc::new([]),
            trace_source: None,
            send_timeout: Duration::from_secs(30),
            defaults: Defaults::default(),
        }
    }

    /// Adds a middleware within those that were added before: what begins it sees after them, what
    /// ends before them.
    ///
    /// Clones made before do not have it.
    #[must_use]
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        let more = std::iter::once(Arc::new(middleware) as Arc<dyn Middleware>);
        self.middleware = self.middleware.iter().cloned().chain(more).collect();
        self
    }

    /// Asks this for the trace that a job belongs to where the job does not say; for whoever keeps
    /// traces with OpenTelemetry, say. Default: the trace of the job that sends it, if one does.
    #[must_use]
    pub fn trace_source(
        mut self,
        source: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.trace_source = Some(Arc::new(source));
        self
    }

    /// How long a send waits for a broker that is away. Default: 30 s.
    #[must_use]
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.send_timeout = timeout;
        self
    }

    /// How jobs that are sent or done over it are treated where neither they nor their actors say. Clones
    /// made before do not have it, nor do workers that were.
    #[must_use]
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// How long whoever sends waits for a broker that refuses for a while.
    pub(crate) fn patience(&self) -> Duration {
        self.send_timeout
    }

    /// The client behind it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a job; it is on the broker's disk when this returns. Jobs that are sent at the same time
    /// travel together.
    ///
    /// # Errors
    ///
    /// It cannot be encoded, or the broker does not take it; see [`SendError`].
    pub async fn send(&self, mut job: OutgoingJob) -> Result<Receipt, SendError> {
        self.prepare(&mut job);
        let sent = match job.take_draft() {
            Err(error) => Err(error),
            Ok(draft) => {
                let message = draft.into_message();
                self.within(async { self.publisher().await?.publish(message).await }).await
            }
        };
        self.sent(&job, sent.as_ref().map(|_| ()));
        sent
    }

    /// Sends up to 1,000 jobs, of any actors, in one piece: all of them are on the broker's disk when
    /// this returns, or none is.
    ///
    /// ```no_run
    /// # use qbroker_worker::{Broker, SendError, actor};
    /// # #[actor] async fn greet(user_id: u64) { drop(user_id); }
    /// # async fn example(broker: Broker) -> Result<(), SendError> {
    /// broker.send_all((0..500).map(greet::with)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Broker::send`]; metadata "index" of a refusal is the position of the job that caused it.
    pub async fn send_all(
        &self,
        jobs: impl IntoIterator<Item = OutgoingJob>,
    ) -> Result<BatchReceipt, SendError> {
        let mut jobs: Vec<OutgoingJob> = jobs.into_iter().collect();
        jobs.iter_mut().for_each(|job| self.prepare(job));
        let drafts: Result<Vec<_>, _> = jobs.iter_mut().map(OutgoingJob::take_draft).collect();
        let sent = match drafts {
            Err(error) => Err(error),
            Ok(drafts) => {
                let messages = drafts.into_iter().map(Draft::into_message).collect();
                self.within(async { self.publisher().await?.publish_batch(messages).await }).await
            }
        };
        for job in &jobs {
            self.sent(job, sent.as_ref().map(|_| ()));
        }
        sent
    }

    /// Tells the middleware that a job was sent, or not.
    pub(crate) fn sent(&self, job: &OutgoingJob, sent: Result<(), &SendError>) {
        for middleware in self.middleware.iter().rev() {
            middleware.after_enqueue(job, sent);
        }
    }

    /// What is done to a job just before it is sent.
    pub(crate) fn prepare(&self, job: &mut OutgoingJob) {
        job.fill(&self.defaults);
        for middleware in self.middleware.iter() {
            middleware.before_enqueue(job);
        }
        let current = Context::current();
        let trace = job.trace.or_else(|| self.trace_source.as_ref().and_then(|source| source()));
        if let Some(trace) = trace.or_else(|| current.as_ref().map(Context::trace)) {
            job.set_header(TRACEPARENT, trace.to_string());
            let state =
                current.as_ref().filter(|context| context.trace().trace_id == trace.trace_id);
            if let Some(state) = state.and_then(|context| context.message().headers.get(TRACESTATE))
            {
                job.set_header(TRACESTATE, state);
            }
        }
    }

    async fn within<T>(
        &self,
        sending: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SendError> {
        match tokio::time::timeout(self.send_timeout, sending).await {
            Ok(Ok(sent)) => Ok(sent),
            Ok(Err(error)) => {
                // A publisher that has failed for good must not fail everything that comes after.
                if matches!(error, Error::Closed(_)) {
                    *self.publisher.lock().await = None;
                }
                Err(error.into())
            }
            Err(_) => Err(SendError::TimedOut(self.send_timeout)),
        }
    }

    async fn publisher(&self) -> Result<Publisher, Error> {
        let mut publisher = self.publisher.lock().await;
        if let Some(publisher) = &*publisher {
            return Ok(publisher.clone());
        }
        Ok(publisher.insert(self.client.publisher(QUEUE).open().await?).clone())
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("client", &self.client).finish_non_exhaustive()
    }
}
