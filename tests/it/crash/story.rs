//! A small history of a broker on the simulated disk, written down as it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use qbroker::clock::{Clock, ManualClock};
use qbroker::engine::{self, About, ConsumerEvent, Core, Engine, Outbox, PullAnswer, Stopped};
use qbroker::queue::body::{StoredFailure, StoredMessage};
use qbroker::queue::ids::{ConsumerId, LeaseToken};
use qbroker::queue::index::paged::PagedIndex;
use qbroker::queue::index::{Index as _, Missing};
use qbroker::queue::record::Record;
use qbroker::queue::state::{StateChange, StoreValue};
use qbroker::queue::time::Now;
use qbroker::queue::{
    self, Delivery, Effects, Limits, NewDue, NewMessage, OnStream, OpenConsumer, OpenProducer,
    Outcome, Patch, Publish, Pull, Selector, Settle, Settlement, StreamId, Window, page_messages,
};
use qbroker_storage::disk::sim::SimDisk;
use qbroker_storage::{Body, Lsn, StoredRecord, Writer};

/// Why the history cannot go on: the power is off.
#[derive(Debug)]
pub(super) struct Off;

impl From<Stopped> for Off {
    fn from(_: Stopped) -> Self {
        Self
    }
}

impl From<qbroker_storage::WriteError> for Off {
    fn from(_: qbroker_storage::WriteError) -> Self {
        Self
    }
}

/// Something that a client was told, or was about to be.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// A message is stored, with this name as its payload, until a patch gives it another one.
    Stored { birth: Lsn, name: String },
    /// A batch of the producer is stored; its first message.
    Batch { batch: u64, first: Lsn },
    /// A message was leased.
    Leased(LeaseToken),
    /// A lease was settled, and how the call says so again.
    Settled { token: LeaseToken, call: Settle },
    /// A message was moved to this queue, where nobody takes it.
    Moved { birth: Lsn, to: &'static str },
    /// A message of a queue that keeps outcomes is done.
    Done(Lsn),
    /// Failures that a message has had.
    Failed { birth: Lsn, failures: u32 },
}

/// A broker whose history is written down as it goes.
pub(super) struct Story {
    pub(super) engine: Arc<Engine>,
    pub(super) writer: Writer,
    pub(super) clock: ManualClock,
    /// What anybody is told once the log is durable up to the LSN.
    pub(super) facts: Vec<(Lsn, Fact)>,
    /// The whole state after each turn, by the last LSN there was.
    pub(super) states: BTreeMap<Lsn, Vec<Bytes>>,
    /// What was committed at once: the first and the last of its records.
    pub(super) commits: Vec<(Lsn, Lsn)>,
    pub(super) producer: u64,
    batch: u64,
    /// What the producer last said to know the outcomes of.
    pub(super) claimed: u64,
    calls: u64,
}

const SESSION: &str = "worker";

pub(super) fn options(clock: &ManualClock) -> engine::Options {
    engine::Options {
        log: qbroker_storage::Options {
            segment_bytes: 16 << 10,
            spare_segments: 1,
            tail_cache_bytes: 1 << 10,
            frame_bytes_target: 4 << 10,
            disk_reserve_bytes: 0,
            ..qbroker_storage::Options::default()
        },
        limits: limits(),
        pending_bytes_max: 1 << 20,
        clock: Clock::Manual(clock.clone()),
    }
}

/// Nearly everything that waits goes into pages.
fn limits() -> Limits {
    Limits { messages_in_memory: 4, ..Limits::default() }
}

/// The whole state of a core, whatever of it is in pages; `read` reads a record.
pub(super) fn whole(core: &Core, read: impl Fn(Lsn) -> StoredRecord) -> Vec<Bytes> {
    let snapshot = core.snapshot().encode(std::iter::empty()).concat();
    let index = PagedIndex::new(limits().messages_in_memory);
    let mut whole = queue::Core::restore(index, limits(), &snapshot[..], |_| ()).unwrap();
    for page in core.index().frozen().pages() {
        let page = Missing(Lsn(page.lsn));
        whole.load(page, page_messages(&read(page.0).body).unwrap());
    }
    whole.forget_pages_back(Lsn(u64::MAX));
    whole.snapshot().encode(std::iter::empty())
}

pub(super) fn message(queue: &str, name: &str, due: Option<NewDue>) -> NewMessage {
    // Large enough that a few dozen fill a segment.
    let payload = Bytes::from(format!("{name} {}", "x".repeat(400)));
    let stored = StoredMessage { payload, ..StoredMessage::default() };
    NewMessage {
        queue: queue.into(),
        payload_bytes: stored.payload.len() as u64,
        due,
        body: stored.into_body(&mut bytes::BytesMut::new()),
        ..NewMessage::default()
    }
}

