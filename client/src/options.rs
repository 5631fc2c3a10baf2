//! How to reach a broker: address, token, TLS, connections, patience.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::connection::Client;
use crate::error::Error;

/// Options of a [`Client`], from [`Client::builder`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let client = qbroker_client::Client::builder("https://broker.example:7650")
///     .token(std::fs::read_to_string("/run/secrets/qbroker")?.trim())
///     .ca_certificate(std::fs::read("/etc/ssl/broker-ca.pem")?)
///     .request_timeout(Duration::from_secs(5))
///     .connect()
///     .await?;
/// # drop(client); Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    pub(crate) url: String,
    pub(crate) connections: usize,
    pub(crate) token: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
    ca_certificate: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    domain_name: Option<String>,
}

impl ClientBuilder {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            url: url.into(),
            connections: cores.min(4),
            token: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            backoff_initial: Duration::from_millis(50),
            // A consumer must be back well inside its session's grace of 15 s.
            backoff_max: Duration::from_secs(2),
            ca_certificate: None,
            identity: None,
            domain_name: None,
        }
    }

    /// How many connections publishers, consumers and calls take turns on; at least 1.
    ///
    /// Default: the number of cores, at most 4. One HTTP/2 connection is served by one core at a
    /// time, so more of them help where there are more streams than one.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// The token that is sent with every request. Default: none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Certificates (PEM) of the authorities that may vouch for the broker. Only for `https`.
    ///
    /// Default: those of the system.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// Certificate and key (PEM) that the broker knows this client by. Only for `https`.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the broker's certificate must carry. Default: the host of the URL.
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    /// How long a connection may take to be made. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a single call, or the opening of a stream, may take, tries together. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often an idle connection is probed; it is given up 10 s after a probe without answer.
    ///
    /// Default: 30 s.
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = interval;
        self
    }

    /// The first and the longest wait between two tries to reach the broker, which double from one
    /// to the other with jitter. Default: 50 ms and 2 s.
    ///
    /// A consumer that does not come back within its session's grace (15 s) loses its leases.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff_initial = initial;
        self.backoff_max = max;
        self
    }

    /// Makes the first connection and returns the client.
    ///
    /// The other connections are made when they are needed, and any that breaks is made again.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a URL, token or certificate that cannot be used,
    /// [`Error::Disconnected`] where nobody answers at the address.
    pub async fn connect(self) -> Result<Client, Error> {
        Client::from_builder(self).await
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|error| Error::Option(format!("url {:?}: {error}", self.url)))?
            .user_agent(concat!("qbroker-client/", env!("CARGO_PKG_VERSION")))
            .expect("the user agent is a valid header")
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .http2_adaptive_window(false)
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        // It would be left out: the calls have paths of their own.
        if !matches!(endpoint.uri().path_and_query().map_or("", |path| path.as_str()), "" | "/") {
            let url = &self.url;
            return Err(Error::Option(format!(
                "url {url:?} must end with the port: a broker is not found below a path"
            )));
        }
        match endpoint.uri().scheme_str() {
            Some("http") => Ok(endpoint),
            Some("https") => endpoint
                .tls_config(self.tls())
                .map_err(|error| Error::Option(format!("TLS: {}", with_causes(&error)))),
            _ => Err(Error::Option(format!(
                "url {:?} must begin with http:// or https://",
                self.url
            ))),
        }
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca_certificate {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let tls = match &self.identity {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        };
        match &self.domain_name {
            Some(name) => tls.domain_name(name),
            None => tls,
        }
    }
}

/// HTTP/2 lets a client queue small frames up to half the connection's window before it is cut off,
/// so the window is what keeps a burst of acks alive; both sides use the same.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// A system call of the broker sends one frame; the protocol's default is 16 KiB.
const FRAME_BYTES: u32 = 128 * 1024;

/// Enough for a delivery batch on its way while the one before is read.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    and_causes(error.to_string(), error)
}

/// `text` and what `error` was caused by.
pub(crate) fn and_causes(mut text: String, error: &dyn std::error::Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if text == TRANSPORT_ERROR {
            text = told;
        } else if !text.contains(&told) && told != TRANSPORT_ERROR {
            // Many an error repeats its cause in its own words.
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

/// What the transport says of each of its errors before it tells the cause.
const TRANSPORT_ERROR: &str = "transport error";

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("url", &self.url)
            .field("connections", &self.connections)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .finish_non_exhaustive()
    }
}
