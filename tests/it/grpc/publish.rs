//! Publishing by single calls: bounds, each at its limit and one beyond, and all or nothing.

use std::collections::HashMap;

use qbroker_proto::v1::*;
use tonic::Code::{InvalidArgument, NotFound};

use super::{Broker, message, publish, seconds};

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_of_a_message_holds_at_its_limit_and_refuses_one_beyond() {
    let broker = Broker::start(&[]).await;
    let text = |bytes: usize| "x".repeat(bytes);
    let headers = |count: usize, bytes: usize| -> HashMap<String, String> {
        let each = |number: usize| (format!("k{number:03}"), "v".repeat(bytes / count - 4));
        (0..count).map(each).collect()
    };
    let key = |key: String| HashMap::from([(key, String::new())]);
    type Change = Box<dyn Fn(&mut OutgoingMessage)>;
    let cases: Vec<(&str, &str, Change, Change)> = vec![
        (
            "payload",
            "MESSAGE_TOO_LARGE",
            Box::new(|m| m.payload = vec![0; 512 << 10].into()),
            Box::new(|m| m.payload = vec![0; (512 << 10) + 1].into()),
        ),
        (
            "headers",
            "MESSAGE_TOO_LARGE",
            Box::new(move |m| m.headers = headers(64, 16 << 10)),
            Box::new(move |m| {
                m.headers = headers(64, 16 << 10);
                m.headers.insert("k000".to_owned(), "v".repeat(253));
            }),
        ),
        (
            "headers",
            "INVALID_ARGUMENT",
            Box::new(move |m| m.headers = headers(64, 64 * 8)),
            Box::new(move |m| m.headers = headers(65, 65 * 8)),
        ),
        (
            "headers",
            "INVALID_ARGUMENT",
            Box::new(move |m| m.headers = key(text(128))),
            Box::new(move |m| m.headers = key(text(129))),
        ),
        (
            "headers",
            "INVALID_ARGUMENT",
            Box::new(move |m| m.headers = key("a-z_0.9".to_owned())),
            Box::new(move |m| m.headers = key("Upper".to_owned())),
        ),
        (
            "message_id",
            "INVALID_ARGUMENT",
            Box::new(move |m| m.message_id = text(64)),
            Box::new(move |m| m.message_id = text(65)),
        ),
        (
            "message_id",
            "INVALID_ARGUMENT",
            Box::new(|m| m.message_id = "A-z_0".to_owned()),
            Box::new(|m| m.message_id = "a.b".to_owned()),
        ),
        (
            "content_type",
            "MESSAGE_TOO_LARGE",
            Box::new(move |m| m.content_type = text(128)),
            Box::new(move |m| m.content_type = text(129)),
        ),
        (
            "message_type",
            "MESSAGE_TOO_LARGE",
            Box::new(move |m| m.message_type = text(256)),
            Box::new(move |m| m.message_type = text(257)),
        ),
        (
            "correlation_id",
            "MESSAGE_TOO_LARGE",
            Box::new(move |m| m.correlation_id = text(256)),
            Box::new(move |m| m.correlation_id = text(257)),
        ),
        (
            "delay",
            "INVALID_ARGUMENT",
            Box::new(|m| m.schedule = Some(outgoing_message::Schedule::Delay(seconds(0)))),
            Box::new(|m| m.schedule = Some(outgoing_message::Schedule::Delay(seconds(-1)))),
        ),
    ];
    let mut stored = 0;
    for (field, reason, at_limit, beyond) in cases {
        let mut good = message("");
        at_limit(&mut good);
        let kept = broker.publish(publish("limits", vec![good])).await;
        assert_eq!(kept.map(|receipts| receipts.len()).map_err(|r| r.message), Ok(1), "{field}");
        stored += 1;
        // Behind a good one: nothing of the batch is stored, and the culprit is named.
        let mut bad = message("");
        beyond(&mut bad);
        let refused = broker.publish(publish("limits", vec![message("good"), bad])).await;
        let refused = refused.expect_err(field);
        assert_eq!(refused.is(), (InvalidArgument, reason), "{field}: {}", refused.message);
        assert_eq!(refused.metadata["field"], field, "{}", refused.message);
        assert_eq!(refused.metadata["index"], "1", "{field}: {}", refused.message);
    }
    assert_eq!(broker.stats("limits").await.ready, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_bounded_by_messages_and_by_bytes() {
    let broker = Broker::start(&["--max-batch-messages", "10"]).await;
    let many = |count: usize| publish("q", vec![message("m"); count]);
    assert_eq!(broker.publish(many(10)).await.unwrap().len(), 10);
    let refused = broker.publish(many(11)).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "BATCH_TOO_LARGE"));
    assert_eq!(
        (refused.metadata["size"].as_str(), refused.metadata["limit"].as_str()),
        ("11", "10")
    );
    // 1 MiB together, headers and all, as they are encoded.
    let halves = |bytes: usize| publish("q", vec![message(&"x".repeat(bytes)); 2]);
    let fits = (1 << 19) - 64;
    assert_eq!(broker.publish(halves(fits)).await.unwrap().len(), 2);
    let refused = broker.publish(halves(1 << 19)).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "BATCH_TOO_LARGE"));
    assert_eq!(refused.metadata["limit"], (1 << 20).to_string());
    let refused = broker.publish(many(0)).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "EMPTY_BATCH"));
    assert_eq!(broker.stats("q").await.ready, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_named_well_and_there_unless_it_may_be_made() {
    let broker = Broker::start(&["--auto-create-queues=false"]).await;
    let refused = broker.publish(publish("nobody", vec![message("m")])).await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "QUEUE_NOT_FOUND"));
    assert_eq!(refused.metadata["queue"], "nobody");
    let open = Broker::start(&[]).await;
    let longest = "q".repeat(120);
    open.publish(publish(&longest, vec![message("m")])).await.unwrap();
    for name in ["", "-begins", ".begins", "has space", "a/b", "\u{e4}", &"q".repeat(121)] {
        let refused = open.publish(publish(name, vec![message("m")])).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_QUEUE_NAME"), "{name:?}");
    }
    open.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_that_spoils_a_batch_is_named_by_its_place() {
    let broker = Broker::start(&["--auto-create-queues=false"]).await;
    let queue = Queue { name: "there".to_owned(), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    let astray = OutgoingMessage { queue: "nobody".to_owned(), ..message("m") };
    let twice = OutgoingMessage { message_id: "same".to_owned(), ..message("m") };
    let cases = [
        (vec![message("m"), message("m"), astray], "QUEUE_NOT_FOUND", "2"),
        (vec![twice.clone(), message("m"), twice], "DUPLICATE_IN_BATCH", "2"),
    ];
    for (messages, reason, index) in cases {
        let refused = broker.publish(publish("there", messages)).await.unwrap_err();
        assert_eq!(refused.reason, reason);
        assert_eq!(refused.metadata.get("index").map(String::as_str), Some(index), "{reason}");
    }
    assert_eq!(broker.stats("there").await.published_total, 0, "all or nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_stand_alone_have_their_own_outcomes() {
    let broker = Broker::start(&[]).await;
    let bad = OutgoingMessage { message_id: "a b".to_owned(), ..message("m") };
    let lost = OutgoingMessage { queue: "a/b".to_owned(), ..message("m") };
    let messages = vec![message("first"), bad, lost, message("last")];
    let request = PublishRequest { allow_partial: true, ..publish("q", messages) };
    let results = broker.wire.publisher().publish(request).await.unwrap().into_inner().results;
    let reasons: Vec<_> = results
        .into_iter()
        .map(|result| match result.outcome.unwrap() {
            publish_result::Outcome::Receipt(_) => "stored".to_owned(),
            publish_result::Outcome::Error(error) => error.reason,
        })
        .collect();
    assert_eq!(reasons, ["stored", "INVALID_ARGUMENT", "INVALID_QUEUE_NAME", "stored"]);
    assert_eq!(broker.stats("q").await.ready, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_publish_is_stored_once_and_answered_as_before() {
    let broker = Broker::start(&[]).await;
    let named = |id: &str| OutgoingMessage { message_id: id.to_owned(), ..message("m") };
    let first = broker.publish(publish("q", vec![named("a")])).await.unwrap();
    let again = broker.publish(publish("q", vec![named("a"), named("b")])).await.unwrap();
    assert_eq!((again[0].sequence, again[0].duplicate), (first[0].sequence, true));
    assert!(!again[1].duplicate);
    // The id belongs to its queue.
    let elsewhere = broker.publish(publish("other", vec![named("a")])).await.unwrap();
    assert!(!elsewhere[0].duplicate);
    assert_eq!(broker.stats("q").await.ready, 2);
}
