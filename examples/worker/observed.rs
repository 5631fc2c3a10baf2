//! Metrics for Prometheus, logs as JSON, and a trace from the web request to the last job.
//!
//! `observed send`, then `observed work`: the metrics are at http://127.0.0.1:9191/metrics, or at
//! METRICS_LISTEN.
//! Here `observed` is `cargo run -p qbroker-examples --bin observed --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use qbroker_worker::middleware::Prometheus;
use qbroker_worker::{Broker, Context, SendError, TraceContext, Worker, actor};
use tracing::info;

#[actor(queue = "orders")]
async fn place_order(ctx: Context, order: u64) -> Result<(), SendError> {
    info!(order, "the order is placed");
    // In the same trace, without a word about it.
    pack_order::send(ctx.broker(), order).await?;
    Ok(())
}

#[actor(queue = "orders")]
async fn pack_order(order: u64) {
    info!(order, "the order is packed");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    match std::env::args().nth(1).as_deref() {
        Some("send") => {
            // As it came with a request, in the header `traceparent`.
            let request = TraceContext::root();
            println!("{:032x}", request.trace_id);
            place_order::with(7).trace(request).send(&broker).await?;
        }
        Some("work") => {
            let metrics = Prometheus::new();
            let listen =
                std::env::var("METRICS_LISTEN").unwrap_or_else(|_| "127.0.0.1:9191".to_owned());
            println!("http://{}/metrics", metrics.serve(listen).await?);
            let worker = Worker::new(broker.middleware(metrics));
            worker.register(place_order).register(pack_order).run_until_shutdown().await?;
        }
        _ => anyhow::bail!("usage: observed send | work"),
    }
    Ok(())
}
