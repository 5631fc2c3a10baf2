//! Limits over all workers: who meets one is handed back, uncounted.

use std::time::Duration;

use qbroker_client::{ListedMessage, MessageState};
use qbroker_worker::limit::{BucketLimit, ConcurrencyLimit, LimitError, WindowLimit};
use qbroker_worker::{BoxError, Context, actor};
use tokio::sync::Semaphore;

use crate::harness::{Bench, patiently, run, write};

fn bank() -> ConcurrencyLimit {
    ConcurrencyLimit::new("bank", 1).again_after(Duration::ZERO)
}

#[actor(max_retries = 0)]
async fn charge(ctx: Context, number: u32) -> Result<(), BoxError> {
    bank().acquire(&ctx).await?;
    write(&ctx, format!("begun {number}, attempt {}", ctx.attempt()));
    ctx.state::<std::sync::Arc<Semaphore>>().acquire().await?.forget();
    write(&ctx, format!("done {number}"));
    if number == 1 { Err("no".into()) } else { Ok(()) }
}

#[tokio::test]
async fn as_many_jobs_as_have_a_permit_run_and_it_ends_with_each() {
    let mut bench = Bench::start().await;
    let gate = std::sync::Arc::new(Semaphore::new(0));
    let one =
        run(bench.worker().register(charge).concurrency(2).state(std::sync::Arc::clone(&gate)));
    let two =
        run(bench.worker().register(charge).concurrency(2).state(std::sync::Arc::clone(&gate)));
    bench.broker.send_all((0..3).map(charge::with)).await.unwrap();
    let mut done = Vec::new();
    for _ in 0..3 {
        let begun = bench.line().await;
        assert!(begun.starts_with("begun") && begun.ends_with("attempt 1"), "{begun}");
        assert_eq!(bench.unread(), [""; 0], "one at a time");
        gate.add_permits(1);
        done.push(bench.line().await);
    }
    done.sort();
    assert_eq!(done, ["done 0", "done 1", "done 2"]);
    bench.empty("default").await;
    assert_eq!(
        bench.messages("default.dead", 1).await.len(),
        1,
        "failed, it has no permit any more"
    );
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    bench.stop().await;
}

#[actor(max_retries = 0)]
async fn gives_back(ctx: Context) -> Result<(), LimitError> {
    let permit = bank().acquire(&ctx).await?;
    assert!(permit.release().await?);
    let again = bank().wait(Duration::from_secs(1)).acquire(&ctx).await?;
    drop(again);
    assert!(matches!(bank().acquire(&ctx).await, Err(LimitError::Reached { .. })), "it holds one");
    write(&ctx, "done");
    Ok(())
}

#[tokio::test]
async fn a_permit_can_be_given_back_before_the_end() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(gives_back));
    gives_back::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "done");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(max_retries = 0)]
async fn few(ctx: Context, how: String) -> Result<(), LimitError> {
    let window = Duration::from_hours(1);
    match how.as_str() {
        "window" => WindowLimit::new("few", 2, window).acquire(&ctx).await?,
        _ => {
            BucketLimit::new("few", 2, Duration::from_hours(24 * 365 * 1_000)).acquire(&ctx).await?
        }
    }
    write(&ctx, how);
    Ok(())
}

/// The one job that is left, once it has been handed back.
async fn handed_back(bench: &Bench) -> ListedMessage {
    patiently("a job that is handed back", async {
        loop {
            let waiting = bench.messages("default", 1).await.remove(0);
            if waiting.state == MessageState::Scheduled {
                return waiting;
            }
        }
    })
    .await
}

#[tokio::test]
async fn in_a_window_and_in_a_bucket_are_so_many_and_one_more_waits() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(few).concurrency(1));
    for how in ["window", "bucket"] {
        bench.broker.send_all((0..3).map(|_| few::with(how))).await.unwrap();
        assert_eq!(bench.lines(2).await, [how, how]);
        let waiting = handed_back(&bench).await;
        assert_eq!(waiting.attempt, 1, "it is nobody's failure");
        bench.client().purge_queue("default", &[]).await.unwrap();
        assert_eq!(bench.unread(), [""; 0]);
    }
    worker.stop().await.unwrap();
    bench.stop().await;
}
