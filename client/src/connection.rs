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

    /// The error of a call or stream of this client, with the URL where it was met.
    pub(crate) fn met(&self, error: Error) -> Error {
        error.at(&self.shared.url)
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
        let timeout = self.shared.request_timeout.saturating_add(wait);
        let mut tried = Tried::default();
        let tries = async {
            let mut backoff = self.backoff();
            loop {
                tried.is_on_its_way = true;
                let error = match call(self.channel(), request.clone()).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => self.met(status.into()),
                };
                tried.is_on_its_way = false;
                if !error.is_retryable() || !(repeatable || error.nothing_was_done()) {
                    return Err(tried.told(error));
                }
                let delay = backoff.next_delay(error.retry_delay());
                tried.failed(error);
                tokio::time::sleep(delay).await;
            }
        };
        match tokio::time::timeout(timeout, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(tried.over(timeout)),
        }
    }
}

/// What is known of a call that is tried again and again.
#[derive(Debug, Default)]
struct Tried {
    last: Option<Error>,
    /// The first try that may have been done.
    in_doubt: Option<Error>,
    is_on_its_way: bool,
}

impl Tried {
    fn failed(&mut self, error: Error) {
        if !error.nothing_was_done() {
            self.in_doubt.get_or_insert_with(|| error.clone());
        }
        self.last = Some(error);
    }

    /// What the caller is told of a try that failed for good. "Not now" says nothing of one before it, which
    /// may have been done when it could.
    fn told(&mut self, error: Error) -> Error {
        let in_doubt =
            self.in_doubt.take().filter(|_| error.nothing_was_done() && error.is_for_now());
        in_doubt.unwrap_or(error)
    }

    /// What the caller is told when the time is over: what kept it from succeeding says more than that, but
    /// not where a try may have been done since.
    fn over(&mut self, timeout: Duration) -> Error {
        match self.last.take() {
            Some(error) if !(error.nothing_was_done() && self.is_on_its_way) => self.told(error),
            _ => self.in_doubt.take().unwrap_or(Error::TimedOut(timeout)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Reason, Refusal};

    /// What was stored, and whose answer was lost, would be stored again under another id.
    #[test]
    fn not_now_says_nothing_of_a_try_before_it() {
        let broken = || Error::Disconnected("broken".to_owned());
        let refused = |reason, retryable| {
            Error::Refused(Refusal { retryable, ..Refusal::unsent(reason, String::new()) })
        };
        let (paused, full) =
            (refused(Reason::QueuePaused, false), refused(Reason::QueueFull, true));
        let missing = refused(Reason::QueueNotFound, false);
        let after = |error| {
            let mut tried = Tried::default();
            tried.failed(error);
            tried
        };
        assert_eq!(after(broken()).told(paused.clone()), broken());
        assert_eq!(after(full.clone()).told(paused.clone()), paused);
        assert_eq!(after(broken()).told(missing.clone()), missing, "whenever it is asked");

        let timeout = Duration::from_secs(1);
        let mut tried = after(full.clone());
        assert_eq!(tried.over(timeout), full, "it waits for the next try");
        let mut tried = Tried { is_on_its_way: true, ..after(full.clone()) };
        assert_eq!(tried.over(timeout), Error::TimedOut(timeout));
        let mut tried = after(broken());
        tried.failed(full);
        assert_eq!(tried.over(timeout), broken());
    }
}
