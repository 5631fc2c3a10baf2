//! A batch with a summary: pages are counted side by side, at most two at a time over all workers, and
//! when all have ended the counts are added up, once.
//!
//! `word-count work` in as many terminals as you like, `word-count send "one two" "" "three"` in another.
//! Here `word-count` is `cargo run -p qbroker-examples --bin word-count --`.
#![expect(clippy::print_stdout, reason = "what it does is for whoever runs it")]

use std::time::Duration;

use qbroker_worker::limit::ConcurrencyLimit;
use qbroker_worker::{BoxError, Broker, Context, Group, ReportedFailure, Worker, actor};

#[actor(queue = "pages", max_retries = 1, min_backoff = "50ms")]
async fn count_words(ctx: Context, page: String) -> Result<usize, BoxError> {
    ConcurrencyLimit::new("pages", 2).again_after(Duration::from_millis(50)).acquire(&ctx).await?;
    match page.split_whitespace().count() {
        0 => Err("the page is empty".into()),
        words => Ok(words),
    }
}

#[actor(queue = "summaries", store_results)]
async fn sum_up(
    counts: Vec<Result<usize, ReportedFailure>>,
    title: String,
) -> Result<String, BoxError> {
    let words: usize = counts.iter().flatten().sum();
    let failed = counts.iter().filter(|count| count.is_err()).count();
    let summary = format!("{title}: {words} words on {} pages, {failed} failed", counts.len());
    println!("{summary}");
    Ok(summary)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QBROKER_URL").unwrap_or_else(|_| "http://127.0.0.1:7650".to_owned());
    let broker = Broker::connect(url).await?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, pages)) if verb == "send" && !pages.is_empty() => {
            // An id of our own, so that its result can be asked for.
            let id = format!("summary-{}", std::process::id());
            let summary = sum_up::after("all of it").message_id(&id);
            let members = pages.iter().map(count_words::with);
            let sent = Group::new(members).on_complete(summary).send(&broker).await?;
            sent.wait(&broker, Duration::from_secs(30)).await?;
            let summary: String = broker.result(&id, Duration::from_secs(30)).await?;
            println!("{summary}");
        }
        Some((verb, [])) if verb == "work" => {
            let worker = Worker::new(broker).register(count_words).register(sum_up);
            worker.run_until_shutdown().await?;
        }
        _ => anyhow::bail!("usage: word-count send PAGE... | work"),
    }
    Ok(())
}
