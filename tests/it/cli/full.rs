//! Queues that hold as much as they may, and those that hold the most.

use super::{Stage, check_refused, check_usage, each, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_bounded_by_flags_and_says_when_it_is_full() {
    let stage = Stage::new().await;
    let create = ["queue", "create", "work", "--max-messages", "2", "--max-bytes", "1000"];
    let made = stage.shell.json(&create).await;
    assert_eq!((&made["max_messages"], &made["max_bytes"]), (&2.into(), &1_000.into()));
    assert_eq!(made["overflow"], "reject");
    stage.publish("work", &["one", "two"]).await;
    let refused = stage.shell.run(&["message", "publish", "work", "three"]).await;
    check_refused(&refused, 75, &["QUEUE_FULL", "\"work\"", "max_messages is 2"]);

    let update = ["queue", "update", "work", "--overflow", "drop-oldest"];
    assert_eq!(stage.shell.json(&update).await["overflow"], "drop-oldest");
    stage.publish("work", &["three"]).await;
    let shown = stage.show("work").await;
    assert_eq!((&shown["ready"], &shown["dropped_total"]), (&2.into(), &1.into()));
    let took = stage.shell.out(&["message", "consume", "work", "--until-empty"]).await;
    assert_eq!(each(&json_lines(&took), "payload").join(" "), "two three");

    check_usage(&stage.shell.run(&["queue", "create", "q", "--max-messages", "0"]).await, "0");
    check_usage(&stage.shell.run(&["queue", "create", "q", "--overflow", "burst"]).await, "burst");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_sorted_by_what_they_hold_and_purged_with_their_dead_letters() {
    let stage = Stage::new().await;
    stage.publish("few", &["1", "2"]).await;
    stage.publish("many", &["1", "2", "3"]).await;
    let exec = ["message", "consume", "few", "--count", "2", "--exec", "exit 1"];
    stage.shell.out(&["queue", "update", "few", "--max-attempts", "1"]).await;
    drop(stage.shell.run(&exec).await);
    let names = async |sort: &str| {
        let listed = stage.shell.json(&["queue", "list", "--sort", sort]).await;
        each(listed.as_array().expect("it is a list"), "name").join(" ")
    };
    assert_eq!(stage.show("few").await["dead_letters"], 2);
    assert_eq!(names("ready").await, "many few.dead few");
    assert_eq!(names("dead").await, "few few.dead many");
    assert_eq!(names("name").await, "few few.dead many");
    check_usage(&stage.shell.run(&["queue", "list", "--sort", "size"]).await, "size");

    let purge = ["queue", "purge", "few", "--dead-letters", "--yes"];
    assert_eq!(stage.shell.json(&purge).await["purged"], 2);
    assert_eq!(stage.show("few").await["dead_letters"], 0);
}
