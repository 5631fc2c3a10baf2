//! `message watch`: what happens to messages, line by line.

use serde_json::Value;

use super::{Stage, check_refused, check_usage, each, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_printed_as_it_happens_and_afterwards() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "work", "--max-attempts", "1"]).await;
    stage.publish("other", &["noise"]).await;
    let watch = ["message", "watch", "work", "work.dead", "-o", "jsonl", "--count", "4"];
    let mut watching = stage.shell.start(&watch);
    watching.wait_for_word("watching from sequence").await;
    stage.publish("work", &["x"]).await;
    let first = watching.json_line().await;
    assert_eq!((&first["event"], &first["queue"]), (&"published".into(), &"work".into()));
    stage.shell.out(&["message", "pull", "work"]).await;
    watching.json_line().await;
    stage.shell.out(&["message", "publish", "work", "job", "--id", "own"]).await;
    let fail = ["message", "consume", "work", "--count", "1", "--exec", "echo broken >&2; exit 3"];
    stage.shell.run(&fail).await;
    let ran = watching.end().await;
    assert_eq!(ran.code, 0, "{}", ran.err);

    let from = first["sequence"].to_string();
    let again = ["message", "watch", "--from", &from, "--message-id", "own", "--count", "3"];
    let lines = json_lines(&stage.shell.out(&[&again[..], &["-o", "jsonl"]].concat()).await);
    let told: Vec<Value> = lines.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(told, ["published", "leased", "dead_lettered"], "{lines:?}");
    assert_eq!(each(&lines, "message_id"), ["own", "own", "own"]);
    let letter = &lines[2];
    assert_eq!(
        (&letter["to_queue"], &letter["reason"]),
        (&"work.dead".into(), &"max_attempts".into())
    );
    assert_eq!(letter["failure"]["type"], "exit 3");
    let plain = stage.shell.out(&again).await;
    assert!(plain.starts_with("SEQUENCE\tTIME\tEVENT\t"), "{plain}");
    let last = plain.lines().last().unwrap_or_default();
    assert!(last.contains("max_attempts, to work.dead; exit 3: broken"), "{plain}");

    let ran = stage.shell.run(&["message", "watch", "--from", "1000000"]).await;
    check_refused(&ran, 65, &["INVALID_ARGUMENT", "from_sequence"]);
    check_usage(&stage.shell.run(&["message", "watch", "-o", "json"]).await, "jsonl");
}
