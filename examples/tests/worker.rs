//! The worker's examples, as somebody runs them who tries them out.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use qbroker::embedded::Broker;
use rustix::process::{Pid, Signal, kill_process};

/// A broker, and a runtime that it lives in.
struct Bench {
    runtime: tokio::runtime::Runtime,
    broker: Option<Broker>,
    url: String,
}

impl Bench {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let broker = runtime.block_on(Broker::start()).unwrap();
        Self { url: broker.url(), runtime, broker: Some(broker) }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("QBROKER_URL", &self.url).env("METRICS_LISTEN", "127.0.0.1:0");
        command
    }

    /// What a program prints that ends by itself.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A worker that runs until it is told to stop.
    fn work(&self, program: &str, arguments: &[&str]) -> Running {
        self.work_with(program, arguments, &[])
    }

    /// The same in an environment of its own.
    fn work_with(
        &self,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Running {
        let mut command = self.command(program, arguments);
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runtime.block_on(self.broker.take().unwrap().stop()).unwrap();
    }
}

/// A worker's process; killed when it is dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn line(&mut self) -> String {
        self.lines.next().expect("it prints more").unwrap()
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Tells it to stop; how it ended, and what it logged.
    fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_welcome_mail_is_tried_again_until_the_server_is_back() {
    let program = env!("CARGO_BIN_EXE_welcome-mail");
    let bench = Bench::start();
    assert!(bench.run(program, &["send", "ann@example.org"]).ends_with(" is on disk\n"));
    let mut worker = bench.work(program, &["work"]);
    assert_eq!(worker.line(), "welcomed user 123 at ann@example.org, attempt 3");
    let (status, log) = worker.stop();
    assert!(status.success(), "{status}");
    assert!(log.contains("job failed, to be tried again"), "{log}");
    assert!(log.contains("the worker has stopped"), "{log}");
}

