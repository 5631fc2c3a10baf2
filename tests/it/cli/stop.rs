//! How a worker ends: asked to finish, told to stop, killed; and what becomes of its job.

use std::io::Write as _;
use std::time::Duration;

use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::shell::{Running, Shell};
use rustix::process::Signal;
use serde_json::json;

use super::{Gate, Stage, each, until};

/// A worker on the first of two messages, which waits at the gate.
async fn working(stage: &Stage, gate: &Gate) -> Running {
    stage.publish("work", &["first", "second"]).await;
    let job = format!("cat; echo; {}", gate.wait());
    let mut worker = stage.shell.start(&["message", "consume", "work", "--exec", &job]);
    assert_eq!(worker.line().await.unwrap(), "first");
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_signal_lets_the_job_finish_and_takes_no_other() {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new().await;
        let mut gate = Gate::new(&stage.folder);
        let mut worker = working(&stage, &gate).await;
        worker.signal(signal);
        worker.wait_for_word("finishing what runs").await;
        gate.let_through(1);
        let ended = worker.end().await;
        assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
        assert!(ended.err.contains("1 done, 0 failed, 0 released, 0 lost"), "{}", ended.err);
        let left = stage.peek("work").await;
        assert_eq!((each(&left, "payload"), each(&left, "state")), (vec!["second"], vec!["ready"]));
        assert_eq!(stage.show("work").await["acked_total"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_job_which_comes_again_and_counts_nothing() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let stage = Stage::new().await;
        let gate = Gate::new(&stage.folder);
        let mut worker = working(&stage, &gate).await;
        worker.signal(signal);
        worker.wait_for_word("a second signal ends it at once").await;
        worker.signal(signal);
        let ended = worker.end().await;
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(ended.err.contains("0 done, 0 failed, 1 released, 0 lost"), "{}", ended.err);
        let left = stage.peek("work").await;
        assert_eq!(each(&left, "payload"), ["first", "second"], "it has its place again");
        assert_eq!((&left[0]["state"], &left[0]["attempt"]), (&json!("ready"), &json!(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_job_ends_at_the_first_signal() {
    let stage = Stage::new().await;
    stage.publish("work", &["job"]).await;
    let worker = ["message", "consume", "work", "--exec", "cat; echo"];
    let mut worker = stage.shell.start(&worker);
    assert_eq!(worker.line().await.unwrap(), "job");
    worker.signal(Signal::TERM);
    let ended = worker.end().await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("1 done, 0 failed, 0 released, 0 lost"), "{}", ended.err);
    assert_eq!(stage.show("work").await["consumers"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_of_lines_that_is_stopped_waits_for_no_further_line_and_tells_how_far_it_came() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let stage = Stage::new().await;
        // Lines come through it, and never an end.
        let mut gate = Gate::new(&stage.folder);
        let path = gate.path.to_str().unwrap().to_owned();
        let publisher = stage.shell.start(&["message", "publish", "work", "--jsonl", &path]);
        gate.pipe.write_all(b"1\n2\n[").unwrap();
        let list = ["queue", "list"];
        until("both are stored", async || stage.shell.json(&list).await[0]["ready"] == 2).await;
        publisher.signal(signal);
        let ended = publisher.end().await;
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(ended.err.contains("stored 2 messages, 0 duplicates, 0 refused"), "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_held_comes_again_after_its_grace_and_counts_a_crash() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let shell = Shell::at(&broker.url());
    shell.out(&["message", "publish", "work", "job"]).await;
    // The command is not the worker's to end any more: it ends with the test.
    let gate = Gate::new(&folder);
    let job = format!("echo begun; {}", gate.wait());
    let mut worker = shell.start(&["message", "consume", "work", "--exec", &job]);
    assert_eq!(worker.line().await.unwrap(), "begun");
    worker.kill().await;
    let shown = async || shell.json(&["queue", "show", "work"]).await;
    until("the broker knows", async || shown().await["consumers"] == 0).await;
    broker.pass(Duration::from_millis(14_999));
    assert_eq!(shown().await["leased"], 1, "it might come back");
    broker.pass(Duration::from_millis(1));
    assert_eq!(shown().await["ready"], 1);
    let job = "echo $QBROKER_MESSAGE_ATTEMPT $QBROKER_MESSAGE_FAILURES $QBROKER_MESSAGE_CRASHES";
    let again = shell.out(&["message", "consume", "work", "--count", "1", "--exec", job]).await;
    assert_eq!(again, "2 0 1\n");
    broker.stop().await;
}
