//! Records, effects and answers in short form, for transcripts.

use bytes::{Buf, Bytes};
use qbroker_storage::{Body, Lsn};

use super::operations;
use super::stage::WALL_MS;
use crate::queue::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::record::{Call, DeadLetterReason, QueueDefinition, Record, StoredDue};
use crate::queue::refused::Refused;
use crate::queue::time::Due;
use crate::queue::{Delivery, Effect};

pub(super) fn record(record: &Record, body: &Body) -> String {
    match record {
        Record::Deleted(it) => format!("deleted {}", numbers(&it.births)),
        Record::Dropped(it) => format!("dropped {}", numbers(&it.births)),
        Record::Updated(it) => {
            let priority = it.priority.map_or_else(String::new, |it| format!(", priority {it}"));
            let at_once = if it.at_once { ", at once" } else { "" };
            let due = it.due.map_or_else(String::new, due);
            format!("updated {}{priority}{at_once}{due}", numbers(&it.births))
        }
        Record::Moved(it) => {
            let anew = if it.reset_attempts { ", attempts anew" } else { "" };
            let dead = if it.is_to_dead_letters { ", dead as before" } else { "" };
            let births = numbers(&it.births);
            format!("moved {births} to q{}{anew}{dead} by {}", it.to_queue, it.operation)
        }
        Record::OperationStarted(it) => operations::started(it),
        Record::OperationStepped(it) => format!("operation {}", operations::progress(it)),
        Record::Advanced(it) => format!("advanced {}", numbers(&it.births)),
        Record::StateChanged(it) => super::state::change(it, body),
        Record::Patched(it) => {
            let priority = given(", priority", it.published.priority);
            format!("patched {} to {}{priority}", it.birth, payload(body))
        }
        Record::OutcomeWritten(it) => format!("outcome of {} in q{}", it.birth, it.queue),
        Record::OutcomesForgotten(it) => {
            let unwritten = match &it.unwritten[..] {
                [] => String::new(),
                births => format!(", never written {}", numbers(births)),
            };
            format!("{} outcomes of q{} forgotten{unwritten}", it.count, it.queue)
        }
        Record::PagedOut(it) => format!("paged out {}", numbers(&it.births)),
        Record::Started(it) => format!("started epoch {} {}", it.epoch, it.boot_id),
        Record::QueuePut(it) => definition(it),
        Record::QueueDeleted(it) => format!("q{} deleted", it.queue),
        Record::Purged(it) => format!("q{} purged, states {:04b}", it.queue, it.states),
        Record::ProducerOpened(it) => format!("producer {}", it.name),
        Record::ProducersForgotten(it) => format!("producers forgotten {}", numbers(&it.producers)),
        Record::BatchStored(it) => format!(
            "batch {} of producer {} from {}{}, confirmed {}",
            it.batch,
            it.producer,
            it.first,
            positions(&it.duplicates),
            it.confirmed_through,
        ),
        Record::BatchRefused(it) => {
            format!("batch {} of producer {} refused {}", it.batch, it.producer, it.reason)
        }
        Record::Published(it) => {
            let due = it.due.map_or_else(String::new, due);
            let priority = given(", priority", it.priority);
            let ttl = match it.ttl_end() {
                None => String::new(),
                Some(end) => format!(", expires {}", moment(end.wall_ms)),
            };
            let attempts = match it.max_attempts {
                None => String::new(),
                Some(-1) => ", attempts without end".to_owned(),
                Some(max) => format!(", attempts {max}"),
            };
            let tenant = if it.fairness_hash.is_some() { ", in a lane" } else { "" };
            let key = if it.ordering_hash.is_some() { ", in a line" } else { "" };
            let unique = if it.unique_hash.is_some() { ", unique" } else { "" };
            format!(
                "q{} gets {}{due}{priority}{ttl}{attempts}{key}{tenant}{unique}",
                it.queue,
                payload(body)
            )
        }
        Record::SessionOpened(it) => format!("session {} grace {}", it.name, time(it.grace_ms)),
        Record::SessionChanged(it) => format!(
            "session {} {}",
            it.session,
            if it.disowned {
                "disowned".to_owned()
            } else {
                format!("grace {}", time(it.grace_ms))
            },
        ),
        Record::SessionEnded(it) => format!("session {} ended", it.session),
        Record::Granted(it) => format!(
            "granted {} to {} for {}{}{}{}{}",
            numbers(&it.births),
            holder(it.session, it.consumer),
            time(it.duration_ms),
            if it.timed { "" } else { ", renewed" },
            if it.extension_ms_max == 0 {
                String::new()
            } else {
                format!(" up to {}", time(it.extension_ms_max))
            },
            if it.unstarted { ", not begun" } else { "" },
            if it.request.is_empty() { String::new() } else { format!(", as {}", it.request) },
        ),
        Record::Extended(it) => {
            format!("extended {} to {}", numbers(&it.births), time(it.duration_ms))
        }
        Record::Begun(it) => format!("begun {}", numbers(&it.births)),
        Record::LeasesEnded(it) => {
            format!("{} {}", if it.crashed { "crashed" } else { "returned" }, numbers(&it.births))
        }
        Record::Resumed(it) => format!(
            "{} is {} now, known as {}, holds {}",
            ConsumerId(it.previous),
            ConsumerId(it.consumer),
            ConsumerId(it.known_as),
            numbers(&it.held),
        ),
        Record::Acked(it) => format!(
            "acked {} {}{}",
            numbers(&it.births),
            call(&it.call),
            if it.answered_through == 0 {
                String::new()
            } else {
                format!(", answered {}", it.answered_through)
            },
        ),
        Record::Released(it) => {
            let due = it.due.map_or_else(String::new, due);
            format!("released {} {}{due}", it.birth, call(&it.call))
        }
        Record::Nacked(it) => format!(
            "{} {} {}{}{}{}{}",
            if it.given_up { "given up" } else { "nacked" },
            it.birth,
            call(&it.call),
            if it.attempt == 1 { String::new() } else { format!(", attempt {}", it.attempt) },
            it.due.map_or_else(String::new, due),
            if it.parked { ", parked" } else { "" },
            failure(body, it.previous_failure),
        ),
        Record::DeadLettered(it) => format!(
            "dead {} to q{} by {:?} after {} {}{}",
            it.birth,
            it.to_queue,
            DeadLetterReason::try_from(it.reason).unwrap_or_default(),
            it.attempts,
            it.call.as_ref().map_or_else(|| "by itself".to_owned(), call),
            letter(body, it.previous_failure),
        ),
        Record::CameDue(it) => format!("due {}", numbers(&it.births)),
        Record::Expired(it) => {
            let why = if it.by_ttl { ", by ttl" } else { "" };
            format!("expired {}{why}", numbers(&it.births))
        }
        Record::Parked(it) => {
            let why = if it.unreadable { ", unreadable" } else { "" };
            format!("parked {}{why}", numbers(&it.births))
        }
    }
}