impl Story {
    pub(super) fn begin(disk: &SimDisk) -> Result<Self, Off> {
        let clock = ManualClock::default();
        clock.set(Now { wall_ms: 1_700_000_000_000, boot_ms: 1_000, begun: false });
        let opened = Engine::open_stepped(disk.shared(), options(&clock));
        let (engine, writer) = opened.map_err(|_| Off)?;
        let (facts, states) = (Vec::new(), BTreeMap::new());
        let mut story = Self {
            engine,
            writer,
            clock,
            facts,
            states,
            commits: Vec::new(),
            producer: 0,
            batch: 0,
            claimed: 0,
            calls: 0,
        };
        story.note_state();
        let name = "producer".to_owned();
        let open = OpenProducer { name, epoch: 0, confirmed_through: 0, stream: StreamId(1) };
        let (_, opened) =
            story.engine.turn(|core, now, out| core.open_producer(&open, now, out))?;
        story.producer = opened.unwrap().epoch;
        story.note_state();
        Ok(story)
    }

    pub(super) fn note_state(&mut self) {
        let read = |lsn| self.engine.log().read(&[lsn]).remove(0).expect("a page can be read");
        let (lsn, state) = self.engine.look(|core| whole(core, read));
        self.states.insert(lsn, state);
    }

    /// The last batch that the producer knows to be stored when the log is durable up to there.
    fn confirmed(&self, durable: Lsn) -> u64 {
        let told = self.facts.iter().rev().find_map(|(lsn, fact)| match fact {
            Fact::Batch { batch, .. } if *lsn <= durable => Some(*batch),
            _ => None,
        });
        told.unwrap_or_default()
    }

    /// Writes everything there is: whoever waits is told.
    pub(super) fn step(&mut self) -> Result<(), Off> {
        while self.writer.step()? {}
        Ok(())
    }

    /// Publishes the producer's next batch.
    pub(super) fn publish(
        &mut self,
        messages: Vec<(&str, String, Option<NewDue>)>,
    ) -> Result<(), Off> {
        self.batch += 1;
        self.claimed = self.confirmed(self.engine.log().durable_lsn());
        let on = OnStream {
            producer: self.producer,
            stream: StreamId(1),
            batch: self.batch,
            confirmed_through: self.claimed,
        };
        let new = messages.iter().map(|(queue, name, due)| message(queue, name, *due)).collect();
        let publish = Publish { messages: new };
        let (lsn, stored) =
            self.engine.turn(|core, now, out| core.publish_batch(&publish, on, now, out))?;
        let first = stored.unwrap().first;
        self.commits.push((first, Lsn(first.0 + messages.len() as u64 - 1)));
        for (position, (_, name, _)) in messages.into_iter().enumerate() {
            let birth = Lsn(first.0 + position as u64);
            self.facts.push((lsn, Fact::Stored { birth, name }));
        }
        self.facts.push((lsn, Fact::Batch { batch: self.batch, first }));
        self.note_state();
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        consumer: ConsumerId,
        settlements: Vec<(LeaseToken, Outcome)>,
    ) -> Result<(), Off> {
        self.calls += 1;
        let settlement = |(token, outcome)| Settlement::plain(token, outcome);
        let call = Settle {
            consumer,
            number: self.calls,
            answered_through: 0,
            settlements: settlements.into_iter().map(settlement).collect(),
        };
        let (lsn, refused) = self.engine.turn(|core, now, out| core.settle(&call, now, out))?;
        assert_eq!(refused.unwrap(), [], "every lease of the history holds");
        for Settlement { token, outcome, .. } in &call.settlements {
            self.facts.push((lsn, Fact::Settled { token: *token, call: call.clone() }));
            if matches!(outcome, Outcome::Nack { .. }) {
                let failures = 1 + self.failures(token.birth);
                self.facts.push((lsn, Fact::Failed { birth: token.birth, failures }));
            }
        }
        self.note_state();
        Ok(())
    }

