//! Messages that go out, put together from the bytes of their records.
//!
//! A message's body is stored in the fields of `StoredMessage` and told in those of `Message`: the
//! contents are copied once, from where they were read to where they are sent from, and nothing is
//! made of them in between.

use std::fmt::Write as _;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{
    self, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
};
use qbroker_proto::v1::{self, AttemptInfo, DeadLetterInfo, Failure};
use qbroker_storage::{Lsn, StoredRecord};

use super::event::Names;
use super::outgoing::{BrokersId, sequence};
use super::time::to_timestamp;
use super::token::Seal;
use crate::grpc::fault::Fault;
use crate::queue::Delivery;
use crate::queue::body::{PAYLOAD_TAG, StoredAttempt, StoredDeadLetter, StoredFailure};
use crate::queue::ids::ConsumerId;
use crate::queue::record::{DeadLettered, Published, Record};

/// A message's records, read from the log.
pub(in crate::grpc) struct Stored {
    pub(in crate::grpc) birth: Lsn,
    pub(in crate::grpc) message: StoredRecord,
    pub(in crate::grpc) last_failure: Option<StoredRecord>,
    pub(in crate::grpc) dead_letter: Option<StoredRecord>,
}

/// The field of `Message` for each of `StoredMessage`; all of them are strings, bytes or entries of
/// a map, whose content is the same in both.
const FIELDS: [(u32, u32); 9] = [
    (MESSAGE_ID, MESSAGE_ID),
    (2, 4),
    (3, 5),
    (4, 6),
    (5, 7),
    (PAYLOAD_TAG, 3),
    (51, 9),
    (52, 10),
    (53, 11),
];
/// The number of the id's field, in both.
const MESSAGE_ID: u32 = 1;

/// How a limit is told that there is not.
const NO_LIMIT: i32 = -1;

/// Bytes of a delivery beside its message's body, about, and those of its own fields once more.
pub(in crate::grpc) const OVERHEAD_BYTES: usize = 192;

/// A delivery with what its records hold: `Delivery`, encoded at the end of `room`.
pub(in crate::grpc) fn delivery(
    delivery: &Delivery,
    stored: &Stored,
    seal: Seal,
    room: &mut BytesMut,
) -> Result<Bytes, Fault> {
    let last_failure = stored.last_failure.as_ref().map(failure).transpose()?.flatten();
    let message = Told::new(&delivery.queue, delivery.priority, stored, room)?;
    put(1, &seal.close(delivery.token), room);
    encode_key(2, WireType::LengthDelimited, room);
    encode_varint(message.len() as u64, room);
    message.put(room);
    let attempt = 1 + delivery.failures + delivery.crashes;
    for (field, number) in [(3, attempt), (4, delivery.failures), (5, delivery.crashes)] {
        if number != 0 {
            encoding::int32::encode(field, &number.cast_signed(), room);
        }
    }
    if let Some(failure) = last_failure {
        encoding::message::encode(6, &failure, room);
    }
    let failures_max = delivery.failures_max.map_or(NO_LIMIT, u32::cast_signed);
    encoding::int32::encode(7, &failures_max, room);
    Ok(room.split().freeze())
}

/// A message as clients see it, wherever it is.
pub(in crate::grpc) fn message(
    queue: &str,
    priority: u8,
    stored: &Stored,
) -> Result<v1::Message, Fault> {
    let mut encoded = BytesMut::new();
    let told = Told::new(queue, priority, stored, &mut encoded)?;
    encoded.reserve(told.len());
    told.put(&mut encoded);
    v1::Message::decode(encoded.freeze()).map_err(|error| Fault::Damaged(error.to_string()))
}

/// What a message is called, from the record that has its content.
pub(in crate::grpc) fn names(record: &StoredRecord) -> Result<Names, Fault> {
    facts(record)?;
    let mut names = Names::default();
    for field in Fields::of(record) {
        let (number, content) = field?;
        let name = match number {
            MESSAGE_ID => &mut names.message_id,
            4 => &mut names.message_type,
            5 => &mut names.correlation_id,
            _ => continue,
        };
        *name = String::from_utf8_lossy(content).into_owned();
    }
    Ok(names)
}

/// A message about to be encoded.
struct Told<'a> {
    /// The fields that the body does not have.
    own: BytesMut,
    /// The record of the body; its fields were looked at.
    record: &'a StoredRecord,
    /// What the body's fields take.
    body_len: usize,
}

