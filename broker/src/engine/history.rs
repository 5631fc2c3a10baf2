//! A message's life, read from the log: what its own records tell, and those that they name.
//!
//! Its content, its last failure and its dead-lettering are there for as long as the message. Each
//! record names the one that was before, which is told for as long as the log has it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use qbroker_storage::{Log, Lsn, StoredRecord};

use super::outcomes::Names;
use crate::queue::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use crate::queue::event::{Event, EventKind, events};
use crate::queue::ids::QueueId;
use crate::queue::outcomes::{StoredEvent, StoredOutcome};
use crate::queue::record::{Published, Record};

/// Steps that are told of at most, beside those whose records stay: the latest.
const STEPS_MAX: usize = 40;
/// Bytes of a failure that are told.
const FAILURE_BYTES_MAX: usize = 1_024;

/// Where a message's life is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traces {
    pub birth: Lsn,
    /// What it is, or was last; its birth, unless it was patched.
    pub content: Lsn,
    pub last_failure: Lsn,
    pub dead_letter: Lsn,
    /// The lease that it is under, or that ended with it; zero: none.
    pub grant: Lsn,
    /// What else happened to it last; zero: nothing.
    pub step: Lsn,
    /// What ended it; zero: it is there.
    pub end: Lsn,
}

/// Reads a message's life. May wait for the disk.
pub(super) fn read(log: &Log, traces: Traces, names: &Names<'_>) -> StoredOutcome {
    let reader = Reader { log, birth: traces.birth, names };
    let mut steps = reader.steps(traces);
    let mut outcome = StoredOutcome::default();
    if let Some((published, message)) = reader.content(traces.content) {
        outcome.message_id = message.message_id;
        outcome.message_type = message.message_type;
        outcome.correlation_id = message.correlation_id;
        steps.entry(traces.birth).or_insert_with(|| reader.publish_of(&published));
    }
    outcome.events = steps.into_values().collect();
    let mut events = outcome.events.iter_mut();
    // A content that took the place of the first does not say where that was published.
    if let Some(first) = events.next().filter(|first| first.queue.is_empty())
        && let Some(second) = events.next()
    {
        first.queue.clone_from(&second.queue);
    }
    outcome
}

struct Reader<'a> {
    log: &'a Log,
    birth: Lsn,
    names: &'a Names<'a>,
}

impl Reader<'_> {
    fn record(&self, lsn: Lsn) -> Option<StoredRecord> {
        self.log.read(&[lsn]).pop().and_then(Result::ok)
    }

    fn content(&self, lsn: Lsn) -> Option<(Published, StoredMessage)> {
        let record = self.record(lsn)?;
        let published = match Record::decode_head(&record.head).ok()? {
            Record::Published(published) => published,
            Record::Patched(patched) => patched.published,
            _ => return None,
        };
        let [first, rest] = record.body.parts().clone();
        let message = StoredMessage::decode(bytes::Buf::chain(first, rest)).unwrap_or_default();
        Some((published, message))
    }

    /// Follows the steps back from the last ones.
    fn steps(&self, traces: Traces) -> BTreeMap<Lsn, StoredEvent> {
        let Traces { birth, content, last_failure, dead_letter, grant, step, end } = traces;
        let stay = [birth, content, last_failure, dead_letter, grant, end];
        let mut ahead = BTreeSet::from(stay);
        ahead.insert(step);
        ahead.remove(&Lsn(0));
        let mut steps = BTreeMap::new();
        while let Some(lsn) = ahead.pop_last() {
            if STEPS_MAX <= steps.len() && !stay.contains(&lsn) {
                continue;
            }
            let Some((told, event)) = self.step(lsn) else { continue };
            steps.insert(lsn, told);
            ahead.extend(event.before.into_iter().filter(|before| (Lsn(1)..lsn).contains(before)));
        }
        steps
    }

    /// What a record tells of the message, where the log still has it.
    fn step(&self, lsn: Lsn) -> Option<(StoredEvent, Event)> {
        let record = self.record(lsn)?;
        let told = events(lsn, &record.head).ok()?;
        let event = told.into_iter().find(|event| event.birth == self.birth)?;
        let (to_queue, reason) = match event.kind {
            EventKind::DeadLettered { to, reason } => (self.name(to), reason.into()),
            EventKind::Moved { to } => (self.name(to), 0),
            _ => (String::new(), 0),
        };
        let told = StoredEvent {
            lsn: lsn.0,
            kind: event.kind.number(),
            wall_ms: event.wall_ms,
            queue: self.name(event.queue),
            attempt: event.attempt,
            consumer: event.consumer.0,
            failure: failure(&event, &record),
            to_queue,
            reason,
        };
        Some((told, event))
    }

    /// The publish of a message whose first content is gone.
    fn publish_of(&self, published: &Published) -> StoredEvent {
        let kind = EventKind::Published { size: published.size }.number();
        let wall_ms = published.wall_ms;
        StoredEvent { lsn: self.birth.0, kind, wall_ms, ..StoredEvent::default() }
    }

    fn name(&self, queue: QueueId) -> String {
        match queue {
            QueueId(0) => String::new(),
            queue => self.names.of_queue(queue),
        }
    }
}

fn failure(event: &Event, record: &StoredRecord) -> Option<StoredFailure> {
    let body = bytes::Bytes::from(record.body.parts().concat());
    let failure = match event.kind {
        _ if !event.has_failure => None,
        EventKind::DeadLettered { .. } => StoredDeadLetter::decode(body).ok()?.failure,
        _ => StoredFailure::decode(body).ok(),
    }?;
    let StoredFailure { kind, message, details, .. } = &failure;
    Some(StoredFailure::cut(kind, message, details, FAILURE_BYTES_MAX))
}
