//! A message's own limit of attempts, and what is told of those that it had.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, message, publish, seconds, settlement};

fn limited(payload: &str, max_attempts: i32) -> OutgoingMessage {
    OutgoingMessage { max_attempts: Some(max_attempts), ..message(payload) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_fails_as_often_as_it_says_itself() {
    let broker = Broker::start(&[]).await;
    let policy = QueuePolicy { max_attempts: Some(2), ..QueuePolicy::default() };
    let queue = Queue { name: "q".to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    for bad in [0, -2, 1_000_001] {
        let refused = broker.publish(publish("q", vec![limited("x", bad)])).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{bad}");
        assert_eq!(refused.metadata["field"], "max_attempts");
    }
    let messages = [limited("once", 1), limited("thrice", 3), message("as the queue says")];
    let more = [limited("most", 1_000_000), limited("for ever", -1)];
    broker.publish(publish("q", messages.into_iter().chain(more).collect())).await.unwrap();
    let now = || Outcome::Nack(Nack { delay: Some(seconds(0)), ..Nack::default() });
    let mut given_up = Vec::new();
    for _ in 0..4 {
        let pulled = broker.pull("q", 10).await;
        let nacks = pulled.iter().map(|it| settlement(&it.lease_token, now())).collect();
        assert_eq!(broker.settle(nacks).await.unwrap(), []);
        for letter in broker.pull("q.dead", 10).await {
            let message = letter.message.unwrap();
            let info = message.dead_letter.unwrap();
            assert_eq!(info.reason(), DeadLetterReason::MaxAttempts);
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            given_up.push((payload, info.attempts, message.max_attempts));
        }
    }
    let expected = [("once", 1, Some(1)), ("as the queue says", 2, None), ("thrice", 3, Some(3))];
    assert_eq!(given_up, expected.map(|(payload, n, max)| (payload.to_owned(), n, max)));
    assert_eq!(broker.stats("q").await.ready, 2);
}
