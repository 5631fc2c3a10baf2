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
    assert_eq!(stage.held("work").await, [2, 0, 1]);
    let at = "2999-01-01T00:00:00Z";
    stage.shell.out(&["message", "update", &second, "--at", at]).await;
    assert_eq!(stage.peek("work").await[2]["deliver_time"], at);

    let ran = stage.shell.run(&["message", "update", "q.1", "--now"]).await;
    assert_eq!(ran.code, 65, "{}", ran.err);
    let ran = stage.shell.run(&["message", "update", "own", "--now"]).await;
    check_refused(&ran, 65, &["INVALID_ARGUMENT", "queue"]);
    check_usage(&stage.shell.run(&["message", "update", "q.1"]).await, "--now");
    let both = ["message", "update", "q.1", "--now", "--delay", "1s"];
    check_usage(&stage.shell.run(&both).await, "cannot be used with");
}
