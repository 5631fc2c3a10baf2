//! What is done together with a settlement, and what becomes of a delivery where it is refused.

use std::time::Duration;

use bytes::Bytes;
use qbroker_client::{Failure, Outcome, OutgoingMessage, Patch, Reason, Settlement};
use qbroker_proto::v1::{SettleRequest, effect, settlement};

use crate::broker::{soon, tokens};
use crate::consume::{acked, open, outcome, take};

#[tokio::test]
async fn a_settlement_takes_a_patch_and_messages_along() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    let delivery = take(&consumer, 1).await.pop().unwrap();
    let patch = Patch::new().payload("again").priority(3);
    let next = OutgoingMessage::new("n").queue("next");
    let failure = Failure::new("Oops", "broke");
    drop(delivery.settle(Settlement::nack(failure).patch(patch).publish(next)));
    let settle = talk.hear_settle().await;
    let effects = &settle.settlements[0].effects;
    match &effects[0].kind {
        Some(effect::Kind::Publish(message)) => assert_eq!(message.queue, "next"),
        other => panic!("{other:?}"),
    }
    let settlement::Outcome::Nack(nack) = outcome(&settle) else { panic!("{settle:?}") };
    let patch = nack.patch.unwrap();
    assert_eq!((patch.payload, patch.priority), (Some("again".into()), Some(3)));
    assert_eq!((patch.content_type, patch.headers), (None, None));
}

#[tokio::test]
async fn a_refused_effect_leaves_the_delivery_to_who_tried_and_nacks_what_was_given_up() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b", "c"]);
    let mut batch = take(&consumer, 3).await.into_iter();
    let mut next = || batch.next().unwrap();
    let then = || Settlement::ack().publish(OutgoingMessage::new("n").queue("full"));
    let mut tried = next();
    let trying = async {
        let error = soon(tried.try_settle(then())).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::QueueFull));
        soon(tried.try_settle(Outcome::Ack)).await
    };
    let answering = async {
        assert_eq!(tokens_of(&talk.hear_settle().await), tokens(&["a"]));
        talk.say_settled(1, &[("a", "QUEUE_FULL")]);
        assert_eq!(acked(&talk.hear_settle().await), tokens(&["a"]));
        talk.say_settled(2, &[]);
    };
    let (tried, ()) = tokio::join!(trying, answering);
    tried.unwrap();

    // Nobody holds this one any more when it is refused.
    let settling = next().settle(then());
    talk.hear_settle().await;
    talk.say_settled(3, &[("b", "QUEUE_FULL")]);
    let error = soon(settling).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::QueueFull));
    let settle = talk.hear_settle().await;
    assert_eq!(tokens_of(&settle), tokens(&["b"]));
    assert!(matches!(outcome(&settle), settlement::Outcome::Nack(_)), "{settle:?}");
    talk.say_settled(4, &[]);

    // Nor this one: whoever tried has gone.
    let mut tried = next();
    let answered = tokio::time::timeout(Duration::from_millis(1), tried.try_settle(then())).await;
    assert!(answered.is_err(), "there is no answer yet");
    drop(tried);
    talk.hear_settle().await;
    talk.say_settled(5, &[("c", "QUEUE_FULL")]);
    let settle = talk.hear_settle().await;
    assert_eq!(tokens_of(&settle), tokens(&["c"]));
    assert!(matches!(outcome(&settle), settlement::Outcome::Nack(_)), "{settle:?}");
    talk.say_settled(6, &[("c", "LEASE_LOST")]);
}

fn tokens_of(settle: &SettleRequest) -> Vec<Bytes> {
    settle.settlements.iter().map(|settlement| settlement.lease_token.clone()).collect()
}
