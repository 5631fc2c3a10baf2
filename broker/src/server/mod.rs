//! Start in order, serve, stop in order.

mod error;
mod figures;
mod front;
mod stop;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qbroker_storage::Space;
use qbroker_storage::disk::RealDisk;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use error::Remedy;
pub use error::ServeError;
use front::Front;

use crate::accept::{ConnectionCounts, accept};
use crate::auth::Access;
use crate::clock::Clock;
use crate::config::{Settings, WhenDamaged};
use crate::engine::{self, Engine, Failure, Stopped};
use crate::exit::Exit;
use crate::grpc::{self, Context, Stopping};
use crate::metrics::{Registry, Sources};
use crate::open_files;
use crate::queue::Limits;
use crate::search::Search;
use crate::supervisor;
use crate::web::{Health, Phase, Scrape};

/// Wide enough that one batch never waits for the window on a fast network.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Wider, since small settlements count against a budget that grows with it (h2 0.4.20).
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A system call of a client sends one frame; the protocol's default is 16 KiB.
const FRAME_BYTES: u32 = 128 << 10;
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
    tokio::pin!(shutdown);
    let front = Front::open(&settings).await?;
    let folder = settings.data_dir.clone();
    let die = move |failure: &Failure| die(failure, &folder);
    // Recovery may be cut short at any moment, as by a crash.
    let recovered = tokio::select! {
        recovered = recover(settings.clone(), Clock::System, die) => recovered,
        () = &mut shutdown => {
            info!("stopped before it served");
            return Ok(());
        }
    };
    if let Err(failed) = &recovered
        && failed.exit() == Exit::Damaged
        && settings.when_damaged == WhenDamaged::Wait
    {
        error!("{failed}");
        warn!("when-damaged=wait: serving nothing until stopped, so that nobody starts this again");
        front.web.health().enter(Phase::Damaged);
        shutdown.await;
        return recovered.map(drop);
    }
    let running = Running::serve(front, recovered?, settings).await?;
    supervisor::ready("serving");
    shutdown.await;
    supervisor::stopping();
    running.stop().await
}

/// Ends the process: after a failed write nothing may be confirmed any more, and what the page
/// cache holds is not to be believed before it was written again; without a page of the index the
/// broker does not know its messages.
#[expect(clippy::exit, reason = "the one answer to what nothing can make good")]
fn die(failure: &Failure, folder: &Path) {
    let exit = match failure {
        Failure::Write(_) => Exit::Unavailable,
        Failure::Page(_) => Exit::Damaged,
    };
    let remedy = match exit {
        Exit::Damaged => format!(": {}", Remedy(folder)),
        _ => String::new(),
    };
    error!(exit_code = exit.code(), "{failure}; the process ends{remedy}");
    std::process::exit(i32::from(exit.code()));
}

