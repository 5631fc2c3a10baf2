//! Everything that a broker can be asked about its queues, compared with what the model says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};
use qbroker::engine::{Core, Engine};
use qbroker::queue::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use qbroker::queue::filter::failure_of;
use qbroker::queue::ids::{QueueId, SessionId};
use qbroker::queue::index::{self, Counts, Index as _, StateSet};
use qbroker::queue::record::{DeadLetterReason, Record};
use qbroker::queue::time::Now;
use qbroker_storage::{Lsn, StoredRecord};

use super::holding;
use super::keeping;
use super::model::{
    Due, Lease, Letter, Message, Model, Policy, SeenSchedule, SeenState, Sequence, State, Time,
    Why, Wrong,
};
use super::plan::{BARRIERS, GRAVES, KEYS, QUEUES, SCHEDULES, WORKERS};
use super::policies;
use super::schedules;

/// What there is.
#[derive(Debug)]
pub(super) struct Seen {
    /// Paused, and for publishes too; with their policies, and whether dead letters come there.
    queues: BTreeMap<&'static str, (bool, bool, Policy, bool)>,
    messages: BTreeMap<Sequence, Message>,
    /// Of each queue, those that wait for each other alone.
    ready: BTreeMap<&'static str, Vec<Vec<Sequence>>>,
    kept: SeenState,
    schedules: BTreeMap<u64, SeenSchedule>,
    /// Operations, with what they have done and whether they go on.
    works: BTreeMap<u64, (u64, bool)>,
    at: Time,
}

impl Seen {
    pub(super) fn has(&self, sequence: Sequence) -> bool {
        self.messages.contains_key(&sequence)
    }
}

/// The payload of the message of this number.
pub(super) fn payload(number: u64, bytes: usize) -> Bytes {
    let mut payload = format!("m-{number} ").into_bytes();
    payload.extend((0..bytes).map(|at| b'a' + u8::try_from(at % 23).expect("below 23")));
    payload.into()
}

/// All that is told of the message of this number and id, in which filters look.
pub(super) fn content(number: u64, bytes: usize, id: Option<u64>) -> StoredMessage {
    StoredMessage {
        message_id: id.map_or_else(String::new, |id| format!("id-{id}")),
        headers: BTreeMap::from([("of".to_owned(), header(number % 2))]),
        message_type: message_type(number % 3),
        correlation_id: correlation(number % 4),
        payload: payload(number, bytes),
        ..StoredMessage::default()
    }
}

pub(super) fn header(of: u64) -> String {
    format!("h-{of}")
}

pub(super) fn message_type(of: u64) -> String {
    format!("t-{of}")
}

pub(super) fn correlation(of: u64) -> String {
    format!("c-{of}")
}

pub(super) fn failure_type(of: u64) -> String {
    format!("E{of}")
}

/// The number of a payload that is whole.
pub(super) fn number(payload: &[u8]) -> Option<u64> {
    let end = payload.iter().position(|byte| *byte == b' ')?;
    let number = std::str::from_utf8(payload[..end].strip_prefix(b"m-")?).ok()?.parse().ok()?;
    let whole = super::audit::payload(number, payload.len() - end - 1);
    (whole == payload).then_some(number)
}

/// The failure of this number.
pub(super) fn failure(number: u64) -> StoredFailure {
    let text = str::to_owned;
    let (kind, message) = (failure_type(number % 2), format!("f-{number}"));
    let details = text("at line 7");
    StoredFailure { kind, message, details, earlier: Vec::new() }
}

/// The names that are used, so that they need not be made anew for each message.
pub(super) fn known(name: &str) -> Result<&'static str, Wrong> {
    let dead = QUEUES.iter().filter_map(|name| super::model::dead_letter_queue(name));
    let mut all = QUEUES.into_iter().chain(dead).chain([GRAVES]);
    all.find(|known| *known == name).ok_or_else(|| format!("nobody made the queue {name}"))
}

