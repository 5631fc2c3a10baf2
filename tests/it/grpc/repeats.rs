//! Calls whose answer was lost: asked again under the same id, they give the same.

use qbroker_proto::v1::*;
use qbroker_tests::wire::Refusal;
use tonic::Code::{AlreadyExists, InvalidArgument};

use super::{Broker, ack, answer, message, publish, seconds, selectors};

fn pull(id: &str, session: &str, max: i32) -> PullRequest {
    PullRequest {
        queues: selectors(&["q"]),
        max_messages: max,
        wait_timeout: Some(seconds(0)),
        request_id: id.to_owned(),
        session_id: session.to_owned(),
        ..PullRequest::default()
    }
}

impl Broker {
    async fn pull_as(&self, request: PullRequest) -> Result<Vec<Delivery>, Refusal> {
        let answered = answer(self.wire.consumer().pull(request).await)?;
        Ok(answered.batch.unwrap().deliveries)
    }

    async fn create_as(&self, name: &str, id: &str, levels: i32) -> Result<Queue, Refusal> {
        let policy = Some(QueuePolicy { priority_levels: Some(levels), ..QueuePolicy::default() });
        let queue = Some(Queue { name: name.to_owned(), policy, ..Queue::default() });
        let request_id = id.to_owned();
        let request = CreateQueueRequest { queue, request_id, allow_existing: false };
        let created = answer(self.wire.admin().create_queue(request).await)?;
        Ok(created.queue.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_repeated_gets_the_same_leases_also_over_a_kill() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("m"); 5])).await.unwrap();
    let first = broker.pull_as(pull("p1", "s", 2)).await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(broker.pull_as(pull("p1", "s", 2)).await.unwrap(), first);
    let broker = broker.kill_and_start().await;
    assert_eq!(broker.pull_as(pull("p1", "s", 9)).await.unwrap(), first, "and nothing else");
    assert_eq!(broker.settle(vec![ack(&first[0].lease_token)]).await.unwrap(), []);
    assert_eq!(broker.pull_as(pull("p1", "s", 2)).await.unwrap(), first[1..]);
    assert_eq!(broker.settle(vec![ack(&first[1].lease_token)]).await.unwrap(), []);
    assert_eq!(broker.pull_as(pull("p1", "s", 2)).await.unwrap(), []);
    // Another session's, or none's, is another pull.
    assert_eq!(broker.pull_as(pull("p1", "", 2)).await.unwrap().len(), 2);
    assert_eq!(broker.pull_as(pull("p1", "t", 2)).await.unwrap().len(), 1);
    assert_eq!(broker.stats("q").await.delivered_total, 5);
    for id in ["a b", &"x".repeat(65)] {
        let refused = broker.pull_as(pull(id, "", 1)).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], "request_id");
    }
    broker.pull_as(pull(&"x".repeat(64), "", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_takes_the_place_of_a_pull_that_waits() {
    let broker = Broker::start(&[]).await;
    let waiting = PullRequest { wait_timeout: Some(seconds(60)), ..pull("p1", "s", 1) };
    let mut wire = broker.wire.consumer();
    let request = waiting.clone();
    let first = tokio::spawn(async move { wire.pull(request).await });
    while broker.stats_or_none("q").await.is_none() {
        tokio::task::yield_now().await;
    }
    let mut wire = broker.wire.consumer();
    let again = tokio::spawn(async move { wire.pull(waiting).await });
    let given_up = first.await.unwrap().unwrap().into_inner();
    assert_eq!(given_up.batch.unwrap().deliveries, []);
    broker.publish(publish("q", vec![message("m")])).await.unwrap();
    let got = again.await.unwrap().unwrap().into_inner().batch.unwrap().deliveries;
    assert_eq!(got.len(), 1);
    assert_eq!(broker.pull_as(pull("p1", "s", 1)).await.unwrap(), got);
}

impl Broker {
    async fn stats_or_none(&self, queue: &str) -> Option<QueueStats> {
        let request = GetQueueRequest { name: queue.to_owned() };
        let response = self.wire.admin().get_queue(request).await.ok()?.into_inner();
        response.queue?.stats
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_created_again_by_the_same_request_is_created() {
    let broker = Broker::start(&[]).await;
    let made = broker.create_as("q", "r1", 3).await.unwrap();
    assert_eq!(broker.create_as("q", "r1", 3).await.unwrap(), made);
    let broker = broker.kill_and_start().await;
    assert_eq!(broker.create_as("q", "r1", 3).await.unwrap(), made);
    for id in ["r2", ""] {
        assert_eq!(
            broker.create_as("q", id, 3).await.unwrap_err().is(),
            (AlreadyExists, "QUEUE_EXISTS")
        );
    }
    // The id is one of each queue; with the queue it is gone.
    broker.create_as("other", "r1", 3).await.unwrap();
    let delete = DeleteQueueRequest { name: "q".to_owned(), ..DeleteQueueRequest::default() };
    broker.wire.admin().delete_queue(delete).await.unwrap();
    assert_ne!(broker.create_as("q", "r1", 4).await.unwrap().etag, made.etag);
    let long = "x".repeat(65);
    let refused = broker.create_as("q", &long, 3).await.unwrap_err();
    assert_eq!(refused.metadata["field"], "request_id");
}
