//! Queues and their policies as a file: out of one broker, into another.

use serde_json::{Value, json};

use super::{Stage, check_refused, check_usage};

async fn export(stage: &Stage) -> String {
    stage.shell.out(&["definitions", "export"]).await
}

/// Writes a file and imports it.
async fn import(stage: &Stage, text: &str, flags: &[&str]) -> qbroker_tests::program::Ran {
    let file = stage.folder.beside("definitions.json");
    std::fs::write(&file, text).unwrap();
    let line = ["definitions", "import", file.to_str().unwrap()];
    stage.shell.run(&[&line[..], flags].concat()).await
}

fn changes(out: &str) -> Vec<String> {
    let items: Vec<Value> = serde_json::from_str(out).unwrap();
    let text = |it: &Value| it.as_str().map_or_else(|| it.to_string(), str::to_owned);
    let change = |it: &Value| {
        ["change", "queue", "field", "before", "after"].map(|key| text(&it[key])).join(" ")
    };
    items.iter().map(change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_makes_the_same_queues_elsewhere() {
    let one = Stage::new().await;
    let create = ["queue", "create", "mails", "--max-attempts", "unlimited", "--label", "team=a"];
    let more =
        ["--dead-letter-queue", "graves", "--retry-initial", "2s", "--max-delivery-rate", "0.5"];
    one.shell.out(&[&create[..], &more].concat()).await;
    one.shell.out(&["queue", "update", "graves", "--retention", "30days"]).await;
    one.publish("plain", &["one"]).await;
    let exported = export(&one).await;
    let file: Value = serde_json::from_str(&exported).unwrap();
    let expected = json!({ "version": 1, "queues": [
        { "name": "graves", "policy": { "retention": "30days" } },
        { "name": "mails", "labels": { "team": "a" }, "policy": {
            "max_attempts": "unlimited", "retry": { "initial_backoff": "2s" },
            "dead_letter_queue": "graves", "max_delivery_rate": 0.5 } },
        { "name": "plain" },
    ] });
    assert_eq!(file, expected);
    let only = one.shell.out(&["definitions", "export", "--contains", "ail"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&only).unwrap()["queues"].as_array().unwrap().len(),
        1
    );
    check_usage(&one.shell.run(&["definitions", "export", "-o", "plain"]).await, "json");

    let two = Stage::new().await;
    let dry = import(&two, &exported, &["--dry-run", "-o", "json"]).await;
    assert_eq!(dry.code, 1, "{}", dry.err);
    assert!(dry.err.contains("3 of 3 queues would be made or changed"), "{}", dry.err);
    assert_eq!(changes(&dry.out).len(), 7);
    assert_eq!(two.shell.json(&["queue", "list"]).await, json!([]), "nothing was done");
    let done = import(&two, &exported, &["-o", "json"]).await;
    assert_eq!((done.code, changes(&done.out)), (0, changes(&dry.out)), "{}", done.err);
    assert_eq!(export(&two).await, exported);
    // Once more changes nothing, from stdin as well.
    for dry_run in [&["--dry-run"][..], &[]] {
        let line = [&["definitions", "import", "-"], dry_run].concat();
        let again = two.shell.run_with(&line, exported.as_bytes()).await;
        assert_eq!((again.code, again.out.as_str()), (0, ""), "{}", again.err);
        assert!(again.err.contains("0 of 3 queues"), "{}", again.err);
    }
    let etag = async |stage: &Stage| stage.show("mails").await["etag"].clone();
    let before = etag(&two).await;
    import(&two, &exported, &[]).await;
    assert_eq!(etag(&two).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_changes_what_differs_and_leaves_the_rest() {
    let stage = Stage::new().await;
    stage
        .shell
        .out(&["queue", "create", "mails", "--max-attempts", "3", "--max-leased", "9"])
        .await;
    stage.shell.out(&["queue", "create", "own", "--max-attempts", "4"]).await;
    stage.publish("mails", &["one"]).await;
    let text = r#"{ "version": 1, "queues": [
        { "name": "mails", "description": "to people", "policy": { "max_attempts": 5 } }
    ] }"#;
    let done = import(&stage, text, &["-o", "json"]).await;
    let expected = [
        "update mails policy.max_attempts 3 5",
        "update mails policy.max_leased 9 null",
        "update mails description null to people",
    ];
    assert_eq!((done.code, changes(&done.out)), (0, expected.map(str::to_owned).to_vec()));
    let shown = stage.show("mails").await;
    assert_eq!((&shown["max_attempts"], &shown["max_leased"]), (&json!(5), &Value::Null));
    assert_eq!((&shown["ready"], &shown["description"]), (&json!(1), &json!("to people")));
    assert_eq!(stage.show("own").await["max_attempts"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_understood_changes_nothing() {
    let stage = Stage::new().await;
    let good = r#"{ "name": "good" }"#;
    let file = |queue: &str| format!(r#"{{ "version": 1, "queues": [{good}, {queue}] }}"#);
    let unknown = file(r#"{ "name": "b", "policy": { "max_atempts": 3 } }"#);
    check_refused(
        &import(&stage, &unknown, &[]).await,
        65,
        &["max_atempts", "max_attempts", "line 1"],
    );
    check_refused(&import(&stage, &file(good), &[]).await, 65, &["twice"]);
    let newer = r#"{ "version": 2, "queues": [] }"#;
    check_refused(&import(&stage, newer, &[]).await, 65, &["version 2"]);
    assert_eq!(stage.shell.json(&["queue", "list"]).await, json!([]));
    let nowhere = ["definitions", "import", "/nowhere/at/all"];
    check_refused(&stage.shell.run(&nowhere).await, 65, &["cannot read"]);
    // What the broker refuses is told, and the rest is done.
    let bad = file(r#"{ "name": "b", "policy": { "priority_levels": 11 } }"#);
    check_refused_in_part(&import(&stage, &bad, &[]).await, &["priority_levels", "1 of 2 queues"]);
    let listed = stage.shell.out(&["queue", "list", "--no-headers", "-o", "plain"]).await;
    assert!(listed.starts_with("good\t") && listed.lines().count() == 1, "{listed}");
}

fn check_refused_in_part(ran: &qbroker_tests::program::Ran, words: &[&str]) {
    assert_eq!(ran.code, 3, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not told: {}", ran.err);
    }
}