pub(super) fn known_session(name: &str) -> Result<&'static str, Wrong> {
    let known = WORKERS.into_iter().find(|known| *known == name);
    known.ok_or_else(|| format!("nobody opened the session {name}"))
}

/// Asks for everything.
pub(super) fn observe(engine: &Engine) -> Result<Seen, Wrong> {
    let now = engine.clock().now();
    let works = |core: &Core| {
        let works = core.operations();
        works.map(|(id, it)| (id.0, (it.progress.done, it.is_running()))).collect()
    };
    let mut seen = Seen {
        queues: BTreeMap::new(),
        messages: BTreeMap::new(),
        ready: BTreeMap::new(),
        kept: kept(engine, now)?,
        schedules: schedules(engine),
        works: engine.look(works).1,
        at: Time { wall_ms: now.wall_ms, boot_ms: now.boot_ms },
    };
    let list = |core: &Core| core.queues_after("").map(|it| it.definition.clone()).collect();
    let definitions: Vec<_> = engine.look(list).1;
    for definition in definitions {
        let (id, name) = (definition.queue_id(), known(&definition.name)?);
        let policy = policies::seen(&definition.policy)?;
        let it = (definition.paused, definition.publishing_paused, policy);
        seen.queues.insert(name, (it.0, it.1, it.2, definition.is_dead_letter_queue));
        seen.ready.insert(name, look(engine, |core| lines(core, id))?);
        let listed = look(engine, |core| {
            let mut listed = Vec::new();
            core.index().list(id, StateSet::ALL, None, usize::MAX, &mut listed).map(|()| listed)
        })?;
        let mut counts = Counts::default();
        for cursor in listed {
            let message = look(engine, |core| core.index().message(cursor.birth))?;
            let message = message.ok_or_else(|| format!("{} is listed only", cursor.birth))?;
            counts += count(&message);
            let message = read(engine, name, cursor.birth, &message)?;
            if seen.messages.insert(cursor.birth.0, message).is_some() {
                return Err(format!("{} is listed twice", cursor.birth));
            }
        }
        let told = engine.look(|core| core.index().counts(id)).1;
        if told != counts {
            return Err(format!("{name} has {told:?}, counted {counts:?}"));
        }
    }
    Ok(seen)
}

/// The ready messages of a queue, lane by lane.
fn lines(core: &Core, queue: QueueId) -> index::Lookup<Vec<Vec<Sequence>>> {
    let mut lanes = Vec::new();
    core.index().fronts(queue, &mut |lane, _| lanes.push(lane));
    let mut lines = Vec::new();
    for lane in lanes {
        let mut births = Vec::new();
        core.index().ready(queue, lane, usize::MAX, &mut births)?;
        lines.push(births.into_iter().map(|birth| birth.0).collect());
    }
    Ok(lines)
}

/// What is there beside the messages.
fn kept(engine: &Engine, now: Now) -> Result<SeenState, Wrong> {
    let mut kept = SeenState::default();
    for key in 0..KEYS {
        let name = keeping::key(key);
        let (value, counter) =
            engine.look(|core| (core.value_at(&name, now), core.counter(&name, now))).1;
        kept.counters.extend(counter.map(|counter| (key, counter)));
        let Some((lsn, _)) = value else { continue };
        let stored = record(engine, lsn)?;
        let number = number(&stored.body.parts().concat());
        let number = number.ok_or_else(|| format!("{name} has another value"))?;
        kept.values.insert(key, number);
    }
    for key in 0..BARRIERS {
        let view = engine.look(|core| core.barrier(&holding::barrier(key), now)).1;
        kept.barriers.extend(view.map(|view| (key, holding::gathered(view))));
    }
    kept.permits = engine.look(|core| core.state_figures().permits).1;
    Ok(kept)
}

fn schedules(engine: &Engine) -> BTreeMap<u64, SeenSchedule> {
    let of = |core: &Core, schedule: u64| {
        let it = core.schedule_named(&schedules::name(schedule)).ok()?;
        let seen = (it.paused, it.next_ms, it.tick_ms, it.published_total, it.skipped_total);
        Some((schedule, seen))
    };
    engine.look(|core| (0..SCHEDULES).filter_map(|it| of(core, it)).collect()).1
}

