//! A message as bytes: in checkpoints, and in the pages that went out of memory.

use bytes::Bytes;
use prost::Message as _;
use qbroker_storage::{Body, Lsn};

use super::body::small_body;
use super::ids::QueueId;
use super::index::{Keys, Message, State};
use super::record::StoredDue;
use super::snapshot::SnapshotError;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredState {
    #[prost(uint64, tag = "1")]
    pub(super) birth: u64,
    #[prost(uint32, tag = "2")]
    queue: u32,
    /// 0 ready, 1 scheduled, 2 leased, 3 parked, 4 behind.
    #[prost(uint32, tag = "3")]
    state: u32,
    #[prost(message, optional, tag = "4")]
    due: Option<StoredDue>,
    #[prost(uint64, tag = "5")]
    place: u64,
    #[prost(uint32, tag = "6")]
    priority: u32,
    #[prost(uint32, tag = "7")]
    size: u32,
    #[prost(uint64, tag = "8")]
    since_ms: u64,
    #[prost(uint32, tag = "9")]
    failures: u32,
    #[prost(uint32, tag = "10")]
    crashes: u32,
    #[prost(uint64, tag = "11")]
    last_failure: u64,
    #[prost(uint64, tag = "12")]
    dead_letter: u64,
    #[prost(message, optional, tag = "30")]
    ttl_end: Option<StoredDue>,
    #[prost(sint32, tag = "31")]
    max_attempts: i32,
    #[prost(message, optional, tag = "51")]
    keys: Option<StoredKeys>,
    #[prost(uint64, tag = "42")]
    patched: u64,
}

/// A message's [`Keys`]; absent where it has none.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredKeys {
    #[prost(fixed64, tag = "1")]
    unique: u64,
    #[prost(fixed32, tag = "2")]
    ordering: u32,
    #[prost(bool, tag = "3")]
    leads: bool,
    #[prost(fixed32, tag = "4")]
    fairness: u32,
}

impl StoredKeys {
    fn new(keys: Keys) -> Option<Self> {
        let Keys { unique, ordering, leads, fairness } = keys;
        (keys != Keys::NONE).then_some(Self { unique, ordering, leads, fairness })
    }

    fn restore(self) -> Keys {
        let Self { unique, ordering, leads, fairness } = self;
        Keys { unique, ordering, leads, fairness }
    }
}

impl StoredState {
    pub(super) fn new(birth: Lsn, message: &Message) -> Self {
        let (state, due) = match message.state {
            State::Ready => (0, None),
            State::Scheduled(due) => (1, Some(due.into())),
            State::Leased => (2, None),
            State::Parked => (3, None),
            State::Behind => (4, None),
        };
        Self {
            birth: birth.0,
            queue: message.queue.0,
            state,
            due,
            place: message.place.0,
            priority: u32::from(message.priority),
            size: message.size,
            since_ms: message.since_ms,
            failures: message.failures,
            crashes: message.crashes,
            last_failure: message.last_failure.0,
            dead_letter: message.dead_letter.0,
            ttl_end: message.ttl_end.map(Into::into),
            max_attempts: message.max_attempts,
            keys: StoredKeys::new(message.keys),
            patched: message.patched.0,
        }
    }

    pub(super) fn restore(&self) -> Result<(Lsn, Message), SnapshotError> {
        let state = match (self.state, self.due) {
            (0, _) => State::Ready,
            (1, Some(due)) => State::Scheduled(due.into()),
            (2, _) => State::Leased,
            (3, _) => State::Parked,
            (4, _) => State::Behind,
            _ => return Err(SnapshotError::UnknownItem),
        };
        let message = Message {
            queue: QueueId(self.queue),
            state,
            place: Lsn(self.place),
            priority: u8::try_from(self.priority).unwrap_or(u8::MAX),
            size: self.size,
            since_ms: self.since_ms,
            failures: self.failures,
            crashes: self.crashes,
            last_failure: Lsn(self.last_failure),
            dead_letter: Lsn(self.dead_letter),
            ttl_end: self.ttl_end.map(Into::into),
            max_attempts: self.max_attempts,
            keys: self.keys.map_or(Keys::NONE, StoredKeys::restore),
            patched: Lsn(self.patched),
        };
        Ok((Lsn(self.birth), message))
    }
}

/// The body of a [`super::record::PagedOut`].
#[derive(Clone, PartialEq, prost::Message)]
struct StoredPage {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<StoredState>,
}

/// Messages as the body of a record.
pub(super) fn page_body(messages: &[(Lsn, Message)]) -> Body {
    let messages = messages.iter().map(|(birth, message)| StoredState::new(*birth, message));
    small_body(&StoredPage { messages: messages.collect() })
}

/// Reads the body of a [`super::record::PagedOut`].
///
/// # Errors
/// Where another version wrote it: its bytes were checked.
pub fn page_messages(body: &Body) -> Result<Vec<(Lsn, Message)>, SnapshotError> {
    let [first, second] = body.parts();
    let bytes = if second.is_empty() { first.clone() } else { Bytes::from(body.parts().concat()) };
    StoredPage::decode(bytes)?.messages.iter().map(StoredState::restore).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::time::Due;

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let ready = Message {
            queue: QueueId(7),
            state: State::Ready,
            place: Lsn(12),
            priority: 3,
            size: 1024,
            since_ms: 1_000_000_000_000,
            failures: 2,
            crashes: 1,
            last_failure: Lsn(40),
            dead_letter: Lsn(41),
            ttl_end: None,
            max_attempts: -1,
            keys: Keys::NONE,
            patched: Lsn(42),
        };
        let due = Due { wall_ms: 5, boot_ms: Some(6) };
        let keys = Keys { unique: 9, ordering: 8, leads: true, fairness: 7 };
        let (state, ttl_end) = (State::Scheduled(due), Some(Due::at(7)));
        let scheduled = Message { state, place: Lsn(0), ttl_end, keys, ..ready };
        let messages = [(Lsn(12), ready), (Lsn(13), scheduled)];
        assert_eq!(page_messages(&page_body(&messages)).unwrap(), messages);
    }
}
