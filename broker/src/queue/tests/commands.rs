//! The commands of scripts.

use qbroker_storage::Lsn;

use super::args::{Args, duration_ms, number};
use super::script::Script;
use super::show;
use super::stage::{STEPS_MAX, StageIndex, WALL_MS, deliveries_of};
use super::{effects, operations, queues, schedules, state, streams};
use crate::queue::body::{StoredAttempt, StoredFailure, StoredMessage, small_body};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::outcomes::{Finished, StoredOutcome};
use crate::queue::record::BatchRefused;
use crate::queue::{
    BatchOutcome, Effect, Extend, NewDue, NewMessage, OnStream, OpenProducer, Outcome, Publish,
    Receipt, Settle, Settlement, StreamId,
};

pub(super) fn run<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    match args.word() {
        "publish" => publish(script, args),
        "open-producer" => open_producer(script, args),
        "close-producer" => {
            let (epoch, stream) = (number(args.word()), StreamId(args.number("stream").unwrap()));
            script.stage.core.close_producer(epoch, stream);
        }
        "send" => send(script, args),
        "send-malformed" => send_malformed(script, args),
        "consume" => streams::consume(script, args),
        "window" => streams::window(script, args),
        "subscribe" => streams::subscribe(script, args),
        "drain" => streams::drain(script, args),
        "disconnect" => streams::disconnect(script, args),
        "close" => streams::close(script, args),
        "begin" => streams::begin(script, args),
        "kick" => streams::kick(script, args),
        "consumers" => streams::consumers(script),
        "pull" => streams::pull(script, args),
        "cancel" => streams::cancel(script, args),
        "undeliver" => streams::undeliver(script, args),
        "unreadable" => streams::unreadable(script, args),
        outcome @ ("ack" | "nack" | "release" | "dead") => settle_all(script, args, outcome),
        "settle" => settle_each(script, args),
        "extend" => extend(script, args),
        "change" => queues::change(script, args),
        "remove" => queues::remove(script, args),
        "create" => queues::create(script, args),
        "update" => queues::update(script, args),
        "delete" => queues::delete(script, args),
        "purge" => queues::purge(script, args),
        "move" => operations::move_messages(script, args),
        "erase" => operations::erase(script, args),
        "step" => operations::step(script, args),
        "cancel-operation" => operations::cancel(script, args),
        "operations" => operations::show_all(script),
        "pause" => queues::pause(script, args),
        "resume" => queues::resume(script, args),
        "show" => queues::show(script, args),
        "list" => queues::list(script, args),
        "write-outcomes" => write_outcomes(script),
        "outcome" => outcome_of_message(script, args),
        "tick" => tick(script),
        "deadlines" => deadlines(script),
        "restart" => restart(script),
        "reboot" => {
            script.stage.boot += 1;
            restart(script);
        }
        "wall" => jump(script, args.word()),
        "disk" => {
            let full = args.word() == "full";
            script.stage.core.set_disk_full(full);
        }
        "put" => state::put(script, args),
        "forget" => state::forget(script, args),
        "look" => state::look(script, args),
        "watch" => state::watch(script, args),
        "leave" => state::leave(script, args),
        "add" => state::add(script, args),
        "acquire" => state::acquire(script, args),
        "give-back" => state::give_back(script, args),
        "barrier" => state::barrier(script, args),
        "arrive" => state::arrive(script, args),
        "schedule" => schedules::put(script, args),
        "pause-schedule" => schedules::pause(script, args, true),
        "resume-schedule" => schedules::pause(script, args, false),
        "delete-schedule" => schedules::delete(script, args),
        "trigger" => schedules::trigger(script, args),
        "schedules" => schedules::show_all(script),
        "freeze" => script.stage.core.freeze(),
        "hold" => script.stage.hold = true,
        "let-go" => {
            let tokens: Vec<_> = args.rest().iter().map(|text| token(script, text)).collect();
            script.stage.let_go(tokens);
        }
        command => panic!("{command} is no command"),
    }
}

