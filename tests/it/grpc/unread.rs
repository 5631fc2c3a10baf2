//! Clients that send and never read: what they may have unanswered is bounded, and nobody else
//! notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use consume_request::Kind as Consume;
use publish_stream_request::Kind as Offer;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use qbroker_tests::wire::Wire;
use tokio_stream::StreamExt as _;
use tokio_stream::iter;

use super::streams::{batch, consume, open};
use super::{Broker, ack, message, publish};

/// Bytes of one request.
const REQUEST_BYTES: usize = 500_000;
/// So many of them are ten times what the broker may take unanswered, with all that may be on its
/// way in windows and buffers on both sides.
const REQUESTS: i64 = 1_000;
const AHEAD_MAX: i64 = 100;

/// Others work meanwhile, for long enough that a broker without a bound takes everything.
async fn work_beside(broker: &Broker) {
    for _ in 0..200 {
        broker.publish(publish("beside", vec![message("m")])).await.unwrap();
        let delivery = broker.pull("beside", 1).await.remove(0);
        assert_eq!(broker.settle(vec![ack(&delivery.lease_token)]).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_reads_no_answers_is_not_listened_to_for_ever() {
    let broker = Broker::start(&[]).await;
    let sent = Arc::new(AtomicI64::new(0));
    let counted = sent.clone();
    let token = Bytes::from(vec![7; REQUEST_BYTES]);
    let settles = (1..=REQUESTS).map(move |call_id| {
        counted.store(call_id, Ordering::SeqCst);
        let request =
            SettleRequest { call_id, settlements: vec![ack(&token)], ..Default::default() };
        ConsumeRequest { kind: Some(Consume::Settle(request)) }
    });
    let first = ConsumeRequest { kind: Some(Consume::Open(consume("q", "session"))) };
    let requests = iter([first]).chain(iter(settles)).chain(tokio_stream::pending());
    let mut client = Wire::connect_narrow(&broker.server.url()).await.consumer();
    let mut answers = client.consume(requests).await.unwrap().into_inner();
    work_beside(&broker).await;
    let mut answered = 0;
    while answered < REQUESTS {
        let ahead = sent.load(Ordering::SeqCst) - answered;
        assert!(ahead <= AHEAD_MAX, "{ahead} requests were taken without an answer read");
        let answer = patiently("an answer", answers.message()).await.unwrap().unwrap();
        if let Some(consume_response::Kind::Settled(settled)) = answer.kind {
            assert_eq!(settled.failures.len() as i64, settled.call_id - answered);
            answered = settled.call_id;
        }
    }
    broker.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_reads_no_outcomes_takes_no_room_from_others() {
    let broker = Broker::start(&["--max-pending-bytes", "16MiB"]).await;
    // The outcomes of these fill the client's window: from there on nothing is told.
    let refused = (1..=4_000).map(|number| batch(number, publish("not a name", vec![message("")])));
    // And these are ten times what may be pending over all connections.
    let payload = "x".repeat(400_000);
    let stored = move |number| batch(number, publish("q", vec![message(&payload)]));
    let first = PublishStreamRequest { kind: open("", 0) };
    let batches = iter(refused).chain(iter((4_001..=4_400).map(stored)));
    let requests = iter([first]).chain(batches).chain(tokio_stream::pending());
    let mut client = Wire::connect_narrow(&broker.server.url()).await.publisher();
    let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
    patiently("room for others", work_beside(&broker)).await;
    let mut through = 0;
    while through < 4_400 {
        let answer = patiently("an answer", answers.message()).await.unwrap().unwrap();
        if let Some(publish_stream_response::Kind::Confirmed(confirmed)) = answer.kind {
            assert!(confirmed.refused.iter().all(|refused| refused.batch_id <= 4_000));
            through = confirmed.through_batch_id;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_of_small_batches_that_reads_nothing_is_stopped_at_its_bound() {
    let broker = Broker::start(&[]).await;
    let sent = Arc::new(AtomicI64::new(0));
    let counted = sent.clone();
    const BATCHES: i64 = 400_000;
    // Refused ones have the longest answers.
    let batches = (1..=BATCHES).map(move |number| {
        counted.store(number, Ordering::SeqCst);
        batch(number, publish("not a name", vec![message("m")]))
    });
    let first = PublishStreamRequest { kind: Some(Offer::Open(PublishOpen::default())) };
    let requests = iter([first]).chain(iter(batches)).chain(tokio_stream::pending());
    let mut client = Wire::connect_narrow(&broker.server.url()).await.publisher();
    let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
    work_beside(&broker).await;
    // 8,192 unanswered, what is in windows of 4 MiB, and what the client's own buffers hold.
    let ahead = sent.load(Ordering::SeqCst);
    assert!(ahead <= BATCHES / 2, "{ahead} batches were taken without an answer read");
    let mut refused = 0;
    while refused < BATCHES {
        let answer = patiently("an answer", answers.message()).await.unwrap().unwrap();
        if let Some(publish_stream_response::Kind::Confirmed(confirmed)) = answer.kind {
            refused += confirmed.refused.len() as i64;
            assert_eq!(refused, confirmed.through_batch_id);
        }
    }
}
