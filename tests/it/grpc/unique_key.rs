//! One unfinished message for a key, on the wire as in the core.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, ack, message, publish, settlement};

fn unique(payload: &str, key: impl Into<String>) -> OutgoingMessage {
    OutgoingMessage { unique_key: key.into(), ..message(payload) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_is_answered_with_the_first_until_that_is_done() {
    let broker = Broker::start(&[]).await;
    let first = OutgoingMessage { message_id: "mine".to_owned(), ..unique("a", "k") };
    let again = OutgoingMessage { message_id: "other".to_owned(), ..unique("b", "k") };
    let stored = broker.publish(publish("q", vec![first, again])).await.unwrap();
    assert_eq!((&*stored[0].message_id, stored[0].duplicate), ("mine", false));
    let by_sequence = format!("q.{}", stored[0].sequence);
    assert_eq!((&*stored[1].message_id, stored[1].duplicate), (&*by_sequence, true));
    assert_eq!(stored[1].sequence, stored[0].sequence);

    let broker = broker.kill_and_start().await;
    let leased = broker.pull("q", 5).await;
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].message.as_ref().unwrap().unique_key, "k");
    let known = broker.publish(publish("q", vec![unique("c", "k")])).await.unwrap();
    assert!(known[0].duplicate, "somebody works on it");
    let elsewhere = broker.publish(publish("p", vec![unique("c", "k")])).await.unwrap();
    assert!(!elsewhere[0].duplicate);

    assert_eq!(broker.settle(vec![ack(&leased[0].lease_token)]).await.unwrap(), []);
    let next = broker.publish(publish("q", vec![unique("d", "k")])).await.unwrap();
    assert!(!next[0].duplicate);
    let leased = broker.pull("q", 5).await;
    let dead = settlement(&leased[0].lease_token, Outcome::DeadLetter(DeadLetter::default()));
    assert_eq!(broker.settle(vec![dead]).await.unwrap(), []);
    let anew = broker.publish(publish("q", vec![unique("e", "k")])).await.unwrap();
    assert!(!anew[0].duplicate, "what is given up does not keep it from being tried anew");
    assert_eq!(broker.pull("q.dead", 1).await[0].message.as_ref().unwrap().unique_key, "k");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_256_bytes_at_most() {
    let broker = Broker::start(&[]).await;
    let longest = broker.publish(publish("q", vec![unique("a", "k".repeat(256))])).await;
    assert_eq!(longest.unwrap().len(), 1);
    let batch = vec![message("good"), unique("bad", "k".repeat(257))];
    let refused = broker.publish(publish("q", batch)).await.expect_err("it is too long");
    assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"));
    assert_eq!((&*refused.metadata["field"], &*refused.metadata["index"]), ("unique_key", "1"));
    assert_eq!(broker.stats("q").await.ready, 1, "nothing of a refused batch is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_held_over_a_kill_with_most_of_the_queue_in_pages() {
    let broker = Broker::start(&["--messages-in-memory", "1000"]).await;
    let batch = |from: usize, to: usize| {
        let messages = (from..to).map(|n| unique("", format!("key {n}")));
        publish("q", messages.collect())
    };
    for from in (0..5_000).step_by(1_000) {
        broker.publish(batch(from, from + 1_000)).await.unwrap();
    }
    let broker = broker.kill_and_start().await;
    // Every tenth of those that are there, and one that is not.
    let again = (0..500).map(|n| unique("", format!("key {}", n * 10)));
    let again = publish("q", again.chain([unique("", "new")]).collect());
    let receipts = broker.publish(again).await.unwrap();
    let (new, known) = receipts.split_last().unwrap();
    assert!(known.iter().all(|receipt| receipt.duplicate) && !new.duplicate);
    assert_eq!(broker.stats("q").await.ready, 5_001);
}
