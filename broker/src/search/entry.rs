//! What is indexed: names, as hashes, and where in the log they stand.

use std::hash::Hasher as _;

use prost::Message as _;
use qbroker_storage::{Lsn, StoredRecord};
use siphasher::sip::SipHasher24;

use crate::queue::body::StoredMessage;
use crate::queue::outcomes::StoredOutcome;
use crate::queue::record::Record;

/// By what a message is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The id that its publisher chose.
    MessageId,
    CorrelationId,
    MessageType,
}

impl Attribute {
    pub(super) const ALL: [Self; 3] = [Self::MessageId, Self::CorrelationId, Self::MessageType];

    /// Its number in the index, and in a page's token.
    pub fn number(self) -> u8 {
        match self {
            Self::MessageId => 0,
            Self::CorrelationId => 1,
            Self::MessageType => 2,
        }
    }
}

/// The names of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub message_id: String,
    pub correlation_id: String,
    pub message_type: String,
}

impl Names {
    /// One of them; empty: it has none.
    pub fn get(&self, attribute: Attribute) -> &str {
        match attribute {
            Attribute::MessageId => &self.message_id,
            Attribute::CorrelationId => &self.correlation_id,
            Attribute::MessageType => &self.message_type,
        }
    }
}

/// A message whose names stand in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub birth: Lsn,
    pub names: Names,
    /// What the record tells is how it ended.
    pub is_done: bool,
}

/// The message whose content, or whose outcome, a record has.
pub fn named(lsn: Lsn, record: &StoredRecord) -> Option<Named> {
    let [first, rest] = record.body.parts().clone();
    let body = bytes::Buf::chain(first, rest);
    let (birth, is_done) = match Record::decode_head(&record.head).ok()? {
        Record::Published(_) => (lsn, false),
        Record::Patched(it) => (Lsn(it.birth), false),
        Record::OutcomeWritten(it) => (Lsn(it.birth), true),
        _ => return None,
    };
    let names = if is_done {
        let StoredOutcome { message_id, correlation_id, message_type, .. } =
            StoredOutcome::decode(body).ok()?;
        Names { message_id, correlation_id, message_type }
    } else {
        let StoredMessage { message_id, correlation_id, message_type, .. } =
            StoredMessage::decode(body).ok()?;
        Names { message_id, correlation_id, message_type }
    };
    Some(Named { birth, names, is_done })
}

/// A record makes a message worth finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The record that has its names, unless it got another content since.
    pub(super) place: Lsn,
    /// It only waits for its time, as millions may.
    pub(super) is_delayed: bool,
}

/// What a record makes worth finding: a message that waits for its time, that failed and waits, that is a
/// dead letter or has another content, or that is done and has an outcome.
pub(super) fn found(lsn: Lsn, head: &[u8]) -> Option<Found> {
    // Most records are of other kinds, and are not decoded: 3a begins a publish, 82 01 a nack, 8a 01 a
    // dead letter, e2 03 an outcome, f2 03 another content.
    if !matches!(head, [0x3a, ..] | [0x82 | 0x8a, 0x01, ..] | [0xe2 | 0xf2, 0x03, ..]) {
        return None;
    }
    let place = match Record::decode_head(head).ok()? {
        Record::Published(it) => {
            return it.due.map(|_| Found { place: lsn, is_delayed: true });
        }
        Record::Nacked(it) if it.has_failure && it.due.is_some() => Lsn(it.birth),
        Record::DeadLettered(it) if it.to_queue != 0 => Lsn(it.birth),
        Record::OutcomeWritten(_) | Record::Patched(_) => lsn,
        _ => return None,
    };
    Some(Found { place, is_delayed: false })
}

/// Makes names into numbers that nobody outside can choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher([u8; 16]);

impl Hasher {
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    pub(super) fn hash(self, name: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(name.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::record::{
        Acked, DeadLettered, Nacked, OutcomeWritten, Patched, Published, StoredDue,
    };

    fn place(record: Record) -> Option<(u64, bool)> {
        let mut head = Vec::new();
        record.encode_head(&mut head);
        found(Lsn(9), &head).map(|found| (found.place.0, found.is_delayed))
    }

    #[test]
    fn what_stays_long_is_worth_finding() {
        let due = Some(StoredDue::default());
        let delayed = Published { due, ..Published::default() };
        assert_eq!(place(Record::Published(delayed)), Some((9, true)));
        assert_eq!(place(Record::Published(Published::default())), None);
        let nacked = Nacked { birth: 4, due, has_failure: true, ..Nacked::default() };
        assert_eq!(place(Record::Nacked(nacked.clone())), Some((4, false)));
        assert_eq!(place(Record::Nacked(Nacked { due: None, ..nacked })), None);
        let letter = DeadLettered { birth: 4, to_queue: 2, ..DeadLettered::default() };
        assert_eq!(place(Record::DeadLettered(letter.clone())), Some((4, false)));
        assert_eq!(place(Record::DeadLettered(DeadLettered { to_queue: 0, ..letter })), None);
        let outcome = OutcomeWritten { birth: 4, ..OutcomeWritten::default() };
        assert_eq!(place(Record::OutcomeWritten(outcome)), Some((9, false)));
        let patched = Patched { birth: 4, ..Patched::default() };
        assert_eq!(place(Record::Patched(Box::new(patched))), Some((9, false)));
        let acked = Acked { births: vec![4], ..Acked::default() };
        assert_eq!(place(Record::Acked(acked)), None);
    }
}
