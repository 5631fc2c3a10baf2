//! What happened to one message, while it is there and when it is done.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::trace_message_request::Key;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::{InvalidArgument, NotFound};

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
