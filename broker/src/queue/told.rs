//! What a record's head tells beside its fact, for those who watch and trace: when it was, and of each
//! message in which queue, which attempt, and what came before.
//!
//! Nothing is decided by it and nothing is applied of it. It stands in a field of its own beside the
//! record, so that no record has to have room for it.

use prost::Message as _;
use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::Message;

/// The number of its field in a record's head.
const TAG: u32 = 59;

/// When a record was written, and what is told of the messages that it names, by their positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    beside: Option<Beside>,
}

impl Told {
    /// Reads what stands beside a record in its head; nothing where an older version wrote it.
    pub fn of_head(head: &[u8]) -> Self {
        Self { beside: Head::decode(head).ok().and_then(|head| head.told) }
    }

    /// Wall clock; 0: unknown.
    pub fn wall_ms(&self) -> u64 {
        self.beside.as_ref().map_or(0, |told| told.wall_ms)
    }

    /// The queue that the message was in; 0: unknown.
    pub fn queue(&self, at: usize) -> QueueId {
        let told = self.beside.as_ref();
        QueueId(told.map_or(0, |it| it.queues.get(at).copied().unwrap_or(it.queue)))
    }

    /// Which attempt it was, or would be next; 0: unknown.
    pub fn attempt(&self, at: usize) -> u32 {
        let told = self.beside.as_ref();
        told.map_or(0, |it| 1 + it.attempts_before.get(at).copied().unwrap_or_default())
    }

    /// The grant of the lease that the message lost by it; zero: none, or unknown.
    pub fn grant(&self, at: usize) -> Lsn {
        Lsn(self.beside.as_ref().and_then(|it| it.grants.get(at).copied()).unwrap_or_default())
    }

    /// What happened to the message before, where it was not that grant; zero: unknown.
    pub fn previous(&self, at: usize) -> Lsn {
        Lsn(self.beside.as_ref().and_then(|it| it.previous.get(at).copied()).unwrap_or_default())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(message, optional, tag = "59")]
    told: Option<Beside>,
}

/// A list ends with the last message that has something in it.
#[derive(Clone, PartialEq, prost::Message)]
struct Beside {
    #[prost(uint64, tag = "1")]
    wall_ms: u64,
    /// Of all messages of the record, unless `queues` has one for each.
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint32, repeated, tag = "3")]
    queues: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    attempts_before: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    grants: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    previous: Vec<u64>,
}

/// Collects what is told while a record is applied, in the order in which it names its messages.
///
/// Most records are of one queue, of first attempts and of messages to which little has happened:
/// for them no list is begun.
#[derive(Debug, Default)]
pub(super) struct Telling {
    beside: Beside,
    count: usize,
}

impl Telling {
    /// Another record is applied.
    pub(super) fn begin(&mut self) {
        self.count = 0;
        self.beside.queue = 0;
        self.beside.queues.clear();
        self.beside.attempts_before.clear();
        self.beside.grants.clear();
        self.beside.previous.clear();
    }

    /// The next message of the record, as it was before.
    pub(super) fn message(&mut self, before: &Message) {
        self.step(before, None, Lsn(0));
    }

    /// The next message of the record, as it was before; the lease that it loses by it, and what else
    /// happened to it before.
    pub(super) fn step(&mut self, before: &Message, grant: Option<Lsn>, previous: Lsn) {
        let Beside { queue, queues, attempts_before, grants, previous: steps, .. } =
            &mut self.beside;
        let at = self.count;
        if at == 0 {
            *queue = before.queue.0;
        } else if !queues.is_empty() {
            queues.push(before.queue.0);
        } else if *queue != before.queue.0 {
            queues.resize(at, *queue);
            queues.push(before.queue.0);
        }
        put(attempts_before, at, before.failures + before.crashes);
        put(grants, at, grant.unwrap_or_default().0);
        put(steps, at, previous.0);
        self.count += 1;
    }

    /// Appends it to a record's head, where there is something to tell.
    pub(super) fn encode(&mut self, wall_ms: u64, head: &mut Vec<u8>) {
        if self.count != 0 {
            self.beside.wall_ms = wall_ms;
            prost::encoding::message::encode(TAG, &self.beside, head);
        }
    }
}

/// Says something of the message at this position, unless there is nothing to say.
fn put<T: Default + Clone + PartialEq>(list: &mut Vec<T>, at: usize, value: T) {
    if value != T::default() {
        list.resize(at, T::default());
        list.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::record::{Acked, Record};

    fn message(queue: u32, failures: u32) -> Message {
        Message { place: Lsn(1), failures, ..Message::unknown(QueueId(queue), 0) }
    }

    /// What is told of messages by their queues, failures, grants and steps before.
    fn told(messages: &[(u32, u32, u64, u64)]) -> (Told, usize) {
        let mut head = Vec::new();
        let births = vec![1; messages.len()];
        let record = Record::Acked(Acked { births, ..Acked::default() });
        record.encode_head(&mut head);
        let bare = head.len();
        let mut telling = Telling::default();
        telling.begin();
        for &(queue, failures, grant, previous) in messages {
            telling.step(&message(queue, failures), Some(Lsn(grant)), Lsn(previous));
        }
        telling.encode(7, &mut head);
        assert_eq!(Record::decode_head(&head).unwrap(), record, "it is beside the record");
        (Told::of_head(&head), head.len() - bare)
    }

    #[test]
    fn of_most_records_there_is_little_to_tell() {
        let (all, bytes) = told(&[(4, 0, 0, 0), (4, 0, 0, 0), (4, 0, 0, 0)]);
        assert_eq!((all.wall_ms(), all.queue(2), all.attempt(2)), (7, QueueId(4), 1));
        assert_eq!((all.grant(0), all.previous(2)), (Lsn(0), Lsn(0)));
        assert_eq!(bytes, 7);
        assert_eq!(told(&[]), (Told::default(), 0));
    }

    #[test]
    fn each_message_of_a_record_has_its_own() {
        let all = [(4, 0, 0, 0), (4, 2, 9, 0), (5, 0, 0, 8), (4, 0, 0, 0)];
        let (told, _) = told(&all);
        for (at, &(queue, failures, grant, previous)) in all.iter().enumerate() {
            let is = (told.queue(at).0, told.attempt(at), told.grant(at), told.previous(at));
            assert_eq!(is, (queue, 1 + failures, Lsn(grant), Lsn(previous)));
        }
    }

    #[test]
    fn of_what_an_older_version_wrote_nothing_is_known() {
        let told = Told::default();
        assert_eq!((told.wall_ms(), told.queue(0), told.attempt(0)), (0, QueueId(0), 0));
    }
}