    /// Settles one lease with a message for each queue, and perhaps another content of its own.
    pub(super) fn settle_with(
        &mut self,
        consumer: ConsumerId,
        (token, outcome): (LeaseToken, Outcome),
        then: Vec<(&str, String)>,
        patch: Option<String>,
    ) -> Result<(), Off> {
        self.calls += 1;
        let effects = Effects {
            patch: patch.as_ref().map(|name| self.patch(token.birth, name)),
            publish: then.iter().map(|(queue, name)| message(queue, name, None)).collect(),
            // It is part of the state that is compared, and goes with the delays.
            changes: vec![StateChange::Store(StoreValue {
                key: then[0].1.as_str().into(),
                value: Body::new(Bytes::new(), Bytes::from_static(b"stored")),
                ttl_ms: Some(3_000),
                if_absent: false,
            })],
        };
        let before = self.engine.look(|core| core.last_lsn()).1;
        let settlement = Settlement { token, outcome, effects: Some(Box::new(effects)) };
        let call = Settle {
            consumer,
            number: self.calls,
            answered_through: 0,
            settlements: vec![settlement],
        };
        let (lsn, refused) = self.engine.turn(|core, now, out| core.settle(&call, now, out))?;
        assert_eq!(refused.unwrap(), [], "the lease holds");
        let records = then.len() as u64 + u64::from(patch.is_some()) + 2;
        self.commits.push((before.next(), Lsn(before.0 + records)));
        // Behind the change of the state.
        for (position, (_, name)) in (2..).zip(then) {
            self.facts.push((lsn, Fact::Stored { birth: Lsn(before.0 + position), name }));
        }
        if let Some(name) = patch {
            self.facts.push((lsn, Fact::Stored { birth: token.birth, name }));
        }
        self.facts.push((lsn, Fact::Settled { token, call }));
        self.note_state();
        Ok(())
    }

    fn patch(&self, birth: Lsn, name: &str) -> Patch {
        let message = self.engine.look_up(|core| core.index().message(birth));
        let message = message.unwrap_or_else(|Stopped| panic!("the log runs")).1.unwrap();
        let record = self.engine.log().read(&[message.content(birth)]).remove(0).unwrap();
        let published = match Record::decode_head(&record.head).unwrap() {
            Record::Published(published) => published,
            Record::Patched(patched) => patched.published,
            other => panic!("{other:?} is no content"),
        };
        let new = self::message("", name, None);
        Patch { published, priority: None, payload_bytes: new.payload_bytes, body: new.body }
    }

