//! What holds messages back, and what lets them go: pauses, ranks, windows.

use super::{Stage, check_refused, check_usage, each, json_lines};

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_paused_and_resumed_by_name() {
    let stage = Stage::new().await;
    stage.publish("work", &["one"]).await;
    stage.shell.out(&["queue", "pause", "work"]).await;
    assert_eq!(stage.show("work").await["state"], "paused");
    stage.publish("other", &["one"]).await;
    let list = ["queue", "list", "--paused", "--no-headers", "-o", "plain"];
    let listed = stage.shell.out(&list).await;
    assert!(listed.starts_with("work\t") && listed.ends_with("\tpaused\n"), "{listed}");
    assert_eq!(listed.lines().count(), 1, "{listed}");
    stage.publish("work", &["two"]).await;
    stage.shell.out(&["queue", "pause", "work", "--publishing"]).await;
    let refused = stage.shell.run(&["message", "publish", "work", "three"]).await;
    check_refused(&refused, 65, &["QUEUE_PAUSED", "\"work\""]);

    // What can be done is done, and the exit code says that it was not all.
    let resume = ["queue", "resume", "missing", "work"];
    check_refused(&stage.shell.run(&resume).await, 3, &["missing"]);
    let shown = stage.show("work").await;
    assert_eq!((&shown["state"], &shown["ready"]), (&"active".into(), &2.into()));
    assert_eq!(shown["publishing_paused"], false);
    let took = stage.shell.out(&["message", "consume", "work", "--until-empty"]).await;
    assert_eq!(took.lines().count(), 2);
    check_refused(&stage.shell.run(&["queue", "pause", "none"]).await, 65, &["QUEUE_NOT_FOUND"]);
    check_usage(&stage.shell.run(&["queue", "pause"]).await, "NAMES");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_served_in_the_order_named_or_by_weight() {
    let stage = Stage::new().await;
    let consume = async |flags: &[&str]| {
        stage.publish("low", &["1", "2", "3"]).await;
        stage.publish("high", &["1", "2", "3"]).await;
        let line = [&["message", "consume", "high", "low", "--until-empty"], flags].concat();
        let out = stage.shell.out(&line).await;
        each(&json_lines(&out), "queue").join(" ")
    };
    // The broker alone decides: one message is out at a time.
    let one = ["--count", "4"];
    assert_eq!(consume(&[&one[..], &["--strict"]].concat()).await, "high high high low");
    stage.shell.out(&["queue", "purge", "low", "--yes"]).await;
    let shared = consume(&[&one[..], &["--weights", "3,1"]].concat()).await;
    assert_eq!(shared.matches("high").count(), 3, "{shared}");
    let line = ["message", "consume", "a", "b"];
    let run = async |flags: &[&str]| stage.shell.run(&[&line[..], flags].concat()).await;
    check_usage(&run(&["--weights", "3"]).await, "1 weights for 2 queues");
    check_usage(&run(&["--weights", "3,0"]).await, "--weights");
    check_usage(&run(&["--queue-window", "c=1"]).await, "c is none");
    check_usage(&run(&["--queue-window", "a"]).await, "QUEUE=N");
    check_usage(&run(&["--strict", "--weights", "3,1"]).await, "cannot be used with");
}
