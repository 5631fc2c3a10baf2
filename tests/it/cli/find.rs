//! `message find`: messages by a name.

use serde_json::json;

use super::{Stage, check_usage, each, until};

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_and_dead_letters_are_found_by_their_names() {
    let stage = Stage::with(&["--search-index=true"]).await;
    let publish = ["message", "publish", "work", "job", "--delay", "1h"];
    stage.shell.out(&[&publish[..], &["--id", "own", "--correlation-id", "o-7"]].concat()).await;
    stage.shell.out(&[&publish[..], &["--type", "mail"]].concat()).await;
    // The index follows the log, in its order.
    until("the later one is found", async || {
        let ran = stage.shell.run(&["message", "find", "--type", "mail", "-o", "json"]).await;
        ran.code == 0 && ran.out.contains("mail")
    })
    .await;
    let find = ["message", "find", "--message-id", "own"];
    let found = stage.shell.json(&find).await;
    let found = found.as_array().unwrap();
    assert_eq!(each(found, "state"), ["scheduled"]);
    assert_eq!((&found[0]["queue"], &found[0]["correlation_id"]), (&json!("work"), &json!("o-7")));
    let plain = stage.shell.out(&["message", "find", "--type", "mail", "-o", "plain"]).await;
    assert!(plain.starts_with("MESSAGE_ID\tSEQUENCE\t") && plain.lines().count() == 2, "{plain}");
    let nothing = ["message", "find", "--correlation-id", "o-7", "--queue", "other"];
    assert_eq!(stage.shell.json(&nothing).await, json!([]));
    check_usage(&stage.shell.run(&["message", "find"]).await, "--message-id");
    let both = ["message", "find", "--message-id", "a", "--type", "b"];
    check_usage(&stage.shell.run(&both).await, "cannot be used with");
}
