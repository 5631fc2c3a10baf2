//! What holds messages back, and what lets them go: pauses, ranks, windows.

use consume_request::Kind as Consume;
use consume_response::Kind as Consumed;
use qbroker_proto::v1::*;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound};

use super::streams::Consuming;
use super::{Broker, ack, message, publish, refusal};

fn selector(queue: &str) -> QueueSelector {
    QueueSelector { queue: queue.to_owned(), ..QueueSelector::default() }
}

fn ranked(queue: &str, rank: i32) -> QueueSelector {
    QueueSelector { rank, ..selector(queue) }
}

fn consume(queues: Vec<QueueSelector>, window: i32) -> Option<Consume> {
    let flow = FlowUpdate { max_outstanding_messages: window, max_outstanding_bytes: 0 };
    Some(Consume::Open(ConsumeOpen { queues, flow: Some(flow), ..ConsumeOpen::default() }))
}

/// Hears so many deliveries; the queues they are of, and their tokens.
async fn deliveries(stream: &mut Consuming, count: usize) -> (Vec<String>, Vec<bytes::Bytes>) {
    let (mut queues, mut tokens) = (Vec::new(), Vec::new());
    while tokens.len() < count {
        let answer = stream.hear().await.unwrap().expect("the stream goes on");
        if let Some(Consumed::Deliveries(batch)) = answer.kind {
            for delivery in batch.deliveries {
                queues.push(delivery.message.unwrap().queue);
                tokens.push(delivery.lease_token);
            }
        }
    }
    assert_eq!(tokens.len(), count, "more than there is room for");
    (queues, tokens)
}

