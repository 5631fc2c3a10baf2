//! Consuming to stdout: a message is done once it is written, and not before.

use rustix::process::Signal;
use serde_json::json;

use super::{Stage, check_usage, each, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_printed_as_they_come_until_a_signal_ends_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new().await;
        let mut consumer = stage.shell.start(&["message", "consume", "work"]);
        for payload in ["one", "two"] {
            stage.publish("work", &[payload]).await;
            let line = consumer.json_line().await;
            assert_eq!((&line["payload"], &line["queue"]), (&json!(payload), &json!("work")));
        }
        consumer.signal(signal);
        let ended = consumer.end().await;
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "", ""));
        let shown = stage.show("work").await;
        assert_eq!((&shown["acked_total"], &shown["leased"]), (&json!(2), &json!(0)));
        assert_eq!(shown["consumers"], 0, "it has said good-bye");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_takes_so_many_and_leaves_the_rest_where_it_was() {
    let stage = Stage::new().await;
    stage.publish("work", &["one", "two", "three"]).await;
    let taken = json_lines(&stage.shell.out(&["message", "consume", "work", "--count", "2"]).await);
    assert_eq!(each(&taken, "payload"), ["one", "two"]);
    let left = stage.peek("work").await;
    assert_eq!((each(&left, "payload"), &left[0]["attempt"]), (vec!["three"], &json!(1)));
    assert_eq!(each(&left, "state"), ["ready"]);
    check_usage(&stage.shell.run(&["message", "consume"]).await, "QUEUES");
    for format in ["table", "plain"] {
        let table = ["message", "consume", "work", "--count", "1", "-o", format];
        check_usage(&stage.shell.run(&table).await, "can only be jsonl");
    }
    let pointless = ["message", "consume", "work", "--concurrency", "2"];
    check_usage(&stage.shell.run(&pointless).await, "--exec");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_queues_are_consumed_until_all_are_empty() {
    let stage = Stage::new().await;
    stage.publish("mails", &["m1", "m2"]).await;
    stage.publish("reports", &["r1"]).await;
    let consume = ["message", "consume", "mails", "reports", "--until-empty"];
    let taken = json_lines(&stage.shell.out(&consume).await);
    let mut payloads = each(&taken, "payload");
    payloads.sort_unstable();
    assert_eq!(payloads, ["m1", "m2", "r1"]);
    assert_eq!(stage.shell.out(&consume).await, "", "there is nothing any more");
    // What waits for its time is not gone.
    stage.shell.out(&["message", "publish", "mails", "soon", "--delay", "200ms"]).await;
    assert_eq!(each(&json_lines(&stage.shell.out(&consume).await), "payload"), ["soon"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_read_comes_again_and_a_reader_that_left_is_no_error() {
    let stage = Stage::new().await;
    let mut consumer = stage.shell.start(&["message", "consume", "work"]);
    stage.publish("work", &["read"]).await;
    assert_eq!(consumer.json_line().await["payload"], "read");
    consumer.close_stdout();
    stage.publish("work", &["unread"]).await;
    let ended = consumer.end().await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let left = stage.peek("work").await;
    assert_eq!((each(&left, "payload"), each(&left, "state")), (vec!["unread"], vec!["ready"]));
    assert_eq!(left[0]["attempt"], 1, "it counts nothing");
}
