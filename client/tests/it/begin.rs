//! Work that begins: it is reported, and who wants to know waits until the report has left.

use bytes::Bytes;
use qbroker_client::{ConsumerBuilder, OutgoingMessage, Settlement};
use qbroker_proto::v1::consume_request;

use crate::broker::{ConsumeTalk, soon, tokens};
use crate::consume::{open_with, take};

#[tokio::test]
async fn what_is_begun_is_reported_and_again_after_a_break() {
    let (mut broker, consumer, mut talk) = open_with(ConsumerBuilder::report_started).await;
    talk.deliver(&["a", "b", "c"]);
    let batch = take(&consumer, 3).await;
    batch[0].started();
    assert_eq!(hear_started(&mut talk).await, tokens(&["a"]));
    batch[1].started();
    assert_eq!(hear_started(&mut talk).await, tokens(&["b"]));

    broker.crash();
    broker.restart();
    let mut talk = broker.consume_talk().await;
    let open = talk.hear_open().await;
    assert!(open.reports_started);
    assert_eq!(open.held_lease_tokens.len(), 3);
    talk.say_opened("c2", true, &["b"]);
    assert_eq!(hear_started(&mut talk).await, tokens(&["a", "b"]));
    // Once is enough, and what is lost is not begun.
    batch[0].started();
    batch[1].started();
    batch[2].started();
    assert_eq!(hear_started(&mut talk).await, tokens(&["c"]));
}

#[tokio::test]
async fn who_waits_for_the_report_of_a_beginning_waits_for_no_stream_that_is_down() {
    let (mut broker, consumer, mut talk) = open_with(ConsumerBuilder::report_started).await;
    talk.deliver(&["a", "b"]);
    let batch = take(&consumer, 2).await;
    soon(batch[0].begin()).await;
    assert_eq!(hear_started(&mut talk).await, tokens(&["a"]));
    soon(batch[0].begin()).await;
    broker.crash();
    soon(batch[1].begin()).await;
    broker.restart();
    let mut talk = broker.consume_talk().await;
    talk.hear_open().await;
    talk.say_opened("c2", true, &[]);
    assert_eq!(hear_started(&mut talk).await, tokens(&["a", "b"]));
}

async fn hear_started(talk: &mut ConsumeTalk) -> Vec<Bytes> {
    match talk.hear_kind().await {
        consume_request::Kind::Started(started) => started.lease_tokens,
        other => panic!("{other:?}"),
    }
}

/// What fills a piece to its end leaves at once, and nothing more is there to be handed on.
#[tokio::test]
async fn who_waits_for_the_report_of_a_beginning_needs_nothing_to_be_sent_after_it() {
    let (_broker, consumer, mut talk) = open_with(ConsumerBuilder::report_started).await;
    talk.deliver(&["a", "b"]);
    let mut batch = take(&consumer, 2).await;
    let (next, done) = (batch.pop().unwrap(), batch.pop().unwrap());
    let large = OutgoingMessage::new(vec![0; 200 << 10]).queue("next");
    drop(done.settle(Settlement::ack().publish(large)));
    soon(next.begin()).await;
    assert_eq!(hear_started(&mut talk).await, tokens(&["b"]));
    talk.hear_settle().await;
}
