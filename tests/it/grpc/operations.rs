//! Work on many messages: begun, counted, watched, ended, and gone on with after a kill.

use std::collections::BTreeSet;

use filter_term::Kind;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted};

use super::filter::{all_of, ids};
use super::streams::consume;
use super::{Broker, Refusal, ack, answer, message, publish, settlement};

fn all() -> Option<MessageFilter> {
    Some(MessageFilter { all: true, terms: Vec::new() })
}

fn moving(source: &str, to: &str) -> MoveMessagesRequest {
    let (source_queue, destination_queue) = (source.to_owned(), to.to_owned());
    MoveMessagesRequest { source_queue, destination_queue, filter: all(), ..Default::default() }
}

fn typed(payload: &str, message_type: &str) -> OutgoingMessage {
    OutgoingMessage { message_type: message_type.to_owned(), ..message(payload) }
}

impl Broker {
    async fn move_messages(&self, request: MoveMessagesRequest) -> Result<Operation, Refusal> {
        let begun = answer(self.wire.admin().move_messages(request).await);
        begun.map(|begun| begun.operation.expect("it is set"))
    }

    async fn delete_messages(&self, request: DeleteMessagesRequest) -> Result<Operation, Refusal> {
        let begun = answer(self.wire.admin().delete_messages(request).await);
        begun.map(|begun| begun.operation.expect("it is set"))
    }

    async fn operation(&self, operation_id: &str) -> Result<Operation, Refusal> {
        let request = GetOperationRequest { operation_id: operation_id.to_owned() };
        let found = answer(self.wire.admin().get_operation(request).await);
        found.map(|found| found.operation.expect("it is set"))
    }

    async fn cancel(&self, operation_id: &str) -> Result<Operation, Refusal> {
        let request = CancelOperationRequest { operation_id: operation_id.to_owned() };
        let ended = answer(self.wire.admin().cancel_operation(request).await);
        ended.map(|ended| ended.operation.expect("it is set"))
    }

    async fn ended(&self, begun: Result<Operation, Refusal>) -> Operation {
        let id = begun.unwrap().operation_id;
        let ends = async {
            loop {
                let operation = self.operation(&id).await.unwrap();
                if operation.state() != OperationState::Running {
                    return operation;
                }
                tokio::task::yield_now().await;
            }
        };
        patiently("the end of the operation", ends).await
    }

    async fn create(&self, name: &str, policy: QueuePolicy) {
        let queue = Some(Queue { name: name.to_owned(), policy: Some(policy), ..Queue::default() });
        let request = CreateQueueRequest { queue, ..CreateQueueRequest::default() };
        self.wire.admin().create_queue(request).await.unwrap();
    }

    async fn ready(&self, queue: &str) -> i64 {
        self.stats(queue).await.ready
    }