impl<'a> Told<'a> {
    /// Uses `room`, which is empty then and afterwards.
    fn new(
        queue: &str,
        priority: u8,
        stored: &'a Stored,
        room: &mut BytesMut,
    ) -> Result<Self, Fault> {
        let record = &stored.message;
        let published = facts(record)?;
        let letter = stored.dead_letter.as_ref();
        let letter = letter.map(|letter| dead_letter(letter, stored.last_failure.as_ref()));
        let letter = letter.transpose()?;
        let (mut body_len, mut has_id) = (0, false);
        for field in fields(record) {
            let (number, content) = field?;
            has_id |= number == MESSAGE_ID;
            let len = encoded_len_varint(content.len() as u64) + content.len();
            body_len += encoding::key_len(number) + len;
        }
        if !has_id {
            put_brokers_id(stored.birth, room);
        }
        put(2, queue.as_bytes(), room);
        if priority != 0 {
            encoding::int32::encode(8, &priority.into(), room);
        }
        put_facts(stored.birth, &published, letter, room);
        Ok(Self { own: room.split(), record, body_len })
    }

    fn len(&self) -> usize {
        self.own.len() + self.body_len
    }

    fn put(&self, room: &mut BytesMut) {
        room.put_slice(&self.own);
        for (number, content) in fields(self.record).flatten() {
            put(number, content, room);
        }
    }
}

/// The id of a message whose publisher gave it none.
fn put_brokers_id(birth: Lsn, room: &mut BytesMut) {
    write!(room, "{}", BrokersId(birth)).expect("a BytesMut grows");
    let id = room.split();
    put(MESSAGE_ID, &id, room);
}

/// What the record with a message's content says of the message.
pub(in crate::grpc) fn facts(record: &StoredRecord) -> Result<Published, Fault> {
    match head(record)? {
        Record::Published(published) => Ok(published),
        Record::Patched(patched) => Ok(patched.published),
        _ => Err(Fault::Damaged("a message's record is of another kind".to_owned())),
    }
}

/// What the heads of a message's records say.
fn put_facts(
    birth: Lsn,
    published: &Published,
    letter: Option<DeadLetterInfo>,
    room: &mut BytesMut,
) {
    encoding::int64::encode(12, &sequence(birth), room);
    encoding::message::encode(13, &to_timestamp(published.wall_ms), room);
    if let Some(due) = published.due {
        encoding::message::encode(14, &to_timestamp(due.wall_ms), room);
    }
    // A dead letter has left the queue in which it had so much time.
    if let (Some(end), None) = (published.ttl_end(), &letter) {
        encoding::message::encode(15, &to_timestamp(end.wall_ms), room);
    }
    if let Some(max_attempts) = published.max_attempts {
        encoding::int32::encode(16, &max_attempts, room);
    }
    if let Some(letter) = letter {
        encoding::message::encode(17, &letter, room);
    }
}

/// Puts a field of a string, of bytes or of a message that is encoded.
fn put(number: u32, content: &[u8], room: &mut impl bytes::BufMut) {
    encode_key(number, WireType::LengthDelimited, room);
    encode_varint(content.len() as u64, room);
    room.put_slice(content);
}

/// The fields of a stored body that are told, by their numbers in `Message`.
fn fields(record: &StoredRecord) -> impl Iterator<Item = Result<(u32, &[u8]), Fault>> {
    let number_of = |number| FIELDS.iter().find(|(stored, _)| *stored == number);
    Fields::of(record).filter_map(move |field| match field {
        Ok((number, content)) => number_of(number).map(|(_, told)| Ok((*told, content))),
        Err(fault) => Some(Err(fault)),
    })
}

/// The fields of a stored body, each with its content.
struct Fields<'a> {
    rest: &'a [u8],
    /// What follows: a payload that was not copied behind the fields before it.
    second: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(record: &'a StoredRecord) -> Self {
        let [rest, second] = record.body.parts();
        Self { rest, second }
    }

    /// The next field; `None` where the bytes are none.
    fn read(&mut self) -> Option<(u32, &'a [u8])> {
        let (number, wire_type) = decode_key(self.rest()).ok()?;
        let len = usize::try_from(decode_varint(&mut self.rest).ok()?).ok()?;
        let (content, rest) = self.rest().split_at_checked(len)?;
        self.rest = rest;
        (wire_type == WireType::LengthDelimited).then_some((number, content))
    }

    fn rest(&mut self) -> &mut &'a [u8] {
        if self.rest.is_empty() {
            self.rest = std::mem::take(&mut self.second);
        }
        &mut self.rest
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_over = self.rest.is_empty() && self.second.is_empty();
        let damaged = || Fault::Damaged("a message's body does not hold its fields".to_owned());
        (!is_over).then(|| self.read().ok_or_else(damaged))
    }
}

