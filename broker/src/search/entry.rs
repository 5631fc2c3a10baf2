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

/// The message that a record is of, which is its birth or its outcome, and the message's names.
pub fn names_of(lsn: Lsn, record: &StoredRecord) -> Option<(Lsn, Names)> {
    let [first, rest] = record.body.parts().clone();
    let body = bytes::Buf::chain(first, rest);
    match Record::decode_head(&record.head).ok()? {
        Record::Published(_) => {
            let StoredMessage { message_id, correlation_id, message_type, .. } =
                StoredMessage::decode(body).ok()?;
            Some((lsn, Names { message_id, correlation_id, message_type }))
        }
        Record::OutcomeWritten(it) => {
            let StoredOutcome { message_id, correlation_id, message_type, .. } =
                StoredOutcome::decode(body).ok()?;
            Some((Lsn(it.birth), Names { message_id, correlation_id, message_type }))
        }
        _ => None,
    }
}

/// The record that has the names of a message which this one makes worth finding: one that waits for its
/// time, that failed and waits, that is a dead letter, or that is done and has an outcome.
pub(super) fn found_at(lsn: Lsn, head: &[u8]) -> Option<Lsn> {
    // Most records are of other kinds, and are not decoded: 3a begins a publish, 82 01 a nack, 8a 01 a
    // dead letter, e2 03 an outcome.
    if !matches!(head, [0x3a, ..] | [0x82 | 0x8a, 0x01, ..] | [0xe2, 0x03, ..]) {
        return None;
    }
    match Record::decode_head(head).ok()? {
        Record::Published(it) => it.due.map(|_| lsn),
        Record::Nacked(it) if it.has_failure => it.due.map(|_| Lsn(it.birth)),
        Record::DeadLettered(it) if it.to_queue != 0 => Some(Lsn(it.birth)),
        Record::OutcomeWritten(_) => Some(lsn),
        _ => None,
    }
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
    use crate::queue::record::{Acked, DeadLettered, Nacked, OutcomeWritten, Published, StoredDue};

    fn found(record: Record) -> Option<u64> {
        let mut head = Vec::new();
        record.encode_head(&mut head);
        found_at(Lsn(9), &head).map(|lsn| lsn.0)
    }

    #[test]
    fn what_stays_long_is_worth_finding() {
        let due = Some(StoredDue::default());
        assert_eq!(found(Record::Published(Published { due, ..Published::default() })), Some(9));
        assert_eq!(found(Record::Published(Published::default())), None);
        let nacked = Nacked { birth: 4, due, has_failure: true, ..Nacked::default() };
        assert_eq!(found(Record::Nacked(nacked.clone())), Some(4));
        assert_eq!(found(Record::Nacked(Nacked { due: None, ..nacked })), None);
        let letter = DeadLettered { birth: 4, to_queue: 2, ..DeadLettered::default() };
        assert_eq!(found(Record::DeadLettered(letter.clone())), Some(4));
        assert_eq!(found(Record::DeadLettered(DeadLettered { to_queue: 0, ..letter })), None);
        assert_eq!(
            found(Record::OutcomeWritten(OutcomeWritten { birth: 4, ..Default::default() })),
            Some(9)
        );
        assert_eq!(found(Record::Acked(Acked { births: vec![4], ..Acked::default() })), None);
    }
}
