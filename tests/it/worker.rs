//! A worker lives through the death of its broker: what runs goes on, and is done once.

use std::sync::Arc;
use std::time::Duration;

use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::server::Server;
use qbroker_tests::{load, patiently};
use qbroker_worker::{Broker, Context, Worker, actor};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// What a job tells the test, and what it waits for.
struct Bench {
    told: mpsc::UnboundedSender<String>,
    gate: Semaphore,
}

#[actor(queue = "jobs")]
async fn long(ctx: Context, number: u32) {
    let bench = ctx.state::<Arc<Bench>>();
    bench.told.send(format!("begun {number}, attempt {}", ctx.attempt())).unwrap();
    bench.gate.acquire().await.unwrap().forget();
    bench.told.send(format!("done {number}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_while_the_broker_is_killed_is_done_once() {
    let folder = Folder::new();
    let front = Front::open().await;
    let server = Server::start(&folder, &[]).await;
    front.lead_to(server.grpc());
    let client = load::client(&front.url()).await;
    let broker = Broker::new(client.clone());
    let (told, mut lines) = mpsc::unbounded_channel();
    let bench = Arc::new(Bench { told, gate: Semaphore::new(0) });
    let worker = Worker::new(broker.clone()).register(long).state(Arc::clone(&bench));
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = tokio::spawn(worker.concurrency(1).run_until(async {
        stopped.await.ok();
    }));
    let mut line = async || patiently("a line", lines.recv()).await.unwrap();

    long::send(&broker, 1).await.unwrap();
    assert_eq!(line().await, "begun 1, attempt 1");
    server.kill().await;
    // The job ends, and another is sent, while there is nobody to hear of it.
    bench.gate.add_permits(1);
    assert_eq!(line().await, "done 1");
    let sending = tokio::spawn(async move { long::send(&broker, 2).await });
    let server = Server::start(&folder, &[]).await;
    front.lead_to(server.grpc());
    patiently("the answer", sending).await.unwrap().unwrap();
    assert_eq!(line().await, "begun 2, attempt 1");
    bench.gate.add_permits(1);
    assert_eq!(line().await, "done 2");

    let empty = async {
        while !client.wait_queue_empty("jobs", Duration::from_secs(20)).await.unwrap().0 {}
    };
    patiently("the end of the queue", empty).await;
    let stats = client.get_queue("jobs").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total, stats.retried_total), (2, 0, 0));
    drop(stop);
    patiently("the worker's end", worker).await.unwrap().unwrap();
    server.stop().await;
}