/// The messages of a queue, where there is one.
pub(super) fn births(engine: &Engine, queue: &str) -> Result<BTreeSet<Sequence>, Wrong> {
    let id = engine.look(|core| core.queue(queue).ok().map(|it| it.definition.queue_id())).1;
    let Some(id) = id else { return Ok(BTreeSet::new()) };
    let listed = look(engine, |core| {
        let mut listed = Vec::new();
        core.index().list(id, StateSet::ALL, None, usize::MAX, &mut listed).map(|()| listed)
    })?;
    Ok(listed.into_iter().map(|cursor| cursor.birth.0).collect())
}

fn look<T>(engine: &Engine, question: impl FnMut(&Core) -> index::Lookup<T>) -> Result<T, Wrong> {
    engine.look_up(question).map(|(_, answer)| answer).map_err(|error| error.to_string())
}

fn count(message: &index::Message) -> Counts {
    let mut counts = Counts { bytes: u64::from(message.size), ..Counts::default() };
    match message.state {
        index::State::Ready => counts.ready = 1,
        index::State::Scheduled(_) => counts.scheduled = 1,
        index::State::Leased => counts.leased = 1,
        index::State::Parked => counts.parked = 1,
        index::State::Behind => counts.behind = 1,
    }
    counts
}

/// A message with all that is told of it.
fn read(
    engine: &Engine,
    queue: &'static str,
    birth: Lsn,
    message: &index::Message,
) -> Result<Message, Wrong> {
    let mut stored: StoredMessage = body(&record(engine, message.content(birth))?)?;
    let number = number(&stored.payload).ok_or_else(|| format!("{birth} has another payload"))?;
    // Those of a schedule's ticks have two more.
    schedules::HEADERS.iter().for_each(|header| drop(stored.headers.remove(*header)));
    let id = stored.message_id.strip_prefix("id-").and_then(|id| id.parse().ok());
    if stored != content(number, stored.payload.len() - format!("m-{number} ").len(), id) {
        return Err(format!("{birth} is not what was published: {stored:?}"));
    }
    let (letter, last) = match message.dead_letter {
        Lsn(0) => (None, None),
        at => letter(&record(engine, at)?).map(|(letter, last)| (Some(letter), last))?,
    };
    let failure = match message.last_failure {
        Lsn(0) => last,
        // Of a dead letter that was moved it stands there.
        at => {
            let stored = record(engine, at)?;
            let head = Record::decode_head(&stored.head).map_err(|error| error.to_string())?;
            failure_of(&head, &stored.body)
        }
    };
    Ok(Message {
        number,
        queue,
        state: state(engine, birth, message)?,
        place: 0,
        priority: message.priority,
        failures: message.failures,
        crashes: message.crashes,
        ttl_end: message.ttl_end.map(|due| Due { wall_ms: due.wall_ms, boot_ms: due.boot_ms }),
        failure: failure.map(|it| failure_number(&it)).transpose()?,
        letter,
        id,
        unique: None,
        ordering: None,
        fairness: None,
        attempts: (message.max_attempts != 0).then_some(message.max_attempts),
        bytes: message.size.into(),
        leads: false,
        since_ms: 0,
        published_ms: 0,
        touched: 0,
    })
}

fn state(engine: &Engine, birth: Lsn, message: &index::Message) -> Result<State, Wrong> {
    Ok(match message.state {
        index::State::Ready => State::Ready,
        index::State::Parked => State::Parked,
        index::State::Behind => State::Behind,
        index::State::Scheduled(due) => {
            State::Scheduled(Due { wall_ms: due.wall_ms, boot_ms: due.boot_ms })
        }
        index::State::Leased => {
            let lease = engine.look(|core| core.lease(birth).copied()).1;
            let lease = lease.ok_or_else(|| format!("{birth} is leased without a lease"))?;
            let session = engine.look(|core| core.session_name(lease.session).to_owned()).1;
            State::Leased(Lease {
                token: lease.token(birth).to_bytes(),
                duration_ms: lease.duration_ms,
                deadline: None,
                stream: lease.consumer.0,
                session: (lease.session != SessionId::NONE)
                    .then(|| known_session(&session))
                    .transpose()?,
                timed: lease.timed,
                unstarted: lease.unstarted,
            })
        }
    })
}

