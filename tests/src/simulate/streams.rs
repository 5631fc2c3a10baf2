//! Workers: they consume by streams, and come back for what they hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use qbroker::engine::{About, ConsumerEvent, Outbox};
use qbroker::queue::ids::{ConsumerId, LeaseToken};
use qbroker::queue::index::Index as _;
use qbroker::queue::{Delivery, OpenConsumer, Selector, Window};
use qbroker_storage::Lsn;

use super::audit;
use super::clients::{Pending, Told};
use super::model::{Connect, Grant, Sequence, State, Token};
use super::plan::{Attach, QUEUES, WORKERS};
use super::pulls::Answered;
use super::run::{Run, Stopped};

/// What a worker knows.
#[derive(Debug, Default)]
pub(super) struct Worker {
    stream: Option<(ConsumerId, Arc<Outbox<ConsumerEvent>>)>,
    /// The last stream that it was told of.
    known: Option<ConsumerId>,
    held: Vec<LeaseToken>,
}

/// What a worker is like: one extends its leases, one reports what it begins.
fn is_timed(worker: usize) -> bool {
    worker == 2
}

fn reports_started(worker: usize) -> bool {
    worker == 1
}

const LEASE_MS: u64 = 8_000;

/// What somebody was given.
enum Given {
    ToPull(Answered),
    ToStream(Grant),
}

impl Run {
    /// A worker opens a stream, in the place of the one before where it knows of one.
    pub(super) fn connect(&mut self, worker: usize, attach: &Attach) -> Result<(), Stopped> {
        let it = &self.workers[worker];
        if it.stream.as_ref().is_some_and(|(stream, _)| it.known != Some(*stream)) {
            // It was never told of the one that it leaves.
            self.disconnect(worker)?;
        }
        let it = &mut self.workers[worker];
        if attach.forgets {
            it.held.pop();
        }
        if attach.reset {
            it.held.clear();
        }
        let previous = it.known.filter(|_| !attach.reset);
        let (held, session) = (it.held.clone(), WORKERS[worker]);
        let bit = |bits: usize, at: usize| bits >> at & 1 == 1;
        let queues: BTreeMap<&'static str, i32> = (0..QUEUES.len())
            .filter(|at| bit(attach.queues, *at))
            .map(|at| (QUEUES[at], i32::from(bit(attach.worse, at))))
            .collect();
        // Who has queues of several ranks parts its room by weights, too.
        let weight = |rank: i32| if attach.worse == 0 { 1 } else { 3 - rank.unsigned_abs() };
        let selector = |(queue, rank): (&&'static str, &i32)| Selector {
            rank: *rank,
            weight: weight(*rank),
            ..Selector::plain(*queue)
        };
        let open = OpenConsumer {
            queues: queues.iter().map(selector).collect(),
            window: Window { messages: attach.window, bytes: 1 << 30 },
            lease_duration_ms: Some(LEASE_MS),
            session: session.to_owned(),
            session_grace_ms: attach.grace_ms,
            manual_extend: is_timed(worker),
            reports_started: reports_started(worker),
            extension_ms_max: 0,
            previous,
            held: held.clone(),
            reset_session: attach.reset,
        };
        let (lsn, opened) = self.world.engine.open_consumer(&open, About::default())?;
        let (opened, outbox) =
            opened.map_err(|refused| self.wrong(format!("{open:?} is refused: {refused}")))?;
        self.note(format!("connect {session} {attach:?}, before {previous:?}: {opened:?}"));
        let connect = Connect {
            session,
            grace_ms: attach.grace_ms,
            queues,
            window: usize::try_from(attach.window).expect("small"),
            reports_started: open.reports_started,
            reset: open.reset_session,
            previous: previous.map(|it| it.0),
            held: held.iter().map(|token| token.to_bytes()).collect(),
        };
        let lost: Vec<Token> = opened.lost.iter().map(|token| token.to_bytes()).collect();
        let now = self.world.time();
        let answer = (opened.consumer.0, opened.resumed, &lost[..]);
        self.done(|model| model.connect(&connect, answer, now))?;
        self.workers[worker].stream = Some((opened.consumer, outbox));
        self.later(lsn, Told::Connected(worker, opened.consumer, opened.lost))
    }