pub(super) fn effect(effect: &Effect) -> Vec<String> {
    let gets = |who: String, deliveries: &[Delivery]| {
        deliveries.iter().map(|it| format!("{who} gets {}", delivery(it))).collect::<Vec<_>>()
    };
    match effect {
        Effect::Deliver { consumer, deliveries } => gets(consumer.to_string(), deliveries),
        Effect::AnswerPull { pull, deliveries } if deliveries.is_empty() => {
            vec![format!("pull {} gets nothing", pull.0)]
        }
        Effect::AnswerPull { pull, deliveries } => gets(format!("pull {}", pull.0), deliveries),
        Effect::LeasesLost { consumer, leases, why } => {
            vec![format!("{consumer} lost {}: {why:?}", tokens(leases))]
        }
        Effect::Replaced { consumer } => vec![format!("{consumer} is replaced")],
        Effect::Disconnected { consumer } => vec![format!("{consumer} is disconnected")],
        Effect::Fenced { stream, .. } => vec![format!("stream {} is fenced", stream.0)],
        Effect::StateChanged { kind, key } => vec![format!("{kind:?} {key} has changed")],
        Effect::DeadLetters { queue, count } => vec![format!("{count} dead letters of {queue}")],
    }
}

pub(super) fn delivery(it: &Delivery) -> String {
    let mut text = format!("{} of {}", token(it.token), it.queue);
    if it.content != it.token.birth {
        text += &format!(", patched in {}", it.content);
    }
    if (it.failures, it.crashes) != (0, 0) {
        text += &format!(", failures {}, crashes {}", it.failures, it.crashes);
    }
    if it.last_failure != Lsn(0) {
        text += &format!(", failure in {}", it.last_failure);
    }
    if it.dead_letter != Lsn(0) {
        text += &format!(", letter in {}", it.dead_letter);
    }
    text
}

pub(super) fn refused(refused: &Refused) -> String {
    format!("{}: {refused}", refused.reason())
}