    /// Dead-letters everything that is ready in a queue.
    async fn let_die(&self, queue: &str) {
        for held in self.pull(queue, 1_000).await {
            let failure = Some(Failure { r#type: "E".to_owned(), ..Failure::default() });
            let dead = settlement::Outcome::DeadLetter(DeadLetter { failure, patch: None });
            assert_eq!(self.settle(vec![settlement(&held.lease_token, dead)]).await.unwrap(), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_means_is_counted_and_deleted_and_who_holds_it_is_told() {
    let broker = Broker::start(&[]).await;
    let of = |number: i32| if number % 3 == 0 { "old" } else { "new" };
    let batch = (0..900).map(|number| typed(&number.to_string(), of(number))).collect();
    broker.publish(publish("q", batch)).await.unwrap();
    let mut open = consume("q", "worker");
    open.flow = Some(FlowUpdate { max_outstanding_messages: 2, max_outstanding_bytes: 0 });
    let mut stream = broker.consuming(Some(consume_request::Kind::Open(open))).await;
    stream.opened().await;
    let held = stream.deliveries().await;
    let delete = |validate_only| DeleteMessagesRequest {
        queue: "q".to_owned(),
        filter: Some(all_of([Kind::MessageType("old".to_owned())])),
        validate_only,
        ..DeleteMessagesRequest::default()
    };
    let counted = broker.delete_messages(delete(true)).await.unwrap();
    assert_eq!((counted.matched, counted.operation_id.as_str()), (300, ""));
    assert_eq!((counted.state(), counted.done), (OperationState::Succeeded, 0));
    assert_eq!(broker.stats("q").await.ready + broker.stats("q").await.leased, 900);

    let ended = broker.ended(broker.delete_messages(delete(false)).await).await;
    assert_eq!((ended.state(), ended.kind()), (OperationState::Succeeded, OperationKind::Delete));
    assert_eq!((ended.matched, ended.done, ended.failed), (300, 300, 0));
    assert!(ended.end_time.is_some() && ended.error.is_none());
    assert_eq!(ended.filter, delete(false).filter);
    match stream.hear().await.unwrap().and_then(|answer| answer.kind) {
        Some(consume_response::Kind::LeasesLost(lost)) => {
            assert_eq!(lost.reason(), LeaseLostReason::MessageDeleted);
            assert_eq!(lost.lease_tokens, std::slice::from_ref(&held[0].lease_token));
        }
        other => panic!("nothing is told of it: {other:?}"),
    }
    let failures = broker.settle(vec![ack(&held[0].lease_token)]).await.unwrap();
    assert_eq!(failures[0].error.as_ref().unwrap().reason, "LEASE_LOST");
    let broker = broker.kill_and_start().await;
    let stats = broker.stats("q").await;
    assert_eq!(stats.ready + stats.leased, 600);
    let after = broker.operation(&ended.operation_id).await.unwrap();
    assert_eq!(after, ended, "it is known after a restart, too");
    assert_eq!(broker.delete_messages(delete(true)).await.unwrap().matched, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_to_where_they_died_as_they_were() {
    let broker = Broker::start(&[]).await;
    let letters =
        || QueuePolicy { dead_letter_queue: Some("graves".to_owned()), ..QueuePolicy::default() };
    for queue in ["a", "b", "gone"] {
        broker.create(queue, letters()).await;
        let own = OutgoingMessage { message_id: format!("own-{queue}"), ..message(queue) };
        broker.publish(publish(queue, vec![own])).await.unwrap();
        broker.let_die(queue).await;
    }
    let gone = DeleteQueueRequest { name: "gone".to_owned(), force: true, allow_missing: false };
    broker.wire.admin().delete_queue(gone).await.unwrap();
    broker.publish(publish("graves", vec![message("stray")])).await.unwrap();

    let counted = MoveMessagesRequest { validate_only: true, ..moving("graves", "") };
    assert_eq!(broker.move_messages(counted).await.unwrap().matched, 4);
    let ended = broker.ended(broker.move_messages(moving("graves", "")).await).await;
    assert_eq!((ended.state(), ended.done, ended.failed), (OperationState::Succeeded, 2, 2));
    let reasons: BTreeSet<_> = ended.failed_reasons.into_iter().collect();
    let expected = [("NOT_DEAD_LETTER", 1), ("QUEUE_NOT_FOUND", 1)];
    assert_eq!(reasons, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    assert!(ended.error.is_some(), "the first is told");
    assert_eq!(broker.ready("graves").await, 2, "they stay");
    assert_eq!(broker.stats("graves").await.moved_total, 2);

    let broker = broker.kill_and_start().await;
    for queue in ["a", "b"] {
        let back = broker.pull(queue, 9).await.remove(0);
        let message = back.message.unwrap();
        assert_eq!(
            (message.message_id.as_str(), &message.payload[..]),
            (&*format!("own-{queue}"), queue.as_bytes())
        );
        assert_eq!((back.attempt, message.dead_letter), (1, None));
        assert_eq!(back.last_failure.unwrap().r#type, "E", "what it died of is told");
        let name = GetMessageRequest {
            message_id: format!("q.{}", message.sequence),
            ..GetMessageRequest::default()
        };
        let found = broker.wire.admin().get_message(name).await.unwrap().into_inner();
        assert_eq!(found.message.unwrap().attempts.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_with_a_rate_goes_on_after_a_kill_and_nothing_is_lost_or_doubled() {
    let broker = Broker::start(&[]).await;
    let batch = (0..300).map(|number| message(&number.to_string())).collect();
    broker.publish(publish("from", batch)).await.unwrap();
    broker.create("to", QueuePolicy::default()).await;
    let slow = MoveMessagesRequest { max_rate: 200.0, ..moving("from", "to") };
    let id = broker.move_messages(slow).await.unwrap().operation_id;
    let some = async {
        while broker.operation(&id).await.unwrap().done < 50 {
            tokio::task::yield_now().await;
        }
    };
    patiently("some messages are moved", some).await;
    let broker = broker.kill_and_start().await;
    let after = broker.operation(&id).await.unwrap();
    assert!(50 <= after.done && after.done < 300, "it is underway: {after:?}");
    // Of one moment: it goes on.
    let both = broker.wire.admin().list_queues(ListQueuesRequest::default()).await.unwrap();
    let ready = both.into_inner().queues.into_iter().map(|queue| queue.stats.unwrap().ready);
    assert_eq!(ready.sum::<i64>(), 300);
    let ended = broker.ended(Ok(after)).await;
    assert_eq!((ended.done, ended.failed, ended.total), (300, 0, 300));
    let moved = broker.pull("to", 1_000).await;
    let payloads: Vec<_> =
        moved.iter().map(|it| it.message.as_ref().unwrap().payload.clone()).collect();
    let expected: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    assert_eq!(payloads, expected, "each once, in order");
    assert_eq!(broker.ready("from").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_new_queue_refuses_stays_where_it_was() {
    let broker = Broker::start(&[]).await;
    let small = QueuePolicy { max_payload_bytes: Some(4), ..QueuePolicy::default() };
    broker.create("small", small).await;
    let own =
        |id: &str, payload: &str| OutgoingMessage { message_id: id.to_owned(), ..message(payload) };
    broker.publish(publish("small", vec![own("x", "it")])).await.unwrap();
    let batch = vec![own("x", "same"), message("long one"), message("fits"), message("held")];
    let stored = broker.publish(publish("q", batch)).await.unwrap();
    let urgent = UpdateMessagesRequest {
        message_ids: vec![format!("q.{}", stored[3].sequence)],
        priority: Some(1),
        ..UpdateMessagesRequest::default()
    };
    broker.wire.admin().update_messages(urgent).await.unwrap();
    let held = broker.pull("q", 1).await.remove(0);
    let ended = broker.ended(broker.move_messages(moving("q", "small")).await).await;
    assert_eq!((ended.done, ended.failed, ended.matched), (1, 3, 4));
    let reasons: BTreeSet<_> = ended.failed_reasons.into_keys().collect();
    let expected = ["DUPLICATE_MESSAGE_ID", "MESSAGE_LEASED", "MESSAGE_TOO_LARGE"];
    assert_eq!(reasons, expected.map(str::to_owned).into());
    assert_eq!((broker.ready("q").await, broker.ready("small").await), (2, 2));
    assert_eq!(broker.settle(vec![ack(&held.lease_token)]).await.unwrap(), []);

    // A queue that takes nothing ends it, whatever it did.
    let pause = PauseQueueRequest { name: "small".to_owned(), pause_publishing: true };
    broker.wire.admin().pause_queue(pause).await.unwrap();
    let refused = broker.move_messages(moving("q", "small")).await.unwrap_err();
    assert_eq!(refused.is(), (FailedPrecondition, "QUEUE_PAUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_patched_is_found_and_moved_as_it_is_now() {
    let broker = Broker::start(&[]).await;
    broker.create("to", QueuePolicy::default()).await;
    broker.publish(publish("q", vec![message("old")])).await.unwrap();
    let token = broker.pull("q", 1).await.remove(0).lease_token;
    let patch = MessagePatch { payload: Some("new".into()), ..MessagePatch::default() };
    let nack = Nack { delay: Some(super::seconds(0)), patch: Some(patch), ..Nack::default() };
    let nack = settlement(&token, settlement::Outcome::Nack(nack));
    assert_eq!(broker.settle(vec![nack]).await.unwrap(), []);
    let broker = broker.kill_and_start().await;
    let holding = |text: &'static str| MoveMessagesRequest {
        filter: Some(all_of([Kind::PayloadContains(text.into())])),
        ..moving("q", "to")
    };
    assert_eq!(broker.ended(broker.move_messages(holding("old")).await).await.matched, 0);
    let ended = broker.ended(broker.move_messages(holding("new")).await).await;
    assert_eq!((ended.done, ended.failed), (1, 0));
    let moved = broker.pull("to", 1).await.remove(0);
    assert_eq!(&moved.message.unwrap().payload[..], b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_keys_and_full_queues_keep_moved_messages_out() {
    let broker = Broker::start(&[]).await;
    let small = QueuePolicy { max_messages: Some(2), ..QueuePolicy::default() };
    broker.create("small", small).await;
    let own =
        |key: &str| OutgoingMessage { unique_key: key.to_owned(), ..message(&format!("m{key}")) };
    broker.publish(publish("small", vec![own("x")])).await.unwrap();
    broker.publish(publish("q", vec![own("x"), own("y"), own("z")])).await.unwrap();
    let ended = broker.ended(broker.move_messages(moving("q", "small")).await).await;
    assert_eq!((ended.done, ended.failed), (1, 2));
    let reasons: BTreeSet<_> = ended.failed_reasons.into_keys().collect();
    assert_eq!(reasons, ["QUEUE_FULL", "UNIQUE_KEY_HELD"].map(str::to_owned).into());
    assert_eq!((broker.ready("q").await, broker.ready("small").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_means_nothing_is_refused() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    broker.create("to", QueuePolicy::default()).await;
    let to = || moving("q", "to");
    let bad = [
        (MoveMessagesRequest { filter: None, ..to() }, "filter"),
        (MoveMessagesRequest { filter: Some(MessageFilter::default()), ..to() }, "filter"),
        (MoveMessagesRequest { max_rate: -1.0, ..to() }, "max_rate"),
        (MoveMessagesRequest { max_rate: 0.0009, ..to() }, "max_rate"),
        (MoveMessagesRequest { max_rate: 1_000_001.0, ..to() }, "max_rate"),
        (MoveMessagesRequest { limit: -1, ..to() }, "limit"),
        (moving("q", "q"), "destination_queue"),
    ];
    for (request, field) in bad {
        for validate_only in [false, true] {
            let request = MoveMessagesRequest { validate_only, ..request.clone() };
            let refused = broker.move_messages(request).await.expect_err(field);
            assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
            assert_eq!(refused.metadata["field"], field, "{}", refused.message);
        }
    }
    for request in [moving("none", "to"), moving("q", "none")] {
        let refused = broker.move_messages(request).await.unwrap_err();
        assert_eq!(refused.is(), (NotFound, "QUEUE_NOT_FOUND"));
    }
    let unset = DeleteMessagesRequest { queue: "q".to_owned(), ..Default::default() };
    let refused = broker.delete_messages(unset).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
    let refused = broker.operation("o.1").await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "OPERATION_NOT_FOUND"));
    assert_eq!(refused.metadata["operation_id"], "o.1");
    assert_eq!(broker.operation("1").await.unwrap_err().is().1, "INVALID_ARGUMENT");
    assert_eq!(broker.cancel("o.1").await.unwrap_err().is().1, "OPERATION_NOT_FOUND");
    assert_eq!(broker.ready("q").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_twenty_at_once_and_each_can_be_ended() {
    let broker = Broker::start(&[]).await;
    let batch = (0..100).map(|_| message("m")).collect();
    broker.publish(publish("q", batch)).await.unwrap();
    let slow = || DeleteMessagesRequest {
        queue: "q".to_owned(),
        filter: all(),
        max_rate: 0.001,
        ..DeleteMessagesRequest::default()
    };
    let mut begun = Vec::new();
    for _ in 0..20 {
        begun.push(broker.delete_messages(slow()).await.unwrap().operation_id);
    }
    let refused = broker.delete_messages(slow()).await.unwrap_err();
    assert_eq!(refused.is(), (ResourceExhausted, "LIMIT_REACHED"));
    assert_eq!(refused.metadata["limit"], "max_operations");
    let mut listed = Vec::new();
    let mut request = ListOperationsRequest { page_size: 7, ..ListOperationsRequest::default() };
    loop {
        let page = broker.wire.admin().list_operations(request.clone()).await.unwrap().into_inner();
        listed.extend(page.operations.into_iter().map(|it| it.operation_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    begun.reverse();
    assert_eq!(listed, begun, "the latest first");
    let ended = broker.cancel(&begun[0]).await.unwrap();
    assert_eq!(ended.state(), OperationState::Canceled);
    assert_eq!(broker.cancel(&begun[0]).await.unwrap(), ended, "it stays as it ended");
    let few = DeleteMessagesRequest { limit: 1, max_rate: 0.0, ..slow() };
    let one =
        DeleteMessagesRequest { filter: Some(all_of([ids(&["q.1", "q.99999"])])), ..few.clone() };
    assert_eq!(broker.ended(broker.delete_messages(one).await).await.done, 0);
    assert_eq!(broker.ended(broker.delete_messages(few).await).await.done, 1);
}
