//! A worker that owns its process ends it: by signals, and when a thread does not stop.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use qbroker_worker::middleware::Middleware;
use qbroker_worker::{Broker, Worker, actor};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Bench;

/// Where the broker of a worker in a process of its own is.
const URL: &str = "WORKER_TEST_URL";

/// Prints on a line of its own, whatever the test harness prints.
#[expect(clippy::print_stdout, reason = "the tests that start this process read it")]
fn tell(line: &str) {
    println!("\n{line}");
}

struct Loud;

impl Middleware for Loud {
    fn before_worker_shutdown(&self) {
        tell("stopping");
    }
}

#[actor]
async fn wait_for_ever() {
    tell("begun");
    std::future::pending().await
}

#[actor(time_limit = "10ms", max_retries = 0)]
fn block_for_ever() {
    tell("begun");
    loop {
        std::thread::park();
    }
}

/// The worker's process, which the tests below start; as a test of its own it does nothing.
#[tokio::test]
async fn worker() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(url).await.unwrap().middleware(Loud);
    let worker = Worker::new(broker).register(wait_for_ever).register(block_for_ever);
    let worker = worker.grace(Duration::from_millis(10)).stuck_max(Duration::from_millis(10));
    worker.run_until_shutdown().await.unwrap();
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(bench: &Bench) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::worker", "--nocapture"]).env(URL, bench.url());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, line: &str) {
        let found = self.lines.any(|read| read.unwrap() == line);
        assert!(found, "it ended without {line:?}");
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_ends_it_in_order_and_the_second_at_once() {
    let bench = Bench::start().await;
    let mut process = Process::start(&bench);
    wait_for_ever::send(&bench.broker).await.unwrap();
    tokio::task::block_in_place(|| {
        process.wait_for("begun");
        process.terminate();
        process.wait_for("stopping");
        process.terminate();
        assert_eq!(process.code(), Some(1));
    });
    drop(process);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_does_not_stop_ends_it_for_its_supervisor() {
    let bench = Bench::start().await;
    let mut process = Process::start(&bench);
    block_for_ever::send(&bench.broker).await.unwrap();
    tokio::task::block_in_place(|| {
        process.wait_for("begun");
        process.wait_for("stopping");
        assert_eq!(process.code(), Some(75));
    });
    let letter = bench.messages("default.dead", 1).await.remove(0).message;
    assert_eq!(letter.dead_letter.unwrap().failure.unwrap().kind, "TimeLimitExceeded");
    bench.stop().await;
}
