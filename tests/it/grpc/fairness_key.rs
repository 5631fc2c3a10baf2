//! Tenants share a queue, on the wire as in the core.

use std::collections::BTreeMap;

use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, ack, message, publish, refusal};

fn of(tenant: impl Into<String>) -> OutgoingMessage {
    OutgoingMessage { fairness_key: tenant.into(), ..message("job") }
}

async fn create(broker: &Broker, name: &str, policy: QueuePolicy) -> Result<(), super::Refusal> {
    let queue = Queue { name: name.to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    super::answer(broker.wire.admin().create_queue(create).await).map(drop)
}

fn shares(deliveries: &[Delivery]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for message in deliveries.iter().filter_map(|it| it.message.as_ref()) {
        *shares.entry(message.fairness_key.clone()).or_default() += 1;
    }
    shares
}

/// A tenant in another lane than `other`: one in 255 shares it, and its turns. Those that take turns with
/// it do not.
async fn apart_from(broker: &Broker, other: &str) -> String {
    for number in 0..4 {
        let (tenant, queue) = (format!("tenant-{number}"), format!("{other}-and-{number}"));
        let batch = [other, other, &tenant, &tenant].map(of).to_vec();
        broker.publish(publish(&queue, batch)).await.unwrap();
        if shares(&broker.pull(&queue, 2).await).len() == 2 {
            return tenant;
        }
    }
    panic!("nobody takes turns with {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_jobs_of_one_tenant_do_not_wait_for_thousands_of_another() {
    let broker = Broker::start(&["--messages-in-memory", "1000"]).await;
    let quiet = apart_from(&broker, "loud").await;
    for _ in 0..5 {
        broker.publish(publish("q", vec![of("loud"); 1_000])).await.unwrap();
    }
    broker.publish(publish("q", vec![of(&quiet); 10])).await.unwrap();
    let broker = broker.kill_and_start().await;
    let shared = shares(&broker.pull("q", 20).await);
    assert_eq!(shared, BTreeMap::from([("loud".to_owned(), 10), (quiet, 10)]));
    // With nobody else there, it has the queue for itself, in order.
    let mut last = 0;
    for _ in 0..5 {
        for message in broker.pull("q", 1_000).await.into_iter().filter_map(|it| it.message) {
            assert!(last < message.sequence);
            last = message.sequence;
        }
    }
    assert_eq!(broker.stats("q").await.ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_and_limits_are_by_key() {
    let broker = Broker::start(&[]).await;
    let small = apart_from(&broker, "large").await;
    let fairness_weights = [("large".to_owned(), 3), (small.clone(), 1)].into();
    let weights = QueuePolicy { fairness_weights, ..QueuePolicy::default() };
    create(&broker, "weighed", weights.clone()).await.unwrap();
    let batch = ["large", &small].iter().flat_map(|tenant| vec![of(*tenant); 100]).collect();
    broker.publish(publish("weighed", batch)).await.unwrap();
    let shared = shares(&broker.pull("weighed", 40).await);
    assert_eq!(shared, BTreeMap::from([("large".to_owned(), 30), (small, 10)]));
    let get = GetQueueRequest { name: "weighed".to_owned() };
    let told = broker.wire.admin().get_queue(get).await.unwrap().into_inner().queue.unwrap();
    assert_eq!(told.policy.unwrap().fairness_weights, weights.fairness_weights);

    let limited = QueuePolicy { max_leased_per_fairness_key: Some(2), ..QueuePolicy::default() };
    create(&broker, "limited", limited).await.unwrap();
    let b = apart_from(&broker, "a").await;
    let batch = ["a", &b].iter().flat_map(|tenant| vec![of(*tenant); 5]).collect();
    broker.publish(publish("limited", batch)).await.unwrap();
    let leased = broker.pull("limited", 10).await;
    assert_eq!(shares(&leased), BTreeMap::from([("a".to_owned(), 2), (b, 2)]));
    assert!(broker.pull("limited", 10).await.is_empty());
    assert_eq!(broker.settle(vec![ack(&leased[0].lease_token)]).await.unwrap(), []);
    assert_eq!(broker.pull("limited", 10).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_a_weight_have_bounds() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![of("k".repeat(256))])).await.unwrap();
    let refused = broker.publish(publish("q", vec![of("k".repeat(257))])).await;
    let refused = refused.expect_err("it is too long");
    assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"));
    assert_eq!(refused.metadata["field"], "fairness_key");
    let weight = |weight| QueuePolicy {
        fairness_weights: [("k".to_owned(), weight)].into(),
        ..QueuePolicy::default()
    };
    create(&broker, "least", weight(1)).await.unwrap();
    create(&broker, "most", weight(1_000)).await.unwrap();
    for bad in [0, -1, 1_001] {
        let refused = create(&broker, "bad", weight(bad)).await.expect_err("it is refused");
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{bad}");
    }
    let many = |count: usize| QueuePolicy {
        fairness_weights: (0..count).map(|n| (n.to_string(), 1)).collect(),
        ..QueuePolicy::default()
    };
    create(&broker, "many", many(1_000)).await.unwrap();
    create(&broker, "bad", many(1_001)).await.expect_err("it is refused");
    let none = QueuePolicy { max_leased_per_fairness_key: Some(0), ..QueuePolicy::default() };
    create(&broker, "bad", none).await.expect_err("it is refused");
    let get = GetQueueRequest { name: "bad".to_owned() };
    let missing = refusal(broker.wire.admin().get_queue(get).await);
    assert_eq!(missing.is().1, "QUEUE_NOT_FOUND", "bad input changes nothing");
}
