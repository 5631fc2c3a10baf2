//! What is largest, on the smallest segments that a broker may have: it fits, or is parted.

use std::collections::HashMap;

use qbroker_proto::v1::*;
use settlement::Outcome;

use super::streams::{batch, open};
use super::{Broker, message, publish, settlement};

/// The smallest segments, and the largest batches that go with them: half a segment is 2 MiB.
const FLAGS: [&str; 4] = ["--segment-bytes", "4MiB", "--max-batch-messages", "1000"];

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_many_small_messages_share_no_more_than_a_frame_takes() {
    let broker = Broker::start(&FLAGS).await;
    let mut stream = broker.publishing(open("", 0)).await;
    stream.opened().await;
    for number in 1..=128 {
        stream.say(batch(number, publish("q", vec![message(""); 1_000])));
    }
    assert_eq!(stream.refused_through(128).await, []);
    assert_eq!(broker.stats("q").await.ready, 128_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_makes_a_queue_for_each_of_its_messages_fits_a_frame() {
    let broker = Broker::start(&FLAGS).await;
    let to = |number: usize| {
        let queue = format!("{number:0120}");
        OutgoingMessage { queue, message_id: format!("{number:064}"), ..message(&"x".repeat(850)) }
    };
    let messages: Vec<_> = (0..1_000).map(to).collect();
    let request = publish("", messages);
    let bytes = prost::Message::encoded_len(&request);
    assert!((1_000_000..1 << 20).contains(&bytes), "as much as a batch may be: {bytes}");
    assert_eq!(broker.publish(request).await.unwrap().len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_settlements_larger_than_a_frame_is_parted() {
    let broker = Broker::start(&FLAGS).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        broker.publish(publish("q", vec![message("m"); 1_000])).await.unwrap();
        let leased = broker.pull("q", 1_000).await.into_iter();
        tokens.extend(leased.map(|delivery| delivery.lease_token));
    }
    let failure = Failure { details: "x".repeat(4_000), ..Failure::default() };
    let nack = Nack { failure: Some(failure.clone()), ..Nack::default() };
    let letter = DeadLetter { failure: Some(failure), ..DeadLetter::default() };
    let outcome = |number: usize| match number % 3 {
        0 => Outcome::Ack(Ack {}),
        1 => Outcome::Nack(nack.clone()),
        _ => Outcome::DeadLetter(letter.clone()),
    };
    let settlements = tokens.iter().enumerate().map(|(n, token)| settlement(token, outcome(n)));
    assert_eq!(broker.settle(settlements.collect()).await.unwrap(), []);
    let stats = broker.stats("q").await;
    assert_eq!((stats.acked_total, stats.scheduled, stats.dead), (1_000, 1_000, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sees_of_its_own_nonsense_is_cut_and_logged_as_that() {
    let broker = Broker::start(&FLAGS).await;
    let mut stream = broker.publishing(open("producer", 0)).await;
    stream.opened().await;
    // The refusal of each is logged with the next batch that is stored.
    let headers = HashMap::from([("X".repeat(500_000), String::new())]);
    for number in 1..=8 {
        let bad = OutgoingMessage { headers: headers.clone(), ..message("m") };
        stream.say(batch(number, publish("q", vec![bad])));
    }
    stream.say(batch(9, publish("q", vec![message("m")])));
    let refused = stream.refused_through(9).await;
    assert_eq!(refused.len(), 8);
    assert!(refused.iter().all(|(_, _, reason)| reason == "INVALID_ARGUMENT"));
    broker.check_alive().await;
}