fn settle(call_id: i64, tokens: &[bytes::Bytes]) -> ConsumeRequest {
    let settlements = tokens.iter().map(ack).collect();
    let settle = SettleRequest { call_id, settlements, answered_through_call_id: 0 };
    ConsumeRequest { kind: Some(Consume::Settle(settle)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_served_by_rank_and_a_pull_too() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("low", vec![message("m"); 4])).await.unwrap();
    broker.publish(publish("high", vec![message("m"); 2])).await.unwrap();
    let mut stream = broker.consuming(consume(vec![ranked("low", 1), ranked("high", 0)], 3)).await;
    let (queues, tokens) = deliveries(&mut stream, 3).await;
    assert_eq!(queues, ["high", "high", "low"]);
    broker.publish(publish("high", vec![message("m")])).await.unwrap();
    stream.say(settle(1, &tokens[..1]));
    assert_eq!(deliveries(&mut stream, 1).await.0, ["high"]);
    let pull = PullRequest {
        queues: vec![ranked("empty", -1), ranked("low", 1), ranked("next", 0)],
        max_messages: 3,
        ..PullRequest::default()
    };
    broker.publish(publish("next", vec![message("m")])).await.unwrap();
    let pulled = broker.wire.consumer().pull(pull).await.unwrap().into_inner().batch.unwrap();
    let queues: Vec<String> =
        pulled.deliveries.into_iter().map(|delivery| delivery.message.unwrap().queue).collect();
    assert_eq!(queues, ["next", "low", "low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shares_by_weight_within_the_windows_of_its_queues() {
    let broker = Broker::start(&[]).await;
    for queue in ["a", "b", "slow"] {
        broker.publish(publish(queue, vec![message("m"); 20])).await.unwrap();
    }
    let weight = |queue, weight| QueueSelector { weight: Some(weight), ..selector(queue) };
    let window = QueueSelector { max_outstanding_messages: Some(1), ..weight("slow", 1_000) };
    let open = consume(vec![weight("a", 3), weight("b", 1), window], 13);
    let mut stream = broker.consuming(open).await;
    let (mut queues, _) = deliveries(&mut stream, 13).await;
    queues.sort_unstable();
    let count = |queue: &str| queues.iter().filter(|of| *of == queue).count();
    assert_eq!((count("a"), count("b"), count("slow")), (9, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_out_of_bounds_are_refused() {
    let broker = Broker::start(&[]).await;
    let weight = |weight| QueueSelector { weight: Some(weight), ..selector("q") };
    let window = |window| QueueSelector { max_outstanding_messages: Some(window), ..selector("q") };
    let many = |count: i32| (0..count).map(|n| ranked(&format!("q{n}"), n)).collect::<Vec<_>>();
    for (field, queues) in [
        ("weight", vec![weight(0)]),
        ("weight", vec![weight(1_001)]),
        ("max_outstanding_messages", vec![window(0)]),
        ("max_outstanding_messages", vec![window(100_001)]),
        ("queues", many(101)),
    ] {
        let mut stream = broker.consuming(consume(queues, 1)).await;
        let refused = stream.failure().await;
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
    let mut stream = broker.consuming(consume(many(100), 1)).await;
    assert!(matches!(stream.hear().await.unwrap().unwrap().kind, Some(Consumed::Opened(_))));
}

async fn states(broker: &Broker, states: &[QueueState]) -> Vec<String> {
    let states = states.iter().map(|state| *state as i32).collect();
    let request = ListQueuesRequest { states, ..ListQueuesRequest::default() };
    let queues = broker.wire.admin().list_queues(request).await.unwrap().into_inner().queues;
    queues.into_iter().map(|queue| queue.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_delivers_nothing_until_it_is_resumed() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    broker.publish(publish("other", vec![message("a")])).await.unwrap();
    let pause = |pause_publishing| PauseQueueRequest { name: "q".to_owned(), pause_publishing };
    let queue = admin.pause_queue(pause(false)).await.unwrap().into_inner().queue.unwrap();
    assert_eq!((queue.state(), queue.publishing_paused), (QueueState::Paused, false));
    assert_eq!(broker.pull("q", 10).await, []);
    broker.publish(publish("q", vec![message("b")])).await.unwrap();

    let queue = admin.pause_queue(pause(true)).await.unwrap().into_inner().queue.unwrap();
    assert!(queue.publishing_paused);
    let refused = broker.publish(publish("q", vec![message("c")])).await.unwrap_err();
    assert_eq!(refused.is(), (FailedPrecondition, "QUEUE_PAUSED"), "{}", refused.message);
    assert_eq!(refused.metadata["queue"], "q");
    assert_eq!(states(&broker, &[QueueState::Paused]).await, ["q"]);
    assert_eq!(states(&broker, &[QueueState::Active]).await, ["other"]);
    assert_eq!(states(&broker, &[QueueState::Active, QueueState::Paused]).await, ["other", "q"]);

    let resume = |name: &str| ResumeQueueRequest { name: name.to_owned() };
    let queue = admin.resume_queue(resume("q")).await.unwrap().into_inner().queue.unwrap();
    assert_eq!((queue.state(), queue.publishing_paused), (QueueState::Active, false));
    assert_eq!(broker.pull("q", 10).await.len(), 2);
    let missing = refusal(admin.resume_queue(resume("none")).await);
    assert_eq!(missing.is(), (NotFound, "QUEUE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_delivers_no_more_and_no_faster_than_its_policy_says() {
    let broker = Broker::start(&[]).await;
    let create = async |name: &str, policy| {
        let queue = Queue { name: name.to_owned(), policy: Some(policy), ..Queue::default() };
        let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
        broker.wire.admin().create_queue(create).await
    };
    create("few", QueuePolicy { max_leased: Some(2), ..QueuePolicy::default() }).await.unwrap();
    broker.publish(publish("few", vec![message("m"); 4])).await.unwrap();
    let mut stream = broker.consuming(consume(vec![selector("few")], 10)).await;
    let (_, tokens) = deliveries(&mut stream, 2).await;
    assert_eq!(broker.pull("few", 10).await, []);
    stream.say(settle(1, &tokens));
    deliveries(&mut stream, 2).await;

    // The second message is not due within this test, the third one at once after it.
    let slow = QueuePolicy { max_delivery_rate: Some(0.001), ..QueuePolicy::default() };
    create("slow", slow).await.unwrap();
    broker.publish(publish("slow", vec![message("m"); 3])).await.unwrap();
    assert_eq!(broker.pull("slow", 10).await.len(), 1);
    assert_eq!(broker.pull("slow", 10).await, []);
    // The broker's own clock opens the queue for who waits.
    let quick = QueuePolicy { max_delivery_rate: Some(50.0), ..QueuePolicy::default() };
    create("quick", quick).await.unwrap();
    broker.publish(publish("quick", vec![message("m"); 20])).await.unwrap();
    let mut stream = broker.consuming(consume(vec![selector("quick")], 100)).await;
    deliveries(&mut stream, 20).await;

    for (field, policy) in [
        ("policy.max_leased", QueuePolicy { max_leased: Some(0), ..QueuePolicy::default() }),
        ("policy.max_leased", QueuePolicy { max_leased: Some(-1), ..QueuePolicy::default() }),
        (
            "policy.max_delivery_rate",
            QueuePolicy { max_delivery_rate: Some(0.0), ..QueuePolicy::default() },
        ),
    ] {
        let refused = refusal(create("bad", policy).await);
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
}