#[test]
fn payments_end_done_declined_or_with_a_person() {
    let program = env!("CARGO_BIN_EXE_payments");
    let bench = Bench::start();
    bench.run(program, &["send"]);
    let mut worker = bench.work(program, &["work"]);
    let mut lines = worker.lines(10);
    lines.sort();
    assert_eq!(
        lines,
        [
            "charging 1000 cents for order 1, attempt 1",
            "charging 2000 cents for order 2, attempt 1",
            "charging 3000 cents for order 3, attempt 1",
            "charging 3000 cents for order 3, attempt 2",
            "charging 3000 cents for order 3, attempt 3",
            "charging 4000 cents for order 4, attempt 1",
            "charging 4000 cents for order 4, attempt 2",
            "order 3 needs a person: the bank does not answer",
            "receipt for order 1",
            "receipt for order 4",
        ]
    );
    assert!(worker.stop().0.success());

    let letters = bench.run(env!("CARGO_BIN_EXE_dead-letters"), &["payments"]);
    for part in [
        r#"charge {"order":2,"cents":2000}"#,
        "  ByConsumer after 1 attempts\n  PaymentError: the card was declined",
        r#"charge {"order":3,"cents":3000}"#,
        "  MaxAttempts after 3 attempts\n  PaymentError: the bank does not answer",
        "  attempt 2: the bank does not answer",
    ] {
        assert!(letters.contains(part), "{part:?} is not in {letters}");
    }

    // The bank is back: what ran out of retries has them all again.
    let redriven = bench.run(env!("CARGO_BIN_EXE_dead-letters"), &["payments", "redrive"]);
    assert_eq!(redriven, "1 of 1 sent back\n");
    let mut worker = bench.work_with(program, &["work"], &[("BANK_IS_BACK", "1")]);
    let lines = worker.lines(2);
    assert_eq!(lines[0], "charging 3000 cents for order 3, attempt 1");
    assert_eq!(lines[1], "receipt for order 3");
    assert!(worker.stop().0.success());
    let letters = bench.run(env!("CARGO_BIN_EXE_dead-letters"), &["payments"]);
    assert!(letters.contains(r#""order":2"#) && !letters.contains(r#""order":3"#), "{letters}");
}

#[test]
fn what_is_urgent_comes_first() {
    let program = env!("CARGO_BIN_EXE_priorities");
    let bench = Bench::start();
    bench.run(program, &["send"]);
    let mut worker = bench.work(program, &["strict"]);
    let lines = worker.lines(30);
    assert!(lines[..10].iter().all(|line| line.starts_with("urgent reset_password")), "{lines:?}");
    assert!(lines[10..20].iter().all(|line| line.starts_with("default resize_image")), "{lines:?}");
    assert!(lines[20..].iter().all(|line| line.starts_with("bulk build_report")), "{lines:?}");
    assert!(worker.stop().0.success());
    bench.run(program, &["send"]);
    let mut worker = bench.work(program, &["urgent-only"]);
    assert!(worker.lines(10).iter().all(|line| line.starts_with("urgent")));
    assert!(worker.stop().0.success());
    let mut worker = bench.work(program, &["weighted"]);
    assert_eq!(worker.lines(20).iter().filter(|line| line.starts_with("bulk")).count(), 10);
    assert!(worker.stop().0.success());
}

#[test]
fn a_reminder_comes_in_its_time_and_can_be_taken_back() {
    let program = env!("CARGO_BIN_EXE_reminder");
    let bench = Bench::start();
    let mut worker = bench.work(program, &["work"]);
    let later = bench.run(program, &["send", "1"]);
    bench.run(program, &["send", "2", "1"]);
    assert_eq!(worker.line(), "user 2: your cart is waiting");
    assert_eq!(bench.run(program, &["cancel", later.trim()]), "canceled\n");
    let again = bench.command(program, &["cancel", later.trim()]).output().unwrap();
    assert!(!again.status.success(), "it was gone");
    assert!(String::from_utf8_lossy(&again.stderr).contains("MESSAGE_NOT_FOUND"), "{again:?}");
    assert!(worker.stop().0.success());
}

#[test]
fn metrics_logs_and_traces_tell_of_jobs() {
    let program = env!("CARGO_BIN_EXE_observed");
    let bench = Bench::start();
    let trace = bench.run(program, &["send"]);
    let mut worker = bench.work(program, &["work"]);
    let url = worker.line();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    while !metrics(address)
        .contains("dramatiq_messages_total{queue_name=\"orders\",actor_name=\"pack_order\"} 1")
    {
    }
    let (status, log) = worker.stop();
    assert!(status.success(), "{status}");
    for text in ["the order is placed", "the order is packed"] {
        let line = log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{log}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["span"]["trace_id"], trace.trim(), "{line}");
    }
}

#[test]
fn pictures_go_through_their_steps() {
    let program = env!("CARGO_BIN_EXE_pictures");
    let bench = Bench::start();
    let mut worker = bench.work(program, &["work"]);
    let told = bench.run(program, &["send", "a.png", "missing.png"]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines.len(), lines[1]), (4, "done"), "{told}");
    assert!(lines[3].contains("there is no missing.png"), "{told}");
    assert_eq!(worker.line(), "user 7: /tmp/a.png has 640 pixels");
    assert!(worker.stop().0.success());
}

#[test]
fn words_are_counted_side_by_side_and_added_up_once() {
    let program = env!("CARGO_BIN_EXE_word-count");
    let bench = Bench::start();
    let worker = bench.work(program, &["work"]);
    let other = bench.work(program, &["work"]);
    let summary = "all of it: 6 words on 5 pages, 1 failed";
    let told = bench.run(program, &["send", "one two", "three", "", "four five", "six"]);
    assert_eq!(told.trim(), summary);
    assert!(other.stop().0.success() && worker.stop().0.success());
}

#[test]
fn a_worker_in_production_has_its_schedule_and_stops_in_order() {
    let program = env!("CARGO_BIN_EXE_production");
    let bench = Bench::start();
    let mut worker = bench.work(program, &[]);
    let url = worker.line();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    let client = bench.runtime.block_on(qbroker_client::Client::connect(&*bench.url)).unwrap();
    // It is made before the first message is taken.
    while bench.runtime.block_on(client.trigger_schedule("clean_up")).is_err() {}
    let done = "dramatiq_messages_total{queue_name=\"maintenance\",actor_name=\"clean_up\"} 1";
    while !metrics(&address).contains(done) {}
    let (status, log) = worker.stop();
    assert!(status.success(), "{status}");
    assert!(log.contains("what is older is deleted"), "{log}");
}

fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}
