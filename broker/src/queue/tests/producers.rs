//! A client that loses answers and connections stores every batch once, over restarts too.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use qbroker_storage::Lsn;

use super::random::cases;
use super::stage::Stage;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::record::Record;
use crate::queue::{
    BatchOutcome, Limits, NewMessage, OnStream, OpenProducer, Publish, Stop, StreamId,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends the next batch: one that is refused, or one whose answer is lost.
    Send { bad: bool, lost: bool },
    /// Sends a batch again that has no answer yet.
    SendAgain,
    /// The connection breaks; the client opens the producer again and sends the rest.
    Reopen,
    /// The broker is started anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let flag = || prop::bool::weighted(0.3);
    prop_oneof![
        6 => (flag(), flag()).prop_map(|(bad, lost)| Step::Send { bad, lost }),
        2 => Just(Step::SendAgain),
        2 => Just(Step::Reopen),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(cases()) })]

    #[test]
    fn a_batch_is_stored_once_whatever_is_lost(steps in prop::collection::vec(step(), 1..80)) {
        let mut client = Client::new();
        for step in steps {
            client.step(step);
        }
        client.reopen();
        client.check();
    }
}

/// A client, and the broker that it talks to.
struct Client {
    stage: Stage<MemoryIndex>,
    epoch: u64,
    stream: u64,
    /// Whether each batch is bad, from number 1 on.
    sent: Vec<bool>,
    /// Answers that arrived: whether the batch was stored, and where.
    answers: BTreeMap<u64, Option<Lsn>>,
    /// Messages in the log, by batch.
    stored: BTreeMap<u64, Vec<Lsn>>,
}

impl Client {
    fn new() -> Self {
        let (stage, _) = Stage::new(Limits::default());
        let mut client = Self {
            stage,
            epoch: 0,
            stream: 0,
            sent: Vec::new(),
            answers: BTreeMap::new(),
            stored: BTreeMap::new(),
        };
        client.open();
        client
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { bad, lost } => {
                self.sent.push(bad);
                let batch = self.sent.len() as u64;
                let outcome = self.send(batch);
                if !lost && self.confirmed_through() + 1 == batch {
                    self.learn(&outcome);
                }
            }
            Step::SendAgain => {
                let unanswered = self.confirmed_through() + 1;
                if unanswered <= self.sent.len() as u64 {
                    let outcome = self.send(unanswered);
                    self.learn(&outcome);
                }
            }
            Step::Reopen => self.reopen(),
            Step::Restart => {
                self.stage.restart();
                self.reopen();
            }
        }
    }

    /// Every batch up to this one has its answer.
    fn confirmed_through(&self) -> u64 {
        (1..).take_while(|batch| self.answers.contains_key(batch)).count() as u64
    }

    fn learn(&mut self, outcome: &BatchOutcome) {
        let stored = outcome.refused.is_none().then_some(outcome.first);
        let before = self.answers.insert(outcome.batch, stored);
        assert!(before.is_none_or(|before| before == stored), "two answers: {outcome:?}");
    }

    fn open(&mut self) -> u64 {
        self.stream += 1;
        let open = OpenProducer {
            name: "p".to_owned(),
            epoch: self.epoch,
            confirmed_through: self.confirmed_through(),
            stream: StreamId(self.stream),
        };
        let opened = self.stage.turn(|core, now, out| core.open_producer(&open, now, out));
        let opened = opened.answer.expect("the client does as it is told");
        let batches: Vec<_> = opened.missed.iter().map(|outcome| outcome.batch).collect();
        let unseen: Vec<_> = (open.confirmed_through + 1..=opened.through).collect();
        assert_eq!(batches, unseen, "every batch that the client does not know");
        opened.missed.iter().for_each(|outcome| self.learn(outcome));
        self.epoch = opened.epoch;
        opened.through
    }

    fn reopen(&mut self) {
        let through = self.open();
        for batch in through + 1..=self.sent.len() as u64 {
            let outcome = self.send(batch);
            self.learn(&outcome);
        }
    }

    fn send(&mut self, batch: u64) -> BatchOutcome {
        let bad = self.sent[usize::try_from(batch).unwrap() - 1];
        let message = NewMessage {
            queue: if bad { "not/allowed" } else { "mail" }.into(),
            ..NewMessage::default()
        };
        let publish = Publish { messages: vec![message; 2] };
        let on = OnStream {
            producer: self.epoch,
            stream: StreamId(self.stream),
            batch,
            confirmed_through: self.confirmed_through(),
        };
        let heard = self.stage.turn(|core, now, out| {
            core.publish_batch(&publish, on, now, out).inspect_err(|stop| {
                assert!(matches!(stop, Stop::Missing(_)), "batch {batch}: {stop:?}");
            })
        });
        let published = heard.logged.iter().filter(|(_, it, _)| matches!(it, Record::Published(_)));
        self.stored.entry(batch).or_default().extend(published.map(|(lsn, _, _)| *lsn));
        heard.answer.expect("a batch in turn has an outcome")
    }

    fn check(&self) {
        assert_eq!(self.confirmed_through(), self.sent.len() as u64);
        for (batch, bad) in (1..).zip(&self.sent) {
            let stored = &self.stored[&batch];
            assert_eq!(stored.len(), if *bad { 0 } else { 2 }, "batch {batch}");
            assert_eq!(self.answers[&batch], stored.first().copied(), "batch {batch}");
        }
    }
}
