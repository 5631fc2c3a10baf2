//! Brokers die under workers at work: what runs goes on, and is done once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use qbroker_client::Client;
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::server::Server;
use qbroker_tests::{PATIENCE, load, patiently, seed};
use qbroker_worker::{Broker, Context, Worker, actor};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

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

    until_empty(&client, "jobs").await;
    let stats = client.get_queue("jobs").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total, stats.retried_total), (2, 0, 0));
    drop(stop);
    patiently("the worker's end", worker).await.unwrap().unwrap();
    server.stop().await;
}

async fn until_empty(client: &Client, queue: &str) {
    let empty = async {
        while !client.wait_queue_empty(queue, Duration::from_secs(20)).await.unwrap().0 {}
    };
    patiently("the end of the queue", empty).await;
}

/// What is known of every job that has begun, and how many are done.
#[derive(Default)]
struct Ledger {
    /// Whether it is done.
    jobs: Mutex<BTreeMap<u64, bool>>,
    wrong: Mutex<Vec<String>>,
    done: watch::Sender<usize>,
    /// Long jobs that have begun.
    begun: watch::Sender<usize>,
    gate: Option<Semaphore>,
}

impl Ledger {
    fn begin(&self, ctx: &Context, number: u64) {
        if self.jobs.lock().insert(number, false).is_some() {
            self.wrong.lock().push(format!("{number} has begun twice"));
        }
        if ctx.attempt() != 1 {
            self.wrong.lock().push(format!("{number} is at attempt {}", ctx.attempt()));
        }
    }

    fn end(&self, number: u64) {
        self.jobs.lock().insert(number, true);
        self.done.send_modify(|done| *done += 1);
    }
}

#[actor(queue = "load")]
async fn short(ctx: Context, number: u64) {
    let ledger = ctx.state::<Arc<Ledger>>();
    ledger.begin(&ctx, number);
    ledger.end(number);
}

/// Runs until the test lets it go.
#[actor(queue = "load", priority = 9)]
async fn held(ctx: Context, number: u64) {
    let ledger = ctx.state::<Arc<Ledger>>();
    ledger.begin(&ctx, number);
    ledger.begun.send_modify(|begun| *begun += 1);
    ledger.gate.as_ref().unwrap().acquire().await.unwrap().forget();
    ledger.end(number);
}

/// Jobs that run while the broker is away, in each cycle.
const HELD: usize = 3;

/// Numbers of those are beyond all others'.
const HELD_FROM: u64 = 1 << 40;

/// Sends short jobs until it is told to stop; how many.
async fn send_on(broker: Broker, mut first: u64, stop: watch::Receiver<bool>) -> u64 {
    const SENDERS: u64 = 4;
    let mut sent = 0;
    while !*stop.borrow() {
        short::send(&broker, first).await.unwrap();
        first += SENDERS;
        sent += 1;
    }
    sent
}

/// Waits until something has been counted so far.
async fn reached(what: &str, counted: &watch::Sender<usize>, count: usize) {
    let mut counts = counted.subscribe();
    drop(patiently(what, counts.wait_for(|now| count <= *now)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_or_done_twice_however_often_the_broker_restarts_under_load() {
    const FLAGS: [&str; 2] = ["--shutdown-grace", "0s"];
    let cycles = seed::rounds(4, 50);
    let (folder, front) = (Folder::new(), Front::open().await);
    let mut server = Server::start(&folder, &FLAGS).await;
    front.lead_to(server.grpc());
    let client = load::client(&front.url()).await;
    let broker = Broker::new(client.clone()).send_timeout(PATIENCE);
    let ledger = Arc::new(Ledger { gate: Some(Semaphore::new(0)), ..Ledger::default() });
    // However slow the machine, no session's grace is over before its broker is back.
    let mut workers = JoinSet::new();
    let stop_workers = watch::Sender::new(false);
    for prefetch in [0, 16] {
        let own = Broker::new(load::client(&front.url()).await);
        let worker = Worker::new(own).register(short).register(held).state(Arc::clone(&ledger));
        let worker = worker.concurrency(16).prefetch(prefetch);
        let mut stopped = stop_workers.subscribe();
        let worker = worker.session_grace(Duration::from_mins(10)).run_until(async move {
            drop(stopped.wait_for(|stop| *stop).await);
        });
        workers.spawn(worker);
    }
    let stop_senders = watch::Sender::new(false);
    let mut senders = JoinSet::new();
    for number in 0..4 {
        senders.spawn(send_on(broker.clone(), number, stop_senders.subscribe()));
    }

    for cycle in 0..cycles {
        let first = HELD_FROM + (cycle * HELD) as u64;
        for number in first..first + HELD as u64 {
            held::send(&broker, number).await.unwrap();
        }
        reached("long jobs", &ledger.begun, (cycle + 1) * HELD).await;
        let done = *ledger.done.borrow();
        reached("jobs", &ledger.done, done + 100).await;
        match cycle % 3 {
            0 => server.kill().await,
            1 => drop(server.stop().await),
            // The network first: the broker sees its workers go.
            _ => {
                front.lead_nowhere();
                front.cut();
                server.kill().await;
            }
        }
        // One ends while nobody hears of it, the others after.
        let gate = ledger.gate.as_ref().unwrap();
        gate.add_permits(1);
        server = Server::start(&folder, &FLAGS).await;
        front.lead_to(server.grpc());
        gate.add_permits(HELD - 1);
    }

    stop_senders.send_replace(true);
    let sent: u64 = patiently("the senders", senders.join_all()).await.into_iter().sum();
    until_empty(&client, "load").await;
    stop_workers.send_replace(true);
    for ended in patiently("the workers", workers.join_all()).await {
        ended.unwrap();
    }
    assert_eq!(*ledger.wrong.lock(), [""; 0]);
    let all = sent + (cycles * HELD) as u64;
    let begun_and_done = {
        let jobs = ledger.jobs.lock();
        (jobs.len() as u64, jobs.values().all(|done| *done))
    };
    assert_eq!(begun_and_done, (all, true));
    let stats = client.get_queue("load").await.unwrap().stats;
    assert_eq!((stats.published_total, stats.acked_total), (all, all));
    assert_eq!((stats.expired_leases_total, stats.retried_total, stats.dead), (0, 0, 0));
    server.stop().await;
}
