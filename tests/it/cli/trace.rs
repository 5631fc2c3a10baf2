//! `message trace`: what happened to one message.

use serde_json::{Value, json};

use super::{Stage, check_refused, check_usage, each, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_traced_while_it_waits_and_when_it_is_done() {
    let stage = Stage::new().await;
    let create =
        ["queue", "create", "work", "--outcome-retention", "7days", "--retry-initial", "0s"];
    stage.shell.out(&create).await;
    assert_eq!(stage.show("work").await["outcome_retention"], "7days");
    stage.shell.out(&["message", "publish", "work", "job", "--id", "own"]).await;
    let fail = ["message", "consume", "work", "--count", "1", "--exec", "echo broken >&2; exit 3"];
    stage.shell.run(&fail).await;
    let trace = ["message", "trace", "own", "--queue", "work"];
    let steps = |told: &Value| -> Vec<Value> {
        told["events"].as_array().unwrap().iter().map(|it| it["event"].clone()).collect()
    };
    let told = stage.shell.json(&trace).await;
    assert_eq!(steps(&told), ["published", "leased", "failed"]);
    assert_eq!(told["message"]["state"], "ready");
    let failed = &told["events"][2];
    assert_eq!((&failed["attempt"], &failed["failure"]["type"]), (&json!(1), &json!("exit 3")));
    assert!(failed["consumer_id"].is_string(), "{failed}");

    stage.shell.out(&["message", "pull", "work"]).await;
    let told = stage.shell.json(&trace).await;
    assert_eq!(steps(&told), ["published", "leased", "failed", "leased", "acked"]);
    assert_eq!(told["message"], Value::Null);
    let plain = stage.shell.out(&[&trace[..], &["-o", "plain"]].concat()).await;
    assert!(plain.lines().count() == 6 && plain.contains("exit 3: broken"), "{plain}");
    let ran = stage.shell.run(&["message", "trace", "q.999"]).await;
    check_refused(&ran, 65, &["MESSAGE_NOT_FOUND", "never was", "--outcome-retention 1h"]);
    assert!(!ran.err.contains("use q."), "{}", ran.err);
    let ran = stage.shell.run(&["message", "trace", "--correlation-id", "o-7"]).await;
    check_refused(&ran, 69, &["FEATURE_UNSUPPORTED", "search-index"]);
    check_usage(&stage.shell.run(&["message", "trace"]).await, "--correlation-id");
    let both = ["message", "trace", "own", "--correlation-id", "o-7"];
    check_usage(&stage.shell.run(&both).await, "cannot be used with");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_all_of_an_order_is_told_together() {
    let stage = Stage::with(&["--search-index=true"]).await;
    for (id, order) in [("a", "o-7"), ("b", "o-8"), ("c", "o-7")] {
        let publish = ["message", "publish", "work", id, "--id", id, "--correlation-id", order];
        stage.shell.out(&[&publish[..], &["--delay", "1h"]].concat()).await;
    }
    let trace = ["message", "trace", "--correlation-id", "o-7"];
    // The index follows the log, in its order.
    until("the last one is found", async || {
        let ran = stage.shell.run(&[&trace[..], &["-o", "json"]].concat()).await;
        ran.code == 0 && ran.out.contains("\"c\"")
    })
    .await;
    let told = stage.shell.json(&trace).await;
    let events = told["events"].as_array().unwrap();
    assert_eq!(each(events, "message_id"), ["a", "c"]);
    assert_eq!(each(events, "event"), ["published", "published"]);
    assert_eq!(told["message"]["message_id"], "c");
    let elsewhere = [&trace[..], &["--queue", "other"]].concat();
    let told = ["MESSAGE_NOT_FOUND", "the correlation id \"o-7\" is found in the queue other"];
    check_refused(&stage.shell.run(&elsewhere).await, 65, &told);
}
