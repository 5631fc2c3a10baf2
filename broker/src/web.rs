//! The HTTP listener: is it alive, is it ready, and its figures.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
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
    /// Recovering; listens to probes only.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what runs; takes nothing new.
    Stopping,
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
            _ => Phase::Stopping,
        }
    }

    /// Whether publishes are refused for want of space. Not a reason to be taken out of service:
    /// consumers must still get here to make room.
    pub fn disk_low(&self) -> bool {
        self.shared.disk_low.load(Ordering::Acquire)
    }
}

/// What the HTTP listener needs.
#[derive(Clone, Debug)]
pub struct Web {
    /// For `/readyz`.
    pub health: Health,
    /// For `/metrics`.
    pub metrics: Arc<Registry>,
    /// Guards `/metrics`; the probes say nothing worth guarding.
    pub authenticator: Authenticator,
}

impl Web {
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
    match (web.health.phase(), web.health.disk_low()) {
        (Phase::Starting, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        (Phase::Stopping, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        (Phase::Ready, false) => (StatusCode::OK, "ready\n"),
        (Phase::Ready, true) => {
            (StatusCode::OK, "ready, but the disk is low: publishes are refused\n")
        }
    }
}

async fn metrics(State(web): State<Web>, headers: HeaderMap) -> Response {
    // A value that is no text is as good as a wrong one.
    let authorization =
        headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or(""));
    if let Err(error) = web.authenticator.check(authorization) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, format!("{error}\n")).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, Registry::CONTENT_TYPE)];
    (content_type, web.metrics.render()).into_response()
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
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = listens_as.parse().unwrap();
        let data_dir = folder.path().to_owned();
        let settings = Settings { data_dir, http_listen: Some(address), ..Settings::default() };
        let authenticator = Access::open(&settings).unwrap().authenticator(address);
        let health = Health::default();
        let metrics = Arc::new(crate::metrics::tests::registry());
        let web = Web { health: health.clone(), metrics, authenticator };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(web.serve(listener, async {
            stopped.await.ok();
        }));
        (bound, health, stop, folder)
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