fn dead_letter(
    letter: &StoredRecord,
    last_failure: Option<&StoredRecord>,
) -> Result<DeadLetterInfo, Fault> {
    let Record::DeadLettered(head) = head(letter)? else {
        return Err(Fault::Damaged("a dead letter's record is of another kind".to_owned()));
    };
    let told: StoredDeadLetter = body(letter)?;
    let failure = match told.failure {
        Some(failure) => Some(to_failure(failure)),
        None => last_failure.map(failure).transpose()?.flatten(),
    };
    let DeadLettered { reason, attempts, wall_ms, .. } = head;
    Ok(DeadLetterInfo {
        source_queue: told.source_queue,
        // The numbers are the protocol's own.
        reason,
        failure,
        attempts: attempts.cast_signed(),
        dead_letter_time: Some(to_timestamp(wall_ms)),
    })
}

/// What a record tells of an attempt, and the record of the failure before.
pub(in crate::grpc) struct Attempt {
    pub(in crate::grpc) attempt: StoredAttempt,
    /// It tells a failure of its own.
    pub(in crate::grpc) tells: bool,
    pub(in crate::grpc) previous: Lsn,
    /// The failures before, where it carries them.
    pub(in crate::grpc) earlier: Vec<StoredAttempt>,
}

/// An attempt, from the record of its failure or of its dead-lettering.
pub(in crate::grpc) fn attempt(record: &StoredRecord) -> Result<Attempt, Fault> {
    let (attempt, start_ms, call, end_ms, tells, previous, failure) = match head(record)? {
        Record::Nacked(it) => {
            let (call, failure) = (Some(it.call), body::<StoredFailure>(record)?);
            let (tells, previous) = (it.has_failure, it.previous_failure);
            (it.attempt, it.start_ms, call, it.call.wall_ms, tells, previous, failure)
        }
        Record::DeadLettered(it) => {
            let failure = body::<StoredDeadLetter>(record)?.failure.unwrap_or_default();
            let (tells, previous) = (it.has_failure, it.previous_failure);
            (it.attempts, it.start_ms, it.call, it.wall_ms, tells, previous, failure)
        }
        _ => return Err(Fault::Damaged("a failure's record is of another kind".to_owned())),
    };
    let mut failure = failure;
    let earlier = std::mem::take(&mut failure.earlier);
    let consumer = call.map_or(0, |call| call.consumer);
    let attempt = StoredAttempt { attempt, start_ms, end_ms, consumer, failure };
    Ok(Attempt { attempt, tells, previous: Lsn(previous), earlier })
}

/// An attempt as clients see it.
pub(in crate::grpc) fn attempt_info(attempt: StoredAttempt) -> AttemptInfo {
    let StoredAttempt { attempt, start_ms, end_ms, consumer, failure } = attempt;
    let consumer = Some(ConsumerId(consumer)).filter(|id| *id != ConsumerId::NONE);
    AttemptInfo {
        attempt: attempt.cast_signed(),
        start_time: (start_ms != 0).then(|| to_timestamp(start_ms)),
        end_time: Some(to_timestamp(end_ms)),
        failure: Some(to_failure(failure)),
        consumer_id: consumer.map(|consumer| consumer.to_string()).unwrap_or_default(),
    }
}

/// What a record tells of a failure; a letter's does so where the message has come back since.
fn failure(record: &StoredRecord) -> Result<Option<Failure>, Fault> {
    match Record::decode_head(&record.head) {
        Ok(Record::DeadLettered(_)) => {
            Ok(body::<StoredDeadLetter>(record)?.failure.map(to_failure))
        }
        _ => body(record).map(to_failure).map(Some),
    }
}

