//! Workers are killed in the middle of pipelines and groups: no step is lost, and none is sent twice.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use qbroker_client::{ListedMessage, MessageState};
use qbroker_worker::{BoxError, Broker, Context, Group, ReportedFailure, Worker, actor};

use crate::harness::{Bench, PATIENCE, patiently, run, write};

/// Where the broker of a worker in a process of its own is.
const URL: &str = "KILLED_WORKER_TEST_URL";

/// So that what a killed worker had comes back soon.
const GRACE: Duration = Duration::from_secs(1);

#[expect(clippy::print_stdout, reason = "the tests that start this process read it")]
fn tell() {
    println!("\nstep");
}

#[actor(queue = "first", max_retries = "unlimited")]
async fn first(number: u64) -> Result<u64, BoxError> {
    tell();
    Ok(number + 1)
}

#[actor(queue = "second", max_retries = "unlimited")]
fn second(number: u64) -> Result<u64, BoxError> {
    tell();
    Ok(number * 10)
}

#[actor(queue = "third", max_retries = "unlimited")]
async fn third(ctx: Context, numbers: Vec<Result<u64, ReportedFailure>>) -> Result<(), BoxError> {
    let numbers: Result<Vec<u64>, _> = numbers.into_iter().collect();
    write(&ctx, format!("{:?}", numbers.map_err(|failure| failure.to_string())?));
    Ok(())
}

/// The worker's process, which the test below starts and kills; as a test of its own it does nothing.
#[tokio::test]
async fn killed_worker() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(url).await.unwrap();
    let worker = Worker::new(broker).register(first).register(second).concurrency(4);
    worker.session_grace(GRACE).run_until_shutdown().await.unwrap();
}

#[actor(queue = "poisoned", max_retries = 9)]
async fn job(poison: bool) {
    if poison {
        // At its first instruction, as a bug in a library of another language would.
        std::process::abort();
    }
}

/// A worker whose jobs kill it; as a test of its own it does nothing.
#[tokio::test]
async fn poisoned_worker() {
    run_poisoned().await;
}

/// The same over several threads.
#[tokio::test(flavor = "multi_thread")]
async fn poisoned_worker_of_threads() {
    run_poisoned().await;
}

async fn run_poisoned() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(url).await.unwrap();
    let worker = Worker::new(broker).register(job).concurrency(1).prefetch(8);
    worker.session_grace(GRACE).run_until_shutdown().await.unwrap();
}

/// Where all that a crowded worker runs have begun.
struct Crowd(Option<tokio::sync::Barrier>);

#[actor(queue = "poisoned", max_retries = 9)]
async fn beside(ctx: Context, poison: bool) {
    if let Some(all) = &ctx.state::<Crowd>().0 {
        all.wait().await;
        if !poison {
            std::future::pending::<()>().await;
        }
    }
    if poison {
        std::process::abort();
    }
}

/// A worker that runs the poison and its neighbours at a time; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crowded_worker() {
    run_beside(Some(tokio::sync::Barrier::new(4)), 4).await;
}

/// One that runs one job at a time.
#[tokio::test(flavor = "multi_thread")]
async fn careful_worker() {
    run_beside(None, 1).await;
}

async fn run_beside(all: Option<tokio::sync::Barrier>, concurrency: u32) {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(url).await.unwrap();
    let worker = Worker::new(broker).register(beside).state(Crowd(all)).concurrency(concurrency);
    worker.session_grace(GRACE).run_until_shutdown().await.unwrap();
}

const CRASHES_MAX: u32 = 2;

/// A queue whose messages may crash so often.
async fn make_queue(bench: &Bench) {
    let policy = qbroker_client::QueuePolicy {
        max_crashes: Some(qbroker_client::Limit::AtMost(CRASHES_MAX)),
        ..qbroker_client::QueuePolicy::default()
    };
    let spec = qbroker_client::QueueSpec::new("poisoned").policy(policy);
    bench.client().create_queue(spec).await.unwrap();
}

/// Lets a worker take the poison, and waits until nobody has any job of it. What the queue holds then.
async fn take_poison(bench: &Bench, worker: &str) -> Vec<ListedMessage> {
    tokio::task::block_in_place(|| {
        let status = Process::start(bench, worker).child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6));
    });
    patiently("the end of its session", async {
        loop {
            let query = qbroker_client::MessageQuery::default();
            let page = bench.client().list_messages("poisoned", query).await.unwrap();
            if page.items.iter().all(|it| it.state != MessageState::Leased) {
                return page.items;
            }
        }
    })
    .await
}

