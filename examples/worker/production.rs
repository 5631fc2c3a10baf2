//! A worker as it runs in production: settings from the environment, a token and TLS, metrics, JSON
//! logs, a schedule, limits that fit the supervisor's, and a broker that may be late.
//!
//! | variable | |
//! | --- | --- |
//! | `QBROKER_URL` | `https://broker.internal:7650`; default `http://127.0.0.1:7650` |
//! | `QBROKER_TOKEN` | the broker's token, where it asks for one |
//! | `QBROKER_CA` | a file with the certificate authority of the broker, where it is your own |
//! | `METRICS_LISTEN` | default `127.0.0.1:9191` |
//! | `CONCURRENCY` | jobs at a time; default 32 |
//!
//! Try it with `cargo run -p qbroker-examples --bin production`.
//!
//! Under systemd: `Restart=always`, `TimeoutStopSec=60`. Exit codes: 0 stopped in order, 1 told twice, 75
//! a job does not stop; anything else is an error that is logged.
#![expect(clippy::print_stdout, reason = "who tests it needs the address of the metrics")]

use std::time::Duration;

use qbroker_client::Client;
use qbroker_worker::middleware::Prometheus;
use qbroker_worker::{BoxError, Broker, Context, QueueShare, Worker, actor};
use tracing::info;

/// What jobs share: a pool of connections to a database, say.
struct Settings {
    retention_days: u32,
}

/// Every night, once, however many workers there are.
#[actor(
    queue = "maintenance",
    schedule = "15 2 * * *",
    time_zone = "Europe/Berlin",
    max_retries = 3
)]
async fn clean_up(ctx: Context) -> Result<(), BoxError> {
    let days = ctx.state::<Settings>().retention_days;
    info!(days, "what is older is deleted");
    Ok(())
}

/// Long, so that it hears of a shutdown and goes on elsewhere.
#[actor(queue = "imports", max_retries = 5, time_limit = "2h", notify_shutdown)]
async fn import(ctx: Context, file: String) -> Result<(), BoxError> {
    for part in 0..10 {
        if ctx.is_canceled() {
            return Err(qbroker_worker::Release::now().into());
        }
        info!(file, part, "imported");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let metrics = Prometheus::new();
    let listen = variable("METRICS_LISTEN").unwrap_or_else(|| "127.0.0.1:9191".to_owned());
    println!("http://{}/metrics", metrics.serve(listen).await?);
    let concurrency = variable("CONCURRENCY").map_or(Ok(32), |text| text.parse())?;
    let broker = connect().await?.middleware(metrics);
    Worker::new(broker)
        .state(Settings { retention_days: 30 })
        .register(clean_up)
        .register(import)
        .queues([QueueShare::new("maintenance").rank(0), QueueShare::new("imports").rank(1)])
        .concurrency(concurrency)
        // Below what the supervisor allows.
        .shutdown_timeout(Duration::from_secs(45))
        .client_id("importer")
        .run_until_shutdown()
        .await?;
    Ok(())
}

/// The broker may be started together with this, and be later.
async fn connect() -> anyhow::Result<Broker> {
    let url = variable("QBROKER_URL").unwrap_or_else(|| "http://127.0.0.1:7650".to_owned());
    let mut client = Client::builder(url);
    if let Some(token) = variable("QBROKER_TOKEN") {
        client = client.token(token);
    }
    if let Some(path) = variable("QBROKER_CA") {
        client = client.ca_certificate(std::fs::read(path)?);
    }
    Ok(Broker::wait_with(client, Duration::from_secs(60)).await?)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
