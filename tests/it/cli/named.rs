//! Single messages by their ids.

use serde_json::json;

use super::{Stage, check_refused, check_usage, each};

#[tokio::test(flavor = "multi_thread")]
async fn messages_get_another_priority_and_another_time() {
    let stage = Stage::new().await;
    stage.publish("work", &["first", "second"]).await;
    let publish = ["message", "publish", "work", "third", "--id", "own", "--delay", "1h"];
    stage.shell.out(&publish).await;
    let sequence = |n: usize, peeked: &[serde_json::Value]| format!("q.{}", peeked[n]["sequence"]);
    let peeked = stage.peek("work").await;
    let second = sequence(1, &peeked);
    let update = ["message", "update", &second, "--priority", "7"];
    assert_eq!(stage.shell.json(&update).await, json!({"done": 1, "refused": 0}));
    let update = ["message", "update", "own", "--queue", "work", "--now", "--priority", "9"];
    stage.shell.out(&update).await;
    let peeked = stage.peek("work").await;
    assert_eq!(each(&peeked, "payload"), ["third", "second", "first"]);
    assert_eq!((&peeked[0]["priority"], &peeked[1]["priority"]), (&json!(9), &json!(7)));
    let update = ["message", "update", &second, "q.1", "--delay", "2h"];
    let ran = stage.shell.run(&update).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("q.1: MESSAGE_NOT_FOUND"), "{}", ran.err);
    assert!(ran.err.contains("`qbroker message trace q.1`"), "{}", ran.err);
    assert_eq!(stage.held("work").await, [2, 0, 1]);
    let at = "2999-01-01T00:00:00Z";
    stage.shell.out(&["message", "update", &second, "--at", at]).await;
    assert_eq!(stage.peek("work").await[2]["deliver_time"], at);

    let ran = stage.shell.run(&["message", "update", "q.1", "--now"]).await;
    assert_eq!(ran.code, 65, "{}", ran.err);
    let ran = stage.shell.run(&["message", "update", "own", "--now"]).await;
    check_refused(&ran, 64, &["own: ", "--queue QUEUE", "q.40"]);
    check_usage(&stage.shell.run(&["message", "update", "q.1"]).await, "--now");
    let both = ["message", "update", "q.1", "--now", "--delay", "1s"];
    check_usage(&stage.shell.run(&both).await, "cannot be used with");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_shown_and_deleted() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "work", "--retry-initial", "0s"]).await;
    stage.shell.out(&["message", "publish", "work", "body", "--id", "own", "--ttl", "1h"]).await;
    let fail = ["message", "consume", "work", "--count", "1", "--exec", "echo broken >&2; exit 3"];
    stage.shell.run(&fail).await;
    let shown = stage.shell.json(&["message", "get", "own", "--queue", "work"]).await;
    for (key, expected) in [
        ("message_id", json!("own")),
        ("queue", json!("work")),
        ("payload", json!("body")),
        ("state", json!("ready")),
        ("attempt", json!(2)),
    ] {
        assert_eq!(shown[key], expected, "{key}: {shown}");
    }
    assert!(shown["expire_time"].is_string(), "{shown}");
    let attempt = &shown["attempts"][0];
    assert_eq!((&attempt["attempt"], &attempt["failure"]["type"]), (&json!(1), &json!("exit 3")));
    assert!(attempt["start_time"].is_string() && attempt["end_time"].is_string(), "{attempt}");
    let id = format!("q.{}", shown["sequence"]);
    let ran = stage.shell.run(&["-o", "plain", "message", "get", &id]).await;
    assert!(ran.out.contains("broken"), "{}", ran.out);
    let ran = stage.shell.run(&["message", "delete", &id, "q.1"]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert_eq!(stage.held("work").await, [0, 0, 0]);
    let ran = stage.shell.run(&["message", "get", &id]).await;
    check_refused(&ran, 65, &["MESSAGE_NOT_FOUND", &id]);
    assert_eq!(stage.shell.run(&["message", "delete", &id]).await.code, 65);
}
