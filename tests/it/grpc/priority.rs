//! The more urgent message comes first, on the wire as in the core.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::{Broker, message, publish, settlement};

fn urgent(payload: &str, priority: i32) -> OutgoingMessage {
    OutgoingMessage { priority, ..message(payload) }
}

fn told(message: Option<&Message>) -> (&[u8], i32) {
    let message = message.expect("a delivery has a message");
    (&message.payload, message.priority)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_comes_first_and_a_dead_letter_keeps_its_priority() {
    let broker = Broker::start(&[]).await;
    let messages = [("a", 0), ("b", 9), ("c", 5), ("d", 9), ("e", 5)];
    let messages = messages.map(|(payload, priority)| urgent(payload, priority)).to_vec();
    broker.publish(publish("q", messages)).await.unwrap();
    let list = ListMessagesRequest { queue: "q".to_owned(), ..Default::default() };
    let listed = broker.wire.admin().list_messages(list.clone()).await.unwrap().into_inner();
    let listed: Vec<_> = listed.messages.iter().map(|info| told(info.message.as_ref())).collect();
    let expected: [(&[u8], i32); 5] = [(b"b", 9), (b"d", 9), (b"c", 5), (b"e", 5), (b"a", 0)];
    assert_eq!(listed, expected);
    let pulled = broker.pull("q", 4).await;
    let delivered: Vec<_> = pulled.iter().map(|it| told(it.message.as_ref())).collect();
    assert_eq!(delivered, expected[..4]);

    let dead = || Outcome::DeadLetter(DeadLetter::default());
    let given_up = [&pulled[2], &pulled[0]];
    let given_up = given_up.map(|it| settlement(&it.lease_token, dead())).to_vec();
    assert_eq!(broker.settle(given_up).await.unwrap(), []);
    let letters = broker.pull("q.dead", 2).await;
    let letters: Vec<_> = letters.iter().map(|it| told(it.message.as_ref())).collect();
    assert_eq!(letters, [expected[0], expected[2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_beyond_the_queues_levels_is_refused_with_its_field() {
    let broker = Broker::start(&[]).await;
    let policy = QueuePolicy { priority_levels: Some(3), ..QueuePolicy::default() };
    let queue = Queue { name: "few".to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    for (queue, highest) in [("few", 2), ("any", 9)] {
        broker.publish(publish(queue, vec![urgent("most", highest)])).await.unwrap();
        for priority in [highest + 1, -1, i32::MAX] {
            let batch = vec![message("good"), urgent("bad", priority)];
            let refused = broker.publish(publish(queue, batch)).await.expect_err("it is refused");
            assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{priority}");
            assert_eq!(
                (&*refused.metadata["field"], &*refused.metadata["index"]),
                ("priority", "1")
            );
        }
        assert_eq!(broker.stats(queue).await.ready, 1, "nothing of a refused batch is stored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_hold_over_a_kill_with_most_of_the_queue_in_pages() {
    let broker = Broker::start(&[]).await;
    for round in 0..4 {
        let batch = (0..1_000).map(|n| urgent("", (n * 7 + round) % 10));
        broker.publish(publish("q", batch.collect())).await.unwrap();
    }
    let broker = broker.kill_and_start().await;
    let mut last = (9, 0);
    for _ in 0..8 {
        let pulled = broker.pull("q", 500).await;
        assert_eq!(pulled.len(), 500);
        for message in pulled.into_iter().filter_map(|delivery| delivery.message) {
            let (priority, sequence) = (message.priority, message.sequence);
            assert!(priority < last.0 || (priority == last.0 && last.1 < sequence), "{last:?}");
            last = (priority, sequence);
        }
    }
    assert!(broker.pull("q", 1).await.is_empty());
}
