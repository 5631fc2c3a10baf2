//! What failed for good, and why: the dead letters of a queue; and another chance for some of them.
//!
//! `dead-letters payments` lists those of the queue "payments"; `dead-letters payments redrive` sends those
//! back that have used up their retries: whatever was in their way is over. What was given up stays.
//! Here `dead-letters` is `cargo run -p qbroker-examples --bin dead-letters --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use anyhow::{Context as _, ensure};
use qbroker_client::{
    Client, DeadLetterReason, MessageFilter, MessageQuery, OperationOptions, OperationState,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let client = Client::connect(url).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let queue = arguments.first().context("usage: dead-letters QUEUE [redrive]")?;
    let policy = client.get_queue(queue).await?.policy;
    let letters = policy.dead_letter_queue.context("the queue keeps no dead letters")?;
    match arguments.get(1).map(String::as_str) {
        None => list(&client, &letters).await,
        Some("redrive") => redrive(&client, &letters, queue).await,
        Some(_) => anyhow::bail!("usage: dead-letters QUEUE [redrive]"),
    }
}

async fn list(client: &Client, letters: &str) -> anyhow::Result<()> {
    let mut query = MessageQuery::default();
    loop {
        let page = client.list_messages(letters, query.clone()).await?;
        for message in page.items.into_iter().map(|listed| listed.message) {
            let Some(letter) = message.dead_letter else { continue };
            let failure = letter.failure.unwrap_or_default();
            let arguments = String::from_utf8_lossy(&message.payload);
            // The one name that a message keeps in every queue.
            let name = format!("q.{}", message.sequence);
            println!("{name} {} {arguments}", message.message_type);
            println!("  {:?} after {} attempts", letter.reason, letter.attempts);
            println!("  {}: {}", failure.kind, failure.message);
            // The tail of the story: what each attempt told.
            let whole = client.get_message(letters, &name).await?;
            for attempt in whole.attempts {
                println!("  attempt {}: {}", attempt.attempt, attempt.failure.message);
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        query.page_token = page.next_page_token;
    }
}

/// The broker does it, also when nobody waits for it, and over its restarts.
async fn redrive(client: &Client, letters: &str, queue: &str) -> anyhow::Result<()> {
    let exhausted =
        MessageFilter::new().source_queue(queue).dead_letter_reason(DeadLetterReason::MaxAttempts);
    // With all of their retries before them again.
    let anew = OperationOptions { reset_attempts: true, ..OperationOptions::default() };
    // Each to where it died.
    let begun = client.move_messages(letters, None, exhausted, anew).await?;
    let ended = client.wait_operation(&begun.operation_id, |_| ()).await?;
    ensure!(ended.state == OperationState::Succeeded, "it did not succeed: {:?}", ended.error);
    println!("{} of {} sent back", ended.done, ended.matched);
    Ok(())
}
