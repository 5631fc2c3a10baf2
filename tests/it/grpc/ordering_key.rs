//! One at a time of an ordering key, on the wire as in the core.

use std::collections::BTreeMap;

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, ack, message, publish, settlement};

fn keyed(payload: &str, key: impl Into<String>) -> OutgoingMessage {
    OutgoingMessage { ordering_key: key.into(), ..message(payload) }
}

fn payloads(deliveries: &[Delivery]) -> Vec<&[u8]> {
    deliveries.iter().map(|it| &*it.message.as_ref().unwrap().payload).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_one_comes_when_the_one_before_it_is_done() {
    let broker = Broker::start(&[]).await;
    let batch = vec![keyed("a", "k"), keyed("b", "k"), keyed("c", "other"), message("d")];
    broker.publish(publish("q", batch)).await.unwrap();
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.behind), (3, 1));
    let list = ListMessagesRequest { queue: "q".to_owned(), ..Default::default() };
    let listed = broker.wire.admin().list_messages(list).await.unwrap().into_inner().messages;
    let last = listed.last().unwrap();
    assert_eq!(last.state(), MessageState::Behind);
    assert_eq!(last.message.as_ref().unwrap().ordering_key, "k");

    let first = broker.pull("q", 9).await;
    assert_eq!(payloads(&first), [b"a", b"c", b"d"]);
    assert!(broker.pull("q", 9).await.is_empty());
    let nack = Nack { delay: Some(super::seconds(0)), ..Nack::default() };
    let again = settlement(&first[0].lease_token, Outcome::Nack(nack));
    assert_eq!(broker.settle(vec![again]).await.unwrap(), []);
    let broker = broker.kill_and_start().await;
    let second = broker.pull("q", 9).await;
    assert_eq!(payloads(&second), [b"a"], "it failed, and comes again before the next one");
    assert_eq!(broker.settle(vec![ack(&second[0].lease_token)]).await.unwrap(), []);
    assert_eq!(payloads(&broker.pull("q", 9).await), [b"b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_256_bytes_at_most() {
    let broker = Broker::start(&[]).await;
    let longest = broker.publish(publish("q", vec![keyed("a", "k".repeat(256))])).await;
    assert_eq!(longest.unwrap().len(), 1);
    let refused = broker.publish(publish("q", vec![keyed("bad", "k".repeat(257))])).await;
    let refused = refused.expect_err("it is too long");
    assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"));
    assert_eq!(refused.metadata["field"], "ordering_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_keeps_its_order_with_most_of_it_in_pages_and_over_a_kill() {
    let broker = Broker::start(&["--messages-in-memory", "1000"]).await;
    const LINES: usize = 50;
    for batch in 0..5 {
        let messages = (0..1_000).map(|n| keyed("", format!("line {}", (batch * 7 + n) % LINES)));
        broker.publish(publish("q", messages.collect())).await.unwrap();
    }
    let broker = broker.kill_and_start().await;
    let mut last = BTreeMap::<String, i64>::new();
    let mut taken = 0;
    loop {
        let pulled = broker.pull("q", 1_000).await;
        if pulled.is_empty() {
            break;
        }
        assert!(pulled.len() <= LINES, "one of each at a time");
        taken += pulled.len();
        for message in pulled.iter().filter_map(|it| it.message.as_ref()) {
            let before = last.insert(message.ordering_key.clone(), message.sequence);
            assert!(before < Some(message.sequence), "{}", message.ordering_key);
        }
        let acks = pulled.iter().map(|it| ack(&it.lease_token)).collect();
        assert_eq!(broker.settle(acks).await.unwrap(), []);
    }
    assert_eq!((taken, last.len()), (5_000, LINES));
}
