//! A consumer changes a message that it gives back: what comes next gets another content.
//!
//! The whole new content is one record, which takes the place of the one before: that one is needed
//! no more. Whoever hands in a patch has put the new content together; nothing is read here.

use qbroker_storage::{Body, Lsn};

use super::apply::fresh;
use super::index::{Index, Message};
use super::record::{Published, Record};
use super::refused::Refused;
use super::{Core, Draft};

/// A message has another content from here on: the body, a [`super::body::StoredMessage`], takes the
/// place of the one that it had.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Patched {
    #[prost(uint64, tag = "1")]
    pub birth: u64,
    /// What the birth's head says, with the queue, the priority and the size that it has now.
    #[prost(message, required, tag = "2")]
    pub published: Published,
    /// When it came into its queue.
    #[prost(uint64, tag = "3")]
    pub since_ms: u64,
}

/// Another content for a message.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The head of the record that has its content now: facts that stay.
    pub published: Published,
    /// Unset: as it is.
    pub priority: Option<u8>,
    pub payload_bytes: u64,
    pub body: Body,
}

impl<I: Index> Core<I> {
    /// Drafts another content for a message that somebody holds, or says why it cannot have it.
    pub(super) fn draft_patch(
        &self,
        draft: &mut Draft,
        birth: Lsn,
        message: &Message,
        patch: &Patch,
    ) -> Result<(), Refused> {
        let queue =
            &self.catalog.get(message.queue).expect("a message's queue is there").definition;
        let max = queue.policy.max_payload_bytes.unwrap_or(u64::MAX);
        let max = max.min(self.limits.payload_bytes_max);
        if max < patch.payload_bytes {
            let (index, bytes, queue) = (0, patch.payload_bytes, queue.name.clone());
            return Err(Refused::MessageTooLarge { index, bytes, max, queue });
        }
        let max = queue.policy.priority_max();
        if let Some(priority) = patch.priority.filter(|priority| max < *priority) {
            return Err(Refused::Priority { priority, max, queue: queue.name.clone() });
        }
        let published = Published {
            queue: message.queue.0,
            size: u32::try_from(patch.body.len()).expect("a payload is far below 4 GiB"),
            priority: patch.priority.unwrap_or(message.priority).into(),
            expire_ms: message.ttl_end.map_or(0, |end| end.wall_ms),
            expire_boot_ms: message.ttl_end.and_then(|end| end.boot_ms),
            ..patch.published.clone()
        };
        let patched = Patched { birth: birth.0, published, since_ms: message.since_ms };
        draft.push(Record::Patched(Box::new(patched)), patch.body.clone());
        Ok(())
    }

    pub(super) fn apply_patched(&mut self, lsn: Lsn, patched: &Patched) {
        let birth = Lsn(patched.birth);
        let message = self.present(birth);
        self.tell_step(birth, &message, None);
        self.note_step(message.queue, birth);
        self.searchable = lsn;
        self.retire(message.content(birth));
        let Published { size, priority, .. } = patched.published;
        let priority = u8::try_from(priority).unwrap_or(u8::MAX);
        self.change(birth, Message { patched: lsn, size, priority, ..message });
        self.weigh(message.queue);
    }

    /// The message of which nothing else is known is there: it was held when it was patched.
    pub(super) fn make_up_patched(&mut self, lsn: Lsn, patched: &Patched) {
        let known = fresh(&patched.published, lsn, patched.since_ms);
        let message = Message { patched: lsn, ..known };
        let message = match message.keys.ordering {
            0 => message,
            _ => self.join_line(message),
        };
        self.index.insert(Lsn(patched.birth), message);
        self.consumers.touch(message.queue);
    }
}
