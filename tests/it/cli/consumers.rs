//! Who consumes, at a shell, and ending it.

use super::{Gate, Stage, check_refused, check_usage};

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_listed_and_disconnected() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.folder);
    let job = format!("echo on; {}", gate.wait());
    stage.publish("work", &["held"]).await;
    let mut worker = stage.shell.start(&["message", "consume", "work", "--exec", &job]);
    assert_eq!(worker.line().await.unwrap(), "on");
    let listed = stage.shell.json(&["consumer", "list", "--queue", "work"]).await;
    let it = &listed[0];
    assert_eq!((&it["queues"][0], &it["outstanding_messages"]), (&"work".into(), &1.into()));
    assert_eq!(it["sdk"], "qbroker-client");
    let id = it["consumer_id"].as_str().unwrap();
    let plain = stage.shell.out(&["consumers", "list", "--no-headers", "-o", "plain"]).await;
    let row: Vec<&str> = plain.trim_end().split('\t').collect();
    assert_eq!((row[0], row[4], row[5], row[6]), (id, "work", "1", "1"));
    assert_eq!(
        stage.shell.json(&["consumer", "list", "--queue", "none"]).await,
        serde_json::json!([])
    );

    let disconnect = ["consumer", "disconnect", id, "c.9.9", "--end-session"];
    check_refused(&stage.shell.run(&disconnect).await, 3, &["CONSUMER_NOT_FOUND", "c.9.9"]);
    // The worker is told why, its command is ended, and it does not come back.
    let ended = worker.end().await;
    assert_ne!(ended.code, 0);
    assert!(ended.err.contains("CONSUMER_DISCONNECTED"), "{}", ended.err);
    assert_eq!(stage.held("work").await, [1, 0, 0]);
    check_usage(&stage.shell.run(&["consumer", "disconnect"]).await, "ID");
}
