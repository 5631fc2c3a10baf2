//! A message's life, read from the log: what its own records tell, and those that they name.
//!
//! The record of its birth, its last failure and its dead-lettering are there for as long as the
//! message; what was before, for as long as the log has not let go of it.

use std::collections::BTreeSet;

use prost::Message as _;
use qbroker_storage::{Log, Lsn, StoredRecord};

use crate::queue::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use crate::queue::event::{Event, EventKind, events};
use crate::queue::ids::QueueId;
use crate::queue::outcomes::{StoredEvent, StoredOutcome};
use crate::queue::record::Record;
use crate::queue::told::Told;

/// Failures that are told of at most: the latest.
const FAILURES_MAX: usize = 10;
/// Bytes of a failure that are told.
const FAILURE_BYTES_MAX: usize = 1_024;

/// Where a message's life is told.
#[derive(Clone, Copy, Debug)]
pub struct Traces {
    pub birth: Lsn,
    /// What it is, or was last; its birth, unless it was patched.
    pub content: Lsn,
    pub last_failure: Lsn,
    pub dead_letter: Lsn,
    /// The lease that it is under, or that ended with it; zero: none.
    pub grant: Lsn,
    /// What ended it; zero: it is there.
    pub end: Lsn,
}

/// Reads a message's life. May wait for the disk.
pub(super) fn read(
    log: &Log,
    traces: Traces,
    name_of: &dyn Fn(QueueId) -> String,
) -> StoredOutcome {
    let reader = Reader { log, birth: traces.birth, name_of };
    let mut outcome = StoredOutcome::default();
    if let Some(record) = reader.record(traces.content) {
        let [first, rest] = record.body.parts().clone();
        let message = StoredMessage::decode(bytes::Buf::chain(first, rest)).unwrap_or_default();
        outcome.message_id = message.message_id;
        outcome.message_type = message.message_type;
        outcome.correlation_id = message.correlation_id;
    }
    let mut lsns = BTreeSet::from([traces.birth, traces.content, traces.grant, traces.end]);
    reader.failures(traces, &mut lsns);
    lsns.remove(&Lsn(0));
    outcome.events = lsns.into_iter().filter_map(|lsn| reader.event(lsn)).collect();
    outcome
}

struct Reader<'a> {
    log: &'a Log,
    birth: Lsn,
    name_of: &'a dyn Fn(QueueId) -> String,
}

impl Reader<'_> {
    fn record(&self, lsn: Lsn) -> Option<StoredRecord> {
        self.log.read(&[lsn]).pop().and_then(Result::ok)
    }

    /// Follows the chain of failures back, with the leases that ended by them.
    fn failures(&self, traces: Traces, lsns: &mut BTreeSet<Lsn>) {
        // What happened in the dead-letter queue stands before the letter, what happened before
        // behind it.
        let (mut failure, mut letter) = (traces.last_failure, traces.dead_letter);
        for _ in 0..=FAILURES_MAX {
            let lsn = failure.max(letter);
            if lsn == Lsn(0) {
                return;
            }
            // What is older is older than what the log still has.
            let Some(record) = self.record(lsn) else { return };
            let (tells, previous) = match Record::decode_head(&record.head) {
                Ok(Record::Nacked(it)) => (it.has_failure, it.previous_failure),
                Ok(Record::DeadLettered(it)) => (it.has_failure, it.previous_failure),
                _ => return,
            };
            lsns.extend([lsn, Told::of_head(&record.head).grant]);
            if lsn == letter {
                letter = Lsn(0);
            }
            if tells || lsn == failure {
                failure = Lsn(previous);
            }
        }
    }

    fn event(&self, lsn: Lsn) -> Option<StoredEvent> {
        let record = self.record(lsn)?;
        let told = events(lsn, &record.head).ok()?;
        let event = told.into_iter().find(|event| event.birth == self.birth)?;
        let name = |queue: QueueId| match queue {
            QueueId(0) => String::new(),
            queue => (self.name_of)(queue),
        };
        let (to_queue, reason) = match event.kind {
            EventKind::DeadLettered { to, reason } => (name(to), reason.into()),
            EventKind::Moved { to } => (name(to), 0),
            _ => (String::new(), 0),
        };
        Some(StoredEvent {
            lsn: lsn.0,
            kind: event.kind.number(),
            wall_ms: event.wall_ms,
            queue: name(event.queue),
            attempt: event.attempt,
            consumer: event.consumer.0,
            failure: failure(&event, &record),
            to_queue,
            reason,
        })
    }
}

fn failure(event: &Event, record: &StoredRecord) -> Option<StoredFailure> {
    let body = bytes::Bytes::from(record.body.parts().concat());
    let failure = match event.kind {
        _ if !event.has_failure => None,
        EventKind::DeadLettered { .. } => StoredDeadLetter::decode(body).ok()?.failure,
        _ => StoredFailure::decode(body).ok(),
    }?;
    let StoredFailure { kind, message, details } = &failure;
    Some(StoredFailure::cut(kind, message, details, FAILURE_BYTES_MAX))
}
