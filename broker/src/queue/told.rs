//! What a record's head tells beside its fact, for those who watch: when it was, and in which queue.
//!
//! Nothing is decided by it and nothing is applied of it. It stands in a field of its own beside the
//! record, so that no record has to have room for it.

use prost::Message;
use qbroker_storage::Lsn;

use super::ids::QueueId;

/// The number of its field in a record's head.
const TAG: u32 = 59;

/// When a record was written, and where the messages are that it names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Wall clock; 0: unknown.
    pub wall_ms: u64,
    /// The grant of the lease that the record ends, of a single message; zero: not told.
    pub grant: Lsn,
    queue: u32,
    queues: Vec<u32>,
}

impl Told {
    /// Reads what stands beside a record in its head; nothing where an older version wrote it.
    pub fn of_head(head: &[u8]) -> Self {
        let told = Head::decode(head).ok().and_then(|head| head.told).unwrap_or_default();
        let Beside { wall_ms, queue, queues, grant } = told;
        Self { wall_ms, grant: Lsn(grant), queue, queues }
    }

    /// The queue that the record's message number `at` was in; 0: unknown.
    pub fn queue(&self, at: usize) -> QueueId {
        QueueId(self.queues.get(at).copied().unwrap_or(self.queue))
    }
}

#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(message, optional, tag = "59")]
    told: Option<Beside>,
}

#[derive(Clone, PartialEq, Message)]
struct Beside {
    #[prost(uint64, tag = "1")]
    wall_ms: u64,
    /// Of all messages of the record, unless `queues` has one for each.
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint32, repeated, tag = "3")]
    queues: Vec<u32>,
    #[prost(uint64, tag = "4")]
    grant: u64,
}

/// Collects what is told while a record is applied, in the order in which it names its messages.
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
        self.beside.grant = 0;
    }

    /// The record ends this lease of its one message.
    pub(super) fn lease_of(&mut self, grant: Option<Lsn>) {
        self.beside.grant = grant.unwrap_or_default().0;
    }

    /// The next message of the record is, or was, in this queue. Records of one queue, nearly all
    /// there are, need no list.
    pub(super) fn message_of(&mut self, queue: QueueId) {
        let Beside { queue: first, queues, .. } = &mut self.beside;
        if self.count == 0 {
            *first = queue.0;
        } else if !queues.is_empty() {
            queues.push(queue.0);
        } else if *first != queue.0 {
            queues.resize(self.count, *first);
            queues.push(queue.0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::record::{Acked, Record};

    fn told(queues: &[u32]) -> Told {
        let mut head = Vec::new();
        let record = Record::Acked(Acked { births: vec![1; queues.len()], ..Acked::default() });
        record.encode_head(&mut head);
        let mut telling = Telling::default();
        telling.begin();
        queues.iter().for_each(|queue| telling.message_of(QueueId(*queue)));
        telling.encode(7, &mut head);
        assert_eq!(Record::decode_head(&head).unwrap(), record, "it is beside the record");
        Told::of_head(&head)
    }

    #[test]
    fn each_message_of_a_record_has_its_queue() {
        let one = told(&[4, 4, 4]);
        assert_eq!((one.wall_ms, one.queue(2), one.queues.len()), (7, QueueId(4), 0));
        let several = told(&[4, 4, 5, 4]);
        let queues: Vec<u32> = (0..4).map(|at| several.queue(at).0).collect();
        assert_eq!(queues, [4, 4, 5, 4]);
        assert_eq!(told(&[]), Told::default());
    }
}
