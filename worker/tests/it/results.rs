//! What a job returned is there if and only if it is done.

use std::time::Duration;

use qbroker_worker::{
    BoxError, Context, CounterChange, GiveUp, JobReport, OutgoingJob, ReportedFailure, ResultError,
    actor,
};

use crate::harness::{Bench, PATIENCE, run, write};

#[actor(queue = "sums", store_results, result_ttl = "1h", max_retries = 1, min_backoff = "1ms")]
async fn add(ctx: Context, a: i64, b: i64) -> Result<i64, BoxError> {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    if a < 0 {
        return Err("no debts".into());
    }
    a.checked_add(b).ok_or_else(|| GiveUp::because("it is too much").into())
}

#[actor(queue = "sums", store_results)]
fn nothing() {}

#[actor(queue = "sums")]
async fn forgets(a: i64) -> Result<i64, BoxError> {
    Ok(a)
}

#[tokio::test]
async fn a_result_is_kept_by_the_id_of_its_message() {
    let bench = Bench::start().await;
    let worker = bench.worker().register(add).register(nothing).register(forgets);
    let worker = run(worker);
    let broker = &bench.broker;
    let job = add::send(broker, 1, 2).await.unwrap();
    let sum: i64 = broker.result(&job.message_id, PATIENCE).await.unwrap();
    assert_eq!(sum, 3);
    let job = nothing::send(broker).await.unwrap();
    broker.result::<()>(&job.message_id, PATIENCE).await.unwrap();

    // Of an actor that keeps none, a job may.
    let own = forgets::with(7).message_id("seven").store_result(Duration::from_secs(60));
    own.send(broker).await.unwrap();
    assert_eq!(broker.result::<i64>("seven", PATIENCE).await.unwrap(), 7);
    let other = broker.result::<String>("seven", PATIENCE).await;
    assert!(matches!(other, Err(ResultError::Undecodable(_))), "{other:?}");
    assert!(broker.forget_result("seven").await.unwrap());
    assert!(!broker.forget_result("seven").await.unwrap());

    let silent = forgets::send(broker, 1).await.unwrap();
    bench.empty("sums").await;
    let missing = broker.result::<i64>(&silent.message_id, Duration::ZERO).await;
    assert!(matches!(missing, Err(ResultError::Missing(_))), "{missing:?}");
    let ids = [job.message_id, silent.message_id];
    let results = broker.results::<()>(&ids, Duration::ZERO).await.unwrap();
    assert_eq!(results, [Some(Ok(())), None]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// Together they are more than one answer may have.
#[tokio::test]
async fn large_results_are_read_together() {
    let bench = Bench::start().await;
    let ids: Vec<String> = (0..5).map(|n| format!("large-{n}")).collect();
    for id in &ids {
        let value = format!(r#"{{"Ok":"{}"}}"#, "x".repeat(3 << 20));
        let key = format!("result/{id}");
        bench.client().state().put(&key, value, None).await.unwrap();
    }
    let results = bench.broker.results::<String>(&ids, PATIENCE).await.unwrap();
    assert!(results.iter().all(|it| it.as_ref().unwrap().as_ref().unwrap().len() == 3 << 20));
    bench.stop().await;
}

async fn failure(bench: &Bench, message_id: &str) -> ReportedFailure {
    match bench.broker.result::<i64>(message_id, PATIENCE).await {
        Err(ResultError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_job_that_fails_for_good_has_its_failure_as_result_and_no_attempt_before_it() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(add));
    let job = add::send(&bench.broker, i64::MAX, 1).await.unwrap();
    assert_eq!(failure(&bench, &job.message_id).await.to_string(), "Error: it is too much");
    assert_eq!(bench.line().await, "attempt 1");

    let job = add::with(-1, 1).min_backoff(Duration::from_hours(1)).send(&bench.broker).await;
    let job = job.unwrap();
    assert_eq!(bench.line().await, "attempt 1");
    bench.messages("sums", 1).await;
    let early = bench.broker.result::<i64>(&job.message_id, Duration::ZERO).await;
    assert!(matches!(early, Err(ResultError::Missing(_))), "it may yet be done: {early:?}");

    let job = add::send(&bench.broker, -1, 1).await.unwrap();
    assert_eq!(failure(&bench, &job.message_id).await.message, "no debts");
    assert_eq!(bench.lines(2).await, ["attempt 1", "attempt 2"]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(on_success = heard)]
async fn count(ctx: Context, fails: bool) -> Result<u64, BoxError> {
    ctx.when_done(|then| {
        then.send(follow::with("asked for")).count(CounterChange::new("done", 1));
        then.store("note", "it is done", None);
    });
    if fails && ctx.attempt() == 1 {
        return Err(qbroker_worker::Retry::after(Duration::ZERO).into());
    }
    Ok(5)
}

#[actor]
async fn follow(ctx: Context, how: String) {
    write(&ctx, how);
}

#[actor]
async fn heard(ctx: Context, report: JobReport) {
    write(&ctx, format!("heard {} at {}", report.result, report.attempt));
}

#[tokio::test]
async fn what_a_job_asks_for_is_done_once_it_is_done() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(count).register(follow).register(heard));
    count::send(&bench.broker, true).await.unwrap();
    let mut lines = bench.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["asked for", "heard 5 at 2"]);
    let state = bench.client().state();
    assert_eq!(state.counter("done").await.unwrap(), Some(1));
    assert_eq!(state.get("note").await.unwrap().as_deref(), Some(&b"it is done"[..]));
    bench.empty("default").await;
    assert_eq!(bench.unread(), [""; 0]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(max_retries = 0)]
async fn counts_too_far(ctx: Context) {
    write(&ctx, "worked");
    ctx.when_done(|then| {
        then.count(CounterChange::new("few", 1).maximum(0)).send(follow::with("never"));
    });
}

#[tokio::test]
async fn what_a_job_asks_for_is_done_as_a_whole_or_not_at_all() {
    let mut bench = Bench::start().await;
    let broker = bench.broker.clone().send_timeout(Duration::from_millis(60));
    let worker = run(bench.worker_of(broker).register(counts_too_far).register(follow));
    counts_too_far::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "worked");
    let letter = bench.messages("default.dead", 1).await.remove(0).message;
    let failure = letter.dead_letter.unwrap().failure.unwrap();
    assert_eq!(failure.kind, "CallbackNotSent");
    assert!(failure.message.contains("COUNTER_OUT_OF_BOUNDS"), "{}", failure.message);
    bench.empty("default").await;
    assert_eq!(bench.unread(), [""; 0]);
    assert_eq!(bench.client().state().counter("few").await.unwrap(), None);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_follow_up_that_is_refused_for_now_waits_without_doing_the_job_again() {
    let mut bench = Bench::start().await;
    bench.client().create_queue(qbroker_client::QueueSpec::new("shut")).await.unwrap();
    bench.client().pause_queue("shut", true).await.unwrap();
    let worker = run(bench.worker().register(passes_on).queues(["default"]));
    passes_on::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "worked");
    bench.client().resume_queue("shut").await.unwrap();
    bench.empty("default").await;
    bench.messages("shut", 1).await;
    assert_eq!(bench.unread(), [""; 0], "once is enough");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor]
async fn passes_on(ctx: Context) {
    let to_shut = |job: OutgoingJob| job.queue("shut");
    ctx.when_done(|then| {
        then.send(to_shut(follow::with("later")));
    });
    write(&ctx, "worked");
}
