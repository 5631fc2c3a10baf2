//! Queues: made, changed, emptied and deleted.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Gate, Stage, check_refused, check_usage};

/// Every flag of a policy, with what is shown of it then and what is shown without it.
fn policy() -> Vec<(Vec<&'static str>, &'static str, Value, Value)> {
    vec![
        (vec!["--lease-duration", "45s"], "lease_duration", json!("45s"), json!("30s")),
        (vec!["--max-attempts", "7"], "max_attempts", json!(7), json!(20)),
        (vec!["--max-crashes", "unlimited"], "max_crashes", json!("unlimited"), json!(5)),
        (vec!["--retry-initial", "2s"], "retry_initial", json!("2s"), json!("5s")),
        (vec!["--retry-max", "10m"], "retry_max", json!("10m"), json!("1h")),
        (vec!["--retry-multiplier", "3.5"], "retry_multiplier", json!(3.5), json!(2.0)),
        (vec!["--retry-jitter", "0.5"], "retry_jitter", json!(0.5), json!(0.25)),
        (
            vec!["--dead-letter-queue", "graves"],
            "dead_letter_queue",
            json!("graves"),
            json!("work.dead"),
        ),
        (vec!["--discard-dead-letters=false"], "discard_dead_letters", json!(false), json!(false)),
        (vec!["--retention", "30days"], "retention", json!("30days"), json!("0s")),
        (vec!["--dedup-window", "1m 30s"], "dedup_window", json!("1m 30s"), json!("5m")),
        (vec!["--max-payload-bytes", "1000"], "max_payload_bytes", json!(1000), json!(512 << 10)),
        (vec!["--max-leased", "8"], "max_leased", json!(8), Value::Null),
        (
            vec!["--max-leased-per-fairness-key", "3"],
            "max_leased_per_fairness_key",
            json!(3),
            Value::Null,
        ),
        (
            vec!["--fairness-weight", "acme=3", "--fairness-weight", "a=b=2"],
            "fairness_weights",
            json!({"acme": 3, "a=b": 2}),
            json!({}),
        ),
        (vec!["--max-delivery-rate", "2.5"], "max_delivery_rate", json!(2.5), Value::Null),
        (vec!["--max-messages", "1000"], "max_messages", json!(1_000), Value::Null),
        (vec!["--max-bytes", "5GB"], "max_bytes", json!(5_000_000_000_u64), Value::Null),
        (
            vec!["--overflow", "dead-letter-oldest"],
            "overflow",
            json!("dead-letter-oldest"),
            json!("reject"),
        ),
        (vec!["--retention-bytes", "9"], "retention_bytes", json!(9), Value::Null),
        (vec!["--description", "for mails"], "description", json!("for mails"), json!("")),
        (
            vec!["--label", "team=a", "--label", "env=b"],
            "labels",
            json!({"team": "a", "env": "b"}),
            json!({}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_reaches_the_broker_at_creation_and_returns_to_its_default() {
    let stage = Stage::new().await;
    let mut create = vec!["queue", "create", "work"];
    create.extend(policy().into_iter().flat_map(|(flags, ..)| flags));
    let created = stage.shell.json(&create).await;
    let shown = stage.show("work").await;
    for (_, key, expected, _) in policy() {
        assert_eq!(created[key], expected, "{key}");
        assert_eq!(shown[key], expected, "{key}");
    }
    // People see the same below each other, and little of what they have just made.
    let made = stage.shell.out(&["queue", "create", "other", "-o", "table"]).await;
    assert_eq!(made.lines().count(), 6, "{made}");
    let plain = stage.shell.out(&["queue", "show", "work", "-o", "plain"]).await;
    assert!(plain.contains("\nretry_max\t10m\n"), "{plain}");
    assert!(plain.contains("\nlabels\t{\"env\":\"b\",\"team\":\"a\"}\n"), "{plain}");
    let table = stage.shell.out(&["queue", "show", "work", "-o", "table"]).await;
    let row = |title: &str| table.lines().find(|line| line.contains(title)).unwrap().to_owned();
    assert!(row(" dead-letter queue ").ends_with(" graves"), "{table}");

    let names =
        policy().into_iter().map(|(flags, ..)| flags[0].trim_start_matches("--").to_owned());
    let resets: Vec<String> =
        names.map(|name| format!("--reset={}", name.trim_end_matches("=false"))).collect();
    let mut update = vec!["queue", "update", "work"];
    update.extend(resets.iter().map(String::as_str));
    let updated = stage.shell.json(&update).await;
    for (_, key, _, default) in policy() {
        assert_eq!(updated[key], default, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let stage = Stage::new().await;
    let mut before = stage.shell.json(&["queue", "create", "work"]).await;
    for (flags, key, expected, _) in policy() {
        let updated =
            stage.shell.json(&[&["queue", "update", "work"], flags.as_slice()].concat()).await;
        before[key] = expected;
        // A version and a time of its own.
        for changing in ["etag", "update_time"] {
            before[changing] = updated[changing].clone();
        }
        assert_eq!(updated, before, "{key}");
    }
    let discarding = ["queue", "update", "work", "--discard-dead-letters"];
    assert_eq!(stage.shell.json(&discarding).await["discard_dead_letters"], true);
    check_refused(&stage.shell.run(&["queue", "update", "work"]).await, 64, &["nothing to change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_made_once_unless_another_is_fine() {
    let stage = Stage::new().await;
    let create = ["queue", "create", "work", "--max-attempts", "3"];
    stage.shell.out(&create).await;
    check_refused(&stage.shell.run(&create).await, 65, &["QUEUE_EXISTS", "\"work\""]);
    let again = stage.shell.json(&[&create[..], &["--if-missing"]].concat()).await;
    assert_eq!(again["max_attempts"], 3);
    let other = ["queue", "create", "work", "--max-attempts", "4", "--if-missing"];
    check_refused(&stage.shell.run(&other).await, 65, &["QUEUE_EXISTS"]);
    let update = ["queue", "update", "other", "--max-attempts", "4"];
    check_refused(&stage.shell.run(&update).await, 65, &["QUEUE_NOT_FOUND", "\"other\""]);
    let made = stage.shell.json(&[&update[..], &["--create"]].concat()).await;
    assert_eq!(made["max_attempts"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_told_by_its_name_and_makes_no_queue() {
    let stage = Stage::new().await;
    // What the program itself knows to be wrong.
    for (flag, value) in [
        ("--lease-duration", "soon"),
        ("--max-attempts", "0"),
        ("--max-crashes", "many"),
        ("--retry-multiplier", "twice"),
        ("--discard-dead-letters", "perhaps"),
        ("--max-payload-bytes", "-1"),
        ("--max-leased", "0"),
        ("--max-delivery-rate", "fast"),
        ("--label", "novalue"),
    ] {
        let flag_and_value = format!("{flag}={value}");
        let ran = stage.shell.run(&["queue", "create", "work", &flag_and_value]).await;
        check_usage(&ran, flag);
    }
    check_usage(
        &stage.shell.run(&["queue", "update", "work", "--reset", "colour"]).await,
        "colour",
    );
    // What the broker knows.
    for (flags, word) in [
        (&["work", "--retry-jitter", "2"][..], "retry.jitter"),
        (&["work", "--retry-multiplier", "0.5"], "retry.multiplier"),
        (&["work", "--lease-duration", "0s"], "lease_duration"),
        (&["work", "--dead-letter-queue", "work"], "DEAD_LETTER_QUEUE_INVALID"),
        (&["work", "--max-payload-bytes", "999999999"], "max_payload_bytes"),
        (&["no spaces"], "INVALID_QUEUE_NAME"),
    ] {
        let ran = stage.shell.run(&[&["queue", "create"], flags].concat()).await;
        check_refused(&ran, 65, &[word]);
    }
    assert_eq!(stage.shell.json(&["queue", "list"]).await, json!([]));
    // Whatever asks for a queue, names it where there is none.
    for command in [
        &["queue", "show", "work"][..],
        &["queue", "purge", "work", "--yes"],
        &["queue", "delete", "work", "--yes"],
        &["message", "peek", "work"],
    ] {
        let ran = stage.shell.run(command).await;
        check_refused(&ran, 65, &["QUEUE_NOT_FOUND", "\"work\""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_messages_is_deleted_only_by_force() {
    let stage = Stage::new().await;
    stage.publish("work", &["one"]).await;
    stage.shell.out(&["queue", "create", "empty"]).await;
    let delete = |flags: &'static [&str]| {
        let arguments = [&["queue", "delete"], flags].concat();
        let shell = stage.shell.clone();
        async move { shell.run(&arguments).await }
    };
    check_refused(&delete(&["work"]).await, 64, &["say --yes --force"]);
    check_refused(&delete(&["empty", "work"]).await, 64, &["say --yes (and --force"]);
    let unneeded = delete(&["empty"]).await;
    assert!(unneeded.code == 64 && !unneeded.err.contains("--force"), "{}", unneeded.err);
    check_refused(&delete(&["work", "--yes"]).await, 65, &["QUEUE_NOT_EMPTY", "force"]);
    assert_eq!(stage.held("work").await, [1, 0, 0]);
    // What can be done is done, and the exit code says that it was not all.
    check_refused(&delete(&["empty", "work", "missing", "--yes"]).await, 3, &["work", "missing"]);
    check_refused(&delete(&["empty", "--yes"]).await, 65, &["QUEUE_NOT_FOUND"]);
    assert_eq!(delete(&["empty", "--if-exists", "--yes"]).await.code, 0);
    assert_eq!(delete(&["work", "--force", "--yes"]).await.code, 0);
    assert_eq!(stage.shell.json(&["queue", "list"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_somebody_has_agreed() {
    let stage = Stage::new().await;
    stage.publish("work", &["one", "two"]).await;
    let delete = ["queue", "delete", "work", "--force"];
    let purge = ["queue", "purge", "work"];
    for command in [&delete[..], &purge] {
        // A script cannot be asked.
        check_refused(&stage.shell.run_with(command, b"y\n").await, 64, &["--yes", "work"]);
        // A person can, and is told what there is to lose.
        for answer in ["n\n", "\n", "\u{4}"] {
            let declined = stage.shell.run_on_terminal(command, answer).await;
            assert_eq!(declined.code, 1, "{}", declined.err);
            for word in ["Really delete", "2 messages", "work", "nothing was done"] {
                assert!(declined.err.contains(word), "{word:?}: {}", declined.err);
            }
        }
        assert_eq!(stage.held("work").await, [2, 0, 0]);
    }
    assert_eq!(stage.shell.run_on_terminal(&purge, "y\n").await.code, 0);
    assert_eq!(stage.held("work").await, [0, 0, 0]);
    assert_eq!(stage.shell.run_on_terminal(&delete, "yes\n").await.code, 0);
    assert_eq!(stage.shell.json(&["queue", "list"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_the_states_it_names_and_leaves_leases_alone_otherwise() {
    let stage = Stage::new().await;
    let gate = Gate::new(&stage.folder);
    let job = format!("echo on; {}", gate.wait());
    let mut holder = stage.shell.start(&["message", "consume", "work", "--exec", &job]);
    stage.publish("work", &["held"]).await;
    assert_eq!(holder.line().await.unwrap(), "on");
    stage.publish("work", &["ready", "ready"]).await;
    stage.shell.out(&["message", "publish", "work", "later", "--delay", "1h"]).await;
    assert_eq!(stage.held("work").await, [2, 1, 1]);

    let purge = |states: &'static [&str]| {
        let arguments = [&["queue", "purge", "work", "--yes"], states].concat();
        let shell = stage.shell.clone();
        async move { shell.json(&arguments).await["purged"].clone() }
    };
    assert_eq!(purge(&["--state", "ready", "--state", "parked"]).await, 2);
    assert_eq!(stage.held("work").await, [0, 1, 1]);
    assert_eq!(purge(&[]).await, 1);
    assert_eq!(stage.held("work").await, [0, 1, 0]);
    assert_eq!(purge(&["--state", "leased"]).await, 1);
    assert_eq!(stage.held("work").await, [0, 0, 0]);
    let shown = stage.show("work").await;
    assert_eq!((&shown["published_total"], &shown["deleted_total"]), (&4.into(), &4.into()));
    // Who worked on it is told, and its command ended.
    holder.wait_for_word("lost a message").await;
    holder.signal(Signal::TERM);
    let ended = holder.end().await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("0 done, 0 failed, 0 released, 1 lost"), "{}", ended.err);
    check_usage(&stage.shell.run(&["queue", "purge", "work", "--state", "gone"]).await, "gone");
}
