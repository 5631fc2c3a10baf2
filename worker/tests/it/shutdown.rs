//! A worker ends in order: what runs is finished, what is not done is done elsewhere.

use std::time::Duration;

use qbroker_client::MessageState;
use qbroker_worker::{CancelReason, Context, Release, WorkerError, actor};
use tokio::sync::Semaphore;

use crate::harness::{Bench, patiently, run, write};

/// Runs until the test lets it go.
#[actor]
async fn gated(ctx: Context, number: u32) {
    write(&ctx, format!("begun {number}"));
    ctx.state::<Semaphore>().acquire().await.unwrap().forget();
    write(&ctx, format!("done {number}"));
}

#[tokio::test]
async fn what_runs_is_finished_and_what_waits_stays_uncounted() {
    let mut bench = Bench::start().await;
    let gate = std::sync::Arc::new(Semaphore::new(0));
    bench.broker.send_all((0..3).map(shared_gate::with)).await.unwrap();
    let worker = bench.worker().register(shared_gate).concurrency(1).prefetch(1);
    let worker = run(worker.state(std::sync::Arc::clone(&gate)));
    assert_eq!(bench.line().await, "begun 0");
    let ending = worker.begin_stop();
    // One runs; the other two, of which one was in the worker already, are back in the queue.
    patiently("the release", async {
        while bench.client().get_queue("default").await.unwrap().stats.ready != 2 {}
    })
    .await;
    assert!(!ending.is_finished());
    gate.add_permits(1);
    patiently("the end", ending).await.unwrap().unwrap();
    assert_eq!(bench.line().await, "done 0");
    let waiting = bench.messages("default", 2).await;
    for message in &waiting {
        assert_eq!((message.attempt, message.state), (1, MessageState::Ready));
    }
    assert_eq!(bench.unread(), [""; 0]);
    bench.stop().await;
}

#[actor]
async fn shared_gate(ctx: Context, number: u32) {
    write(&ctx, format!("begun {number}"));
    ctx.state::<std::sync::Arc<Semaphore>>().acquire().await.unwrap().forget();
    write(&ctx, format!("done {number}"));
}

#[tokio::test]
async fn what_takes_too_long_is_ended_and_handed_back_uncounted() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(gated).state(Semaphore::new(0));
    let worker = run(worker.shutdown_timeout(Duration::from_millis(20)));
    gated::send(&bench.broker, 7).await.unwrap();
    assert_eq!(bench.line().await, "begun 7");
    worker.stop().await.unwrap();
    let message = bench.messages("default", 1).await.remove(0);
    assert_eq!((message.attempt, message.state), (1, MessageState::Ready));

    let worker = run(bench.worker().register(gated).state(Semaphore::new(1)));
    assert_eq!(bench.lines(2).await, ["begun 7", "done 7"]);
    bench.empty("default").await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(notify_shutdown)]
async fn told(ctx: Context) -> Result<(), Release> {
    stop_early(&ctx).await
}

#[actor]
async fn told_if_asked(ctx: Context) -> Result<(), Release> {
    stop_early(&ctx).await
}

async fn stop_early(ctx: &Context) -> Result<(), Release> {
    write(ctx, "begun");
    assert_eq!(ctx.canceled().await, CancelReason::Shutdown);
    write(ctx, "stops early");
    Err(Release::now())
}

#[tokio::test]
async fn a_job_that_asks_for_it_is_told_of_the_shutdown() {
    for job in [told::with(), told_if_asked::with().notify_shutdown(true)] {
        let mut bench = Bench::start().await;
        let worker = run(bench.worker().register(told).register(told_if_asked));
        job.send(&bench.broker).await.unwrap();
        assert_eq!(bench.line().await, "begun");
        worker.stop().await.unwrap();
        assert_eq!(bench.line().await, "stops early");
        let message = bench.messages("default", 1).await.remove(0);
        assert_eq!((message.attempt, message.state), (1, MessageState::Ready));
        bench.stop().await;
    }
}

/// A thread that nothing ends.
#[actor]
fn deaf(ctx: Context) {
    write(&ctx, "begun");
    let (_open, gate) = std::sync::mpsc::channel::<()>();
    let log = ctx.state::<crate::harness::Log>().clone();
    drop(ctx);
    gate.recv_timeout(Duration::from_millis(500)).ok();
    log.write("ended");
}

#[tokio::test]
async fn a_worker_whose_grace_never_ends_waits_for_its_jobs() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(deaf).shutdown_timeout(Duration::from_millis(10));
    let worker = run(worker.grace(Duration::MAX));
    deaf::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "begun");
    worker.stop().await.unwrap();
    assert_eq!(bench.line().await, "ended");
    bench.stop().await;
}

#[tokio::test]
async fn a_worker_tells_of_threads_that_it_leaves_behind() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(deaf).shutdown_timeout(Duration::from_millis(10));
    let worker = run(worker.grace(Duration::from_millis(10)));
    deaf::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "begun");
    let ended = worker.stop().await;
    assert!(matches!(ended, Err(WorkerError::Stuck { jobs: 1 })), "{ended:?}");
    let message = bench.messages("default", 1).await.remove(0);
    assert_eq!((message.attempt, message.state), (1, MessageState::Ready));
    assert_eq!(bench.line().await, "ended");
    bench.stop().await;
}