fn publish<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let publish = messages(args);
    let outcome = script.stage.turn(|core, now, out| core.publish(&publish, now, out));
    script
        .tell(outcome, |receipts| vec![receipts.iter().map(receipt).collect::<Vec<_>>().join(" ")]);
}

fn receipt(receipt: &Receipt) -> String {
    let what = if receipt.duplicate { "known" } else { "stored" };
    format!("{what} {}", receipt.birth)
}

/// `queue a b:id=x c:after=5s d:at=1h e:size=100 f:to=other g:priority=5 h:ttl=1m i:attempts=1 j:unique=x k:key=x l:tenant=x`
fn messages(args: &mut Args<'_>) -> Publish {
    let queue = args.word();
    Publish { messages: args.rest().into_iter().map(|text| message(queue, text)).collect() }
}

pub(super) fn message(queue: &str, text: &str) -> NewMessage {
    let mut parts = text.split(':');
    let mut payload = parts.next().unwrap().as_bytes().to_vec();
    let mut message = NewMessage { queue: queue.into(), ..NewMessage::default() };
    for part in parts {
        match part.split_once('=').unwrap() {
            ("id", id) => {
                message.message_id = id.to_owned();
                message.id_hash = Some(hash_of(id));
            }
            ("after", delay) => message.due = Some(NewDue::After(duration_ms(delay))),
            ("at", time) => message.due = Some(NewDue::At(WALL_MS + duration_ms(time))),
            ("attempts", attempts) => message.max_attempts = Some(number(attempts)),
            ("ttl", ttl) => message.ttl_ms = Some(duration_ms(ttl)),
            ("key", key) => message.ordering_hash = Some(key_hash(key)),
            ("tenant", key) => message.fairness_hash = Some(key_hash(key)),
            ("unique", key) => message.unique_hash = Some(key_hash(key)),
            ("priority", priority) => message.priority = number(priority),
            // The body adds the tag and the length.
            ("size", size) => payload.resize(number::<usize>(size) - 2, b'.'),
            ("to", other) => message.queue = other.into(),
            (key, _) => panic!("{key} is nothing that a message has"),
        }
    }
    message.payload_bytes = payload.len() as u64;
    let stored = StoredMessage {
        message_id: message.message_id.clone(),
        payload: payload.into(),
        ..StoredMessage::default()
    };
    message.body = stored.into_body(&mut bytes::BytesMut::new());
    message
}

pub(super) fn key_hash(key: &str) -> u64 {
    u64::try_from(hash_of(key) % (1 << 64)).expect("half of it")
}

/// Any hash will do where nobody is against us (FNV-1a).
pub(super) fn hash_of(id: &str) -> u128 {
    let mix = |hash: u128, byte| (hash ^ u128::from(byte)).wrapping_mul(1_099_511_628_211);
    id.bytes().fold(14_695_981_039_346_656_037, mix)
}

fn open_producer<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let open = OpenProducer {
        name: args.word().to_owned(),
        epoch: args.number("epoch").unwrap_or(0),
        confirmed_through: args.number("confirmed").unwrap_or(0),
        stream: StreamId(args.number("stream").unwrap()),
    };
    let outcome = script.stage.turn(|core, now, out| core.open_producer(&open, now, out));
    script.tell(outcome, |opened| {
        let first = format!("producer {} through {}", opened.epoch, opened.through);
        std::iter::once(first).chain(opened.missed.iter().map(batch)).collect()
    });
}

fn batch(outcome: &BatchOutcome) -> String {
    match &outcome.refused {
        Some(it) => format!("batch {} refused {} at {}", outcome.batch, it.reason, it.index),
        None => {
            format!(
                "batch {} from {}, known {:?}",
                outcome.batch, outcome.first, outcome.duplicates
            )
        }
    }
}

fn send<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let on = on_stream(args);
    let publish = messages(args);
    let outcome = script.stage.turn(|core, now, out| core.publish_batch(&publish, on, now, out));
    script.tell(outcome, |outcome| vec![batch(&outcome)]);
}

