//! Publishing: from the line, from stdin, from files of many.

use serde_json::{Value, json};

use super::{Stage, check_refused, each, json_lines, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_an_argument_or_stdin_as_it_stands() {
    let stage = Stage::new().await;
    stage.shell.out(&["message", "publish", "work", "argument"]).await;
    for arguments in [&["message", "publish", "work"][..], &["message", "publish", "work", "-"]] {
        assert_eq!(stage.shell.run_with(arguments, b"two\nlines\n").await.code, 0);
    }
    assert_eq!(stage.shell.run_with(&["message", "publish", "work"], &[0xff, 0]).await.code, 0);
    stage.shell.out(&["message", "publish", "work", ""]).await;
    let peeked = stage.peek("work").await;
    let expected = ["argument", "two\nlines\n", "two\nlines\n", "", ""];
    assert_eq!(each(&peeked, "payload"), expected);
    assert_eq!(peeked[3]["payload_base64"], "/wA=", "what is no text is told as such");
    assert_eq!(peeked[4]["payload"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_flags_say_is_with_the_message() {
    let stage = Stage::new().await;
    let receipt = stage
        .shell
        .json(
            &[
                &["message", "publish", "work", "body", "--id", "m-1", "--type", "send"][..],
                &["--correlation-id", "c-1", "--content-type", "text/plain"],
                &["-H", "tenant=a=b", "--header", "empty=", "--priority", "4"],
                &["--max-attempts", "unlimited", "--unique-key", "u-1"],
                &["--ordering-key", "o-1", "--fairness-key", "f-1"],
            ]
            .concat(),
        )
        .await;
    assert_eq!((&receipt["message_id"], &receipt["duplicate"]), (&json!("m-1"), &json!(false)));
    let peeked = stage.peek("work").await.remove(0);
    for (key, expected) in [
        ("message_id", json!("m-1")),
        ("sequence", receipt["sequence"].clone()),
        ("queue", json!("work")),
        ("message_type", json!("send")),
        ("correlation_id", json!("c-1")),
        ("priority", json!(4)),
        ("max_attempts", json!("unlimited")),
        ("fairness_key", json!("f-1")),
        ("ordering_key", json!("o-1")),
        ("unique_key", json!("u-1")),
        ("content_type", json!("text/plain")),
        ("headers", json!({"tenant": "a=b", "empty": ""})),
        ("payload", json!("body")),
        ("state", json!("ready")),
    ] {
        assert_eq!(peeked[key], expected, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_its_time_is_scheduled_and_not_taken() {
    let stage = Stage::new().await;
    stage.shell.out(&["message", "publish", "work", "delayed", "--delay", "1h 30m"]).await;
    let at = "2999-01-01T00:00:00Z";
    stage.shell.out(&["message", "publish", "work", "timed", "--at", at]).await;
    assert_eq!(stage.held("work").await, [0, 0, 2]);
    assert_eq!(stage.shell.run(&["message", "pull", "work"]).await.code, 1);
    let peeked = stage.peek("work").await;
    let timed = peeked.iter().find(|message| message["payload"] == "timed").unwrap();
    assert_eq!((&timed["state"], &timed["deliver_time"]), (&json!("scheduled"), &json!(at)));
    let mortal = ["message", "publish", "mortal", "body", "--ttl", "1ms"];
    stage.shell.out(&mortal).await;
    until("its end", async || stage.show("mortal").await["dead_letters"] == 1).await;
    let letter = stage.peek("mortal.dead").await.remove(0);
    assert_eq!(letter["dead_letter"]["reason"], "expired");
    assert_eq!(stage.show("mortal").await["expired_total"], 1);
    let past = ["message", "publish", "work", "past", "--at", "2020-01-01T00:00:00Z"];
    stage.shell.out(&past).await;
    assert_eq!(stage.held("work").await, [1, 0, 2], "a time that is over is now");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_unique_key_there_is_one_at_a_time() {
    let stage = Stage::new().await;
    let publish = ["message", "publish", "work", "body", "--unique-key", "reindex 42"];
    for (duplicate, held) in [(false, [1, 0, 0]), (true, [1, 0, 0])] {
        assert_eq!(stage.shell.json(&publish).await["duplicate"], duplicate);
        assert_eq!(stage.held("work").await, held);
    }
    let shown = stage.peek("work").await.remove(0);
    assert_eq!(shown["unique_key"], "reindex 42");
    stage.shell.out(&["queue", "purge", "work", "--yes"]).await;
    assert_eq!(stage.shell.json(&publish).await["duplicate"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_an_ordering_key_come_one_at_a_time() {
    let stage = Stage::new().await;
    for payload in ["first", "second"] {
        let publish = ["message", "publish", "work", payload, "--ordering-key", "account 7"];
        stage.shell.out(&publish).await;
    }
    let queue = stage.show("work").await;
    assert_eq!((&queue["ready"], &queue["behind"]), (&json!(1), &json!(1)));
    let peeked = stage.peek("work").await;
    assert_eq!(each(&peeked, "state"), ["ready", "behind"]);
    assert_eq!(each(&peeked, "ordering_key"), ["account 7", "account 7"]);
    let taken = stage.shell.out(&["message", "consume", "work", "--count", "2"]).await;
    assert_eq!(each(&json_lines(&taken), "payload"), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_comes_again_is_told_and_stored_once() {
    let stage = Stage::new().await;
    let publish = ["message", "publish", "work", "body", "--id", "order-17"];
    assert_eq!(stage.shell.json(&publish).await["duplicate"], false);
    let again = stage.shell.json(&publish).await;
    assert_eq!((&again["message_id"], &again["duplicate"]), (&json!("order-17"), &json!(true)));
    assert_eq!(stage.held("work").await, [1, 0, 0]);
    // A queue that remembers no ids stores it again.
    stage.shell.out(&["queue", "create", "twice", "--dedup-window", "0s"]).await;
    for _ in 0..2 {
        let publish = ["message", "publish", "twice", "body", "--id", "order-17"];
        assert_eq!(stage.shell.json(&publish).await["duplicate"], false);
    }
    assert_eq!(stage.held("twice").await, [2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_told_and_not_stored() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "work", "--max-payload-bytes", "10"]).await;
    let ran = stage.shell.run(&["message", "publish", "work", "eleven byte"]).await;
    check_refused(&ran, 65, &["MESSAGE_TOO_LARGE", "11", "10"]);
    let ran = stage.shell.run(&["message", "publish", "work", "x", "--priority", "10"]).await;
    check_refused(&ran, 65, &["INVALID_ARGUMENT", "priority", "0 to 9"]);
    let ran = stage.shell.run(&["message", "publish", "no spaces", "x"]).await;
    check_refused(&ran, 65, &["INVALID_QUEUE_NAME"]);
    assert_eq!(stage.held("work").await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_a_file_is_a_message_as_it_stands() {
    let stage = Stage::new().await;
    let file = stage.folder.beside("lines");
    std::fs::write(&file, "{\"a\": 1}\n\n[2]\n\"three\"").unwrap();
    let publish = ["message", "publish", "work", "--jsonl", file.to_str().unwrap()];
    let ran = stage.shell.run(&[&publish[..], &["--type", "row"]].concat()).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.contains("stored 3 messages, 0 duplicates, 0 refused"), "{}", ran.err);
    let quiet =
        stage.shell.run_with(&["-q", "message", "publish", "work", "--jsonl", "-"], b"4").await;
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (0, "", ""));
    let figures = stage.shell.json(&publish).await;
    assert_eq!((&figures["stored"], &figures["refused"]), (&json!(3), &json!(0)));
    let peeked = stage.peek("work").await;
    assert_eq!(each(&peeked, "payload")[..4], ["{\"a\": 1}", "[2]", "\"three\"", "4"]);
    assert_eq!((peeked.len(), &peeked[0]["message_type"]), (7, &json!("row")));
    assert!(peeked.iter().all(|message| message["content_type"] == "application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_refused_is_told_by_its_number_and_the_rest_is_stored() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "work", "--max-payload-bytes", "20"]).await;
    let publish = ["message", "publish", "work", "--jsonl", "-"];
    let long = format!("1\n{{\n\"{}\"\n2\n", "x".repeat(20));
    let ran = stage.shell.run_with(&publish, long.as_bytes()).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    for word in ["line 2: not JSON", "line 3: ", "MESSAGE_TOO_LARGE", "2 refused"] {
        assert!(ran.err.contains(word), "{word:?}: {}", ran.err);
    }
    assert_eq!(each(&stage.peek("work").await, "payload"), ["1", "2"]);
    assert_eq!(stage.shell.run_with(&publish, b"{\n").await.code, 65, "nothing was stored");
    let ran = stage.shell.run(&["message", "publish", "work", "--jsonl", "/no/such/file"]).await;
    check_refused(&ran, 65, &["/no/such/file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_consumed_can_be_published_again_as_it_was() {
    let stage = Stage::new().await;
    let lines = concat!(
        "{\"payload\": \"text\", \"message_id\": \"m-1\", \"headers\": {\"k\": \"v\"}, \"priority\": 3}\n",
        "{\"payload_base64\": \"/wA=\", \"message_type\": \"t\", \"correlation_id\": \"c\"}\n",
        "{\"payload\": \"elsewhere\", \"queue\": \"other\"}\n",
        "{\"payload\": {\"any\": [\"JSON\"]}, \"delay\": \"1h\"}\n",
    );
    let publish = |queue| ["message", "publish", queue, "--jsonl", "-", "--envelope"];
    assert_eq!(stage.shell.run_with(&publish("work"), lines.as_bytes()).await.code, 0);
    assert_eq!(each(&stage.peek("other").await, "payload"), ["elsewhere"]);
    assert_eq!(stage.held("work").await, [2, 0, 1]);

    let consumed = stage.shell.out(&["message", "consume", "work", "--count", "2"]).await;
    assert_eq!(stage.shell.run_with(&publish("work"), consumed.as_bytes()).await.code, 0);
    // Its id is remembered: it is the same message, and was stored before.
    let stored = stage.shell.out(&["message", "pull", "work", "--max", "10"]).await;
    assert_eq!(json_lines(&stored).len(), 1, "{stored}");
    stage.shell.out(&["queue", "create", "copy"]).await;
    let renamed = consumed.replace("\"queue\":\"work\"", "\"queue\":\"copy\"");
    assert_eq!(stage.shell.run_with(&publish("work"), renamed.as_bytes()).await.code, 0);
    let copied = stage.peek("copy").await;
    for (was, is) in json_lines(&consumed).iter().zip(&copied) {
        let keys = ["payload", "payload_base64", "headers", "message_type", "correlation_id"];
        for key in keys.into_iter().chain(["priority"]) {
            assert_eq!(was.get(key), is.get(key), "{key}");
        }
    }
    assert_eq!(copied.len(), 2);
    let ran = stage.shell.run_with(&publish("work"), b"{\"queue\": \"work\"}").await;
    assert_eq!(ran.code, 65);
    assert!(ran.err.contains("line 1: neither payload nor payload_base64"), "{}", ran.err);
    assert_eq!(
        stage.peek("work").await.first().map(|left| &left["state"]),
        Some(&Value::from("scheduled"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_an_atomic_file_are_stored_in_all_their_queues_or_in_none() {
    let stage = Stage::new().await;
    stage.shell.out(&["queue", "create", "small", "--max-payload-bytes", "5"]).await;
    let publish = ["message", "publish", "work", "--jsonl", "-", "--envelope", "--atomic"];
    let lines = concat!(
        "{\"payload\": \"one\"}\n\n",
        "{\"payload\": \"two\", \"queue\": \"other\"}\n",
        "{\"payload\": \"three\", \"queue\": \"small\"}\n",
    );
    let larger = lines.replace("three", "threes");
    let ran = stage.shell.run_with(&publish, larger.as_bytes()).await;
    check_refused(&ran, 65, &["line 4: ", "MESSAGE_TOO_LARGE"]);
    let broken = lines.replace("\"queue\": \"other\"", "\"queue\"");
    let ran = stage.shell.run_with(&publish, broken.as_bytes()).await;
    check_refused(&ran, 65, &["line 3: not JSON", "nothing is stored"]);
    let ran = stage.shell.run_with(&publish, b"\n").await;
    check_refused(&ran, 65, &["no message"]);
    let queues = stage.shell.json(&["queue", "list"]).await;
    assert_eq!(each(queues.as_array().unwrap(), "name"), ["small"], "no other was made");
    assert_eq!(stage.held("small").await, [0, 0, 0]);

    let as_json = [&publish[..], &["-o", "json"]].concat();
    let ran = stage.shell.run_with(&as_json, lines.as_bytes()).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["stored"], &told["duplicates"]), (&json!(3), &json!(0)));
    let mut sequences = Vec::new();
    for (queue, payload) in [("work", "one"), ("other", "two"), ("small", "three")] {
        let peeked = stage.peek(queue).await;
        assert_eq!(each(&peeked, "payload"), [payload]);
        sequences.push(peeked[0]["sequence"].as_u64().unwrap());
    }
    let first = told["first_sequence"].as_u64().unwrap();
    assert_eq!(sequences, [first, first + 1, first + 2]);
}