    pub(super) fn hear_connected(
        &mut self,
        worker: usize,
        stream: ConsumerId,
        lost: &[LeaseToken],
    ) {
        let worker = &mut self.workers[worker];
        if worker.stream.as_ref().is_some_and(|(it, _)| *it == stream) {
            worker.known = Some(stream);
            worker.held.retain(|token| !lost.contains(token));
        }
    }

    /// A worker's connection breaks.
    pub(super) fn disconnect(&mut self, worker: usize) -> Result<(), Stopped> {
        let Some((stream, _)) = self.workers[worker].stream.take() else { return Ok(()) };
        self.world.engine.disconnect(stream);
        self.note(format!("disconnect {}", WORKERS[worker]));
        let now = self.world.time();
        self.done(|model| {
            model.disconnect(stream.0, now);
            Ok(())
        })
    }

    /// A worker is done.
    pub(super) fn close(&mut self, worker: usize) -> Result<(), Stopped> {
        let Some((stream, _)) = self.workers[worker].stream.take() else { return Ok(()) };
        let lsn = self.world.engine.close_consumer(stream)?;
        self.note(format!("close {}", WORKERS[worker]));
        self.workers[worker].held.clear();
        let now = self.world.time();
        self.done(|model| {
            model.close(stream.0, now);
            Ok(())
        })?;
        self.later(lsn, Told::Answer)
    }

    /// A worker begins to work on what it holds.
    pub(super) fn begin(&mut self, worker: usize) -> Result<(), Stopped> {
        let it = &self.workers[worker];
        let Some((stream, _)) = &it.stream else { return Ok(()) };
        let (stream, tokens) = (*stream, it.held.clone());
        let turn = self.world.engine.turn(|core, _, out| core.report_started(stream, &tokens, out));
        let lsn = turn?.0;
        self.note(format!("begin {tokens:?}"));
        let tokens: Vec<Token> = tokens.iter().map(|token| token.to_bytes()).collect();
        self.done(|model| {
            model.begin(WORKERS[worker], &tokens);
            Ok(())
        })?;
        self.later(lsn, Told::Answer)
    }

    /// Notes what streams and waiting pulls were given in the turn that is just over, in its order.
    pub(super) fn note_grants(&mut self) -> Result<(), Stopped> {
        let lsn = self.world.engine.look(|_| ()).0;
        let answers = self.take_answers().into_iter();
        let mut given: BTreeMap<Lsn, Given> =
            answers.map(|(grant, answered)| (grant, Given::ToPull(answered))).collect();
        let grants = self.grants()?.into_iter();
        given.extend(grants.map(|(lsn, grant)| (lsn, Given::ToStream(grant))));
        for given in given.into_values() {
            match given {
                Given::ToPull(answered) => self.note_answer(lsn, answered)?,
                Given::ToStream(grant) => self.note_grant(lsn, &grant)?,
            }
        }
        self.check_nobody_waits()
    }

    /// What streams were given, by the records that say so.
    fn grants(&self) -> Result<BTreeMap<Lsn, Grant>, Stopped> {
        let model = self.timeline.now();
        let waits = model.messages.iter().filter(|(_, it)| !matches!(it.state, State::Leased(_)));
        let waits = waits.filter(|(_, it)| model.is_consumed(it.queue));
        let births: Vec<Sequence> = waits.map(|(sequence, _)| *sequence).collect();
        let of = |core: &qbroker::engine::Core| {
            let leased = births.iter().filter_map(|it| Some((*it, *core.lease(Lsn(*it))?)));
            let leased = leased.filter(|(_, lease)| lease.consumer != ConsumerId::NONE);
            leased
                .map(|(it, lease)| (it, lease, core.session_name(lease.session).to_owned()))
                .collect()
        };
        let leased: Vec<_> = self.world.engine.look(of).1;
        let mut grants = BTreeMap::<Lsn, Grant>::new();
        for (sequence, lease, session) in leased {
            let grant = grants.entry(lease.grant).or_insert(Grant {
                stream: lease.consumer.0,
                session: audit::known_session(&session).map_err(Stopped::Wrong)?,
                timed: lease.timed,
                unstarted: lease.unstarted,
                duration_ms: lease.duration_ms,
                messages: Vec::new(),
            });
            grant.messages.push((sequence, lease.token(Lsn(sequence)).to_bytes()));
        }
        Ok(grants)
    }

