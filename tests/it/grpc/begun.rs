//! Consumers that report what they begin: a crash counts for that alone. And who loses a lease is told.

use bytes::Bytes;
use consume_request::Kind as Consume;
use consume_response::Kind as Consumed;
use qbroker_client::Client;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::streams::{Consuming, consume};
use super::{Broker, message, publish, seconds};

fn reporting(session: &str) -> ConsumeOpen {
    ConsumeOpen { reports_started: true, ..consume("q", session) }
}

fn started(lease_tokens: Vec<Bytes>) -> ConsumeRequest {
    ConsumeRequest { kind: Some(Consume::Started(Started { lease_tokens })) }
}

impl Broker {
    /// A consumer with all that is ready in its hands.
    async fn holding(&self, open: ConsumeOpen, count: usize) -> (Consuming, String, Vec<Bytes>) {
        let mut stream = self.consuming(Some(Consume::Open(open))).await;
        let (id, mut held) = (stream.opened().await.consumer_id, Vec::new());
        while held.len() < count {
            held.extend(stream.deliveries().await.into_iter().map(|it| it.lease_token));
        }
        (stream, id, held)
    }

    async fn end_session(&self, consumer_id: String) {
        let request = DisconnectConsumerRequest { consumer_id, end_session: true };
        self.wire.admin().disconnect_consumer(request).await.unwrap();
    }

    /// How often each message crashed, in the order of the queue.
    async fn crashes(&self) -> Vec<i32> {
        self.pull("q", 9).await.into_iter().map(|delivery| delivery.crashes).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_counts_for_what_had_begun_also_over_a_kill_of_the_broker() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("m"); 3])).await.unwrap();
    let (mut stream, id, held) = broker.holding(reporting("s"), 3).await;
    stream.say(started(vec![held[1].clone()]));
    // Answered behind it, so it was taken.
    stream.say(ConsumeRequest { kind: Some(Consume::Drain(Drain {})) });
    assert!(matches!(stream.hear().await.unwrap().unwrap().kind, Some(Consumed::Drained(_))));
    let broker = broker.kill_and_start().await;
    let again =
        ConsumeOpen { previous_consumer_id: id, held_lease_tokens: held.clone(), ..reporting("s") };
    let (_stream, id, _) = broker.holding(again, 0).await;
    assert_eq!(broker.stats("q").await.leased, 3);
    broker.end_session(id).await;
    assert_eq!(broker.crashes().await, [0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reports_what_the_application_begins() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("m"); 3])).await.unwrap();
    let client = Client::connect(broker.server.url()).await.unwrap();
    let consumer = client.consumer(["q"]).report_started().open().await.unwrap();
    let mut batch = Vec::new();
    while batch.len() < 3 {
        batch.extend(consumer.next_batch(3).await.unwrap());
    }
    batch[0].started();
    batch[2].started();
    // Settlements go out behind it.
    batch.pop().unwrap().release().await.unwrap();
    let listed = client.list_consumers(qbroker_client::ConsumerQuery::default()).await.unwrap();
    broker.end_session(listed.items[0].consumer_id.clone()).await;
    assert_eq!(batch[0].lost().await, qbroker_client::LostReason::DisconnectedByAdmin);
    assert_eq!(broker.crashes().await, [1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_mean_nothing_are_refused_or_passed_over() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("m")])).await.unwrap();
    let (mut stream, id, held) = broker.holding(reporting("s"), 1).await;
    // Of somebody else, and of nobody any more.
    let (other, _, _) = broker.holding(ConsumeOpen { ..reporting("t") }, 0).await;
    other.say(started(held.clone()));
    let own: Vec<Bytes> = std::iter::repeat_n(held[0].clone(), 10_000).collect();
    other.say(started(own.clone()));
    drop(other);
    for (tokens, reason) in [
        (vec![], "EMPTY_BATCH"),
        ([own, held.clone()].concat(), "BATCH_TOO_LARGE"),
        (vec![Bytes::from_static(b"token")], "TOKEN_INVALID"),
    ] {
        let (mut stream, _, _) = broker.holding(reporting(""), 0).await;
        stream.say(started(tokens));
        assert_eq!(stream.failure().await.is(), (InvalidArgument, reason));
    }
    let (mut plain, _, _) = broker.holding(consume("q", ""), 0).await;
    plain.say(started(held));
    assert_eq!(plain.failure().await.metadata["field"], "started");
    broker.end_session(id).await;
    assert_eq!(stream.failure().await.reason, "CONSUMER_DISCONNECTED");
    assert_eq!(broker.crashes().await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_a_lease_is_told_why() {
    let broker = Broker::start(&[]).await;
    let all = MessageState::Leased as i32;
    let purge = PurgeQueueRequest { name: "q".to_owned(), states: vec![all], ..Default::default() };
    let delete = DeleteQueueRequest { name: "q".to_owned(), force: true, allow_missing: false };
    for reason in [
        LeaseLostReason::Expired,
        LeaseLostReason::QueuePurged,
        LeaseLostReason::QueueDeleted,
        LeaseLostReason::SessionReset,
    ] {
        broker.publish(publish("q", vec![message("m")])).await.unwrap();
        let manual = reason == LeaseLostReason::Expired;
        let duration = manual.then(|| seconds(1));
        let open =
            ConsumeOpen { manual_extend: manual, lease_duration: duration, ..consume("q", "s") };
        let (mut stream, _, held) = broker.holding(open, 1).await;
        match reason {
            LeaseLostReason::QueuePurged => {
                drop(broker.wire.admin().purge_queue(purge.clone()).await)
            }
            LeaseLostReason::QueueDeleted => {
                drop(broker.wire.admin().delete_queue(delete.clone()).await);
            }
            LeaseLostReason::SessionReset => {
                let anew = ConsumeOpen { reset_session: true, ..consume("other", "s") };
                broker.consuming(Some(Consume::Open(anew))).await.opened().await;
            }
            _ => {}
        }
        match stream.hear().await.unwrap().and_then(|answer| answer.kind) {
            Some(Consumed::LeasesLost(lost)) => {
                assert_eq!((lost.reason(), lost.lease_tokens), (reason, held));
            }
            other => panic!("nothing is told of {reason:?}: {other:?}"),
        }
        drop(stream);
        broker
            .wire
            .admin()
            .delete_queue(DeleteQueueRequest { allow_missing: true, ..delete.clone() })
            .await
            .unwrap();
    }
}
