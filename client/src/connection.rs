//! The client: connections that publishers, consumers and calls take turns on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::options::{ClientBuilder, with_causes};

/// A connected client; cheap to clone, all clones share the connections and the session.
///
/// A client is one worker process to the broker: its consumers and pulls share one session, which
/// keeps their leases alive and which has a grace to come back when connections break.
///
/// ```no_run
/// # async fn example() -> Result<(), qbroker_client::Error> {
/// let client = qbroker_client::Client::connect("http://127.0.0.1:7650").await?;
/// println!("session {}", client.session_id());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    channels: Vec<Channel>,
    turn: AtomicUsize,
    session_id: String,
    request_timeout: Duration,
    backoff: Backoff,
}

/// A connection that adds the token to each request.
pub(crate) type Channel = InterceptedService<tonic::transport::Channel, Authorize>;

/// The largest message that either side sends: a batch of 8 MiB and its frame, twice over.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Client {
    /// Connects to `url` with the default options.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a URL that cannot be used, [`Error::Disconnected`] where nobody answers
    /// at it.
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// Options for a connection to `url`, `http://` or `https://`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    /// The session that this client's consumers and pulls belong to; random.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.shared.session_id
    }

    pub(crate) async fn from_builder(options: ClientBuilder) -> Result<Self, Error> {
        let endpoint = options.endpoint()?;
        let authorize = Authorize::new(options.token.as_deref())?;
        let first = endpoint.connect().await.map_err(|error| {
            Error::Disconnected(format!("{}: {}", options.url, with_causes(&error)))
        })?;
        let channels = std::iter::once(first)
            .chain(std::iter::repeat_with(|| endpoint.connect_lazy()))
            .take(options.connections)
            .map(|channel| InterceptedService::new(channel, authorize.clone()))
            .collect();
        let shared = Shared {
            channels,
            turn: AtomicUsize::new(0),
            session_id: random_id(),
            request_timeout: options.request_timeout,
            backoff: Backoff::new(options.backoff_initial, options.backoff_max),
            url: options.url,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The next connection in turn.
    pub(crate) fn channel(&self) -> Channel {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        self.shared.channels[turn % self.shared.channels.len()].clone()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.shared.backoff.clone()
    }

    /// Makes a call, again and again while that is safe and can help, within the request timeout
    /// and `wait`, the time that the broker may take by itself.
    ///
    /// `repeatable` says that doing it twice is the same as once; otherwise it is tried again only
    /// after an answer that says that nothing was done.
    pub(crate) async fn call<Q: Clone, T, F>(
        &self,
        repeatable: bool,
        wait: Duration,
        request: Q,
        call: impl Fn(Channel, Q) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let timeout = self.shared.request_timeout + wait;
        let mut last = None;
        let tries = async {
            let mut backoff = self.backoff();
            loop {
                let error = match call(self.channel(), request.clone()).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => Error::from(status),
                };
                if !error.is_retryable() || !(repeatable || error.nothing_was_done()) {
                    return Err(error);
                }
                let delay = backoff.next_delay(error.retry_delay());
                last = Some(error);
                tokio::time::sleep(delay).await;
            }
        };
        match tokio::time::timeout(timeout, tries).await {
            Ok(answer) => answer,
            // What kept it from succeeding says more than that the time is over.
            Err(_) => Err(last.unwrap_or(Error::TimedOut(timeout))),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.shared.url)
            .field("session_id", &self.shared.session_id)
            .finish_non_exhaustive()
    }
}

/// Adds the token to each request.
#[derive(Clone)]
pub(crate) struct Authorize {
    header: Option<AsciiMetadataValue>,
}

impl Authorize {
    fn new(token: Option<&str>) -> Result<Self, Error> {
        let Some(token) = token else { return Ok(Self { header: None }) };
        let mut header = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::Option("the token holds characters no header may".to_owned()))?;
        header.set_sensitive(true);
        Ok(Self { header: Some(header) })
    }
}

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// An id that nobody else has: 128 random bits in 32 characters.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
