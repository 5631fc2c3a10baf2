//! A welcome mail with retries: the mail server is away at first.
//!
//! `welcome-mail send ann@example.org`, then `welcome-mail work`, until Ctrl+C.
//! Here `welcome-mail` is `cargo run -p qbroker-examples --bin welcome-mail --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use qbroker_worker::{Broker, Context, Worker, actor};

#[derive(Debug, thiserror::Error)]
enum MailError {
    #[error("the mail server is away")]
    Away,
}

#[actor(
    queue = "mail",
    max_retries = 5,
    min_backoff = "50ms",
    max_backoff = "5m",
    time_limit = "30s"
)]
async fn send_welcome(ctx: Context, user_id: u64, email: String) -> Result<(), MailError> {
    deliver(ctx.attempt(), &email)?;
    println!("welcomed user {user_id} at {email}, attempt {}", ctx.attempt());
    Ok(())
}

/// A mail server that comes back for the third attempt.
fn deliver(attempt: u32, _email: &str) -> Result<(), MailError> {
    if attempt < 3 { Err(MailError::Away) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["send", email] => {
            let receipt = send_welcome::send(&broker, 123, email).await?;
            println!("{} is on disk", receipt.message_id);
        }
        ["work"] => {
            Worker::new(broker).register(send_welcome).concurrency(8).run_until_shutdown().await?;
        }
        _ => anyhow::bail!("usage: welcome-mail send EMAIL | work"),
    }
    Ok(())
}
