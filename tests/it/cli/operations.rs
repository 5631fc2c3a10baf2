//! Many messages at once: looked for, moved, redriven, deleted.

use serde_json::json;

use super::{Stage, check_refused, check_usage, each};

/// A queue with two dead letters and one that waits.
async fn with_letters() -> Stage {
    let stage = Stage::new().await;
    for (payload, tenant) in [("one", "a"), ("two", "b")] {
        let header = format!("tenant={tenant}");
        stage.shell.out(&["message", "publish", "work", payload, "--header", &header]).await;
    }
    stage.shell.out(&["queue", "update", "work", "--max-attempts", "1"]).await;
    let fail = ["message", "consume", "work", "--count", "2", "--exec", "echo broken >&2; exit 3"];
    stage.shell.run(&fail).await;
    stage.publish("work", &["three"]).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_looked_for_by_what_they_are() {
    let stage = with_letters().await;
    let peek = async |queue: &str, filters: &[&str]| {
        let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
        let line: Vec<&str> = ["message", "peek", queue].into_iter().chain(filters).collect();
        let peeked = stage.shell.json(&line).await;
        each(peeked.as_array().unwrap(), "payload").join(" ")
    };
    assert_eq!(peek("work.dead", &["header.tenant=a"]).await, "one");
    assert_eq!(peek("work.dead", &["failure-type=exit 3", "contains=wo"]).await, "two");
    assert_eq!(peek("work.dead", &["source=work", "reason=max-attempts"]).await, "one two");
    assert_eq!(peek("work.dead", &["source=other"]).await, "");
    assert_eq!(peek("work", &["state=ready", "after=1h"]).await, "three");
    let bad = async |filter| stage.shell.run(&["message", "peek", "work", "-f", filter]).await;
    check_usage(&bad("nothing").await, "KEY=VALUE");
    check_usage(&bad("what=ever").await, "is no filter");
    check_refused(&bad("type=").await, 65, &["INVALID_ARGUMENT", "it is empty"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_redriven_and_deleted() {
    let stage = with_letters().await;
    let warning = "messages were dead-lettered; see `qbroker dead list work`";
    assert!(stage.server.wait_for(warning).await.is_some(), "{}", stage.server.log());
    let listed = stage.shell.json(&["dead", "list", "work"]).await;
    let listed = listed.as_array().unwrap();
    assert_eq!(each(listed, "payload"), ["one", "two"]);
    assert_eq!(listed[0]["dead_letter"]["source_queue"], "work");
    let columns = stage.shell.out(&["-o", "plain", "dead", "list", "work.dead"]).await;
    assert!(columns.lines().nth(1).is_some_and(|line| line.contains("max_attempts")), "{columns}");
    assert!(columns.contains("exit 3: "), "{columns}");
    let id = format!("q.{}", listed[0]["sequence"]);
    assert_eq!(stage.shell.json(&["dead", "show", &id]).await["payload"], "one");
    let shown = stage.shell.out(&["-o", "plain", "dead", "show", &id]).await;
    for line in ["source\twork", "reason\tmax_attempts", "died_after\t1"] {
        assert!(shown.lines().any(|it| it == line), "{line} is not in {shown}");
    }
    assert!(!shown.contains('{'), "no JSON for people: {shown}");
    stage.shell.out(&["queue", "create", "quiet"]).await;
    assert_eq!(stage.shell.json(&["dead", "list", "quiet"]).await, json!([]));
    check_refused(&stage.shell.run(&["dead", "list", "none"]).await, 65, &["QUEUE_NOT_FOUND"]);

    let redrive = ["dead", "redrive", "work", "--filter", "header.tenant=b"];
    let counted = stage.shell.json(&[&redrive[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted, json!({"matched": 1, "all": true}));
    let ended = stage.shell.json(&[&redrive[..], &["--wait"]].concat()).await;
    assert_eq!((&ended["state"], &ended["done"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(each(&stage.peek("work").await, "payload"), ["three", "two"]);
    let which = stage.shell.run(&["dead", "redrive", "work"]).await;
    check_usage(&which, "--all");
    let delete = ["dead", "delete", "work", "--all", "--wait"];
    check_refused(&stage.shell.run(&delete).await, 64, &["delete 1 messages", "--yes"]);
    stage.shell.out(&[&delete[..], &["--yes"]].concat()).await;
    assert_eq!(stage.held("work.dead").await, [0, 0, 0]);
}

/// They ended with the name of a queue that nobody had made.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_has_died_nothing_is_matched() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "quiet"]).await;
    let all = ["quiet", "--all"];
    for verb in ["redrive", "delete"] {
        let line = [&["dead", verb][..], &all].concat();
        let counted = stage.shell.json(&[&line[..], &["--dry-run"]].concat()).await;
        assert_eq!(counted, json!({"matched": 0, "all": true}));
        for how in [&[][..], &["--wait"]] {
            let ended = stage.shell.json(&[&line[..], how].concat()).await;
            let told = (&ended["state"], &ended["matched"], &ended["queue"]);
            assert_eq!(told, (&json!("succeeded"), &json!(0), &json!("quiet.dead")));
        }
        let told = stage.shell.run(&line).await;
        assert_eq!(told.code, 0, "{}", told.err);
        assert!(told.err.contains("there are no dead letters"), "{}", told.err);
        let missing = stage.shell.run(&["dead", verb, "none", "--all", "--yes"]).await;
        check_refused(&missing, 65, &["QUEUE_NOT_FOUND", "\"none\""]);
    }
}

/// It took the queue itself for the one of its dead letters, and deleted what was waiting.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_queue_without_dead_letters_is_not_taken_for_them() {
    let stage = with_letters().await;
    stage.shell.out(&["queue", "update", "work", "--discard-dead-letters"]).await;
    for command in [
        &["dead", "delete", "work", "--all", "--yes", "--wait"][..],
        &["dead", "redrive", "work", "--to", "work.dead", "--all", "--wait"],
        &["dead", "list", "work"],
    ] {
        let refused = stage.shell.run(command).await;
        check_refused(&refused, 65, &["work discards its dead letters", "work.dead"]);
    }
    assert_eq!(each(&stage.peek("work").await, "payload"), ["three"]);
    stage.shell.out(&["dead", "delete", "work.dead", "--all", "--yes", "--wait"]).await;
    assert_eq!(stage.held("work.dead").await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_redriven_with_their_attempts_or_without() {
    let stage = with_letters().await;
    let redrive = ["dead", "redrive", "work", "--wait", "-f"];
    let kept = [&redrive[..], &["header.tenant=a", "--keep-attempts"]].concat();
    let ended = stage.shell.json(&kept).await;
    assert_eq!((&ended["done"], &ended["to"]), (&json!(1), &json!(null)));
    let words = stage.shell.out(&["-o", "plain", "operation", "list"]).await;
    assert!(words.contains("(their sources)"), "{words}");
    stage.shell.json(&[&redrive[..], &["header.tenant=b"]].concat()).await;
    assert_eq!(stage.held("work").await, [3, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_moved_and_deleted_and_operations_told_of() {
    let stage = with_letters().await;
    stage.shell.out(&["queue", "create", "other"]).await;
    let missing = stage.shell.run(&["message", "move", "work", "none", "--all"]).await;
    check_refused(&missing, 65, &["QUEUE_NOT_FOUND"]);
    let moved = ["message", "move", "work.dead", "other", "--all", "--wait", "--reset-attempts"];
    let ended = stage.shell.json(&moved).await;
    assert_eq!((&ended["done"], &ended["to"]), (&json!(2), &json!("other")));
    assert_eq!(stage.held("other").await, [2, 0, 0]);
    let listed = stage.shell.json(&["operation", "list"]).await;
    assert_eq!(listed[0]["operation_id"], ended["operation_id"]);
    let id = ended["operation_id"].as_str().unwrap();
    assert_eq!(stage.shell.json(&["operation", "get", id]).await, ended);
    assert_eq!(stage.shell.json(&["operation", "cancel", id]).await["state"], "succeeded");
    assert_eq!(stage.shell.json(&["operation", "wait", id]).await["done"], 2);

    // What has no source queue is refused, and the exit code says so.
    let back = stage.shell.run(&["dead", "redrive", "other.dead", "--all"]).await;
    check_refused(&back, 65, &["QUEUE_NOT_FOUND"]);
    stage.publish("other.dead", &["stray"]).await;
    let back = stage.shell.run(&["dead", "redrive", "other", "--all", "--wait"]).await;
    assert_eq!(back.code, 65, "{}", back.err);
    assert!(back.err.contains("NOT_DEAD_LETTER"), "{}", back.err);

    let slow = ["message", "delete", "--queue", "other", "-f", "contains=o", "--rate", "0.001"];
    let begun = stage.shell.run(&[&slow[..], &["--yes", "-o", "json"]].concat()).await;
    let told: serde_json::Value = serde_json::from_str(&begun.out).unwrap();
    let id = told["operation_id"].as_str().unwrap();
    assert!(begun.err.contains(&format!("`qbroker operation wait {id}`")), "{}", begun.err);
    assert_eq!(stage.shell.json(&["operation", "cancel", id]).await["state"], "canceled");
    let both = stage.shell.run(&["message", "delete", "q.1", "--wait"]).await;
    check_usage(&both, "go with --filter");
    let nowhere = stage.shell.run(&["message", "delete", "-f", "contains=o", "--yes"]).await;
    check_usage(&nowhere, "--queue");
    check_refused(&stage.shell.run(&["operation", "get", "o.1"]).await, 65, &["OPERATION_NOT"]);
}
