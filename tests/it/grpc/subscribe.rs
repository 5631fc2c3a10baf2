//! A stream changes its queues while it is open.

use consume_request::Kind as Consume;
use consume_response::Kind as Consumed;
use qbroker_client::{Client, Reason};
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::streams::{Consuming, consume};
use super::{Broker, ack, message, publish, selectors};

fn subscribe(queues: &[&str]) -> ConsumeRequest {
    let queues = selectors(queues);
    ConsumeRequest { kind: Some(Consume::Subscribe(Subscribe { queues })) }
}

impl Consuming {
    /// The answer to a change of queues, and the payloads that came before it.
    async fn subscribed(&mut self) -> (Vec<String>, Option<ItemError>) {
        let mut payloads = Vec::new();
        loop {
            match self.hear().await.unwrap().and_then(|answer| answer.kind) {
                Some(Consumed::Subscribed(subscribed)) => return (payloads, subscribed.error),
                Some(Consumed::Deliveries(batch)) => payloads.extend(payloads_of(batch)),
                other => panic!("not subscribed: {other:?}"),
            }
        }
    }
}

fn payloads_of(batch: DeliveryBatch) -> impl Iterator<Item = String> {
    let messages = batch.deliveries.into_iter().filter_map(|delivery| delivery.message);
    messages.map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_takes_other_queues_and_keeps_what_it_holds() {
    let broker = Broker::start(&["--auto-create-queues=false"]).await;
    for name in ["a", "b"] {
        let queue = Some(Queue { name: name.to_owned(), ..Queue::default() });
        let create = CreateQueueRequest { queue, ..CreateQueueRequest::default() };
        broker.wire.admin().create_queue(create).await.unwrap();
    }
    broker.publish(publish("a", vec![message("a1")])).await.unwrap();
    broker.publish(publish("b", vec![message("b1")])).await.unwrap();
    let mut stream = broker.consuming(Some(Consume::Open(consume("a", "s")))).await;
    stream.opened().await;
    let held = stream.deliveries().await.remove(0).lease_token;
    // Not with queues that are not there: it goes on as it was.
    stream.say(subscribe(&["b", "none"]));
    let (payloads, error) = stream.subscribed().await;
    assert_eq!((payloads, error.unwrap().reason.as_str()), (vec![], "QUEUE_NOT_FOUND"));
    broker.publish(publish("a", vec![message("a2")])).await.unwrap();
    assert_eq!(stream.deliveries().await.len(), 1);

    stream.say(subscribe(&["b"]));
    let (mut payloads, error) = stream.subscribed().await;
    assert_eq!(error, None);
    broker.publish(publish("a", vec![message("a3")])).await.unwrap();
    broker.publish(publish("b", vec![message("b2")])).await.unwrap();
    while payloads.len() < 2 {
        let deliveries = stream.deliveries().await;
        payloads.extend(payloads_of(DeliveryBatch { deliveries, ..DeliveryBatch::default() }));
    }
    assert_eq!(payloads, ["b1", "b2"]);
    assert_eq!(broker.settle(vec![ack(&held)]).await.unwrap(), []);
    let (a, b) = (broker.stats("a").await, broker.stats("b").await);
    assert_eq!((a.ready, a.leased, a.consumers, b.consumers), (1, 1, 0, 1));

    stream.say(subscribe(&[]));
    assert_eq!(stream.failure().await.is(), (InvalidArgument, "EMPTY_BATCH"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_changes_its_queues() {
    let broker = Broker::start(&[]).await;
    let client = Client::connect(broker.server.url()).await.unwrap();
    let consumer = client.consumer(["a"]).open().await.unwrap();
    consumer.subscribe(["b", "c"]).await.unwrap();
    broker.publish(publish("c", vec![message("c1")])).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!(delivery.message.queue, "c");
    delivery.ack().await.unwrap();
    let refused = consumer.subscribe(["a/b"]).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::InvalidQueueName));
    broker.publish(publish("b", vec![message("b1")])).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().message.queue, "b");
}
