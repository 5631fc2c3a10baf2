//! Three queues of different rank, and a worker for each way of sharing them.
//!
//! `priorities send`, then `priorities strict` or `priorities weighted` or `priorities urgent-only`.
//! Here `priorities` is `cargo run -p qbroker-examples --bin priorities --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use qbroker_worker::{Broker, Context, QueueShare, Worker, actor};

#[actor(queue = "urgent", max_retries = 3)]
async fn reset_password(ctx: Context, number: u32) {
    report(&ctx, number);
}

#[actor(queue = "default", max_retries = 3)]
async fn resize_image(ctx: Context, number: u32) {
    report(&ctx, number);
}

/// A blocking function: it has a thread to itself while it computes.
#[actor(queue = "bulk", max_retries = 3)]
fn build_report(ctx: Context, number: u32) {
    report(&ctx, number);
}

fn report(ctx: &Context, number: u32) {
    println!("{} {} {number}", ctx.message().queue, ctx.actor());
}

fn worker(broker: Broker) -> Worker {
    Worker::new(broker).register(reset_password).register(resize_image).register(build_report)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    let worker = match std::env::args().nth(1).as_deref() {
        Some("send") => {
            let of = |number| {
                [
                    build_report::with(number),
                    resize_image::with(number),
                    reset_password::with(number),
                ]
            };
            broker.send_all((1..=10).flat_map(of)).await?;
            return Ok(());
        }
        // While there is anything urgent, nothing else is begun.
        Some("strict") => worker(broker).concurrency(1).queues([
            QueueShare::new("urgent").rank(0),
            QueueShare::new("default").rank(1),
            QueueShare::new("bulk").rank(2),
        ]),
        // Six of ten are urgent, one is bulk, and never do two of bulk run at once.
        Some("weighted") => worker(broker).concurrency(8).queues([
            QueueShare::new("urgent").weight(6),
            QueueShare::new("default").weight(3),
            QueueShare::new("bulk").weight(1).window(1),
        ]),
        // A process that is always free for what is urgent.
        Some("urgent-only") => worker(broker).queues(["urgent"]),
        _ => anyhow::bail!("usage: priorities send | strict | weighted | urgent-only"),
    };
    Ok(worker.run_until_shutdown().await?)
}
