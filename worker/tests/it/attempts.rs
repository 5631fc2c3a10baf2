//! A message that says nothing of how often it may fail: worker and broker agree on which failure is the
//! last, so what follows the last one does follow it, whatever an operator changes meanwhile.

use qbroker_client::{
    Client, DeadLetterReason, Limit, OutgoingMessage, QueuePolicy, QueueSpec, QueueUpdate,
};
use qbroker_worker::{BarrierState, BoxError, Context, JobBarrier, JobReport, actor};

use crate::harness::{Bench, PATIENCE, run, write};

fn policy(attempts: u32) -> QueuePolicy {
    QueuePolicy { max_attempts: Some(Limit::AtMost(attempts)), ..QueuePolicy::default() }
}

async fn change(client: &Client, attempts: u32) -> Result<(), BoxError> {
    client.update_queue(QueueUpdate::new("foreign").policy(policy(attempts))).await?;
    Ok(())
}

/// Always fails. While it runs, somebody changes its queue.
#[actor(
    queue = "foreign",
    max_retries = 3,
    min_backoff = "1ms",
    store_results,
    on_exhausted = exhausted
)]
async fn fail(ctx: Context, changes: Vec<u32>) -> Result<(), BoxError> {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    if let Some(attempts) = changes.get(ctx.failures() as usize) {
        change(ctx.broker().client(), *attempts).await?;
    }
    Err("it never works".into())
}

#[actor(queue = "reports")]
async fn exhausted(ctx: Context, report: JobReport) {
    write(&ctx, format!("exhausted at {}", report.attempt));
}

/// Sends a job as another language would, to a queue with such a limit; it is tried so often, and then
/// everybody is told.
async fn check(queues: u32, changes: &[u32], attempts: u32) {
    let mut bench = Bench::start().await;
    let spec = QueueSpec::new("foreign").policy(policy(queues));
    bench.client().create_queue(spec).await.unwrap();
    assert!(JobBarrier::new("all", 1).create(&bench.broker).await.unwrap());
    let worker = run(bench.worker().register(fail).register(exhausted));
    let payload = format!(r#"{{"changes":{changes:?}}}"#);
    let message = OutgoingMessage::new(payload).message_type("fail").message_id("mine");
    let message = message.header("job-group", "all").header("job-member", "0");
    bench.publish("foreign", message).await;

    let mut expected: Vec<_> = (1..=attempts).map(|attempt| format!("attempt {attempt}")).collect();
    expected.push(format!("exhausted at {attempts}"));
    assert_eq!(bench.lines(expected.len()).await, expected);
    let letter = bench.messages("foreign.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!((letter.reason, letter.attempts), (DeadLetterReason::MaxAttempts, attempts));
    let results = bench.broker.results::<()>(&["mine".to_owned()], PATIENCE).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().as_ref().unwrap_err().message, "it never works");
    let barrier = bench.client().state().barrier("all", PATIENCE / 4).await.unwrap().unwrap();
    assert_eq!((barrier.state, barrier.failed), (BarrierState::Complete, 1));
    bench.empty("reports").await;
    assert_eq!(bench.unread(), [""; 0]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn the_last_failure_that_its_queue_allows_is_followed_by_all_that_follows_the_last() {
    check(2, &[], 2).await;
    check(1, &[], 1).await;
}

#[tokio::test]
async fn the_last_failure_that_its_actor_allows_is_followed_by_all_that_follows_the_last() {
    check(9, &[], 4).await;
}

#[tokio::test]
async fn a_limit_that_is_lowered_while_a_job_runs_holds_from_the_next_attempt_on() {
    check(3, &[1], 2).await;
}

#[tokio::test]
async fn a_limit_that_is_raised_while_a_job_runs_holds_from_the_next_attempt_on() {
    check(2, &[2, 9], 2).await;
}