/// Reads a record as it was written.
pub(super) fn record(engine: &Engine, lsn: Lsn) -> Result<StoredRecord, Wrong> {
    engine.log().read(&[lsn]).remove(0).map_err(|error| format!("record {lsn}: {error}"))
}

/// What stands in a record's body.
pub(super) fn body<T: prost::Message + Default>(record: &StoredRecord) -> Result<T, Wrong> {
    let [prefix, rest] = record.body.parts().clone();
    T::decode(prefix.chain(rest)).map_err(|error| format!("a record's body: {error}"))
}

fn letter(record: &StoredRecord) -> Result<(Letter, Option<StoredFailure>), Wrong> {
    let head = Record::decode_head(&record.head).map_err(|error| error.to_string())?;
    let Record::DeadLettered(head) = head else { return Err("no letter".to_owned()) };
    let why = match head.reason() {
        DeadLetterReason::MaxAttempts => Why::MaxAttempts,
        DeadLetterReason::MaxCrashes => Why::MaxCrashes,
        DeadLetterReason::Expired => Why::Expired,
        DeadLetterReason::ByConsumer => Why::ByConsumer,
        DeadLetterReason::Overflow => Why::Overflow,
        DeadLetterReason::Unknown => return Err("a dead letter without a reason".to_owned()),
    };
    let stored: StoredDeadLetter = body(record)?;
    let letter = Letter { from: known(&stored.source_queue)?, why, attempts: head.attempts };
    Ok((letter, stored.failure))
}

fn failure_number(stored: &StoredFailure) -> Result<u64, Wrong> {
    let number = stored.message.strip_prefix("f-").and_then(|number| number.parse().ok());
    let number = number.filter(|number| *stored == failure(*number));
    number.ok_or_else(|| format!("nobody told {stored:?}"))
}

/// Says what is other than the model has it.
pub(super) fn compare(seen: &Seen, model: &Model) -> Result<(), Wrong> {
    let queues: BTreeMap<_, _> = model
        .queues
        .iter()
        .map(|(&name, queue)| {
            let is_dead = super::model::is_dead(name);
            (name, (queue.paused, queue.publishing_paused, queue.policy, is_dead))
        })
        .collect();
    if seen.queues != queues {
        return Err(format!("queues {:?}, expected {queues:?}", seen.queues));
    }
    for (sequence, message) in &model.messages {
        let expected = message.seen();
        match seen.messages.get(sequence) {
            None => return Err(format!("{sequence} is lost: {expected:?}")),
            Some(seen) if *seen != expected => {
                return Err(format!("{sequence} is {seen:?}, expected {expected:?}"));
            }
            Some(_) => {}
        }
    }
    if let Some((sequence, message)) =
        seen.messages.iter().find(|(sequence, _)| !model.messages.contains_key(sequence))
    {
        return Err(format!("{sequence} is there, and should not be: {message:?}"));
    }
    let kept = model.seen_state(seen.at);
    if seen.kept != kept {
        return Err(format!("state {:?}, expected {kept:?}", seen.kept));
    }
    let schedules: BTreeMap<_, _> = model.seen_schedules().collect();
    if seen.schedules != schedules {
        return Err(format!("schedules {:?}, expected {schedules:?}", seen.schedules));
    }
    let works: BTreeMap<_, _> =
        model.works.iter().map(|(id, it)| (*id, (it.done, it.goes_on))).collect();
    if seen.works != works {
        return Err(format!("operations {:?}, expected {works:?}", seen.works));
    }
    for (queue, ready) in &seen.ready {
        model.check_ready(queue, ready)?;
    }
    Ok(())
}
