//! What a job says counts first, then what its actor says, then the broker's defaults.

use std::time::Duration;

use qbroker_client::Limit;
use qbroker_worker::{
    BoxError, Context, Defaults, Group, JobReport, ReportedFailure, ResultError, actor,
};

use crate::harness::{Bench, PATIENCE, run, write};

#[actor(queue = "jobs")]
async fn plain(ctx: Context, hangs: bool) -> Result<u32, BoxError> {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    if hangs {
        std::future::pending::<()>().await;
    }
    Ok(7)
}

#[actor(queue = "jobs", max_retries = 4, max_age = "2h")]
async fn limited() {}

#[actor(queue = "jobs", max_retries = "unlimited", max_age = "none")]
async fn endless() {}

#[actor(queue = "jobs")]
async fn sum_up(parts: Vec<Result<u32, ReportedFailure>>) {
    drop(parts);
}

#[tokio::test]
async fn a_message_has_the_limits_of_its_job_its_actor_or_its_broker() {
    let bench = Bench::start().await;
    let hour = Duration::from_hours(1);
    let broker = bench.broker.clone().defaults(Defaults::new().max_retries(2).max_age(hour));
    plain::send(&broker, false).await.unwrap();
    plain::with(false).max_retries(7).max_age(3 * hour).send(&broker).await.unwrap();
    limited::send(&broker).await.unwrap();
    endless::send(&broker).await.unwrap();
    // Of a broker without defaults.
    plain::send(&bench.broker, false).await.unwrap();
    let told = bench.messages("jobs", 5).await.into_iter().map(|listed| {
        let message = listed.message;
        let lives = message.expire_time.map(|end| {
            // Their times are rounded to milliseconds.
            let lives = end.duration_since(message.publish_time.unwrap()).unwrap();
            (lives.as_secs_f64() / hour.as_secs_f64()).round()
        });
        (message.max_attempts.unwrap(), lives)
    });
    let told: Vec<_> = told.collect();
    let at_most = Limit::AtMost;
    let expected = [
        (at_most(3), Some(1.0)),
        (at_most(8), Some(3.0)),
        (at_most(5), Some(2.0)),
        (Limit::Unlimited, None),
        (at_most(21), None),
    ];
    assert_eq!(told, expected);
    bench.client().purge_queue("jobs", &[]).await.unwrap();

    // What comes later has them, too.
    limited::with().then(plain::with(false)).send(&broker).await.unwrap();
    let group = Group::new([plain::with(false)]).on_complete(sum_up::after());
    group.send(&broker).await.unwrap();
    let messages = bench.messages("jobs", 2).await;
    let then = &messages[0].message.headers["job-then"];
    assert!(then.contains(r#""ttl_ms":3600000,"max_attempts":3"#), "{then}");
    assert_eq!(messages[1].message.max_attempts, Some(at_most(3)));
    let arrived = &messages[1].message.headers["job-group"];
    bench.client().purge_queue("jobs", &[]).await.unwrap();
    bench.client().state().arrive(arrived, "0", b"".to_vec(), true).await.unwrap();
    let completion = bench.messages("jobs", 1).await.remove(0).message;
    assert_eq!(completion.max_attempts, Some(at_most(3)));
    bench.stop().await;
}

#[tokio::test]
async fn a_worker_treats_jobs_as_its_broker_says_where_nobody_else_does() {
    let mut bench = Bench::start().await;
    let defaults = Defaults::new().max_retries(1).min_backoff(Duration::from_millis(1));
    let defaults = defaults.time_limit(Duration::from_millis(20)).store_results(true);
    let broker = bench.broker.clone().defaults(defaults);
    let worker = run(bench.worker_of(broker.clone()).register(plain));
    let hangs = plain::send(&broker, true).await.unwrap();
    assert_eq!(bench.lines(2).await, ["attempt 1", "attempt 2"]);
    let result = broker.result::<u32>(&hangs.message_id, PATIENCE).await;
    let Err(ResultError::Failed(why)) = result else { panic!("{result:?}") };
    assert_eq!(why.kind, "TimeLimitExceeded");

    // Its own limit is none, however slow the machine.
    let ends = plain::with(false).time_limit(Duration::MAX).send(&broker).await.unwrap();
    assert_eq!(broker.result::<u32>(&ends.message_id, PATIENCE).await.unwrap(), 7);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "jobs", max_retries = 1, min_backoff = "1ms", on_failure = of_actor)]
async fn told_of(ctx: Context, fails: bool) -> Result<u32, BoxError> {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    if fails { Err("no".into()) } else { Ok(7) }
}

#[actor(queue = "told")]
async fn of_actor(ctx: Context, report: JobReport) {
    write(&ctx, format!("the actor's: {}", report.attempt));
}

#[actor(queue = "told")]
async fn of_job(ctx: Context, report: JobReport, what: String) {
    let why = report.failure.map(|failure| failure.message);
    write(&ctx, format!("{what} at {}: {} {why:?}", report.attempt, report.result));
}

#[actor(queue = "told")]
async fn without_report(ctx: Context, what: String) {
    write(&ctx, what);
}

#[tokio::test]
async fn a_job_may_name_who_is_told_of_it_instead_of_those_of_its_actor() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(told_of).register(of_actor).register(of_job);
    let worker = run(worker.register(without_report).concurrency(1));
    told_of::with(false).on_success(of_job::after("done")).send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(2).await, ["attempt 1", "done at 1: 7 None"]);

    let job = told_of::with(true).on_failure(of_job::after("failed"));
    job.on_exhausted(without_report::with("the last")).send(&bench.broker).await.unwrap();
    let mut lines = bench.lines(5).await;
    lines.sort();
    let failed = |at: u32| format!("failed at {at}: null Some(\"no\")");
    let expected = ["attempt 1", "attempt 2", &failed(1), &failed(2), "the last"];
    assert_eq!(lines, expected);

    told_of::send(&bench.broker, true).await.unwrap();
    let mut lines = bench.lines(4).await;
    lines.sort();
    assert_eq!(lines, ["attempt 1", "attempt 2", "the actor's: 1", "the actor's: 2"]);

    let unreadable = told_of::with(false).header("job-on-success", "nobody");
    unreadable.send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "attempt 1");
    let letters = bench.messages("jobs.dead", 3).await;
    let failure = letters[2].message.dead_letter.clone().unwrap().failure.unwrap();
    assert_eq!(failure.kind, "CallbackNotSent");
    bench.empty("told").await;
    worker.stop().await.unwrap();
    bench.stop().await;
}
