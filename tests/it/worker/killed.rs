//! A worker is killed at every point of a job: it is done again where it was not done, once where it
//! was, and what follows it is done once.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use qbroker_client::Client;
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::patiently;
use qbroker_tests::server::Server;
use qbroker_worker::middleware::{JobEnd, Middleware};
use qbroker_worker::{BoxError, Broker, Context, Worker, actor};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::{mpsc, oneshot};

/// Where the broker of a worker in a process of its own is.
const URL: &str = "KILLED_AT_TEST_URL";

/// Where in a job that worker is killed.
const POINT: &str = "KILLED_AT_TEST_POINT";

/// So that what a killed worker had comes back soon.
const GRACE: Duration = Duration::from_secs(1);

/// Where this process kills itself; nowhere in the test's own.
struct Fate(String);

impl Fate {
    /// As a supervisor without patience would, or the kernel out of memory.
    fn strike(&self, point: &str) {
        if self.0 == point {
            kill_process(getpid(), Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

impl Middleware for Fate {
    fn before_process(&self, _context: &Context) {
        self.strike("before");
    }

    fn after_process(&self, _context: &Context, _end: &JobEnd<'_>) {
        self.strike("after");
    }
}

#[expect(clippy::print_stdout, reason = "the test that starts this process reads it")]
fn tell(line: &str) {
    println!("\n{line}");
}

/// The count of attempts, failures and crashes, for the step after it.
#[actor(queue = "work", max_retries = 0)]
fn work(ctx: Context) -> Result<String, BoxError> {
    let fate = ctx.state::<Fate>();
    fate.strike("during");
    if fate.0 == "unheard" {
        tell("begun");
        // Until the test lets it go on.
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(format!("{} {} {}", ctx.attempt(), ctx.failures(), ctx.crashes()))
}

#[actor(queue = "told", max_retries = 0)]
async fn told(ctx: Context, counts: String) {
    ctx.state::<mpsc::UnboundedSender<String>>().send(counts).unwrap();
}

/// The worker's process, which the tests below start; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn doomed_worker() {
    let Ok(url) = std::env::var(URL) else { return };
    let point = std::env::var(POINT).unwrap();
    let broker = Broker::connect(url).await.unwrap().middleware(Fate(point.clone()));
    let worker = Worker::new(broker).register(work).state(Fate(point)).concurrency(1);
    worker.session_grace(GRACE).run_until_shutdown().await.unwrap();
}

/// A worker's process; killed when it is dropped.
struct Doomed {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Doomed {
    fn start(url: &str, point: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "worker::killed::doomed_worker", "--nocapture"]);
        command.env(URL, url).env(POINT, point);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    fn wait_for(&mut self, line: &str) {
        let found = self.lines.any(|read| read.unwrap() == line);
        assert!(found, "it ended without {line:?}");
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Does what is left, until there is nothing; what the second steps were told.
async fn do_the_rest(client: &Client) -> Vec<String> {
    let (writer, mut lines) = mpsc::unbounded_channel();
    let worker = Worker::new(Broker::new(client.clone())).register(work).register(told);
    let worker = worker.state(Fate(String::new())).state(writer);
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = tokio::spawn(worker.run_until(async {
        stopped.await.ok();
    }));
    for queue in ["work", "told"] {
        let empty = async {
            while !client.wait_queue_empty(queue, Duration::from_secs(20)).await.unwrap().0 {}
        };
        patiently("the end of the queue", empty).await;
    }
    drop(stop);
    patiently("the worker's end", worker).await.unwrap().unwrap();
    std::iter::from_fn(|| lines.try_recv().ok()).collect()
}

async fn stage(folder: &Folder) -> (Server, Client) {
    let server = Server::start(folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_is_killed_before_its_ack_is_done_again_as_after_a_crash() {
    let folder = Folder::new();
    let (server, client) = stage(&folder).await;
    let broker = Broker::new(client.clone());
    for point in ["before", "during", "after"] {
        work::with().then(told::after()).send(&broker).await.unwrap();
        tokio::task::block_in_place(|| {
            let mut doomed = Doomed::start(&server.url(), point);
            let status = doomed.child.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{point}");
        });
        // The second attempt, after no failure and one crash.
        assert_eq!(do_the_rest(&client).await, ["2 0 1"], "{point}");
    }
    let stats = client.get_queue("told").await.unwrap().stats;
    assert_eq!((stats.published_total, stats.acked_total), (3, 3), "each step was sent once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_is_killed_before_it_hears_of_its_ack_is_done_once() {
    let folder = Folder::new();
    let (server, client) = stage(&folder).await;
    let front = Arc::new(Front::open().await);
    front.lead_to(server.grpc());
    work::with().then(told::after()).send(&Broker::new(client.clone())).await.unwrap();
    let url = front.url();
    let mut doomed = tokio::task::block_in_place(|| {
        let mut doomed = Doomed::start(&url, "unheard");
        doomed.wait_for("begun");
        doomed
    });
    // What the broker says from here on is heard by nobody.
    front.mute();
    doomed.input.write_all(b"go on\n").unwrap();
    let acked = async { while client.get_queue("work").await.unwrap().stats.acked_total == 0 {} };
    patiently("the ack", acked).await;
    tokio::task::block_in_place(|| drop(doomed));

    assert_eq!(do_the_rest(&client).await, ["1 0 0"], "once, and its next step once");
    let stats = client.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.delivered_total, stats.expired_leases_total), (1, 0));
    server.stop().await;
}
