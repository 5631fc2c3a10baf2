//! Values, counters, permits and barriers in a shell.

use serde_json::json;

use super::{Stage, check_usage};

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_keeps_state_and_its_exit_codes_tell() {
    let stage = Stage::new().await;
    let run = async |words: &[&str]| {
        let ran = stage.shell.run(&[&["state"], words].concat()).await;
        (ran.code, ran.out)
    };
    let said = |code, out: &str| (code, out.to_owned());
    assert_eq!(run(&["get", "a"]).await, said(1, ""));
    assert_eq!(run(&["set", "a", "one", "--ttl", "1h"]).await, said(0, ""));
    assert_eq!(run(&["get", "a"]).await, said(0, "one"));
    assert_eq!(run(&["set", "a", "two", "--if-absent"]).await, said(1, ""));
    let shown = stage.shell.json(&["state", "get", "a"]).await;
    assert_eq!(shown, json!({"key": "a", "value": "one"}));
    assert_eq!(run(&["delete", "a", "b"]).await, said(0, ""));
    assert_eq!(run(&["delete", "a"]).await, said(1, ""));

    assert_eq!(run(&["counter", "n"]).await, said(1, ""));
    assert_eq!(run(&["counter", "n", "--add", "2", "--max", "3"]).await, said(0, "2\n"));
    assert_eq!(run(&["counter", "n", "--add", "2", "--max", "3"]).await, said(1, "2\n"));
    assert_eq!(run(&["counter", "n", "--add", "-1"]).await, said(0, "1\n"));
    let shown = stage.shell.json(&["state", "counter", "n"]).await;
    assert_eq!(shown, json!({"key": "n", "value": 1, "applied": true}));

    let (code, permit) = run(&["acquire", "lock"]).await;
    assert_eq!(code, 0);
    assert_eq!(run(&["acquire", "lock"]).await, said(1, ""));
    assert_eq!(run(&["release", permit.trim()]).await, said(0, ""));
    assert_eq!(run(&["release", permit.trim()]).await, said(1, ""));
    assert_eq!(run(&["barrier", "g"]).await, said(1, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_makes_a_barrier_and_arrives_at_it() {
    let stage = Stage::new().await;
    let run = async |words: &[&str]| stage.shell.run(&[&["state"], words].concat()).await;
    let create = ["create-barrier", "g", "2", "--then", "done=all", "--else", "late"];
    assert_eq!(run(&create).await.code, 0);
    assert_eq!(run(&create).await.code, 1, "it is there");
    let view = |arrived, failed, state| json!({"key": "g", "state": state, "arrived": arrived, "parties": 2, "failed": failed});
    let shown = stage.shell.json(&["state", "arrive", "g", "a"]).await;
    assert_eq!(shown, view(1, 0, "open"));
    assert_eq!(stage.shell.json(&["state", "arrive", "g", "a", "--failed"]).await, shown);
    let shown = stage.shell.json(&["state", "arrive", "g", "b", "--failed"]).await;
    assert_eq!(shown, view(2, 1, "complete"));
    assert_eq!(stage.shell.json(&["state", "barrier", "g", "--wait", "60s"]).await, shown);
    let done = stage.shell.run(&["message", "pull", "done"]).await;
    assert!(done.out.contains("all"), "{}", done.out);
    assert_eq!(run(&["arrive", "none", "a"]).await.code, 1);
    check_usage(&run(&["create-barrier", "h", "1", "--then", "=x"]).await, "needs a queue");
    check_usage(&run(&["create-barrier", "h", "0"]).await, "0 is not in 1..=100000");
    check_usage(&run(&["create-barrier", "h", "1", "--collect"]).await, "--then");
}