/// A broker that serves until it is stopped. Dropped, it ends as by a crash: nothing that was
/// confirmed is lost.
#[derive(Debug)]
pub struct Running {
    settings: Settings,
    engine: Arc<Engine>,
    search: Option<Search>,
    health: Health,
    reporter: HealthReporter,
    grpc_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    stopping: watch::Sender<Option<Stopping>>,
    /// Ends the listeners and everything that runs beside them.
    /// Also where the broker is dropped.
    closing: DropGuard,
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
        on_failure: impl Fn(&Failure) + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let front = Front::open(&settings).await?;
        let recovered = recover(settings.clone(), clock, on_failure).await?;
        Self::serve(front, recovered, settings).await
    }

    async fn serve(
        front: Front,
        recovered: Recovered,
        settings: Settings,
    ) -> Result<Self, ServeError> {
        let Front { grpc: listener, grpc_addr, http_addr, tls, web, started, closing } = front;
        let Recovered { engine, took } = recovered;
        let access = Access::open(&settings)?;
        let health = web.health().clone();
        let counts = Arc::new(ConnectionCounts::default());
        let search = match settings.search_index {
            true => {
                let folder = settings.data_dir.join("search");
                let search = Search::start(&engine, folder, settings.search_index_names);
                Some(search.map_err(ServeError::Search)?)
            }
            false => None,
        };
        let figures = figures::EngineFigures::new(engine.clone(), search.clone(), &settings);
        let sources = Sources {
            figures: Box::new(figures),
            access: access.clone(),
            connections: counts.clone(),
            health: health.clone(),
            started,
            recovery: took,
        };
        if let Some(address) = http_addr {
            let authenticator = access.authenticator(address);
            web.open_to(Scrape { metrics: Registry::new(sources), authenticator });
        }
        let (stopping, stopping_seen) = watch::channel(None);
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let context =
            Context::new(engine.clone(), &settings, stopping_seen, closing.token().clone());
        let context = context.with_search(search.clone());
        let routes = grpc::routes(&context, &access.authenticator(grpc_addr), health_service)?;
        let connections_max = open_files::connections_max(settings.connections_max);
        let incoming = accept(listener, tls.clone(), connections_max, counts);
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(settings.streams_max)
            .http2_max_header_list_size(HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(routes);
        let closed = closing.token().clone().cancelled_owned();
        let grpc = tokio::spawn(server.serve_with_incoming_shutdown(incoming, closed));

        tokio::spawn(keep_time(engine.clone(), search.clone(), closing.token().clone()));
        tokio::spawn(
            closing.token().clone().run_until_cancelled_owned(engine.clone().run_operations()),
        );
        tokio::spawn(watch_disk(engine.clone(), health.clone(), closing.token().clone()));
        let reload =
            supervisor::reload_on_hangup(access.clone(), tls).map_err(ServeError::Signal)?;
        tokio::spawn(closing.token().clone().run_until_cancelled_owned(reload));
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
            search,
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
        self.engine.tick()
    }

    /// Where HTTP listens, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }
}

/// What recovery brought back.
struct Recovered {
    engine: Arc<Engine>,
    took: Duration,
}

/// Recovers on a thread of its own: it reads for as long as there is log.
async fn recover(
    settings: Settings,
    clock: Clock,
    on_failure: impl Fn(&Failure) + Send + Sync + 'static,
) -> Result<Recovered, ServeError> {
    let began = Instant::now();
    info!(data_dir = %settings.data_dir.display(), "recovering");
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
                messages_in_memory: settings.messages_in_memory as usize,
                state_bytes_max: settings.state_bytes_max,
                ..Limits::default()
            },
            pending_bytes_max: settings.pending_bytes_max,
            clock,
        };
        let opened = Engine::open(Arc::new(disk), options, on_failure);
        opened.map_err(|source| ServeError::of_start(folder, source))
    })
    .await;
    let (engine, report) = opened.map_err(ServeError::Recovery)??;
    for warning in &report.warnings {
        warn!(warning, "something in the data folder is damaged, though nothing is lost");
    }
    info!(%report, "recovered");
    Ok(Recovered { engine, took: began.elapsed() })
}

/// Does what is due, and writes checkpoints, until the broker closes.
async fn keep_time(engine: Arc<Engine>, search: Option<Search>, closing: CancellationToken) {
    closing.run_until_cancelled(engine.clone().run_timer()).await;
    if let Some(search) = search {
        search.stop();
    }
    engine.stop_checkpoints();
}

/// Tells probes and people when publishes are refused for want of space, and when no longer.
async fn watch_disk(engine: Arc<Engine>, health: Health, closing: CancellationToken) {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    let mut was_low = false;
    while closing.run_until_cancelled(look.tick()).await.is_some() {
        let space = engine.log().space();
        let low = space != Space::Ample;
        if let (Space::Low { free, reserve }, false) = (space, was_low) {
            warn!(
                free,
                reserve, "the disk is at its reserve: publishes are refused, settling goes on"
            );
        } else if was_low && !low {
            info!("there is room on the disk again: publishes are taken");
        }
        health.set_disk_low(low);
        was_low = low;
    }
}
