//! Settlements on their way to the broker: gathered, numbered, kept until they are answered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use qbroker_proto::raw::{self, consume_request::Kind};
use qbroker_proto::v1;
use tracing::debug;

use crate::error::Error;
use crate::group::Group;

/// What a consumer has settled and has no answer for.
#[derive(Debug)]
pub(super) struct Settlements {
    /// Requests without an answer, by number, ascending.
    calls: VecDeque<Call>,
    /// How many of `calls` went out on the present stream. Invariant: the first ones.
    sent: usize,
    next_call_id: i64,
    /// What the next request is gathered in.
    gathering: Option<Gathering>,
}

#[derive(Debug)]
struct Gathering {
    /// Each encoded.
    settlements: Vec<Bytes>,
    /// What the next ones are encoded in.
    room: BytesMut,
    /// Of all of them.
    bytes: usize,
    keys: Vec<usize>,
    group: Arc<Group<()>>,
}

/// A request of settlements.
#[derive(Debug)]
pub(super) struct Call {
    id: i64,
    request: Arc<raw::ConsumeRequest>,
    /// Of the leases that it settles.
    pub(super) keys: Vec<usize>,
    group: Arc<Group<()>>,
}

/// So many settlements are one request at most; the broker takes 10,000.
const GATHERED_MAX: usize = 1_000;

/// So many bytes of settlements are one request at most, unless one alone has more; the broker reads
/// requests of 16 MiB.
const GATHERED_BYTES_MAX: usize = 1 << 20;

/// While this many requests are unanswered, settlements gather until there are `GATHERED_WORTH` of
/// them: few large requests cost less than many small ones, and the next answer, which is at most
/// one sync away, sends what there is.
const CALLS_BUSY: usize = 4;

/// So many settlements are worth a request of their own at once.
const GATHERED_WORTH: usize = 100;

/// Room for so many bytes of settlements at a time; an ack has some forty.
const ROOM_BYTES: usize = 4096;

impl Settlements {
    pub(super) fn new() -> Self {
        Self { calls: VecDeque::new(), sent: 0, next_call_id: 1, gathering: None }
    }

    /// Takes in the settlement of the lease `key`; its group and which member of it this is.
    pub(super) fn add(
        &mut self,
        key: usize,
        settlement: &v1::Settlement,
    ) -> (Arc<Group<()>>, usize) {
        let bytes = settlement.encoded_len();
        let gathered = self.gathering.as_ref().map_or(0, |gathering| gathering.bytes);
        if 0 < gathered && GATHERED_BYTES_MAX < gathered + bytes {
            self.number();
        }
        let gathering = self.gathering.get_or_insert_with(Gathering::new);
        gathering.bytes += bytes;
        let member = gathering.settlements.len();
        settlement.encode(&mut gathering.room).expect("a BytesMut grows");
        gathering.settlements.push(gathering.room.split().freeze());
        gathering.keys.push(key);
        let group = Arc::clone(&gathering.group);
        if GATHERED_MAX <= member + 1 {
            self.number();
        }
        (group, member)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.gathering.is_none()
    }

    /// On a new stream everything goes out again.
    pub(super) fn restart(&mut self) {
        self.sent = 0;
    }

    /// Whether there is a request to send that is worth it.
    pub(super) fn is_ready(&self) -> bool {
        self.sent < self.calls.len()
            || self.gathering.as_ref().is_some_and(|gathering| {
                self.sent < CALLS_BUSY || GATHERED_WORTH <= gathering.keys.len()
            })
    }

    /// The next request to send, where one is worth it.
    pub(super) fn next(&mut self) -> Option<Arc<raw::ConsumeRequest>> {
        if !self.is_ready() {
            return None;
        }
        if self.sent == self.calls.len() {
            self.number();
        }
        let call = self.calls.get(self.sent)?;
        self.sent += 1;
        Some(Arc::clone(&call.request))
    }

    /// Takes out the requests that an answer up to `call_id` answers.
    ///
    /// # Errors
    ///
    /// There was no such request.
    pub(super) fn answered(&mut self, call_id: i64) -> Result<Vec<Call>, Error> {
        if self.next_call_id <= call_id {
            return Err(Error::Protocol(format!(
                "settle request {call_id} was answered, {} was the last",
                self.next_call_id - 1
            )));
        }
        let count = self.calls.iter().take_while(|call| call.id <= call_id).count();
        self.sent = self.sent.saturating_sub(count);
        Ok(self.calls.drain(..count).collect())
    }

    /// Takes everything out.
    pub(super) fn take_all(&mut self) -> Vec<Call> {
        self.number();
        self.sent = 0;
        self.calls.drain(..).collect()
    }

    /// Makes a numbered request of what has gathered.
    fn number(&mut self) {
        let Some(gathered) = self.gathering.take() else { return };
        let id = self.next_call_id;
        self.next_call_id += 1;
        let oldest = self.calls.front().map_or(id, |call| call.id);
        let settle = raw::SettleRequest {
            call_id: id,
            settlements: gathered.settlements,
            answered_through_call_id: oldest - 1,
        };
        let request = Arc::new(raw::ConsumeRequest { kind: Some(Kind::Settle(settle)) });
        self.calls.push_back(Call { id, request, keys: gathered.keys, group: gathered.group });
    }
}

impl Gathering {
    fn new() -> Self {
        let (settlements, room, keys) =
            (Vec::new(), BytesMut::with_capacity(ROOM_BYTES), Vec::new());
        Self { settlements, room, bytes: 0, keys, group: Group::new() }
    }
}

impl Call {
    /// Tells everybody who waits that it is done, but for those whose tokens are in `failures`;
    /// returns those, by the keys of their leases.
    pub(super) fn finish<'a>(
        &self,
        failures: &mut HashMap<Bytes, v1::ItemError>,
        token: impl Fn(usize) -> &'a Bytes,
    ) -> Vec<(usize, Error)> {
        let mut refused = Vec::new();
        if !failures.is_empty() {
            for (member, &key) in self.keys.iter().enumerate() {
                if let Some(error) = failures.remove(token(key)) {
                    let error = Error::from(error);
                    // Nobody may be waiting for it.
                    debug!(%error, "a settlement was refused");
                    self.group.refuse(member, error.clone());
                    refused.push((key, error));
                }
            }
        }
        self.group.finish(Ok(()));
        refused
    }

    /// Tells everybody who waits that it is not known to be done.
    pub(super) fn fail(&self, error: &Error) {
        self.group.finish(Err(error.clone()));
    }
}
