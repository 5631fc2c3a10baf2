//! Payments: some errors pass, some never do, and somebody is told when nothing helped.
//!
//! `payments send`, then `payments work`, until Ctrl+C; `dead-letters payments` shows what failed, and
//! `dead-letters payments redrive` sends it back; then `BANK_IS_BACK=1 payments work`.
//! Here `payments` is `cargo run -p qbroker-examples --bin payments --`, and `dead-letters` likewise.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use std::time::Duration;

use qbroker_worker::{BoxError, Broker, Context, JobReport, Retry, Worker, actor};

#[derive(Debug, thiserror::Error)]
enum PaymentError {
    /// Asking again changes nothing.
    #[error("the card was declined")]
    Declined,
    /// The bank may be there again later.
    #[error("the bank does not answer")]
    BankAway,
    /// The bank says itself when.
    #[error("the bank is busy")]
    Busy(#[source] Retry),
}

#[actor(
    queue = "payments",
    max_retries = 2,
    min_backoff = "20ms",
    throws(PaymentError::Declined),
    on_success = send_receipt,
    on_exhausted = tell_support
)]
async fn charge(ctx: Context, order: u64, cents: u64) -> Result<(), PaymentError> {
    println!("charging {cents} cents for order {order}, attempt {}", ctx.attempt());
    // The order is the key by which the bank knows a payment that it has already made: a job may be
    // done twice.
    ask_bank(order, cents, ctx.attempt())
}

/// A bank with a customer for every error.
fn ask_bank(order: u64, _cents: u64, attempt: u32) -> Result<(), PaymentError> {
    match (order, attempt) {
        (2, _) => Err(PaymentError::Declined),
        (3, _) if std::env::var_os("BANK_IS_BACK").is_none() => Err(PaymentError::BankAway),
        (4, 1) => Err(PaymentError::Busy(Retry::after(Duration::from_millis(50)))),
        _ => Ok(()),
    }
}

#[actor(queue = "mail")]
async fn send_receipt(report: JobReport) {
    println!("receipt for order {}", report.arguments["order"]);
}

#[actor(queue = "mail")]
async fn tell_support(report: JobReport) -> Result<(), BoxError> {
    let failure = report.failure.ok_or("a job that failed says how")?;
    println!("order {} needs a person: {}", report.arguments["order"], failure.message);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    match std::env::args().nth(1).as_deref() {
        Some("send") => {
            // All of them, or none.
            broker.send_all((1..=4).map(|order| charge::with(order, 1000 * order))).await?;
        }
        Some("work") => {
            let worker = Worker::new(broker).register(charge);
            worker.register(send_receipt).register(tell_support).run_until_shutdown().await?;
        }
        _ => anyhow::bail!("usage: payments send | work"),
    }
    Ok(())
}
