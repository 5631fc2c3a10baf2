//! Any program as a worker: what it gets, and what its end says.

use qbroker_tests::front::Front;
use qbroker_tests::shell::Shell;
use serde_json::{Value, json};

use super::{Gate, Stage, each};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_the_payload_and_all_that_is_known_of_the_message() {
    let stage = Stage::new().await;
    let publish = [
        &["message", "publish", "work", "the payload", "--id", "m-1", "--type", "send"][..],
        &["--correlation-id", "c-1", "--content-type", "text/plain", "-H", "trace-id=t 1"],
    ];
    let receipt = stage.shell.json(&publish.concat()).await;
    let out = stage
        .shell
        .out(&["message", "consume", "work", "--count", "1", "--exec", "cat; echo; env"])
        .await;
    let (payload, environment) = out.split_once('\n').unwrap();
    assert_eq!(payload, "the payload");
    let variable = |name: &str| {
        let start = format!("QBROKER_MESSAGE_{name}=");
        environment.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    for (name, expected) in [
        ("ID", "m-1"),
        ("QUEUE", "work"),
        ("SEQUENCE", receipt["sequence"].to_string().as_str()),
        ("TYPE", "send"),
        ("CORRELATION_ID", "c-1"),
        ("CONTENT_TYPE", "text/plain"),
        ("ATTEMPT", "1"),
        ("FAILURES", "0"),
        ("CRASHES", "0"),
        ("HEADERS", "{\"trace-id\":\"t 1\"}"),
        ("HEADER_TRACE_ID", "t 1"),
    ] {
        assert_eq!(variable(name).as_deref(), Some(expected), "{name}");
    }
    assert!(variable("PUBLISH_TIME").unwrap().ends_with('Z'), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_acks_and_any_other_brings_the_message_back_with_the_reason() {
    let stage = Stage::new().await;
    let quickly = ["--retry-initial", "1ms", "--retry-max", "1ms"];
    stage.shell.out(&[&["queue", "create", "work"][..], &quickly].concat()).await;
    stage.publish("work", &["job"]).await;
    let consume = |job| ["message", "consume", "work", "--count", "1", "--exec", job];
    let failed = stage.shell.run(&consume("echo 'no such user' >&2; exit 7")).await;
    assert_eq!((failed.code, failed.out.as_str()), (0, ""), "the consumer did not fail");
    assert!(failed.err.contains("no such user\n"), "it is passed on: {}", failed.err);
    assert!(failed.err.contains("0 done, 1 failed, 0 released, 0 lost"), "{}", failed.err);
    let killed = stage
        .shell
        .run(&["-q", "message", "consume", "work", "--count", "1", "--exec", "kill -9 $$"])
        .await;
    assert_eq!((killed.code, killed.err.as_str()), (0, ""));

    let told =
        stage.shell.out(&["message", "pull", "work", "--wait", "1m", "--then", "release"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["attempt"], &told["last_failure"]["type"]), (&json!(3), &json!("signal 9")));
    let job = "echo $QBROKER_MESSAGE_ATTEMPT $QBROKER_MESSAGE_FAILURES";
    let done = stage.shell.run(&consume(job)).await;
    assert_eq!((done.code, done.out.as_str()), (0, "3 2\n"));
    assert!(done.err.contains("1 done, 0 failed, 0 released, 0 lost"), "{}", done.err);
    let shown = stage.show("work").await;
    for (key, expected) in
        [("acked_total", 1), ("retried_total", 2), ("ready", 0), ("scheduled", 0)]
    {
        assert_eq!(shown[key], expected, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_too_often_lies_in_the_dead_letter_queue_with_its_reason() {
    let stage = Stage::new().await;
    let policy = ["--max-attempts", "2", "--retry-initial", "1ms", "--retry-max", "1ms"];
    stage.shell.out(&[&["queue", "create", "work"][..], &policy].concat()).await;
    stage.shell.out(&["message", "publish", "work", "poison", "--id", "m-1", "-H", "k=v"]).await;
    let job = "echo attempt $QBROKER_MESSAGE_ATTEMPT >&2; exit 3";
    let consumed =
        stage.shell.run(&["message", "consume", "work", "--until-empty", "--exec", job]).await;
    assert_eq!(consumed.code, 0);
    assert!(consumed.err.contains("0 done, 2 failed"), "{}", consumed.err);

    let dead = stage.peek("work.dead").await.remove(0);
    for (key, expected) in [
        ("message_id", json!("m-1")),
        ("payload", json!("poison")),
        ("headers", json!({"k": "v"})),
        ("queue", json!("work.dead")),
    ] {
        assert_eq!(dead[key], expected, "{key}");
    }
    let letter = &dead["dead_letter"];
    for (key, expected) in [
        ("source_queue", json!("work")),
        ("reason", json!("max_attempts")),
        ("attempts", json!(2)),
        ("failure", json!({"type": "exit 3", "message": "attempt 2", "details": "attempt 2"})),
    ] {
        assert_eq!(letter[key], expected, "{key}");
    }
    let listed = stage.shell.json(&["queue", "list"]).await;
    assert_eq!(each(listed.as_array().unwrap(), "name"), ["work", "work.dead"]);
    assert_eq!(
        (&listed[0]["dead_letters"], &listed[0]["dead_lettered_total"]),
        (&json!(1), &json!(1))
    );

    // Where nobody wants to see it again, it is gone.
    stage.shell.out(&["queue", "update", "work", "--discard-dead-letters"]).await;
    stage.publish("work", &["poison"]).await;
    stage.shell.out(&["message", "consume", "work", "--until-empty", "--exec", "exit 1"]).await;
    assert_eq!(stage.held("work.dead").await, [1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_commands_run_at_once_as_were_asked_for() {
    let stage = Stage::new().await;
    let mut gate = Gate::new(&stage.folder);
    stage.publish("work", &["one", "two", "three"]).await;
    let job = format!("echo \"$(cat)\"; {}", gate.wait());
    let consume =
        ["message", "consume", "work", "--concurrency", "2", "--count", "3", "--exec", &job];
    let mut consumer = stage.shell.start(&consume);
    let mut begun = [consumer.line().await.unwrap(), consumer.line().await.unwrap()];
    begun.sort_unstable();
    assert_eq!(begun, ["one", "two"], "both at once: none of them goes on");
    assert_eq!(stage.held("work").await, [1, 2, 0], "and nothing lies idle here");
    gate.let_through(3);
    assert_eq!(consumer.line().await.unwrap(), "three");
    let ended = consumer.end().await;
    assert!(ended.err.contains("3 done, 0 failed"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_found_is_a_failure_of_the_message_and_told() {
    let stage = Stage::new().await;
    stage.publish("work", &["job"]).await;
    let consume = ["message", "consume", "work", "--count", "1", "--exec", "/no/such/program"];
    let ran = stage.shell.run(&consume).await;
    assert!(ran.err.contains("/no/such/program") && ran.err.contains("1 failed"), "{}", ran.err);
    let left = stage.peek("work").await;
    assert_eq!(each(&left, "state"), ["scheduled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_writes_is_published_with_the_ack_or_neither_is_done() {
    let stage = Stage::new().await;
    stage.publish("first", &["a"]).await;
    let consume = ["message", "consume", "first", "--count", "1", "--then-publish", "next"];
    let exec = |command| [&consume[..], &["--exec", command]].concat();
    let failed = stage.shell.run(&exec("echo lost; exit 3")).await;
    assert!(failed.err.contains("0 done, 1 failed"), "{}", failed.err);
    let queues = stage.shell.out(&["queue", "list", "--no-headers", "-o", "plain"]).await;
    assert!(!queues.contains("next"), "nothing was published: {queues}");

    stage.publish("first", &["b"]).await;
    let done = stage.shell.run(&exec("tr b c")).await;
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{}", done.err);
    assert_eq!(each(&stage.peek("next").await, "payload"), ["c"]);

    // Refused, the message stays.
    stage.shell.out(&["queue", "pause", "next", "--publishing"]).await;
    stage.publish("first", &["d"]).await;
    let refused = stage.shell.run(&exec("cat")).await;
    assert!(refused.err.contains("0 done, 1 failed"), "{}", refused.err);
    assert_eq!(stage.held("next").await[0], 1);
    assert_eq!(stage.held("first").await.iter().sum::<u64>(), 2);
}

/// Once it said "1 done": the ack was refused, and the message was somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_ack_was_refused_has_lost_its_message_and_done_nothing() {
    let stage = Stage::new().await;
    let mut gate = Gate::new(&stage.folder);
    let front = Front::before(stage.server.grpc()).await;
    stage.publish("work", &["job"]).await;
    let id = format!("q.{}", stage.peek("work").await[0]["sequence"]);
    let job = format!("echo begun; {}; echo ended", gate.wait());
    let consume = ["message", "consume", "work", "--count", "1", "--exec", &job];
    let mut consumer = Shell::at(&front.url()).start(&consume);
    assert_eq!(consumer.line().await.unwrap(), "begun");
    // Nobody can tell it that its message is gone.
    front.lead_nowhere();
    front.cut();
    stage.shell.out(&["message", "delete", &id]).await;
    gate.let_through(1);
    assert_eq!(consumer.line().await.unwrap(), "ended");
    front.lead_to(stage.server.grpc());
    let ended = consumer.end().await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("0 done, 0 failed, 0 released, 1 lost"), "{}", ended.err);
}
