//! Taking messages and looking at them.

use serde_json::{Value, json};

use super::{Stage, check_usage, each, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_takes_so_many_in_order_and_says_when_there_are_none() {
    let stage = Stage::new().await;
    let none = stage.shell.run(&["message", "pull", "work"]).await;
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (1, "", ""));
    stage.publish("work", &["one", "two", "three"]).await;
    let first = json_lines(&stage.shell.out(&["message", "pull", "work"]).await);
    assert_eq!((each(&first, "payload"), &first[0]["attempt"]), (vec!["one"], &json!(1)));
    let rest = json_lines(&stage.shell.out(&["message", "pull", "work", "--max", "10"]).await);
    assert_eq!(each(&rest, "payload"), ["two", "three"]);
    let shown = stage.show("work").await;
    assert_eq!(
        (&shown["ready"], &shown["leased"], &shown["acked_total"]),
        (&json!(0), &json!(0), &json!(3))
    );
    for wrong in ["0", "1001", "-1"] {
        let max = format!("--max={wrong}");
        check_usage(&stage.shell.run(&["message", "pull", "work", &max]).await, "--max");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_gets_what_comes() {
    let stage = Stage::new().await;
    let mut waiting = stage.shell.start(&["message", "pull", "work", "--wait", "1m"]);
    stage.publish("work", &["late"]).await;
    assert_eq!(waiting.json_line().await["payload"], "late");
    assert_eq!(waiting.end().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_pulled_message_is_what_was_said() {
    let stage = Stage::new().await;
    stage.publish("work", &["job"]).await;
    let pull = |then| ["message", "pull", "work", "--then", then];
    for _ in 0..2 {
        let released = json_lines(&stage.shell.out(&pull("release")).await);
        assert_eq!((&released[0]["payload"], &released[0]["attempt"]), (&json!("job"), &json!(1)));
    }
    assert_eq!(stage.held("work").await, [1, 0, 0]);
    stage.shell.out(&pull("dead-letter")).await;
    let dead = stage.peek("work.dead").await;
    assert_eq!(
        (&dead[0]["payload"], &dead[0]["dead_letter"]["reason"]),
        (&json!("job"), &json!("by_consumer"))
    );
    assert_eq!(stage.held("work").await, [0, 0, 0]);
    // A dead letter is a message like any other: done with, it is gone.
    stage.shell.out(&["message", "pull", "work.dead"]).await;
    assert_eq!(stage.held("work.dead").await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_messages_are_lines_of_json_or_what_was_asked_for() {
    let stage = Stage::new().await;
    stage.publish("work", &["one", "two"]).await;
    let pull = ["message", "pull", "work", "--max", "2", "--then", "release"];
    let lines = json_lines(&stage.shell.out(&pull).await);
    assert_eq!(stage.shell.json(&pull).await, Value::from(lines.clone()), "one document");
    let asked = stage.shell.out(&[&pull[..], &["-o", "jsonl"]].concat()).await;
    assert_eq!(json_lines(&asked), lines);
    let plain = stage.shell.out(&[&pull[..], &["-o", "plain"]].concat()).await;
    let rows: Vec<Vec<&str>> = plain.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((rows[0][0], rows[1][1], rows[2][5]), ("MESSAGE_ID", "leased", "two"));
    let none = stage.shell.run(&["message", "pull", "empty", "-o", "json"]).await;
    assert_eq!((none.code, none.out.as_str()), (1, "[]\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn peeking_shows_and_changes_nothing() {
    let stage = Stage::new().await;
    stage.publish("work", &["first payload", "second payload"]).await;
    stage.shell.out(&["message", "publish", "work", "later", "--delay", "1h"]).await;
    for _ in 0..2 {
        let peeked = stage.peek("work").await;
        assert_eq!(each(&peeked, "payload"), ["first payload", "second payload", "later"]);
        assert_eq!(each(&peeked, "state"), ["ready", "ready", "scheduled"]);
        assert!(peeked.iter().all(|message| message["attempt"] == 1));
    }
    let shown = stage.show("work").await;
    assert_eq!((&shown["ready"], &shown["delivered_total"]), (&json!(2), &json!(0)));
    let one =
        stage.shell.json(&["message", "peek", "work", "--max", "1", "--payload-bytes", "5"]).await;
    assert_eq!((&one[0]["payload"], &one[0]["payload_truncated"]), (&json!("first"), &json!(true)));
    assert_eq!(one[1], Value::Null, "one is enough");
    let table = stage.shell.out(&["message", "peek", "work", "-o", "table"]).await;
    assert!(table.lines().nth(1).unwrap().ends_with("first payload"), "{table}");
    assert_eq!(table.lines().count(), 4);
}

/// As with `| head`: a pipe that nobody reads any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_read_of_a_pull_goes_back_uncounted_and_no_word_is_said() {
    let stage = Stage::new().await;
    for output in [&[][..], &["-o", "json"], &["-o", "table"]] {
        let pull = [&["message", "pull", "work", "--wait", "1m"][..], output].concat();
        let mut waiting = stage.shell.start(&pull);
        waiting.close_stdout();
        stage.publish("work", &["job"]).await;
        let ended = waiting.end().await;
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{output:?}");
        assert_eq!(stage.held("work").await, [1, 0, 0], "{output:?}");
        let left = json_lines(&stage.shell.out(&["message", "pull", "work"]).await);
        assert_eq!(left[0]["attempt"], json!(1), "{output:?}");
    }
}
