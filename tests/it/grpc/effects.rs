//! What is done together with a settlement: all of it, or nothing.

use bytes::Bytes;
use qbroker_proto::v1::*;
use settlement::Outcome;

use super::streams::Consuming;
use super::{Broker, ack, message, publish, seconds};

fn then(queue: &str, payload: &str) -> Effect {
    let message = OutgoingMessage { queue: queue.to_owned(), ..message(payload) };
    Effect { kind: Some(effect::Kind::Publish(message)) }
}

fn with(settlement: Settlement, effects: Vec<Effect>) -> Settlement {
    Settlement { effects, ..settlement }
}

fn nack(token: &Bytes, patch: MessagePatch) -> Settlement {
    let nack = Nack { delay: Some(seconds(0)), patch: Some(patch), ..Nack::default() };
    super::settlement(token, Outcome::Nack(nack))
}

fn payloads(deliveries: &[Delivery]) -> Vec<&[u8]> {
    deliveries.iter().map(|delivery| &*delivery.message.as_ref().unwrap().payload).collect()
}

fn reasons(failures: &[SettleFailure]) -> Vec<&str> {
    failures.iter().map(|failure| failure.error.as_ref().unwrap().reason.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_hands_over_to_the_next_queue_over_a_kill() {
    let broker = Broker::start(&[]).await;
    let token = broker.lease().await;
    let settlement = with(ack(&token), vec![then("next", "a"), then("audit", "b")]);
    assert_eq!(broker.settle(vec![settlement.clone()]).await.unwrap(), []);
    let broker = broker.kill_and_start().await;
    // The answer might have been lost with the broker.
    assert_eq!(broker.settle(vec![settlement]).await.unwrap(), []);
    assert_eq!(payloads(&broker.pull("next", 10).await), [b"a"]);
    assert_eq!(payloads(&broker.pull("audit", 10).await), [b"b"]);
    let stats = broker.stats("work").await;
    assert_eq!((stats.ready, stats.leased, stats.acked_total), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_effect_refuses_its_settlement_alone_and_keeps_the_lease() {
    let broker = Broker::start(&[]).await;
    let tokens = [broker.lease().await, broker.lease().await, broker.lease().await];
    let mut unfit = message("x");
    unfit.headers.insert("Upper".to_owned(), String::new());
    let unfit = Effect { kind: Some(effect::Kind::Publish(unfit)) };
    let failures = broker
        .settle(vec![
            with(ack(&tokens[0]), vec![then("good", "a"), then("bad name", "b")]),
            with(ack(&tokens[1]), vec![then("good", "c"), unfit]),
            with(ack(&tokens[2]), vec![then("good", "d")]),
        ])
        .await
        .unwrap();
    let mut told = reasons(&failures);
    told.sort_unstable();
    assert_eq!(told, ["INVALID_ARGUMENT", "INVALID_QUEUE_NAME"]);
    // What only a newer version knows arrives as nothing, and is not left out.
    let newer = with(ack(&tokens[0]), vec![then("good", "f"), Effect { kind: None }]);
    assert_eq!(reasons(&broker.settle(vec![newer]).await.unwrap()), ["INVALID_ARGUMENT"]);
    assert_eq!(broker.stats("work").await.leased, 2);
    assert_eq!(payloads(&broker.pull("good", 10).await), [b"d"]);
    let again = with(ack(&tokens[0]), vec![then("good", "e")]);
    assert_eq!(broker.settle(vec![again, ack(&tokens[1])]).await.unwrap(), []);
    assert_eq!(payloads(&broker.pull("good", 10).await), [b"e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_settles_with_effects_in_its_order() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("work", vec![message("a"), message("b")])).await.unwrap();
    let queues = super::selectors(&["work", "next"]);
    let open = ConsumeOpen { queues, ..ConsumeOpen::default() };
    let mut stream = broker.consuming(Some(consume_request::Kind::Open(open))).await;
    let tokens = deliveries(&mut stream, 2).await;
    let settle = |call_id, settlements| {
        let settle = SettleRequest { call_id, settlements, answered_through_call_id: 0 };
        ConsumeRequest { kind: Some(consume_request::Kind::Settle(settle)) }
    };
    stream.say(settle(1, vec![with(ack(&tokens[0].0), vec![then("next", "c")])]));
    stream.say(settle(2, vec![with(ack(&tokens[1].0), vec![then("", "d")])]));
    let mut next = None;
    let mut answered = Vec::new();
    while next.is_none() || answered.is_empty() {
        match stream.hear().await.unwrap().expect("the stream goes on").kind {
            Some(consume_response::Kind::Deliveries(batch)) => {
                next = payloads(&batch.deliveries).first().map(|payload| payload.to_vec());
            }
            Some(consume_response::Kind::Settled(settled)) if settled.call_id == 2 => {
                answered.push(settled);
            }
            _ => {}
        }
    }
    assert_eq!(next.as_deref(), Some(&b"c"[..]));
    assert_eq!(reasons(&answered[0].failures), ["INVALID_QUEUE_NAME"]);
}

async fn deliveries(stream: &mut Consuming, count: usize) -> Vec<(Bytes, Message)> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let answer = stream.hear().await.unwrap().expect("the stream goes on");
        if let Some(consume_response::Kind::Deliveries(batch)) = answer.kind {
            let pair = |it: Delivery| (it.lease_token, it.message.unwrap());
            heard.extend(batch.deliveries.into_iter().map(pair));
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_replaces_what_it_sets_and_nothing_else_over_a_kill() {
    let broker = Broker::start(&[]).await;
    let mut first = OutgoingMessage {
        message_id: "job-1".to_owned(),
        content_type: "text/plain".to_owned(),
        message_type: "mail".to_owned(),
        correlation_id: "c".to_owned(),
        max_attempts: Some(9),
        ..message("one")
    };
    first.headers.insert("a".to_owned(), "1".to_owned());
    broker.publish(publish("work", vec![first])).await.unwrap();
    let published = broker.pull("work", 1).await.remove(0);
    let before = published.message.clone().unwrap();
    let payload = MessagePatch { payload: Some("two".into()), ..MessagePatch::default() };
    let settlement = nack(&published.lease_token, payload);
    assert_eq!(broker.settle(vec![settlement]).await.unwrap(), []);
    let broker = broker.kill_and_start().await;
    let second = broker.pull("work", 1).await.remove(0);
    let message = Message { payload: "two".into(), ..before.clone() };
    assert_eq!((second.failures, second.message), (1, Some(message)));

    let headers = Headers { entries: [("b".to_owned(), "2".to_owned())].into() };
    let patch = MessagePatch {
        headers: Some(headers.clone()),
        content_type: Some(String::new()),
        priority: Some(4),
        ..MessagePatch::default()
    };
    assert_eq!(broker.settle(vec![nack(&second.lease_token, patch)]).await.unwrap(), []);
    let third = broker.pull("work", 1).await.remove(0);
    let message = Message {
        payload: "two".into(),
        headers: headers.entries,
        content_type: String::new(),
        priority: 4,
        ..before.clone()
    };
    assert_eq!(third.message, Some(message.clone()));

    // Given up, it goes with its last patch; one that sets nothing changes nothing.
    let letter = DeadLetter { failure: None, patch: Some(MessagePatch::default()) };
    let settlement = super::settlement(&third.lease_token, Outcome::DeadLetter(letter));
    assert_eq!(broker.settle(vec![settlement]).await.unwrap(), []);
    let dead = broker.pull("work.dead", 1).await.remove(0).message.unwrap();
    assert_eq!((dead.payload, dead.headers), (message.payload, message.headers));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_held_to_the_bounds_of_a_publish() {
    let flags = ["--max-payload", "1KiB", "--max-batch-bytes", "4KiB"];
    let broker = Broker::start(&flags).await;
    let payload = |size: usize| MessagePatch {
        payload: Some(vec![b'x'; size].into()),
        ..MessagePatch::default()
    };
    let priority = MessagePatch { priority: Some(10), ..MessagePatch::default() };
    let headers = Headers { entries: [("K".to_owned(), String::new())].into() };
    let headers = MessagePatch { headers: Some(headers), ..MessagePatch::default() };
    let token = broker.lease().await;
    for (patch, reason) in [
        (payload(1025), "MESSAGE_TOO_LARGE"),
        (payload(4096), "BATCH_TOO_LARGE"),
        (priority, "INVALID_ARGUMENT"),
        (headers, "INVALID_ARGUMENT"),
    ] {
        let failures = broker.settle(vec![nack(&token, patch)]).await.unwrap();
        assert_eq!(reasons(&failures), [reason]);
    }
    assert_eq!(broker.settle(vec![nack(&token, payload(1024))]).await.unwrap(), []);
    let token = broker.pull("work", 1).await.remove(0).lease_token;
    // What it leaves of the message counts with its effects.
    let other = MessagePatch { content_type: Some("x".to_owned()), ..MessagePatch::default() };
    let large = || then("next", &"y".repeat(1000));
    let settlement = with(nack(&token, other), vec![large(), large(), large()]);
    let failures = broker.settle(vec![settlement.clone()]).await.unwrap();
    assert_eq!(reasons(&failures), ["BATCH_TOO_LARGE"]);
    let settlement = Settlement { effects: vec![large(), large()], ..settlement };
    assert_eq!(broker.settle(vec![settlement]).await.unwrap(), []);
    assert_eq!(broker.pull("next", 10).await.len(), 2);
}
