//! Schedules of jobs, and a worker in a test.

use std::time::Duration;

use qbroker_worker::testing::JoinError;
use qbroker_worker::{BoxError, CatchUp, Context, actor};

use crate::harness::{Bench, PATIENCE, write};

#[actor(queue = "reports", schedule = "@every 365d", time_zone = "Europe/Berlin", priority = 2)]
async fn build(ctx: Context) {
    let headers = &ctx.message().headers;
    write(&ctx, format!("built for {}", headers["schedule"]));
}

#[actor(
    schedule = "@daily",
    catch_up = CatchUp::All,
    jitter = "5m",
    skip_if_unfinished
)]
async fn tidy_up() {}

#[actor(queue = "mail", max_retries = 0)]
async fn mail(ctx: Context, to: String) -> Result<(), BoxError> {
    write(&ctx, to.clone());
    if to.is_empty() { Err("to nobody".into()) } else { Ok(()) }
}

#[tokio::test]
async fn a_worker_makes_the_schedules_of_its_actors_and_its_own() {
    let mut bench = Bench::start().await;
    let worker = || {
        let own = mail::with("ann").schedule("daily-mail", "0 9 * * *").unwrap();
        bench.worker().register(build).register(mail).register(tidy_up).schedule(own)
    };
    let (one, two) = (worker().start(), worker().start());
    let client = bench.client().clone();
    // Nobody knows when they have begun, but that they take this.
    mail::send(&bench.broker, "begun").await.unwrap();
    assert_eq!(bench.line().await, "begun");
    let schedule = client.get_schedule("build").await.unwrap();
    assert_eq!(
        (schedule.cron.as_str(), schedule.time_zone.as_str()),
        ("@every 365d", "Europe/Berlin")
    );
    assert_eq!((schedule.queue.as_str(), &schedule.payload[..]), ("reports", &b"{}"[..]));
    client.trigger_schedule("build").await.unwrap();
    assert_eq!(bench.line().await, "built for build");
    let own = client.get_schedule("tidy_up").await.unwrap();
    assert_eq!((own.catch_up, own.jitter), (CatchUp::All, Duration::from_mins(5)));
    assert!(own.skip_if_unfinished && !schedule.skip_if_unfinished);
    client.trigger_schedule("daily-mail").await.unwrap();
    assert_eq!(bench.line().await, "ann");
    one.join("reports", PATIENCE).await.unwrap();
    two.join("mail", PATIENCE).await.unwrap();
    assert_eq!(client.list_schedules(Default::default()).await.unwrap().items.len(), 3);
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn waiting_for_a_queue_tells_what_failed_for_good() {
    let bench = Bench::start().await;
    let worker = bench.worker().register(mail).start();
    worker.join("mail", Duration::ZERO).await.unwrap();
    mail::send(&bench.broker, "ann").await.unwrap();
    worker.join("mail", PATIENCE).await.unwrap();
    let id = mail::send(&bench.broker, "").await.unwrap().message_id;
    let failed = worker.join("mail", PATIENCE).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        format!("the job {id} of mail failed for good: Error: to nobody")
    );
    bench.client().purge_queue("mail.dead", &[]).await.unwrap();
    mail::with("later").delay(Duration::from_hours(1)).send(&bench.broker).await.unwrap();
    let late = worker.join("mail", Duration::ZERO).await.unwrap_err();
    assert!(matches!(&late, JoinError::TimedOut { stats, .. } if stats.scheduled == 1), "{late}");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "mail", max_retries = 1, min_backoff = "1h")]
async fn remind(ctx: Context) -> Result<(), BoxError> {
    write(&ctx, format!("reminds, attempt {}", ctx.attempt()));
    if ctx.attempt() == 1 { Err("nobody is up".into()) } else { Ok(()) }
}

#[tokio::test]
async fn days_of_a_test_pass_at_once() {
    let mut bench = Bench::still().await;
    let worker = bench.worker().register(mail).register(remind).start();
    mail::with("in a week").delay(Duration::from_hours(7 * 24)).send(&bench.broker).await.unwrap();
    remind::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "reminds, attempt 1");
    bench.scheduled("mail", 2).await;
    bench.pass(Duration::from_hours(2));
    assert_eq!(bench.line().await, "reminds, attempt 2");
    bench.pass(Duration::from_hours(6 * 24));
    bench.scheduled("mail", 1).await;
    assert_eq!(bench.unread(), [""; 0]);
    bench.pass(Duration::from_hours(24));
    assert_eq!(bench.line().await, "in a week");
    worker.join("mail", PATIENCE).await.unwrap();
    worker.stop().await.unwrap();
    bench.stop().await;
}