/// A batch that was refused before the core saw its messages.
fn send_malformed<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let on = on_stream(args);
    let refused = BatchRefused {
        producer: on.producer,
        batch: on.batch,
        reason: "INVALID_ARGUMENT".to_owned(),
        ..BatchRefused::default()
    };
    let outcome = script.stage.turn(|core, _, _| core.refuse_batch(on, refused.clone()));
    script.tell(outcome, |outcome| vec![batch(&outcome)]);
}

fn on_stream(args: &mut Args<'_>) -> OnStream {
    OnStream {
        producer: number(args.word()),
        stream: StreamId(args.number("stream").unwrap()),
        batch: args.number("batch").unwrap(),
        confirmed_through: args.number("confirmed").unwrap_or(0),
    }
}

/// A lease: `a` for the last one of message `a`, `a@1` for the first, `nobody` for none at all.
pub(super) fn token<I>(script: &Script<I>, text: &str) -> LeaseToken {
    if text == "nobody" {
        return LeaseToken { birth: Lsn(9_999), grant: Lsn(9_998), epoch: 1 };
    }
    let (name, number_of) = text.split_once('@').unwrap_or((text, ""));
    let birth = script.names.get(name).unwrap_or_else(|| panic!("{name} was never published"));
    let leases = script.stage.tokens.get(birth).map_or(&[][..], Vec::as_slice);
    let lease = match number_of {
        "" => leases.last(),
        first => leases.get(number::<usize>(first) - 1),
    };
    *lease.unwrap_or_else(|| panic!("{text} was never leased"))
}

/// `ack a b`, `nack a delay=5s error=boom`, all on `on=c.1.1/call/answered`.
fn settle_all<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>, outcome: &str) {
    let outcome = outcome_of(outcome, args);
    let with = effects::With::of(args);
    let settlement = |text: &str| {
        let token = token(script, text);
        let effects = with.effects(script, token).map(Box::new);
        Settlement { effects, ..Settlement::plain(token, outcome.clone()) }
    };
    let settlements = args.rest().into_iter().map(settlement).collect();
    let settle = Settle { settlements, ..call_of(args) };
    settle_now(script, &settle);
}

/// `settle ack:a nack:b release:c dead:d`, each without more.
fn settle_each<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let mut settlements = Vec::new();
    for text in args.rest() {
        let (outcome, of) = text.split_once(':').unwrap();
        let outcome = outcome_of(outcome, &mut Args::new(""));
        settlements.push(Settlement::plain(token(script, of), outcome));
    }
    let settle = Settle { settlements, ..call_of(args) };
    settle_now(script, &settle);
}

fn settle_now<I: StageIndex>(script: &mut Script<I>, settle: &Settle) {
    let outcome = script.stage.turn(|core, now, out| core.settle(settle, now, out));
    script.tell(outcome, |failures| {
        let failed =
            |(token, why): &(_, _)| format!("{} {}", show::token(*token), show::refused(why));
        failures.iter().map(failed).collect()
    });
}

fn call_of(args: &mut Args<'_>) -> Settle {
    let Some(on) = args.key("on") else { return Settle::default() };
    let mut parts = on.split('/');
    Settle {
        consumer: ConsumerId::parse(parts.next().unwrap()).unwrap(),
        number: parts.next().map_or(1, number),
        answered_through: parts.next().map_or(0, number),
        settlements: Vec::new(),
    }
}

fn outcome_of(name: &str, args: &mut Args<'_>) -> Outcome {
    let delay_ms = args.time("delay");
    let message = match args.number::<usize>("error-bytes") {
        Some(bytes) => "e".repeat(bytes),
        None => args.key("error").unwrap_or_default().to_owned(),
    };
    let earlier = vec![StoredAttempt::default(); args.number("earlier").unwrap_or_default()];
    let failure = StoredFailure { message, earlier, ..StoredFailure::default() };
    match name {
        "ack" => Outcome::Ack,
        "nack" => {
            let chance = args.number("chance").unwrap_or(0.0);
            Outcome::Nack { delay_ms, failure, chance, max_attempts: args.number("attempts") }
        }
        "release" => Outcome::Release { delay_ms: delay_ms.unwrap_or(0) },
        "dead" => Outcome::DeadLetter { failure },
        name => panic!("{name} settles nothing"),
    }
}

