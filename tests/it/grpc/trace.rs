//! What happened to one message, while it is there and when it is done.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use qbroker_proto::v1::consume_request::Kind as Consume;
use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::trace_message_request::Key;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::{InvalidArgument, NotFound};

use super::streams::consume;
use super::{Broker, Refusal, answer, message, publish, seconds, settlement};

const DAY: i64 = 24 * 60 * 60;

fn failure(text: &str) -> Option<Failure> {
    Some(Failure { r#type: "E".to_owned(), message: text.to_owned(), ..Failure::default() })
}

impl Broker {
    async fn trace(&self, queue: &str, id: &str) -> Result<TraceMessageResponse, Refusal> {
        let (key, queue) = (Some(Key::MessageId(id.to_owned())), queue.to_owned());
        answer(self.wire.admin().trace_message(TraceMessageRequest { key, queue }).await)
    }

    async fn keep_outcomes(
        &self,
        queue: &str,
        retention: prost_types::Duration,
    ) -> Result<(), Refusal> {
        let policy = QueuePolicy { outcome_retention: Some(retention), ..QueuePolicy::default() };
        let queue = Queue { name: queue.to_owned(), policy: Some(policy), ..Queue::default() };
        let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
        answer(self.wire.admin().create_queue(create).await).map(drop)
    }

    async fn take(&self, queue: &str, outcome: Outcome) {
        let token = self.pull(queue, 1).await.remove(0).lease_token;
        assert_eq!(self.settle(vec![settlement(&token, outcome)]).await.unwrap(), []);
    }

    /// How many outcomes are written.
    fn outcomes(&self) -> u64 {
        let mut stream = TcpStream::connect(self.server.http()).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with("qbroker_outcomes "));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("it is there")
    }
}

fn steps(trace: &TraceMessageResponse) -> Vec<(MessageEventKind, &str)> {
    trace.events.iter().map(|it| (it.kind(), it.queue.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_traced_through_its_life_and_beyond_it() {
    use MessageEventKind::{Acked, DeadLettered, Failed, Leased, Published};
    let broker = Broker::start(&[]).await;
    broker.keep_outcomes("q", seconds(DAY)).await.unwrap();
    broker.keep_outcomes("q.dead", seconds(DAY)).await.unwrap();
    let job = OutgoingMessage {
        message_id: "own".to_owned(),
        correlation_id: "order-7".to_owned(),
        ..message("job")
    };
    let stored = broker.publish(publish("q", vec![job])).await.unwrap();
    let id = format!("q.{}", stored[0].sequence);
    let trace = broker.trace("", &id).await.unwrap();
    assert_eq!(steps(&trace), [(Published, "q")]);
    assert_eq!(trace.message.as_ref().unwrap().state(), MessageState::Ready);

    let nack = Nack { failure: failure("no"), delay: Some(seconds(0)), ..Nack::default() };
    broker.take("q", Outcome::Nack(nack)).await;
    let token = broker.pull("q", 1).await.remove(0).lease_token;
    let trace = broker.trace("q", "own").await.unwrap();
    assert_eq!(steps(&trace), [(Published, "q"), (Leased, "q"), (Failed, "q"), (Leased, "q")]);
    assert_eq!(trace.message.unwrap().state(), MessageState::Leased);

    let letter = Outcome::DeadLetter(DeadLetter { failure: failure("never"), patch: None });
    broker.settle(vec![settlement(&token, letter)]).await.unwrap();
    let expected = [
        (Published, "q"),
        (Leased, "q"),
        (Failed, "q"),
        (Leased, "q"),
        (DeadLettered, "q"),
        (Leased, "q.dead"),
        (Acked, "q.dead"),
    ];
    let trace = broker.trace("", &id).await.unwrap();
    assert_eq!(steps(&trace), expected[..5]);
    assert_eq!(trace.message.unwrap().message.unwrap().queue, "q.dead");

    broker.take("q.dead", Outcome::Ack(Ack {})).await;
    let trace = broker.trace("", &id).await.unwrap();
    assert_eq!((steps(&trace), &trace.message), (expected.to_vec(), &None));
    let told = |event: &MessageEvent| Some(event.failure.as_ref()?.message.clone());
    let failures: Vec<_> = trace.events.iter().filter_map(told).collect();
    assert_eq!(failures, ["no", "never"]);
    assert!(trace.events.iter().all(|it| it.message_id == "own" && it.correlation_id == "order-7"));
    assert!(trace.events.iter().all(|it| it.time.is_some()), "{trace:?}");
    let written = async {
        while broker.outcomes() == 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the outcome to be written", written).await;
    assert_eq!(broker.trace("", &id).await.unwrap(), trace, "it is told as it was");
    assert_eq!(broker.trace("q", "own").await.unwrap(), trace, "also by its own name");

    let broker = broker.kill_and_start().await;
    assert_eq!(broker.trace("q.dead", &id).await.unwrap(), trace);
    assert_eq!(broker.outcomes(), 1);
    let elsewhere = broker.publish(publish("other", vec![message("x")])).await.unwrap();
    let refused = broker.trace("other", &id).await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "MESSAGE_NOT_FOUND"));
    // A queue that does not ask forgets at once.
    broker.take("other", Outcome::Ack(Ack {})).await;
    let id = format!("q.{}", elsewhere[0].sequence);
    let refused = broker.trace("", &id).await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "MESSAGE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_crashes_changes_and_moves_are_told_with_their_attempts() {
    use MessageEventKind::{
        Acked, DeadLettered, LeaseLost, Leased, Moved, Published, Released, Updated,
    };
    let broker = Broker::start(&[]).await;
    for queue in ["q", "q.dead"] {
        broker.keep_outcomes(queue, seconds(DAY)).await.unwrap();
    }
    let stored = broker.publish(publish("q", vec![message("job")])).await.unwrap();
    let id = format!("q.{}", stored[0].sequence);
    broker.take("q", Outcome::Release(Release::default())).await;

    let mut stream = broker.consuming(Some(Consume::Open(consume("q", "worker")))).await;
    let consumer_id = stream.opened().await.consumer_id;
    stream.deliveries().await;
    let disconnect =
        DisconnectConsumerRequest { consumer_id: consumer_id.clone(), end_session: true };
    broker.wire.admin().disconnect_consumer(disconnect).await.unwrap();

    let message_ids = vec![id.clone()];
    let update = UpdateMessagesRequest { message_ids, priority: Some(3), ..Default::default() };
    broker.wire.admin().update_messages(update).await.unwrap();
    // Without a failure nothing of it stays with the message.
    broker.take("q", Outcome::Nack(Nack { delay: Some(seconds(0)), ..Nack::default() })).await;
    broker.take("q", Outcome::DeadLetter(DeadLetter::default())).await;
    let source_queue = "q.dead".to_owned();
    let filter = Some(MessageFilter { all: true, terms: Vec::new() });
    let redrive = MoveMessagesRequest { source_queue, filter, ..Default::default() };
    broker.wire.admin().move_messages(redrive).await.unwrap();
    let back = async {
        while broker.stats("q").await.ready == 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the letter to go back", back).await;
    let delivered = broker.pull("q", 1).await.remove(0);

    let begun = [
        (Published, "q", 0),
        (Leased, "q", 1),
        (Released, "q", 1),
        (Leased, "q", 1),
        (LeaseLost, "q", 1),
        (Updated, "q", 0),
        (Leased, "q", 2),
        (MessageEventKind::Failed, "q", 2),
        (Leased, "q", 3),
        (DeadLettered, "q", 3),
        (Moved, "q.dead", 0),
        (Leased, "q", delivered.attempt),
    ];
    let told = |trace: &TraceMessageResponse| -> Vec<_> {
        trace.events.iter().map(|it| (it.kind(), it.queue.clone(), it.attempt)).collect()
    };
    let expected = |steps: &[(MessageEventKind, &str, i32)]| -> Vec<_> {
        steps.iter().map(|(kind, queue, attempt)| (*kind, (*queue).to_owned(), *attempt)).collect()
    };
    let trace = broker.trace("", &id).await.unwrap();
    assert_eq!(told(&trace), expected(&begun));
    assert_eq!(trace.events[3].consumer_id, consumer_id);
    assert_eq!(trace.events[10].destination_queue, "q");

    // The steps are remembered over a kill, and told in the outcome.
    let broker = broker.kill_and_start().await;
    let token = delivered.lease_token;
    assert_eq!(broker.settle(vec![settlement(&token, Outcome::Ack(Ack {}))]).await.unwrap(), []);
    let written = async {
        while broker.outcomes() == 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the outcome to be written", written).await;
    let ended = (Acked, "q", delivered.attempt);
    let trace = broker.trace("", &id).await.unwrap();
    assert_eq!(told(&trace), expected(&[&begun[..], &[ended]].concat()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_patched_is_traced_and_watched_by_its_names() {
    use MessageEventKind::{Acked, Leased, Published, Updated};
    let broker = Broker::start(&[]).await;
    broker.keep_outcomes("q", seconds(DAY)).await.unwrap();
    let job = OutgoingMessage { correlation_id: "order-7".to_owned(), ..message("job") };
    let stored = broker.publish(publish("q", vec![job])).await.unwrap();
    let id = format!("q.{}", stored[0].sequence);
    let patch = MessagePatch { payload: Some("other".into()), ..MessagePatch::default() };
    let nack = Nack { delay: Some(seconds(0)), patch: Some(patch), ..Nack::default() };
    broker.take("q", Outcome::Nack(nack)).await;
    broker.take("q", Outcome::Ack(Ack {})).await;
    let trace = broker.trace("", &id).await.unwrap();
    let expected = [
        (Published, "q"),
        (Leased, "q"),
        (Updated, "q"),
        (MessageEventKind::Failed, "q"),
        (Leased, "q"),
        (Acked, "q"),
    ];
    let mut steps = steps(&trace);
    // A patch and its nack are one step, in either order.
    steps[2..4].sort_by_key(|(kind, _)| *kind != Updated);
    assert_eq!(steps, expected);
    assert!(trace.events.iter().all(|it| it.correlation_id == "order-7"), "{trace:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_have_bounds_and_names_must_be_names() {
    let broker = Broker::start(&[]).await;
    for good in [seconds(0), seconds(1), seconds(365 * DAY)] {
        broker.keep_outcomes(&format!("q{}", good.seconds), good).await.unwrap();
    }
    let half = prost_types::Duration { seconds: 0, nanos: 500_000_000 };
    for bad in [seconds(-1), half, seconds(365 * DAY + 1)] {
        let refused = broker.keep_outcomes("bad", bad).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], "policy.outcome_retention");
    }
    for (id, field) in [("", "message_id"), ("own", "queue"), ("q.x", "message_id")] {
        let refused = broker.trace("", id).await.unwrap_err();
        assert_eq!(refused.metadata["field"], field, "{}", refused.message);
    }
    let nothing = TraceMessageRequest::default();
    let refused = answer(broker.wire.admin().trace_message(nothing).await).unwrap_err();
    assert_eq!(refused.metadata["field"], "key");
}
