//! What failed for good, and why: the dead letters of a queue.
//!
//! `dead-letters payments` lists those of the queue "payments".
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use anyhow::Context as _;
use qbroker_client::{Client, MessageQuery};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let client = Client::connect(url).await?;
    let queue = std::env::args().nth(1).context("usage: dead-letters QUEUE")?;
    let policy = client.get_queue(&queue).await?.policy;
    let letters = policy.dead_letter_queue.context("the queue keeps no dead letters")?;

    let mut query = MessageQuery::default();
    loop {
        let page = client.list_messages(&letters, query.clone()).await?;
        for message in page.items.into_iter().map(|listed| listed.message) {
            let Some(letter) = message.dead_letter else { continue };
            let failure = letter.failure.unwrap_or_default();
            let arguments = String::from_utf8_lossy(&message.payload);
            println!("{} {} {arguments}", message.message_id, message.message_type);
            println!("  {:?} after {} attempts", letter.reason, letter.attempts);
            println!("  {}: {}", failure.kind, failure.message);
            // The tail of the story: what each attempt told.
            let whole = client.get_message(&letters, &message.message_id).await?;
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
