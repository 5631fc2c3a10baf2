//! Jobs end in time, or keep their slot and are known for it.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use qbroker_client::LostReason;
use qbroker_worker::middleware::Prometheus;
use qbroker_worker::{CancelReason, Context, WorkerError, actor};

use crate::harness::{Bench, run, write};

/// Tells when it is dropped, as whatever a future holds is.
struct Dropped(Context);

impl Drop for Dropped {
    fn drop(&mut self) {
        write(&self.0, format!("dropped, {:?}", self.0.cancel_reason()));
    }
}

#[actor(time_limit = "50ms", max_retries = 1, min_backoff = "1ms")]
async fn endless(ctx: Context) {
    assert!(ctx.deadline().is_some());
    write(&ctx, format!("attempt {}", ctx.attempt()));
    let _held = Dropped(ctx);
    std::future::pending().await
}

#[tokio::test]
async fn a_future_is_dropped_at_its_time_limit_and_has_failed() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(endless));
    endless::send(&bench.broker).await.unwrap();
    let dropped = "dropped, Some(TimeLimit)";
    assert_eq!(bench.lines(4).await, ["attempt 1", dropped, "attempt 2", dropped]);
    let info = bench.messages("default.dead", 1).await.remove(0).message.dead_letter.unwrap();
    let failure = info.failure.unwrap();
    assert_eq!(failure.kind, "TimeLimitExceeded");
    assert_eq!(failure.message, "it took longer than 50ms");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(time_limit = "none", max_retries = 0)]
async fn patient(ctx: Context) {
    assert_eq!(ctx.deadline().is_some(), ctx.message().headers.contains_key("job-time-limit-ms"));
    write(&ctx, "begun");
    let _held = Dropped(ctx);
    std::future::pending().await
}

#[tokio::test]
async fn a_message_may_have_a_time_limit_of_its_own() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(patient));
    patient::with().time_limit(Duration::from_millis(20)).send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(2).await, ["begun", "dropped, Some(TimeLimit)"]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_job_whose_message_is_deleted_is_stopped() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(patient));
    let id = patient::send(&bench.broker).await.unwrap().message_id;
    // Leased is not begun: what is deleted on its way to the worker never begins.
    assert_eq!(bench.line().await, "begun");
    bench.client().delete_messages("default", vec![id]).await.unwrap();
    let reason = CancelReason::LeaseLost(LostReason::MessageDeleted);
    assert_eq!(bench.line().await, format!("dropped, {:?}", Some(reason)));
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// Blocks until the test lets it go, and does not care for limits.
#[actor(queue = "stubborn", time_limit = "20ms", max_retries = 0)]
fn stubborn(ctx: Context) {
    write(&ctx, "begun");
    let gate = ctx.state::<Mutex<Receiver<()>>>().lock().unwrap();
    gate.recv().ok();
    write(&ctx, format!("ended, {:?}", ctx.cancel_reason()));
}

#[actor(queue = "stubborn")]
async fn nimble(ctx: Context) {
    write(&ctx, "nimble");
}

fn gate() -> (Sender<()>, Mutex<Receiver<()>>) {
    let (open, gate) = channel();
    (open, Mutex::new(gate))
}

#[tokio::test]
async fn a_thread_that_does_not_stop_gives_its_lease_up_and_keeps_its_slot() {
    let mut bench = Bench::start().await;
    let metrics = Prometheus::new();
    let (open, gate) = gate();
    let worker = bench.worker_of(bench.broker.clone().middleware(metrics.clone()));
    let worker = worker.register(stubborn).register(nimble).state(gate).concurrency(1);
    let worker = run(worker.grace(Duration::from_millis(20)));
    stubborn::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "begun");
    let info = bench.messages("stubborn.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!(info.failure.unwrap().kind, "TimeLimitExceeded");
    let page = metrics.text();
    assert!(page.contains("qbroker_worker_stuck_jobs 1"), "{page}");

    // Its slot is the only one: what comes now waits in the broker, for whoever has one.
    nimble::send(&bench.broker).await.unwrap();
    let stats = bench.client().get_queue("stubborn").await.unwrap().stats;
    assert_eq!((stats.ready, stats.leased), (1, 0));
    assert_eq!(bench.unread(), [""; 0]);
    open.send(()).unwrap();
    assert_eq!(bench.lines(2).await, ["ended, Some(TimeLimit)", "nimble"]);
    let page = metrics.text();
    assert!(page.contains("qbroker_worker_stuck_jobs 0"), "{page}");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_worker_ends_when_a_job_is_stuck_for_too_long() {
    let mut bench = Bench::start().await;
    let (open, gate) = gate();
    let worker = bench.worker().register(stubborn).state(gate);
    let worker = worker.grace(Duration::from_millis(20)).stuck_max(Duration::from_millis(20));
    let worker = run(worker);
    stubborn::send(&bench.broker).await.unwrap();
    let ended = worker.ended().await;
    assert!(matches!(ended, Err(WorkerError::Stuck { jobs: 1 })), "{ended:?}");
    bench.messages("stubborn.dead", 1).await;
    drop(open);
    assert_eq!(bench.lines(2).await, ["begun", "ended, Some(TimeLimit)"]);
    bench.stop().await;
}
