//! Prometheus metrics, by the names that Dramatiq gives them, so that its dashboards fit.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use qbroker_client::Message;
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};

use super::{JobEnd, Middleware, Settlement};
use crate::context::Context;
use crate::failure::JobError;

/// Counts jobs, and tells Prometheus; cheap to clone.
///
/// By queue and actor (`queue_name`, `actor_name`), named as Dramatiq names them:
///
/// | metric | |
/// | --- | --- |
/// | `dramatiq_messages_total` | attempts that have ended |
/// | `dramatiq_message_errors_total` | of them, those that failed; also done ones whose callbacks could not be sent |
/// | `dramatiq_message_retries_total` | attempts that were not the first |
/// | `dramatiq_message_rejects_total` | dead-lettered messages |
/// | `dramatiq_messages_inprogress` | jobs that run |
/// | `dramatiq_message_duration_milliseconds` | how long an attempt took |
///
/// And, of the whole worker, `qbroker_worker_stuck_jobs` and
/// `qbroker_worker_settlements_refused_total`. How many messages wait, and for how long, the broker
/// tells (`qbroker_queue_messages` and others): no worker can. Delayed messages are never in a worker's memory,
/// so there is no `dramatiq_delayed_messages_inprogress`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use qbroker_worker::{Broker, middleware::Prometheus};
///
/// let metrics = Prometheus::new();
/// metrics.serve("127.0.0.1:9191").await?;
/// let broker = Broker::connect("http://127.0.0.1:7650").await?.middleware(metrics);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Prometheus(Arc<Metrics>);

struct Metrics {
    registry: Registry,
    messages: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    rejects: Family<Labels, Counter>,
    in_progress: Family<Labels, Gauge>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    stuck: Gauge<i64, AtomicI64>,
    refused: Counter<u64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    queue_name: String,
    actor_name: String,
}

/// Upper bounds in milliseconds, Dramatiq's.
const DURATION_BUCKETS: [f64; 18] = [
    5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0,
    10_000.0, 30_000.0, 60_000.0, 600_000.0, 900_000.0,
];

/// OpenMetrics, which is what `text` encodes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Default for Prometheus {
    fn default() -> Self {
        Self::new()
    }
}

impl Prometheus {
    /// Metrics that count from 0.
    #[must_use]
    pub fn new() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let mut metrics = Metrics {
            registry: Registry::default(),
            messages: Family::default(),
            errors: Family::default(),
            retries: Family::default(),
            rejects: Family::default(),
            in_progress: Family::default(),
            durations: Family::new_with_constructor(durations),
            stuck: Gauge::default(),
            refused: Counter::default(),
        };
        metrics.register();
        Self(Arc::new(metrics))
    }

    /// What Prometheus reads, in the text form of OpenMetrics.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.0.registry).expect("a string takes whatever is written");
        page
    }

    /// Serves `/metrics` at this address until the process ends; Dramatiq's is port 9191. Returns
    /// where it listens, which port 0 leaves open.
    ///
    /// # Errors
    ///
    /// The address is not free, or not one of this machine.
    pub async fn serve(&self, address: impl ToSocketAddrs) -> io::Result<SocketAddr> {
        let addresses: Vec<SocketAddr> = lookup_host(address).await?.collect();
        let listener = TcpListener::bind(&addresses[..]).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {addresses:?}: {error}"))
        })?;
        let address = listener.local_addr()?;
        let metrics = self.clone();
        let page = move || std::future::ready(([(CONTENT_TYPE, OPEN_METRICS)], metrics.text()));
        let router = Router::new().route("/metrics", get(page));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "metrics are served no more");
            }
        });
        Ok(address)
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self {
            registry,
            messages,
            errors,
            retries,
            rejects,
            in_progress,
            durations,
            stuck,
            refused,
        } = self;
        registry.register("dramatiq_messages", "Attempts that have ended", messages.clone());
        registry.register("dramatiq_message_errors", "Attempts that failed", errors.clone());
        registry.register("dramatiq_message_retries", "Attempts but the first", retries.clone());
        registry.register("dramatiq_message_rejects", "Dead-lettered messages", rejects.clone());
        registry.register("dramatiq_messages_inprogress", "Jobs that run", in_progress.clone());
        let help = "How long attempts took";
        registry.register("dramatiq_message_duration_milliseconds", help, durations.clone());
        let help = "Jobs that do not stop when they should";
        registry.register("qbroker_worker_stuck_jobs", help, stuck.clone());
        let help = "Settlements that the broker refused";
        registry.register("qbroker_worker_settlements_refused", help, refused.clone());
    }
}

impl Labels {
    fn of(context: &Context) -> Self {
        let queue_name = context.message().queue.clone();
        Self { queue_name, actor_name: context.actor().to_owned() }
    }
}

impl Middleware for Prometheus {
    fn before_process(&self, context: &Context) {
        let labels = Labels::of(context);
        self.0.in_progress.get_or_create(&labels).inc();
        if 1 < context.attempt() {
            self.0.retries.get_or_create(&labels).inc();
        }
    }

    fn after_process(&self, context: &Context, end: &JobEnd<'_>) {
        let labels = Labels::of(context);
        self.0.in_progress.get_or_create(&labels).dec();
        self.0.messages.get_or_create(&labels).inc();
        let millis = end.duration.as_secs_f64() * 1e3;
        self.0.durations.get_or_create(&labels).observe(millis);
    }

    /// Only here is it known what became of it: a job that was done fails where the broker does not take
    /// what follows it.
    fn after_settle(
        &self,
        context: &Context,
        settlement: Settlement,
        settled: Result<(), &qbroker_client::Error>,
    ) {
        match settlement {
            Settlement::Retry { .. } => {
                self.0.errors.get_or_create(&Labels::of(context)).inc();
            }
            Settlement::DeadLetter { .. } => {
                let labels = Labels::of(context);
                self.0.errors.get_or_create(&labels).inc();
                if settled.is_ok() {
                    self.0.rejects.get_or_create(&labels).inc();
                }
            }
            Settlement::Ack | Settlement::Release { .. } | Settlement::Nothing => {}
        }
        if settled.is_err() {
            self.0.refused.inc();
        }
    }

    fn on_reject(&self, message: &Message, _error: &JobError) {
        let (queue_name, actor_name) = (message.queue.clone(), message.message_type.clone());
        self.0.rejects.get_or_create(&Labels { queue_name, actor_name }).inc();
    }

    fn on_stuck(&self, jobs: usize) {
        self.0.stuck.set(jobs.try_into().unwrap_or(i64::MAX));
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus").finish_non_exhaustive()
    }
}
