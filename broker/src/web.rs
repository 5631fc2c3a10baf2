//! The HTTP listener: is it alive, is it ready, and its figures.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tracing::debug;

use crate::accept::{Connection, ConnectionCounts, accept};
use crate::auth::Authenticator;
use crate::metrics::Registry;

/// The most HTTP connections at once: probes and scrapers are few.
const CONNECTIONS_MAX: u32 = 256;

/// How long a client may take to ask, or to ask again: an idle one must not hold a place.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the broker stands between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Recovering; answers probes only.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what runs; takes nothing new.
    Stopping,
    /// Serves nothing, and waits for somebody to look at the data folder.
    Damaged,
}

/// What the probes answer from, shared with whoever knows better.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<HealthCells>,
}

#[derive(Debug, Default)]
struct HealthCells {
    phase: AtomicU8,
    disk_low: AtomicBool,
}

impl Health {
    /// Says where the broker stands now.
    pub fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Release);
    }

    /// Says whether the disk is so full that publishes are refused.
    pub fn set_disk_low(&self, low: bool) {
        self.shared.disk_low.store(low, Ordering::Release);
    }

    /// Where the broker stands.
    pub fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            2 => Phase::Stopping,
            _ => Phase::Damaged,
        }
    }

    /// Whether publishes are refused for want of space. Not a reason to be taken out of service:
    /// consumers must still get here to make room.
    pub fn disk_low(&self) -> bool {
        self.shared.disk_low.load(Ordering::Acquire)
    }
}

/// Answers over HTTP: the probes from the first moment on, the figures once there are any.
#[derive(Clone, Debug, Default)]
pub struct Web {
    health: Health,
    scrape: Arc<OnceLock<Scrape>>,
}

/// What `/metrics` shows, and who guards it; the probes say nothing worth guarding.
#[derive(Debug)]
pub struct Scrape {
    pub metrics: Registry,
    pub authenticator: Authenticator,
}

impl Web {
    /// Where the broker's standing is told.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Lets the figures be scraped from now on. Only the first call counts.
    pub fn open_to(&self, scrape: Scrape) {
        self.scrape.get_or_init(|| scrape);
    }

    /// Answers on `listener` until `shutdown` resolves; connections end with it.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let router = self.router();
        let counts = Arc::new(ConnectionCounts::default());
        let mut connections = accept(listener, None, CONNECTIONS_MAX, counts);
        // Dropped at the end, which ends the tasks: answers are short, nobody loses one.
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = tasks.join_next() => {}
                Some(Ok(connection)) = connections.next() => {
                    tasks.spawn(answer(connection, router.clone()));
                }
            }
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// What keeps the broker from serving, if anything does.
    fn hindrance(&self) -> Option<&'static str> {
        match self.health.phase() {
            Phase::Ready => None,
            Phase::Starting => Some("starting\n"),
            Phase::Stopping => Some("stopping\n"),
            Phase::Damaged => Some(
                "serving nothing: the data is damaged, look with: qbroker data verify --data-dir DIR\n",
            ),
        }
    }
}

async fn answer(connection: Connection, router: Router) {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    let service = TowerToHyperService::new(router);
    if let Err(error) = server.serve_connection(TokioIo::new(connection), service).await {
        debug!(%error, "an HTTP connection ended badly");
    }
}

/// The process answers: that is all a supervisor should restart it for.
async fn livez() -> &'static str {
    "alive\n"
}

async fn readyz(State(web): State<Web>) -> (StatusCode, &'static str) {
    match web.hindrance() {
        Some(hindrance) => (StatusCode::SERVICE_UNAVAILABLE, hindrance),
        None if web.health.disk_low() => {
            (StatusCode::OK, "ready, but the disk is low: publishes are refused\n")
        }
        None => (StatusCode::OK, "ready\n"),
    }
}

async fn metrics(State(web): State<Web>, headers: HeaderMap) -> Response {
    let Some(scrape) = web.scrape.get() else {
        let hindrance = web.hindrance().unwrap_or("starting\n");
        return (StatusCode::SERVICE_UNAVAILABLE, hindrance).into_response();
    };
    // A value that is no text is as good as a wrong one.
    let authorization =
        headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or(""));
    if let Err(error) = scrape.authenticator.check(authorization) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, format!("{error}\n")).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, Registry::CONTENT_TYPE)];
    (content_type, scrape.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use crate::auth::Access;
    use crate::config::Settings;

    async fn start(
        listens_as: &str,
    ) -> (SocketAddr, Health, oneshot::Sender<()>, tempfile::TempDir) {
        let (address, web, stop) = listen().await;
        let folder = tempfile::tempdir().unwrap();
        let listens_as: SocketAddr = listens_as.parse().unwrap();
        let data_dir = folder.path().to_owned();
        let settings = Settings { data_dir, http_listen: Some(listens_as), ..Settings::default() };
        let authenticator = Access::open(&settings).unwrap().authenticator(listens_as);
        web.open_to(Scrape { metrics: crate::metrics::tests::registry(), authenticator });
        (address, web.health().clone(), stop, folder)
    }

    /// As it is while the log is recovered.
    async fn listen() -> (SocketAddr, Web, oneshot::Sender<()>) {
        let web = Web::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(web.clone().serve(listener, async {
            stopped.await.ok();
        }));
        (address, web, stop)
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        ask_with(address, path, "connection: close").await
    }

    async fn ask_with(address: SocketAddr, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("GET {path} HTTP/1.0\r\n{header}\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_broker_s_phase() {
        let (address, health, _stop, _folder) = start("127.0.0.1:0").await;
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.0 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.0 503"));
        health.enter(Phase::Ready);
        health.set_disk_low(true);
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("disk is low"), "{answer}");
        health.enter(Phase::Stopping);
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.0 503") && answer.ends_with("stopping\n"), "{answer}");
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.0 200"));
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.0 404"));
    }

    #[tokio::test]
    async fn before_it_serves_a_broker_says_why_not() {
        let (address, web, _stop) = listen().await;
        for path in ["/readyz", "/metrics"] {
            let answer = ask(address, path).await;
            assert!(answer.starts_with("HTTP/1.0 503"), "{path}: {answer}");
            assert!(answer.ends_with("starting\n"), "{path}: {answer}");
        }
        web.health().enter(Phase::Damaged);
        for path in ["/readyz", "/metrics"] {
            let answer = ask(address, path).await;
            assert!(answer.starts_with("HTTP/1.0 503"), "{path}: {answer}");
            assert!(answer.contains("qbroker data verify"), "{path}: {answer}");
        }
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.0 200"));
    }

    #[tokio::test]
    async fn metrics_are_open_on_loopback_and_guarded_elsewhere() {
        let (address, _, _stop, _folder) = start("127.0.0.1:0").await;
        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
        assert!(answer.contains("qbroker_build_info"));

        let (address, _, _stop, folder) = start("0.0.0.0:0").await;
        assert!(ask(address, "/metrics").await.starts_with("HTTP/1.0 401"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.0 503"));
        let token = std::fs::read_to_string(folder.path().join("bootstrap-token")).unwrap();
        let header = format!("authorization: Bearer {}", token.trim());
        let answer = ask_with(address, "/metrics", &header).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    #[tokio::test]
    async fn stopping_ends_the_listener_and_its_connections() {
        let (address, _, stop, _folder) = start("127.0.0.1:0").await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        ask(address, "/livez").await;
        stop.send(()).unwrap();
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