pub(super) fn token(token: LeaseToken) -> String {
    format!("{}@{}", token.birth, token.grant)
}

pub(super) fn tokens(leases: &[LeaseToken]) -> String {
    leases.iter().map(|lease| token(*lease)).collect::<Vec<_>>().join(" ")
}

/// A time on the wall clock, from the beginning of the script.
pub(super) fn moment(wall_ms: u64) -> String {
    match wall_ms.checked_sub(WALL_MS) {
        Some(after) => time(after),
        None => format!("-{}", time(WALL_MS - wall_ms)),
    }
}

pub(super) fn time(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let fits = |(unit, _): &&(u64, &str)| ms != 0 && ms.is_multiple_of(*unit);
    let (unit, name) = units.iter().find(fits).unwrap_or(&(1, "ms"));
    format!("{}{name}", ms / unit)
}

pub(super) fn due(due: StoredDue) -> String {
    let due = Due::from(due);
    let clock = if due.boot_ms.is_some() { "" } else { " by the wall clock" };
    format!(", due {}{clock}", moment(due.wall_ms))
}

/// What is told where it is not 0.
fn given(name: &str, number: u32) -> String {
    if number == 0 { String::new() } else { format!("{name} {number}") }
}

fn definition(it: &QueueDefinition) -> String {
    let mut text = format!("q{} is {}", it.id, it.name);
    if it.is_dead_letter_queue {
        text += ", for dead letters";
    }
    if it.revision != 0 {
        text += &format!(", revision {}", it.revision);
    }
    if it.paused {
        text += if it.publishing_paused { ", paused with publishing" } else { ", paused" };
    }
    if !it.description.is_empty() {
        text += &format!(", {}", it.description);
    }
    for (key, value) in &it.labels {
        text += &format!(", {key}={value}");
    }
    text
}

fn holder(session: u64, consumer: u64) -> String {
    match (session, consumer) {
        (0, 0) => "a pull".to_owned(),
        (session, 0) => format!("a pull of session {session}"),
        (session, consumer) => format!("{} of session {session}", ConsumerId(consumer)),
    }
}

fn call(call: &Call) -> String {
    match call.consumer {
        0 => format!("in call {}", call.number),
        consumer => format!("in call {} of {}", call.number, ConsumerId(consumer)),
    }
}

fn payload(body: &Body) -> String {
    let payload = read::<StoredMessage>(body).payload;
    let name = payload_of(body);
    if let Some(results) = super::state::results(&payload) {
        return format!("results {results}");
    }
    if payload.len() == name.len() { name } else { format!("{name} of {} bytes", payload.len()) }
}

/// A message's payload, less what makes it long.
pub(super) fn payload_of(body: &Body) -> String {
    let payload = read::<StoredMessage>(body).payload;
    String::from_utf8_lossy(&payload).trim_end_matches('.').to_owned()
}

fn failure(body: &Body, previous: u64) -> String {
    if body.is_empty() {
        return String::new();
    }
    told(&read::<StoredFailure>(body), previous)
}

fn letter(body: &Body, previous: u64) -> String {
    let letter = read::<StoredDeadLetter>(body);
    let failure = letter.failure.map_or_else(String::new, |it| told(&it, previous));
    format!(", from {}{failure}", letter.source_queue)
}

fn told(failure: &StoredFailure, previous: u64) -> String {
    let message = if 20 < failure.message.len() {
        format!("{} bytes", failure.message.len())
    } else {
        failure.message.clone()
    };
    let carried = match failure.earlier.len() {
        0 => String::new(),
        count => format!(", carrying {count}"),
    };
    let before = if previous == 0 { String::new() } else { format!(", before it {previous}") };
    format!(", failure {message}{carried}{before}")
}

pub(super) fn read<M: prost::Message + Default>(body: &Body) -> M {
    let [prefix, payload]: &[Bytes; 2] = body.parts();
    M::decode(prefix.clone().chain(payload.clone())).expect("a body can be read")
}

fn positions(duplicates: &[u32]) -> String {
    if duplicates.is_empty() {
        return String::new();
    }
    let duplicates: Vec<_> = duplicates.iter().map(ToString::to_string).collect();
    format!(", duplicates at {}", duplicates.join(" "))
}

/// Numbers, with runs drawn together.
pub(super) fn numbers(numbers: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    if runs.is_empty() {
        return "nothing".to_owned();
    }
    let show = |&(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(show).collect::<Vec<_>>().join(" ")
}
