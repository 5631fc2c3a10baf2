//! A message's failures while the log that had them goes.

use prost::Message as _;
use qbroker_proto::raw::SettleRequest;
use qbroker_proto::v1::{self, settlement};

use super::*;
use crate::grpc::messages;
use crate::grpc::settle::settle;
use crate::grpc::stage::Stage;
use crate::queue::ids::ConsumerId;

/// Bytes of what comes and goes between two failures: more than a segment in four messages.
const FILLER_BYTES: usize = 300 << 10;

impl Stage {
    /// Takes the only message there is, and settles it so.
    async fn fail(&mut self, queue: &str, outcome: settlement::Outcome) {
        let lease_token = self.context.seal.close(self.lease(queue)).to_vec().into();
        let settlement =
            v1::Settlement { lease_token, outcome: Some(outcome), effects: Vec::new() };
        let settlements = vec![settlement.encode_to_vec().into()];
        let request = SettleRequest { settlements, ..SettleRequest::default() };
        let settled = settle(&self.context, request, ConsumerId::NONE).await.unwrap();
        assert!(settled.failures.is_empty());
        self.write();
    }

    /// Fills a segment with what is done at once.
    fn fill(&mut self) {
        for _ in 0..4 {
            self.publish_bytes("filler", FILLER_BYTES);
            let token = self.lease("filler");
            self.settle(token, Outcome::Ack);
            self.write();
        }
    }

    fn message(&self, birth: Lsn) -> Message {
        let (_, message) = self.context.engine.look(|core| core.index().message(birth));
        message.unwrap().expect("it is there")
    }

    async fn is_gone(&self, record: Lsn) -> bool {
        let read = one(&self.context.engine, record).await.unwrap();
        matches!(read, Err(ReadError::NotFound(_)))
    }

    /// Attempt and text of each failure that is told of a message.
    async fn told(&self, birth: Lsn) -> Vec<(i32, String)> {
        let message_id = format!("q.{}", birth.0);
        let request = v1::GetMessageRequest { message_id, ..v1::GetMessageRequest::default() };
        let got = messages::get(&self.context, request).await.unwrap();
        let attempts = got.message.unwrap().attempts.into_iter();
        attempts.map(|it| (it.attempt, it.failure.unwrap().message)).collect()
    }

    /// Publishes a message and fails it twelve times, with segments of other things in between; its
    /// birth, and the records of its failures.
    async fn failed_twelve_times(&mut self) -> (Lsn, Vec<Lsn>) {
        self.publish("q");
        let (birth, _) = self.context.engine.look(|_| ());
        self.write();
        let mut failures = Vec::new();
        for attempt in 1..=12 {
            self.fill();
            self.fail("q", nack(&text(attempt))).await;
            failures.push(self.message(birth).last_failure);
            self.context.engine.checkpoint().unwrap();
        }
        self.fill();
        self.context.engine.checkpoint().unwrap();
        self.context.engine.checkpoint().unwrap();
        self.write();
        (birth, failures)
    }
}

fn failure(text: &str) -> Option<v1::Failure> {
    let (kind, message) = ("E".to_owned(), text.to_owned());
    Some(v1::Failure { r#type: kind, message, details: "at 1".to_owned() })
}

fn nack(text: &str) -> settlement::Outcome {
    let delay = Some(prost_types::Duration::default());
    settlement::Outcome::Nack(v1::Nack { delay, failure: failure(text), ..v1::Nack::default() })
}

fn text(attempt: i32) -> String {
    format!("no {attempt}")
}

fn texts(attempts: std::ops::RangeInclusive<i32>) -> Vec<(i32, String)> {
    attempts.map(|attempt| (attempt, text(attempt))).collect()
}

/// A queue whose messages may fail without end.
fn create(stage: &mut Stage) {
    let policy = crate::queue::policy::Policy { max_attempts: Some(-1), ..Default::default() };
    let update = crate::queue::UpdateQueue {
        name: "q".to_owned(),
        policy,
        expected: crate::queue::Expected::Absent,
        ..Default::default()
    };
    let engine = &stage.context.engine;
    let (_, made) = engine.turn(|core, now, out| core.update_queue(&update, now, out)).unwrap();
    made.unwrap();
    stage.write();
}

#[tokio::test]
async fn the_last_ten_failures_are_there_though_the_segments_of_nine_are_gone() {
    let mut stage = Stage::set();
    create(&mut stage);
    let (birth, failures) = stage.failed_twelve_times().await;
    for failure in &failures[..10] {
        assert!(stage.is_gone(*failure).await, "{failure} is needed no more");
    }
    assert_eq!(stage.told(birth).await, texts(3..=12));

    // Its dead-lettering carries them, and so does what it fails of there.
    let letter = v1::DeadLetter { failure: failure(&text(13)), patch: None };
    stage.fail("q", settlement::Outcome::DeadLetter(letter)).await;
    assert_eq!(stage.told(birth).await, texts(4..=13));
    stage.fill();
    stage.fail("q.dead", nack(&text(1))).await;
    let mut expected = texts(5..=13);
    expected.extend(texts(1..=1));
    assert_eq!(stage.told(birth).await, expected);
}

#[tokio::test]
async fn what_an_older_version_wrote_is_told_as_far_as_the_log_has_it() {
    let mut stage = Stage::set();
    create(&mut stage);
    stage.publish("q");
    let (birth, _) = stage.context.engine.look(|_| ());
    for attempt in 1..=3 {
        let token = stage.lease("q");
        let failure = StoredFailure { message: text(attempt), ..StoredFailure::default() };
        stage.settle(
            token,
            Outcome::Nack { delay_ms: Some(0), failure, chance: 0.0, max_attempts: None },
        );
        stage.write();
    }
    assert_eq!(stage.told(birth).await, texts(1..=3), "each names the one before");
    // From now on they are carried.
    stage.fail("q", nack(&text(4))).await;
    let last = stage.message(birth).last_failure;
    let record = one(&stage.context.engine, last).await.unwrap().unwrap();
    let carried = delivery::attempt(&record).unwrap().earlier;
    let carried: Vec<u32> = carried.iter().map(|it| it.attempt).collect();
    assert_eq!(carried, [1, 2, 3]);
    assert_eq!(stage.told(birth).await, texts(1..=4));
}

#[tokio::test]
async fn a_failure_does_not_wait_behind_what_is_published() {
    let mut stage = Stage::set();
    create(&mut stage);
    stage.publish("q");
    let (birth, _) = stage.context.engine.look(|_| ());
    stage.fail("q", nack(&text(1))).await;
    let everything = stage.context.engine.reserve(usize::MAX).await;
    stage.fail("q", nack(&text(2))).await;
    drop(everything);
    assert_eq!(stage.told(birth).await, texts(1..=2));
}
