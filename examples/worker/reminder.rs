//! A reminder in 30 minutes, which can be taken back until then.
//!
//! `reminder send 7` (or `reminder send 7 5` for five seconds), `reminder cancel ID`, `reminder work`.
//! Here `reminder` is `cargo run -p qbroker-examples --bin reminder --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use std::time::Duration;

use qbroker_worker::{Broker, Worker, actor};

const QUEUE: &str = "reminders";

/// A reminder that is an hour late is none.
#[actor(queue = "reminders", max_age = "90m")]
async fn remind(user_id: u64) {
    println!("user {user_id}: your cart is waiting");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["send", user_id] => send(&broker, user_id.parse()?, Duration::from_mins(30)).await?,
        ["send", user_id, seconds] => {
            send(&broker, user_id.parse()?, Duration::from_secs(seconds.parse()?)).await?;
        }
        ["cancel", message_id] => {
            let id = vec![message_id.to_owned()];
            let refused = broker.client().delete_messages(QUEUE, id).await?;
            // Done, or never there: the call succeeds, and says of which messages it did nothing.
            if let Some((id, refusal)) = refused.first() {
                anyhow::bail!("{id}: {refusal}");
            }
            println!("canceled");
        }
        ["work"] => Worker::new(broker).register(remind).run_until_shutdown().await?,
        _ => anyhow::bail!("usage: reminder send USER [SECONDS] | cancel ID | work"),
    }
    Ok(())
}

/// The delay is the broker's business: it survives restarts, and costs no worker anything.
async fn send(broker: &Broker, user_id: u64, delay: Duration) -> anyhow::Result<()> {
    let receipt = remind::with(user_id).delay(delay).send(broker).await?;
    println!("{}", receipt.message_id);
    Ok(())
}
