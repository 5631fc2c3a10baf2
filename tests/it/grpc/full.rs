//! Queues that hold as much as they may, on the wire; and which queues hold the most.

use std::time::Duration;

use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::{InvalidArgument, ResourceExhausted};

use super::streams::{batch, open};
use super::{Broker, answer, message, publish, refusal, settlement};

async fn create(broker: &Broker, name: &str, policy: QueuePolicy) -> Queue {
    let queue = Queue { name: name.to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap().into_inner().queue.unwrap()
}

async fn payloads(broker: &Broker, queue: &str) -> Vec<String> {
    let request = ListMessagesRequest { queue: queue.to_owned(), ..ListMessagesRequest::default() };
    let listed = broker.wire.admin().list_messages(request).await.unwrap().into_inner().messages;
    let payload = |info: MessageInfo| info.message.unwrap().payload.to_vec();
    listed.into_iter().map(|info| String::from_utf8(payload(info)).unwrap()).collect()
}

fn messages(payloads: &[&str]) -> Vec<OutgoingMessage> {
    payloads.iter().map(|payload| message(payload)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_a_batch_whole_and_says_when_to_come_again() {
    let broker = Broker::start(&[]).await;
    let policy = QueuePolicy { max_messages: Some(3), ..QueuePolicy::default() };
    let shown = create(&broker, "q", policy).await.policy.unwrap();
    assert_eq!((shown.max_messages, shown.overflow()), (Some(3), OverflowPolicy::RejectPublish));
    broker.publish(publish("q", messages(&["a", "b"]))).await.unwrap();
    let to_other = OutgoingMessage { queue: "other".to_owned(), ..message("o") };
    let batch = vec![to_other, message("c"), message("d")];
    let refused = broker.publish(publish("q", batch.clone())).await.unwrap_err();
    assert_eq!(refused.is(), (ResourceExhausted, "QUEUE_FULL"), "{}", refused.message);
    let told = ["queue", "field", "limit", "index"].map(|key| refused.metadata[key].as_str());
    assert_eq!(told, ["q", "policy.max_messages", "3", "2"]);
    assert_eq!(refused.retry_delay, Some(Duration::from_secs(1)));
    assert_eq!(payloads(&broker, "q").await, ["a", "b"]);

    // Each by itself, one still fits.
    let request = PublishRequest { allow_partial: true, ..publish("q", batch) };
    let results = broker.wire.publisher().publish(request).await.unwrap().into_inner().results;
    let reason = |result: PublishResult| match result.outcome.unwrap() {
        publish_result::Outcome::Receipt(_) => "stored".to_owned(),
        publish_result::Outcome::Error(error) => {
            assert!(error.retryable);
            error.reason
        }
    };
    let reasons: Vec<String> = results.into_iter().map(reason).collect();
    assert_eq!(reasons, ["stored", "stored", "QUEUE_FULL"]);

    // What can never be stored is not worth another try.
    let refused = broker.publish(publish("q", messages(&["1", "2", "3", "4"]))).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "BATCH_TOO_LARGE"), "{}", refused.message);
    assert_eq!((refused.metadata["size"].as_str(), refused.retry_delay), ("4", None));
    create(&broker, "small", QueuePolicy { max_bytes: Some(8), ..QueuePolicy::default() }).await;
    let refused = broker.publish(publish("small", messages(&["0123456789"]))).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"), "{}", refused.message);
    broker.publish(publish("small", messages(&["012345"]))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_the_values_of_a_refusal_also_after_a_kill() {
    let broker = Broker::start(&[]).await;
    create(&broker, "q", QueuePolicy { max_messages: Some(1), ..QueuePolicy::default() }).await;
    let mut stream = broker.publishing(open("producer", 0)).await;
    let epoch = stream.opened().await.epoch;
    for (number, queue) in (1..).zip(["q", "q", "other"]) {
        stream.say(batch(number, publish(queue, messages(&["m"]))));
    }
    let refused = stream.refused_through(3).await;
    assert_eq!(refused, [(2, 0, "QUEUE_FULL".to_owned())]);
    let broker = broker.kill_and_start().await;
    let mut stream = broker.publishing(open("producer", epoch)).await;
    let missed = stream.opened().await.missed.unwrap();
    assert_eq!((missed.through_batch_id, missed.refused.len()), (3, 1));
    let error = missed.refused[0].error.clone().unwrap();
    let told = ["queue", "field", "limit"].map(|key| error.metadata[key].as_str());
    assert_eq!(told, ["q", "policy.max_messages", "1"]);
    assert_eq!((error.reason.as_str(), error.retryable), ("QUEUE_FULL", true));
    assert_eq!(error.retry_delay.map(|delay| delay.seconds), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_make_room_where_the_queue_says_so_over_a_kill() {
    let broker = Broker::start(&[]).await;
    let full = |overflow: OverflowPolicy| QueuePolicy {
        max_messages: Some(2),
        overflow: overflow.into(),
        ..QueuePolicy::default()
    };
    create(&broker, "drop", full(OverflowPolicy::DropOldest)).await;
    create(&broker, "bury", full(OverflowPolicy::DeadLetterOldest)).await;
    for queue in ["drop", "bury"] {
        broker.publish(publish(queue, messages(&["a", "b"]))).await.unwrap();
        broker.publish(publish(queue, messages(&["c"]))).await.unwrap();
    }
    let broker = broker.kill_and_start().await;
    for (queue, dropped, dead) in [("drop", 1, 0), ("bury", 0, 1)] {
        assert_eq!(payloads(&broker, queue).await, ["b", "c"]);
        let stats = broker.stats(queue).await;
        assert_eq!((stats.dropped_total, stats.dead_lettered_total), (dropped, dead));
    }
    let letter = broker.pull("bury.dead", 2).await.remove(0).message.unwrap();
    let told = letter.dead_letter.unwrap();
    assert_eq!((told.reason(), told.attempts), (DeadLetterReason::Overflow, 0));
    assert_eq!((told.source_queue.as_str(), &letter.payload[..]), ("bury", &b"a"[..]));

    // Of many at once the last ones stay.
    broker.publish(publish("drop", messages(&["d", "e", "f", "g", "h"]))).await.unwrap();
    assert_eq!(payloads(&broker, "drop").await, ["g", "h"]);

    // Nothing makes room that somebody has.
    let held = broker.pull("drop", 2).await;
    let refused = broker.publish(publish("drop", messages(&["i"]))).await.unwrap_err();
    assert_eq!(refused.is(), (ResourceExhausted, "QUEUE_FULL"));
    let done = settlement(&held[0].lease_token, settlement::Outcome::Ack(Ack {}));
    assert_eq!(broker.settle(vec![done]).await.unwrap(), []);
    broker.publish(publish("drop", messages(&["i"]))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_that_is_in_pages_goes_down_to_a_lowered_limit() {
    let broker = Broker::start(&[]).await;
    let policy = |max| QueuePolicy {
        max_messages: Some(max),
        overflow: OverflowPolicy::DropOldest.into(),
        ..QueuePolicy::default()
    };
    create(&broker, "q", policy(10_000)).await;
    for _ in 0..10 {
        broker.publish(publish("q", messages(&["old"; 500]))).await.unwrap();
    }
    broker.publish(publish("q", messages(&["new"; 500]))).await.unwrap();
    let queue = Queue { name: "q".to_owned(), policy: Some(policy(500)), ..Queue::default() };
    let mask = prost_types::FieldMask { paths: vec!["policy.max_messages".to_owned()] };
    let update =
        UpdateQueueRequest { queue: Some(queue), update_mask: Some(mask), allow_missing: false };
    broker.wire.admin().update_queue(update).await.unwrap();
    let gone = async {
        while broker.stats("q").await.ready != 500 {
            tokio::task::yield_now().await;
        }
    };
    patiently("what is beyond the limit", gone).await;
    assert_eq!(broker.stats("q").await.dropped_total, 5_000);
    let left = broker.pull("q", 1_000).await;
    assert!(left.iter().all(|delivery| delivery.message.as_ref().unwrap().payload == "new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_queue_keeps_the_newest_within_its_bytes() {
    let broker = Broker::start(&[]).await;
    let policy = QueuePolicy { retention_bytes: Some(100), ..QueuePolicy::default() };
    create(&broker, "q.dead", policy).await;
    let long = |letter: &str| letter.repeat(40);
    broker.publish(publish("q", messages(&[&long("a"), &long("b"), &long("c")]))).await.unwrap();
    let give_up = |delivery: &Delivery| {
        settlement(&delivery.lease_token, settlement::Outcome::DeadLetter(DeadLetter::default()))
    };
    let settlements = broker.pull("q", 3).await.iter().map(give_up).collect();
    assert_eq!(broker.settle(settlements).await.unwrap(), []);
    let gone = async {
        while broker.stats("q.dead").await.dropped_total == 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the oldest letter", gone).await;
    assert_eq!(payloads(&broker, "q.dead").await, [long("b"), long("c")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_the_dead_letters_of_its_queue_along_and_no_others() {
    let broker = Broker::start(&[]).await;
    let to_graves =
        || QueuePolicy { dead_letter_queue: Some("graves".to_owned()), ..QueuePolicy::default() };
    for queue in ["q", "other"] {
        create(&broker, queue, to_graves()).await;
        broker.publish(publish(queue, messages(&[queue, queue]))).await.unwrap();
        let held = broker.pull(queue, 1).await;
        let letter = settlement::Outcome::DeadLetter(DeadLetter::default());
        broker.settle(vec![settlement(&held[0].lease_token, letter)]).await.unwrap();
    }
    broker.publish(publish("graves", messages(&["direct"]))).await.unwrap();
    let purge = |name: &str, include_dead_letters| {
        let name = name.to_owned();
        let request = PurgeQueueRequest { name, include_dead_letters, states: Vec::new() };
        async { broker.wire.admin().purge_queue(request).await }
    };
    assert_eq!(answer(purge("q", true).await).unwrap().purged, 2);
    assert_eq!(payloads(&broker, "graves").await, ["other", "direct"]);
    assert_eq!(answer(purge("q", true).await).unwrap().purged, 0);
    // A dead-letter queue has none itself.
    assert_eq!(answer(purge("graves", true).await).unwrap().purged, 2);
    assert_eq!(refusal(purge("none", true).await).reason, "QUEUE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_listed_by_what_they_hold_a_page_at_a_time() {
    let broker = Broker::start(&[]).await;
    for (queue, ready) in [("a", 1), ("b", 3), ("c", 0), ("d", 3), ("e", 2)] {
        create(&broker, queue, QueuePolicy::default()).await;
        if 0 < ready {
            broker.publish(publish(queue, vec![message("m"); ready])).await.unwrap();
        }
    }
    let held = broker.pull("e", 2).await;
    let give_up = |delivery: &Delivery| {
        settlement(&delivery.lease_token, settlement::Outcome::DeadLetter(DeadLetter::default()))
    };
    broker.settle(held.iter().map(give_up).collect()).await.unwrap();
    let list = |order_by: &str, page_token: String| {
        let order_by = order_by.to_owned();
        let request =
            ListQueuesRequest { page_size: 2, order_by, page_token, ..Default::default() };
        async { broker.wire.admin().list_queues(request).await }
    };
    let all = async |order_by: &str| {
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let page = list(order_by, token).await.unwrap().into_inner();
            assert_eq!(page.total_size, 6);
            names.extend(page.queues.into_iter().map(|queue| queue.name));
            token = page.next_page_token;
            if token.is_empty() {
                return names.join(" ");
            }
        }
    };
    assert_eq!(all("ready desc").await, "b d e.dead a c e");
    assert_eq!(all("dead desc").await, "e a b c d e.dead");
    assert_eq!(all("name").await, "a b c d e e.dead");
    assert_eq!(all("").await, "a b c d e e.dead");
    let first = async |order_by: &str| {
        let page = list(order_by, String::new()).await.unwrap().into_inner();
        (page.queues[0].name.clone(), page.next_page_token)
    };
    // A list stays as it was while somebody pages through it. One that is no longer kept goes on by the
    // figures as they are.
    let (kept, forgotten) = (first("ready desc").await.1, first("ready desc").await.1);
    broker.publish(publish("c", vec![message("m"); 2])).await.unwrap();
    let next = list("ready desc", kept).await.unwrap().into_inner();
    assert_eq!(next.queues.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["e.dead", "a"]);
    for _ in 0..4 {
        assert_eq!(first("ready desc").await.0, "b");
    }
    let next = list("ready desc", forgotten).await.unwrap().into_inner();
    assert_eq!(next.queues.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["c", "e.dead"]);
    let token = first("ready desc").await.1;
    let refused = refusal(list("dead desc", token).await);
    assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
    assert_eq!(refused.metadata["field"], "page_token");
    let refused = refusal(list("ready asc", String::new()).await);
    assert_eq!(refused.metadata["field"], "order_by");
}