fn extend<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let extend = Extend {
        tokens: args.rest().into_iter().map(|text| token(script, text)).collect(),
        session: args.key("session").map(str::to_owned),
        duration_ms: args.time("for"),
    };
    let outcome = script.stage.turn(|core, now, out| core.extend(&extend, now, out));
    script.tell(outcome, |failures| {
        let failed =
            |(token, why): &(_, _)| format!("{} {}", show::token(*token), show::refused(why));
        failures.iter().map(failed).collect()
    });
}

/// Writes all outcomes that there are to be written.
fn write_outcomes<I: StageIndex>(script: &mut Script<I>) {
    let finished = script.stage.core.unwritten_outcomes(usize::MAX);
    let told = |what: &str, lsn: Lsn| match lsn {
        Lsn(0) => String::new(),
        lsn => format!(", {what} {lsn}"),
    };
    let line = |it: &Finished| {
        let content = if it.content == it.birth { Lsn(0) } else { it.content };
        let before = [("held by", it.grant), ("after", it.step), ("patched by", content)];
        let before = before.map(|(what, lsn)| told(what, lsn)).concat();
        format!("{} by {}{before}", it.birth, it.end)
    };
    script.said.extend(finished.iter().map(|finished| format!("= {}", line(finished))));
    let outcome = |it: &Finished| (it.birth, small_body(&StoredOutcome::default()));
    let outcomes: Vec<_> = finished.iter().map(outcome).collect();
    let written = script.stage.turn(|core, now, out| core.write_outcomes(&outcomes, now, out));
    script.tell(written, |()| Vec::new());
}

/// Where the outcome of a message is.
fn outcome_of_message<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let birth = script.names[args.word()];
    let core = &script.stage.core;
    let is_unwritten = core.unwritten_outcome(birth).is_some();
    let record = core.outcomes().find(birth);
    let (kept, given_up) = core.outcome_counts();
    let record = record.map_or_else(|| "none".to_owned(), |record| record.to_string());
    script.said.push(format!(
        "= {birth}: unwritten {is_unwritten}, record {record}; {kept} kept, {given_up} given up"
    ));
}

/// What is due by now, in as many steps as it takes.
fn tick<I: StageIndex>(script: &mut Script<I>) {
    for _ in 0..STEPS_MAX {
        let outcome = script.stage.turn(|core, now, out| core.tick(now, out));
        script.tell(outcome, |()| Vec::new());
        if !script.stage.core.deadlines().is_over(script.stage.now) {
            return;
        }
    }
    panic!("{:?} stay over at {:?}", script.stage.core.deadlines(), script.stage.now);
}

fn deadlines<I: StageIndex>(script: &mut Script<I>) {
    let deadlines = script.stage.core.deadlines();
    let now = script.stage.now;
    let left = |at: Option<u64>, now: u64| {
        at.map_or_else(|| "none".to_owned(), |at| show::time(at.saturating_sub(now)))
    };
    let (boot, wall) = (left(deadlines.boot_ms, now.boot_ms), left(deadlines.wall_ms, now.wall_ms));
    script.said.push(format!("= in {boot}, by the wall clock in {wall}"));
}

fn restart<I: StageIndex>(script: &mut Script<I>) {
    let started = script.stage.restart();
    assert!(started.effects.iter().all(|effect| deliveries_of(effect).is_empty()));
    assert!(!started.effects.iter().any(|effect| matches!(effect, Effect::Replaced { .. })));
    script.tell(started, |()| Vec::new());
}

/// `+1h`, `-1h`
fn jump<I: StageIndex>(script: &mut Script<I>, by: &str) {
    let (sign, time) = by.split_at(1);
    let ms = i64::try_from(duration_ms(time)).unwrap();
    script.wall_jump_ms += if sign == "-" { -ms } else { ms };
}
