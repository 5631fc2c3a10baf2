//! A message's own limit of attempts, and what is told of those that it had.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::{InvalidArgument, NotFound};

use super::{Broker, Refusal, answer, message, publish, seconds, settlement};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_goes_by_the_limit_that_it_names_and_a_delivery_tells_it() {
    let broker = Broker::start(&[]).await;
    let queue = |max_attempts| {
        let policy = QueuePolicy { max_attempts: Some(max_attempts), ..QueuePolicy::default() };
        Some(Queue { name: "q".to_owned(), policy: Some(policy), ..Queue::default() })
    };
    let create = CreateQueueRequest { queue: queue(3), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    let messages = vec![limited("own", 2), limited("for ever", -1), message("the queue's")];
    broker.publish(publish("q", messages)).await.unwrap();
    let pulled = broker.pull("q", 10).await;
    let told: Vec<_> = pulled.iter().map(|it| it.max_attempts).collect();
    assert_eq!(told, [Some(2), Some(-1), Some(3)]);

    let paths = vec!["policy.max_attempts".to_owned()];
    let update_mask = Some(prost_types::FieldMask { paths });
    let update = UpdateQueueRequest { queue: queue(1), update_mask, allow_missing: false };
    broker.wire.admin().update_queue(update).await.unwrap();
    let nack = |token, max_attempts| {
        let nack = Nack { delay: Some(seconds(0)), max_attempts, ..Nack::default() };
        settlement(token, Outcome::Nack(nack))
    };
    for bad in [0, -2, 1_000_001] {
        let refused = broker.settle(vec![nack(&pulled[2].lease_token, Some(bad))]).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{bad}");
        assert_eq!(refused.metadata["field"], "max_attempts");
    }
    let nacks = pulled.iter().map(|it| nack(&it.lease_token, Some(3))).collect();
    assert_eq!(broker.settle(nacks).await.unwrap(), []);
    // By what holds now it would have been a dead letter.
    let again = broker.pull("q", 10).await;
    let told: Vec<_> = again.iter().map(|it| (it.failures, it.max_attempts)).collect();
    assert_eq!(told, [(1, Some(2)), (1, Some(-1)), (1, Some(1))]);
    let nacks = again.iter().map(|it| nack(&it.lease_token, None)).collect();
    assert_eq!(broker.settle(nacks).await.unwrap(), []);
    let dead = broker.stats("q.dead").await.ready;
    assert_eq!((dead, broker.stats("q").await.ready), (2, 1));
}

fn failure(text: &str) -> Option<Failure> {
    Some(Failure { r#type: "E".to_owned(), message: text.to_owned(), details: "at 1".to_owned() })
}

impl Broker {
    async fn get(&self, queue: &str, id: &str) -> Result<MessageInfo, Refusal> {
        let (queue, message_id) = (queue.to_owned(), id.to_owned());
        let request = GetMessageRequest { queue, message_id, max_payload_bytes: None };
        answer(self.wire.admin().get_message(request).await).map(|it| it.message.unwrap())
    }

    /// Takes the only message there is, and settles it so.
    async fn work(&self, queue: &str, outcome: Outcome) {
        let pulled = self.pull(queue, 1).await.remove(0);
        let settled = self.settle(vec![settlement(&pulled.lease_token, outcome)]).await;
        assert_eq!(settled.unwrap(), []);
    }
}

/// Attempt and text of each failure that is told.
fn told(info: &MessageInfo) -> Vec<(i32, &str)> {
    let pair = |it: &AttemptInfo| it.attempt;
    let text = info.attempts.iter().map(|it| it.failure.as_ref().unwrap().message.as_str());
    info.attempts.iter().map(pair).zip(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_shown_with_what_its_attempts_told() {
    let broker = Broker::start(&[]).await;
    let own = OutgoingMessage { message_id: "own".to_owned(), ..limited(&"x".repeat(9_000), 13) };
    let stored = broker.publish(publish("q", vec![own])).await.unwrap();
    let id = format!("q.{}", stored[0].sequence);
    let fresh = broker.get("q", "own").await.unwrap();
    assert_eq!((fresh.state(), fresh.attempt, fresh.attempts.len()), (MessageState::Ready, 1, 0));
    assert_eq!(fresh.message.as_ref().unwrap().payload.len(), 9_000, "all of it");
    let nack = |text: &str| {
        let failure = if text.is_empty() { None } else { failure(text) };
        Outcome::Nack(Nack { delay: Some(seconds(0)), failure, ..Nack::default() })
    };
    for attempt in 1..=12 {
        // The second one tells nothing.
        let text = if attempt == 2 { String::new() } else { format!("no {attempt}") };
        broker.work("q", nack(&text)).await;
    }
    let failed = broker.get("", &id).await.unwrap();
    let texts: Vec<String> = (3..=12).map(|n| format!("no {n}")).collect();
    let expected: Vec<(i32, &str)> = (3..).zip(texts.iter().map(String::as_str)).collect();
    assert_eq!(told(&failed), expected, "the last ten, the oldest first");
    let last = failed.attempts.last().unwrap();
    assert_eq!((&last.failure, last.consumer_id.as_str()), (&failure("no 12"), ""));
    let published = failed.message.as_ref().unwrap().publish_time.unwrap();
    let (start, end) = (last.start_time.unwrap(), last.end_time.unwrap());
    let times = [published, start, end].map(|time| (time.seconds, time.nanos));
    assert!(times.is_sorted(), "{times:?}");
    let details = failed.attempts.iter().map(|it| it.failure.as_ref().unwrap().details.as_str());
    assert_eq!(details.filter(|it| !it.is_empty()).count(), 1, "the last one's alone");

    // The letter tells a failure too, and its own queue goes on from there.
    broker.work("q", nack("no 13")).await;
    broker.work("q.dead", nack("worse")).await;
    let held = broker.pull("q.dead", 1).await.remove(0);
    let dead = broker.get("q.dead", &id).await.unwrap();
    assert_eq!(told(&dead)[7..], [(12, "no 12"), (13, "no 13"), (1, "worse")]);
    assert_eq!((dead.state(), dead.attempt), (MessageState::Leased, 2));
    let message = dead.message.unwrap();
    assert_eq!((message.queue.as_str(), message.message_id.as_str()), ("q.dead", "own"));
    let ends = dead.lease_expire_time.expect("a pulled lease ends by time");
    assert!(published.seconds < ends.seconds);
    let broker = broker.kill_and_start().await;
    let again = broker.get("", &id).await.unwrap();
    assert_eq!(again.attempts, dead.attempts, "as the log has it");

    let refused = broker.get("q", &id).await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "MESSAGE_NOT_FOUND"));
    assert_eq!(refused.metadata["message_id"], id);
    let done = Outcome::Ack(Ack {});
    broker.settle(vec![settlement(&held.lease_token, done)]).await.unwrap();
    assert_eq!(broker.get("", &id).await.unwrap_err().reason, "MESSAGE_NOT_FOUND", "it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_many_failures_is_parted_and_each_carries_those_before() {
    const MESSAGES: usize = 300;
    // What is read of the failures before is within the bytes of a batch: a few messages in each part.
    let sizes = ["--max-batch-bytes", "64KiB", "--max-payload", "1KiB"];
    let broker = Broker::start(&[&sizes[..], &["--max-batch-messages", "1000"]].concat()).await;
    let job =
        |number: usize| OutgoingMessage { message_id: format!("m{number}"), ..message("job") };
    broker.publish(publish("q", (0..MESSAGES).map(job).collect())).await.unwrap();
    for attempt in 1..=3 {
        let pulled = broker.pull("q", 1_000).await;
        assert_eq!(pulled.len(), MESSAGES);
        let nack = |number: usize| {
            let failure = failure(&format!("{attempt} of {number}"));
            Outcome::Nack(Nack { delay: Some(seconds(0)), failure, ..Nack::default() })
        };
        let tokens = pulled.iter().map(|delivery| &delivery.lease_token);
        let nacks = tokens.enumerate().map(|(number, token)| settlement(token, nack(number)));
        // The first one twice, as far apart as can be.
        let mut nacks: Vec<_> = nacks.collect();
        nacks.push(settlement(&pulled[0].lease_token, nack(0)));
        let failures = broker.settle(nacks).await.unwrap();
        let told: Vec<_> = failures.iter().map(|it| &it.error.as_ref().unwrap().reason).collect();
        assert_eq!(told, ["DUPLICATE_IN_BATCH"]);
    }
    for number in [0, MESSAGES - 1] {
        let info = broker.get("q", &format!("m{number}")).await.unwrap();
        let texts: Vec<String> = (1..=3).map(|attempt| format!("{attempt} of {number}")).collect();
        let expected: Vec<(i32, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
        assert_eq!(told(&info), expected);
    }
}
