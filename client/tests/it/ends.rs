//! What would end a consumer, and does not.

use std::time::Duration;

use qbroker_client::{Delivery, Failure, LostReason, Outcome, OutgoingMessage, Reason, Settlement};
use qbroker_proto::v1::settlement;
use tonic::{Code, Status};

use crate::broker::{refusal, soon};
use crate::consume::{hear_window, held, open, outcome, take};

/// The broker ends the stream of a request that it cannot read, and with it all that the client holds.
#[tokio::test]
async fn nothing_is_sent_that_would_end_the_stream() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b", "c", "d"]);
    let mut batch = take(&consumer, 4).await.into_iter();
    let mut delivery = batch.next().unwrap();
    let too_short = soon(delivery.extend(Some(Duration::from_millis(500)))).await.unwrap_err();
    assert_eq!(too_short.reason(), Some(&Reason::InvalidArgument), "{too_short}");
    let next = OutgoingMessage::new(vec![0; 16 << 20]).queue("next");
    let too_large = soon(delivery.try_settle(Settlement::ack().publish(next))).await.unwrap_err();
    assert_eq!(too_large.reason(), Some(&Reason::BatchTooLarge), "{too_large}");
    assert!(!delivery.is_settled());

    // What is told of a failure is cut, and a delay brought within its bounds.
    let failure = Failure::new("k".repeat(300), "\u{e9}".repeat(3_000)).details("d".repeat(9_000));
    let delay = Some(Duration::from_hours(9_000 * 24));
    drop(delivery.settle(Outcome::Nack { delay, failure: Some(failure) }));
    let settlement::Outcome::Nack(nack) = outcome(&talk.hear_settle().await) else { panic!() };
    assert_eq!(nack.delay.unwrap().seconds, 365 * 24 * 60 * 60);
    let failure = nack.failure.unwrap();
    assert_eq!(
        (failure.r#type.len(), failure.message.len(), failure.details.len()),
        (256, 3_840, 0)
    );

    // While calls are unanswered the rest gathers, and never to more than the broker reads at once.
    let large = |delivery: Delivery| {
        let next = OutgoingMessage::new(vec![0; 700 << 10]).queue("next");
        delivery.settle(Settlement::ack().publish(next))
    };
    let rest: Vec<_> = batch.map(large).collect();
    for _ in 0..3 {
        assert_eq!(talk.hear_settle().await.settlements.len(), 1);
    }
    talk.say_settled(4, &[]);
    for settling in rest {
        soon(settling).await.unwrap();
    }
}

/// Idle workers lived on, and busy ones ended.
#[tokio::test]
async fn a_broker_with_another_data_folder_takes_the_leases_and_no_more() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["running", "settled"]);
    let mut batch = take(&consumer, 2).await;
    let settled = batch.pop().unwrap().ack();
    let running = batch.pop().unwrap();
    running.started();
    talk.hear_settle().await;
    talk.fail(Status::unavailable("broken"));
    let mut talk = broker.consume_talk().await;
    assert_eq!(talk.hear_open().await.held_lease_tokens.len(), 2);
    talk.fail(refusal(Code::InvalidArgument, "TOKEN_INVALID"));

    let mut talk = broker.consume_talk().await;
    let open = talk.hear_open().await;
    assert_eq!((open.previous_consumer_id.as_str(), held(&open).len()), ("", 0));
    talk.say_opened("c1", false, &[]);
    assert_eq!(hear_window(&mut talk).await, 16);
    assert_eq!(soon(running.lost()).await, LostReason::SessionLost);
    let settle = talk.hear_settle().await;
    talk.say_settled(settle.call_id, &[("settled", "TOKEN_INVALID")]);
    assert_eq!(soon(settled).await.unwrap_err().reason(), Some(&Reason::TokenInvalid));
    talk.deliver(&["fresh"]);
    assert_eq!(take(&consumer, 1).await[0].message.payload, "fresh");
}