    fn note_grant(&mut self, lsn: Lsn, grant: &Grant) -> Result<(), Stopped> {
        self.note(format!("grant {grant:?}"));
        for (sequence, token) in &grant.messages {
            let model = self.timeline.now();
            let (message, limit) = (&model.messages[sequence], model.limit(*sequence, None));
            self.granted.insert(*token, (message.failures, message.crashes, limit));
        }
        self.done(|model| model.grant(grant))?;
        let moment = self.timeline.moment();
        self.pending.push_back(Pending { lsn, moment, what: Told::Answer });
        Ok(())
    }

    fn check_nobody_waits(&self) -> Result<(), Stopped> {
        let Err((sequence, wrong)) = self.timeline.now().check_nobody_waits() else {
            return Ok(());
        };
        let message =
            self.world.engine.look(|core| format!("{:?}", core.index().message(Lsn(sequence))));
        let streams = self.world.engine.connected(ConsumerId::NONE, 10, "").1;
        let streams: Vec<_> =
            streams.iter().map(|it| (it.id, it.queues.clone(), it.outstanding_messages)).collect();
        Err(self.wrong(format!("{wrong}: {}, {streams:?}", message.1)))
    }

    /// Workers take what their streams have for them by now.
    pub(super) fn hear_streams(&mut self) -> Result<(), Stopped> {
        for worker in 0..WORKERS.len() {
            let Some((_, outbox)) = &self.workers[worker].stream else { continue };
            let outbox = outbox.clone();
            while let Some(events) = outbox.next().now_or_never() {
                let Ok(events) = events else { return Err(Stopped::Log) };
                for event in events {
                    self.hear_event(worker, event)?;
                }
            }
        }
        Ok(())
    }

    fn hear_event(&mut self, worker: usize, event: ConsumerEvent) -> Result<(), Stopped> {
        match event {
            ConsumerEvent::Deliver(deliveries) => self.take_deliveries(worker, &deliveries),
            ConsumerEvent::LeasesLost(lost, why) => {
                for token in &lost {
                    if self.timeline.now().is_held(&token.to_bytes()) {
                        return Err(
                            self.wrong(format!("{token:?} is held, and told lost: {why:?}"))
                        );
                    }
                }
                self.workers[worker].held.retain(|token| !lost.contains(token));
                Ok(())
            }
            other => Err(self.wrong(format!("{} is told of {other:?}", WORKERS[worker]))),
        }
    }

    fn take_deliveries(&mut self, worker: usize, deliveries: &[Delivery]) -> Result<(), Stopped> {
        for delivery in deliveries {
            let token = delivery.token;
            if self.world.is_durable(token.grant) != Some(true) {
                return Err(self.wrong(format!("{token:?} is told before it is durable")));
            }
            let expected = self.granted.remove(&token.to_bytes());
            if expected != Some((delivery.failures, delivery.crashes, delivery.failures_max)) {
                return Err(self.wrong(format!("{delivery:?}, expected {expected:?}")));
            }
        }
        let messages = &self.timeline.now().messages;
        let number = |it: &Delivery| messages.get(&it.token.birth.0).map_or(0, |it| it.number);
        let numbers: Vec<_> = deliveries.iter().map(number).collect();
        self.check_payloads(deliveries, &numbers)?;
        self.let_go(deliveries);
        self.workers[worker].held.extend(deliveries.iter().map(|delivery| delivery.token));
        Ok(())
    }

    /// These are settled.
    pub(super) fn workers_settled(&mut self, tokens: &[LeaseToken]) {
        for worker in &mut self.workers {
            worker.held.retain(|token| !tokens.contains(token));
        }
    }

    /// The broker went down: streams are gone.
    pub(super) fn lose_workers(&mut self) {
        self.granted.clear();
        for worker in &mut self.workers {
            worker.stream = None;
        }
        self.waiting.clear();
        self.standing.clear();
    }
}