/// The poison is a dead letter, and its neighbours are as they were.
async fn check_poison(bench: &Bench) {
    let letter = bench.messages("poisoned.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!(letter.reason, qbroker_client::DeadLetterReason::MaxCrashes);
    assert_eq!(letter.attempts, CRASHES_MAX);
    for waiting in bench.messages("poisoned", 3).await {
        assert_eq!(waiting.attempt, 1, "it has not begun");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_ends_and_takes_no_neighbour_with_it() {
    check_poisoned("poisoned_worker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_of_many_threads_ends_all_the_same() {
    check_poisoned("poisoned_worker_of_threads").await;
}

/// Starts such workers until the poison has an end.
async fn check_poisoned(worker: &str) {
    let bench = Bench::start().await;
    make_queue(&bench).await;
    // A poison and three neighbours, which wait in the same worker each time.
    bench.broker.send_all([true, false, false, false].map(job::with)).await.unwrap();
    // Where the report is lost with its process, the crash does not count.
    while take_poison(&bench, worker).await.len() == 4 {}
    check_poison(&bench).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_beside_a_job_that_kills_its_worker_has_crashed_as_well() {
    let bench = Bench::start().await;
    make_queue(&bench).await;
    let jobs = [true, false, false, false];
    let jobs = jobs.map(|poison| beside::with(poison).priority(if poison { 9 } else { 0 }));
    bench.broker.send_all(jobs).await.unwrap();
    // Whose fault it was nobody can tell.
    let crashed = take_poison(&bench, "crowded_worker").await;
    assert_eq!(crashed.iter().map(|it| it.attempt).collect::<Vec<_>>(), [2; 4]);
    // Where one runs at a time, it can.
    let left = take_poison(&bench, "careful_worker").await;
    assert_eq!(left.iter().map(|it| it.attempt).collect::<Vec<_>>(), [2; 3]);
    let letter = bench.messages("poisoned.dead", 1).await.remove(0).message;
    assert_eq!(&letter.payload[..], br#"{"poison":true}"#);
    let letter = letter.dead_letter.unwrap();
    assert_eq!(letter.reason, qbroker_client::DeadLetterReason::MaxCrashes);
    let worker = run(bench.worker().register(beside).state(Crowd(None)));
    bench.empty("poisoned").await;
    let stats = bench.client().get_queue("poisoned").await.unwrap().stats;
    assert_eq!(stats.acked_total, 3);
    worker.stop().await.unwrap();
    bench.stop().await;
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(bench: &Bench, worker: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = format!("killed::{worker}");
        command.args(["--exact", &test, "--nocapture"]).env(URL, bench.url());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Lets it do so many steps, the last of them perhaps not to the end.
    fn steps(&mut self, count: usize) {
        let steps = self.lines.by_ref().filter(|line| line.as_ref().unwrap() == "step");
        assert_eq!(steps.take(count).count(), count);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL; it may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_in_a_group_are_done_to_the_end_whoever_is_killed() {
    const MEMBERS: u64 = 30;
    let mut bench = Bench::start().await;
    let member = |number| first::with(number).then(second::after());
    let group = Group::new((0..MEMBERS).map(member)).on_complete(third::after());
    let sent = group.store_results(Duration::from_secs(600)).send(&bench.broker).await.unwrap();
    tokio::task::block_in_place(|| {
        for steps in [1, 7, 2, 11] {
            let mut process = Process::start(&bench, "killed_worker");
            process.steps(steps);
        }
    });

    let worker = bench.worker().register(first).register(second).register(third);
    let worker = run(worker);
    let expected: Vec<u64> = (0..MEMBERS).map(|number| (number + 1) * 10).collect();
    assert_eq!(bench.line().await, format!("{expected:?}"));
    let results = sent.results::<u64>(&bench.broker, PATIENCE).await.unwrap();
    let results: Vec<u64> = results.into_iter().map(|result| result.unwrap().unwrap()).collect();
    assert_eq!(results, expected);
    for queue in ["first", "second", "third"] {
        bench.empty(queue).await;
        let stats = bench.client().get_queue(queue).await.unwrap().stats;
        let all = if queue == "third" { 1 } else { MEMBERS };
        assert_eq!((stats.published_total, stats.acked_total), (all, all), "{queue}");
    }
    assert_eq!(bench.unread(), [""; 0], "a group completes once");
    worker.stop().await.unwrap();
    bench.stop().await;
}