    fn failures(&self, birth: Lsn) -> u32 {
        let last = self.facts.iter().rev().find_map(|(_, fact)| match fact {
            Fact::Failed { birth: of, failures } if *of == birth => Some(*failures),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// Opens a consumer; it is told only once that is durable.
    pub(super) fn consume(
        &mut self,
        previous: Option<ConsumerId>,
        held: Vec<LeaseToken>,
    ) -> Result<(ConsumerId, Arc<Outbox<ConsumerEvent>>), Off> {
        let open = OpenConsumer {
            queues: vec![Selector::plain("jobs")],
            window: Window { messages: 40, bytes: 1 << 20 },
            lease_duration_ms: None,
            session: SESSION.to_owned(),
            session_grace_ms: 15_000,
            manual_extend: false,
            reports_started: false,
            extension_ms_max: 0,
            previous,
            held,
            reset_session: false,
        };
        let engine = self.engine.clone();
        let (lsn, opened) = engine.open_consumer(&open, About::default())?;
        let (opened, outbox) = opened.unwrap();
        let early = outbox.next().now_or_never();
        assert!(early.is_none_or(|told| told.is_err()), "it is told before it is durable");
        self.note_state();
        self.step()?;
        engine.durable(lsn).now_or_never().expect("everything is durable")?;
        assert_eq!((opened.resumed, opened.lost), (previous.is_some(), Vec::new()));
        Ok((opened.consumer, outbox))
    }

    /// What the consumer is told by now: its new leases.
    pub(super) fn deliveries(
        &mut self,
        outbox: &Outbox<ConsumerEvent>,
    ) -> Result<Vec<LeaseToken>, Off> {
        self.step()?;
        let mut tokens = Vec::new();
        while let Some(events) = outbox.next().now_or_never() {
            for event in events? {
                if let ConsumerEvent::Deliver(deliveries) = event {
                    tokens.extend(deliveries.iter().map(|delivery: &Delivery| delivery.token));
                }
            }
        }
        let durable = self.engine.log().durable_lsn();
        self.facts.extend(tokens.iter().map(|token| (durable, Fact::Leased(*token))));
        Ok(tokens)
    }

    pub(super) fn pull(&mut self, max: u32) -> Result<Vec<LeaseToken>, Off> {
        let pull = Pull {
            queues: vec![Selector::plain("mails")],
            messages_max: max,
            lease_duration_ms: Some(60_000),
            session: String::new(),
            request_id: String::new(),
        };
        let (lsn, answer) = self.engine.pull(&pull)?;
        let Ok(PullAnswer::Now(deliveries)) = answer else { panic!("there are mails: {answer:?}") };
        self.note_state();
        let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token).collect();
        self.facts.extend(tokens.iter().map(|token| (lsn, Fact::Leased(*token))));
        Ok(tokens)
    }

    pub(super) fn checkpoint(&self) -> Result<(), Off> {
        self.engine.checkpoint()?;
        // What lives in sparse segments moves, and they go.
        while self.engine.log().compact()? {}
        Ok(())
    }
}

pub(super) fn failure() -> StoredFailure {
    let text = str::to_owned;
    StoredFailure { kind: text("E"), message: text("no"), ..StoredFailure::default() }
}

pub(super) fn nack(delay_ms: u64) -> Outcome {
    Outcome::Nack { delay_ms: Some(delay_ms), failure: failure(), chance: 0.0, max_attempts: None }
}

/// Everything a broker does in its life, on two queues with tiny segments.
pub(super) fn tell(story: &mut Story) -> Result<(), Off> {
    let job = |number: u32| ("jobs", format!("job-{number}"), None);
    story.keep_outcomes("mails")?;
    story.publish((0..3).map(job).collect())?;
    story.publish(vec![("mails", "mail-1".into(), None), ("jobs", "job-3".into(), None)])?;
    let (consumer, outbox) = story.consume(None, Vec::new())?;
    let held = story.deliveries(&outbox)?;
    assert_eq!(held.len(), 4);
    let letter = Outcome::DeadLetter { failure: failure() };
    story.settle(consumer, vec![(held[0], Outcome::Ack), (held[1], nack(0)), (held[2], letter)])?;
    story.publish(vec![("mails", "mail-2".into(), Some(NewDue::After(5_000)))])?;
    let again = story.deliveries(&outbox)?;
    assert_eq!(again.len(), 1, "the nacked one came again");
    // A job hands over to two others, and comes again itself as another one.
    let then = vec![("mails", "mail-3".to_owned()), ("jobs", "job-4".to_owned())];
    story.settle_with(consumer, (again[0], nack(0)), then, Some("job-1b".to_owned()))?;
    let mut again = story.deliveries(&outbox)?;
    assert_eq!(again.len(), 2);
    let then = vec![("jobs", "job-5".to_owned()), ("mails", "mail-4".to_owned())];
    story.settle_with(consumer, (again.remove(1), Outcome::Ack), then, None)?;
    again.extend(story.deliveries(&outbox)?);
    story.checkpoint()?;

    // Rounds that fill segments and leave one message of each behind.
    let mut number = 10;
    let mut left = vec![held[3]];
    for round in 0..7 {
        for _ in 0..3 {
            story.publish((number..number + 4).map(job).collect())?;
            number += 4;
            let tokens = story.deliveries(&outbox)?;
            let (kept, done) = tokens.split_at(tokens.len().min(usize::from(left.len() < 4)));
            left.extend(kept);
            if !done.is_empty() {
                story
                    .settle(consumer, done.iter().map(|token| (*token, Outcome::Ack)).collect())?;
            }
        }
        if round % 2 == 1 {
            story.checkpoint()?;
        }
    }
    story.writer.idle()?;

    // Delays end, a pull takes what came due, one mail fails and one is handed back.
    story.clock.advance(5_000);
    story.engine.tick()?;
    story.note_state();
    let mails = story.pull(4)?;
    assert_eq!(mails.len(), 4);
    let back = Outcome::Release { delay_ms: 1_000 };
    story.settle(ConsumerId::NONE, vec![(mails[0], nack(3_000)), (mails[1], back)])?;
    let done = mails[2..].iter().map(|token| (*token, Outcome::Ack));
    story.settle(ConsumerId::NONE, done.collect())?;
    story.done(&mails[2..]);
    story.step()?;

    // The worker's connection breaks; it comes back and names what it holds.
    story.engine.disconnect(consumer);
    let mut held: Vec<_> = left.into_iter().chain(again).collect();
    held.extend(story.deliveries(&outbox).unwrap_or_default());
    let (consumer, outbox) = story.consume(Some(consumer), held.clone())?;
    let more = story.deliveries(&outbox)?;
    story.settle(consumer, held.iter().map(|token| (*token, Outcome::Ack)).collect())?;
    story.checkpoint()?;
    story.write_outcomes()?;
    let rest = story.deliveries(&outbox)?;
    let all = more.into_iter().chain(rest);
    story.settle(consumer, all.map(|token| (token, Outcome::Ack)).collect())?;
    // What died goes elsewhere, a message at a step.
    story.publish((0..3).map(|n| ("jobs.dead", format!("stray-{n}"), None)).collect())?;
    story.move_all("jobs.dead", "attic")?;
    story.tick_schedule("attic")?;
    // Nothing lives in the segments of before: two checkpoints later they go, and come again.
    for round in 0..4 {
        let jobs = (number + round..number + round + 1).map(job);
        story.publish(jobs.collect())?;
        story.step()?;
        story.checkpoint()?;
    }
    story.step()
}