pub(super) fn to_failure(failure: StoredFailure) -> Failure {
    Failure { r#type: failure.kind, message: failure.message, details: failure.details }
}

fn head(record: &StoredRecord) -> Result<Record, Fault> {
    Record::decode_head(&record.head).map_err(|error| Fault::Damaged(error.to_string()))
}

/// Reads a record's body.
pub(in crate::grpc) fn body<T: prost::Message + Default>(
    record: &StoredRecord,
) -> Result<T, Fault> {
    let [prefix, rest] = record.body.parts().clone();
    T::decode(prefix.chain(rest)).map_err(|error| Fault::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use qbroker_proto::v1::DeadLetterReason as ToldReason;
    use qbroker_storage::Body;

    use super::*;
    use crate::queue::body::{StoredMessage, small_body};
    use crate::queue::ids::LeaseToken;
    use crate::queue::record::{DeadLetterReason as StoredReason, StoredDue};

    /// A message as it stands in the tail cache, in two parts, and as it is read from disk, in one.
    fn stored(message: &StoredMessage, published: &Published) -> [Stored; 2] {
        let mut head = Vec::new();
        Record::Published(published.clone()).encode_head(&mut head);
        let tail = message.clone().into_body(&mut BytesMut::new());
        let disk = Body::new(Bytes::new(), Bytes::from(tail.parts().concat()));
        [tail, disk].map(|body| Stored {
            birth: Lsn(7),
            message: StoredRecord { head: Bytes::from(head.clone()), body },
            last_failure: None,
            dead_letter: None,
        })
    }

    #[test]
    fn a_message_is_told_as_it_was_stored() {
        let message = StoredMessage {
            message_id: "job-1".to_owned(),
            content_type: "text/plain".to_owned(),
            headers: BTreeMap::from([
                ("a".to_owned(), "1".to_owned()),
                ("b".to_owned(), String::new()),
            ]),
            message_type: "mail".to_owned(),
            correlation_id: "c".to_owned(),
            payload: Bytes::from_static(b"payload"),
            ordering_key: "order 7".to_owned(),
            unique_key: "once".to_owned(),
            fairness_key: "tenant".to_owned(),
        };
        let due = Some(StoredDue { wall_ms: 2_000, ..StoredDue::default() });
        let (wall_ms, expire_ms) = (1_000, 3_000);
        let max_attempts = Some(-1);
        let published = Published { wall_ms, due, expire_ms, max_attempts, ..Published::default() };
        for stored in stored(&message, &published) {
            let told = super::message("q", 3, &stored).unwrap();
            let expected = v1::Message {
                message_id: "job-1".to_owned(),
                queue: "q".to_owned(),
                payload: Bytes::from_static(b"payload"),
                content_type: "text/plain".to_owned(),
                headers: message.headers.clone().into_iter().collect(),
                message_type: "mail".to_owned(),
                correlation_id: "c".to_owned(),
                priority: 3,
                ordering_key: "order 7".to_owned(),
                unique_key: "once".to_owned(),
                fairness_key: "tenant".to_owned(),
                sequence: 7,
                publish_time: Some(to_timestamp(1_000)),
                deliver_time: Some(to_timestamp(2_000)),
                expire_time: Some(to_timestamp(3_000)),
                max_attempts: Some(-1),
                ..v1::Message::default()
            };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn an_empty_message_has_the_brokers_id() {
        for stored in stored(&StoredMessage::default(), &Published::default()) {
            let told = message("q", 0, &stored).unwrap();
            assert_eq!((told.message_id.as_str(), told.payload.len()), ("q.7", 0));
        }
    }

    #[test]
    fn a_body_that_is_no_message_is_damage() {
        for body in [&b"\x0a"[..], b"\x0a\x05job", b"\x7a\x80", b"\x08\x01", b"\x00"] {
            let [mut stored, _] = stored(&StoredMessage::default(), &Published::default());
            stored.message.body = Body::new(Bytes::copy_from_slice(body), Bytes::new());
            let told = message("q", 0, &stored);
            assert!(matches!(told, Err(Fault::Damaged(_))), "{body:?}: {told:?}");
        }
    }

    #[test]
    fn a_delivery_is_told_with_its_lease_and_its_failure() {
        let message = StoredMessage { payload: Bytes::from_static(b"x"), ..Default::default() };
        let failure = StoredFailure::cut("E", "no", "", 100);
        let seal = Seal::new([1; 16]);
        let token = LeaseToken { birth: Lsn(7), grant: Lsn(9), epoch: 1 };
        let granted = Delivery {
            token,
            queue: "q".into(),
            priority: 0,
            failures: 2,
            crashes: 0,
            failures_max: None,
            content: Lsn(7),
            last_failure: Lsn(8),
            dead_letter: Lsn(0),
            duration_ms: 1,
            timed: false,
            size: 1,
        };
        let mut room = BytesMut::new();
        for mut stored in stored(&message, &Published::default()) {
            let body = small_body(&failure);
            stored.last_failure = Some(StoredRecord { head: Bytes::new(), body });
            let encoded = delivery(&granted, &stored, seal, &mut room).unwrap();
            let told = v1::Delivery::decode(encoded).unwrap();
            assert_eq!(told.message, Some(super::message("q", 0, &stored).unwrap()));
            assert_eq!((told.attempt, told.failures, told.crashes), (3, 2, 0));
            assert_eq!(told.max_attempts, Some(-1));
            assert_eq!(seal.open(&told.lease_token), Some(token));
            assert_eq!(told.last_failure.unwrap().message, "no");
        }
    }

    #[test]
    fn stored_reasons_of_dead_letters_have_the_protocols_numbers() {
        let pairs = [
            (StoredReason::MaxAttempts, ToldReason::MaxAttempts),
            (StoredReason::MaxCrashes, ToldReason::MaxCrashes),
            (StoredReason::Expired, ToldReason::Expired),
            (StoredReason::ByConsumer, ToldReason::ByConsumer),
            (StoredReason::Overflow, ToldReason::Overflow),
        ];
        for (stored, told) in pairs {
            assert_eq!(i32::from(stored), i32::from(told), "{stored:?}");
        }
        let stored = (1..64).filter(|number| StoredReason::try_from(*number).is_ok());
        assert_eq!(stored.count(), pairs.len(), "each is compared");
    }
}
