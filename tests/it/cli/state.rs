//! Values, counters, permits and barriers in a shell.

use serde_json::json;

use super::Stage;

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
