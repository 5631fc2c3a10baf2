//! Start in order, serve, stop in order.

mod error;
mod figures;
mod stop;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use qbroker_storage::WriteError;
use qbroker_storage::disk::RealDisk;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

pub use error::ServeError;

use crate::accept::{ConnectionCounts, accept};
use crate::auth::Access;
use crate::clock::Clock;
use crate::config::Settings;
use crate::engine::{self, Engine, Stopped};
use crate::exit::Exit;
use crate::grpc::{self, Context, Stopping};
use crate::metrics::{Registry, Sources};
use crate::queue::Limits;
use crate::supervisor;
use crate::tls::Tls;
use crate::web::{Health, Phase, Web};

/// Wide enough that one batch never waits for the window on a fast network.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Wider, since small settlements count against a budget that grows with it (h2 0.4.20).
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 64 << 10;
const HEADER_BYTES: u32 = 16 << 10;
/// A worker that is gone without a word is found after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `shutdown` resolves, then stops in order.
///
/// # Errors
/// Where the broker cannot start, and where it cannot stop cleanly. After a failed write or sync of
/// the log the process ends at once: starting again is the way on.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let running = Running::start(settings, Clock::System, die).await?;
    supervisor::ready("serving");
    tokio::pin!(shutdown);
    shutdown.as_mut().await;
    supervisor::stopping();
    running.stop().await
}

/// Ends the process after a failed write: nothing may be confirmed any more, and what the page
/// cache holds is not to be believed before it was written again.
#[expect(clippy::exit, reason = "the one answer to a log that cannot be written")]
fn die(failure: &WriteError) {
    error!(%failure, "the log cannot be written; the process ends, start it again to recover");
    std::process::exit(i32::from(Exit::Unavailable.code()));
}

/// A broker that serves.
#[derive(Debug)]
pub struct Running {
    settings: Settings,
    engine: Arc<Engine>,
    health: Health,
    reporter: HealthReporter,
    grpc_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    stopping: watch::Sender<Option<Stopping>>,
    /// Ends the listeners and everything that runs beside them.
    closing: CancellationToken,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Running {
    /// Starts a broker; `on_failure` is called when its log cannot be written any more.
    ///
    /// # Errors
    /// Where a port or the data folder cannot be had, and where the data is damaged.
    pub async fn start(
        settings: Settings,
        clock: Clock,
        on_failure: impl Fn(&WriteError) + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let began = Instant::now();
        // Ports first: whoever mistyped one learns it before a long recovery.
        let grpc_listener = bind(settings.grpc_listen).await?;
        let http_listener = match settings.http_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let grpc_addr = grpc_listener.local_addr().map_err(ServeError::Listener)?;
        let http_addr = http_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let tls = Tls::open(&settings)?;
        let engine = open_engine(settings.clone(), clock, on_failure).await?;
        let recovery = began.elapsed();
        let access = Access::open(&settings)?;

        let health = Health::default();
        let closing = CancellationToken::new();
        let counts = Arc::new(ConnectionCounts::default());
        let sources = Sources {
            figures: Box::new(figures::EngineFigures::new(engine.clone(), &settings)),
            access: access.clone(),
            connections: counts.clone(),
            health: health.clone(),
            started: SystemTime::now(),
            recovery,
        };
        if let Some(listener) = http_listener {
            let metrics = Arc::new(Registry::new(sources));
            let authenticator = access.authenticator(http_addr.unwrap_or(settings.grpc_listen));
            let web = Web { health: health.clone(), metrics, authenticator };
            tokio::spawn(web.serve(listener, closing.clone().cancelled_owned()));
        }
        let (stopping, stopping_seen) = watch::channel(None);
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let context = Context::new(engine.clone(), &settings, stopping_seen, closing.clone());
        let routes = grpc::routes(&context, &access.authenticator(grpc_addr), health_service)?;
        let incoming = accept(grpc_listener, tls.clone(), settings.connections_max, counts);
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(settings.streams_max)
            .http2_max_header_list_size(HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(routes);
        let closed = closing.clone().cancelled_owned();
        let grpc = tokio::spawn(server.serve_with_incoming_shutdown(incoming, closed));

        tokio::spawn(engine.clone().run_timer());
        tokio::spawn(watch_disk(engine.clone(), health.clone(), closing.clone()));
        let reload =
            supervisor::reload_on_hangup(access.clone(), tls).map_err(ServeError::Signal)?;
        tokio::spawn(closing.clone().run_until_cancelled_owned(reload));
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("live", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("ready", tonic_health::ServingStatus::Serving).await;
        health.enter(Phase::Ready);
        info!(
            version = env!("CARGO_PKG_VERSION"),
            data_dir = %settings.data_dir.display(),
            grpc = %grpc_addr,
            http = http_addr.map(|address| address.to_string()),
            tls = settings.tls_cert.is_some(),
            auth = access.summary(),
            "serving"
        );
        Ok(Self {
            settings,
            engine,
            health,
            reporter,
            grpc_addr,
            http_addr,
            stopping,
            closing,
            grpc,
        })
    }

    /// Where gRPC listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Does what is due by now. For a clock that is moved by hand: the timer does not see it move.
    ///
    /// # Errors
    /// Where the log has stopped.
    pub fn tick(&self) -> Result<(), Stopped> {
        self.engine.tick().map(drop)
    }

    /// Where HTTP listens, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| ServeError::Bind { address, source })
}

/// Recovers on a thread of its own: it reads for as long as there is log.
async fn open_engine(
    settings: Settings,
    clock: Clock,
    on_failure: impl Fn(&WriteError) + Send + Sync + 'static,
) -> Result<Arc<Engine>, ServeError> {
    let opened: Result<Result<_, ServeError>, _> = tokio::task::spawn_blocking(move || {
        let folder = &settings.data_dir;
        let unusable = |source| ServeError::DataDir { path: folder.clone(), source };
        let disk = RealDisk::open(folder).map_err(unusable)?;
        let reserve =
            settings.disk_reserve.bytes_of(figures::disk_bytes(folder).map_err(unusable)?);
        let options = engine::Options {
            log: qbroker_storage::Options {
                segment_bytes: settings.segment_bytes,
                disk_reserve_bytes: reserve,
                ..qbroker_storage::Options::default()
            },
            limits: Limits {
                payload_bytes_max: settings.payload_bytes_max as u64,
                auto_create_queues: settings.auto_create_queues,
                ..Limits::default()
            },
            pending_bytes_max: settings.pending_bytes_max,
            clock,
        };
        Ok(Engine::open(Arc::new(disk), options, on_failure)?)
    })
    .await;
    let (engine, report) = opened.map_err(ServeError::Recovery)??;
    for warning in &report.warnings {
        warn!(warning, "something in the data folder is damaged, though nothing is lost");
    }
    info!(%report, "recovered");
    Ok(engine)
}

/// Tells probes and people when publishes are refused for want of space, and when no longer.
async fn watch_disk(engine: Arc<Engine>, health: Health, closing: CancellationToken) {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    let mut was_low = false;
    while closing.run_until_cancelled(look.tick()).await.is_some() {
        let space = engine.log().space();
        let low = space != qbroker_storage::Space::Ample;
        if low && !was_low {
            warn!(?space, "the disk is at its reserve: publishes are refused, settling goes on");
        } else if was_low && !low {
            info!("there is room on the disk again: publishes are taken");
        }
        health.set_disk_low(low);
        was_low = low;
    }
}
