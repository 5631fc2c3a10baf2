//! Schedules of jobs, and a worker in a test.

use std::time::Duration;

use qbroker_worker::testing::JoinError;
use qbroker_worker::{BoxError, Context, actor};

use crate::harness::{Bench, PATIENCE, write};

#[actor(queue = "reports", schedule = "@every 365d", time_zone = "Europe/Berlin", priority = 2)]
async fn build(ctx: Context) {
    let headers = &ctx.message().headers;
    write(&ctx, format!("built for {}", headers["schedule"]));
}

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
        bench.worker().register(build).register(mail).schedule(own)
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
    client.trigger_schedule("daily-mail").await.unwrap();
    assert_eq!(bench.line().await, "ann");
    one.join("reports", PATIENCE).await.unwrap();
    two.join("mail", PATIENCE).await.unwrap();
    assert_eq!(client.list_schedules(Default::default()).await.unwrap().items.len(), 2);
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
