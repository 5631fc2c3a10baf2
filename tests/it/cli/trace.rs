//! `message trace`: what happened to one message.

use serde_json::{Value, json};

use super::{Stage, check_refused};

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
    check_refused(&ran, 65, &["MESSAGE_NOT_FOUND"]);
}
