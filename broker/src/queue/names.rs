//! Messages by the names that clients have for them.
//!
//! Every message can be found by its birth, which receipts and deliveries tell as the sequence. By an
//! id that its publisher chose it is found for as long as that id is remembered: in the queue it was
//! published to, within the dedup window. Ids are kept nowhere else, so that they cost no memory.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::Core;
use super::ids::QueueId;
use super::index::{Index, Lookup, Message};
use super::refused::Refused;
use super::time::Now;

/// How a client names a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageName {
    /// As it was given.
    pub id: String,
    pub by: NamedBy,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The message of this birth.
    Birth(Lsn),
    /// The message whose publisher chose the id that has this keyed hash.
    Hash(u128),
}

/// Messages that were not changed, or not deleted, by their positions, and why.
pub type NotDone = Vec<(usize, Refused)>;

/// A message that was found, or why it was not.
pub type Found = Result<(Lsn, Message), Refused>;

impl<I: Index> Core<I> {
    /// The message of a name, in this queue; in any where none is given.
    pub fn message_named(
        &self,
        queue: Option<QueueId>,
        name: &MessageName,
        now: Now,
    ) -> Lookup<Found> {
        let birth = self.birth_named(queue, name, now);
        let found = match birth {
            Some(birth) => self.index.message(birth)?.map(|message| (birth, message)),
            None => None,
        };
        let found = found.filter(|(_, message)| queue.is_none_or(|queue| queue == message.queue));
        Ok(found.ok_or_else(|| Refused::MessageNotFound(name.id.clone())))
    }

    /// The messages of several names, once each, that `check` agrees with; and why not the others.
    pub(super) fn messages_named(
        &self,
        queue: Option<QueueId>,
        names: &[MessageName],
        now: Now,
        check: impl Fn(&MessageName, &Message) -> Result<(), Refused>,
    ) -> Lookup<(BTreeSet<Lsn>, NotDone)> {
        let (mut births, mut refused) = (BTreeSet::new(), Vec::new());
        for (position, name) in names.iter().enumerate() {
            let found = self.message_named(queue, name, now)?;
            match found.and_then(|(birth, message)| check(name, &message).map(|()| birth)) {
                Ok(birth) => drop(births.insert(birth)),
                Err(why) => refused.push((position, why)),
            }
        }
        Ok((births, refused))
    }

    /// The birth of the message of a name, wherever it is, and whether it is there or not.
    pub fn birth_named(&self, queue: Option<QueueId>, name: &MessageName, now: Now) -> Option<Lsn> {
        match name.by {
            NamedBy::Birth(birth) => Some(birth),
            NamedBy::Hash(hash) => {
                queue.and_then(|queue| self.dedup.find(queue, hash, now.wall_ms))
            }
        }
    }

    /// The queue that a call about messages names; an empty name is none.
    pub fn queue_of_names(&self, name: &str) -> Result<Option<QueueId>, Refused> {
        if name.is_empty() {
            return Ok(None);
        }
        self.queue(name).map(|queue| Some(queue.id()))
    }
}
