//! Batches of messages: gathered or given, numbered, answered.

use std::collections::HashSet;
use std::sync::Arc;

use qbroker_proto::v1::{self, publish_stream_request::Kind};

use super::receipt::{BatchReceipt, Stored};
use crate::error::{Error, Reason, Refusal};
use crate::group::Group;
use crate::message::OutgoingMessage;

/// Messages that go out together.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Vec<v1::OutgoingMessage>,
    /// What it takes of the budget; no less than it has encoded, but for the frame around it.
    pub(super) cost: usize,
    pub(super) group: Arc<Group<Stored>>,
    kind: Kinship,
}

/// What the messages of a batch have to do with each other.
#[derive(Debug)]
enum Kinship {
    /// They were published as a batch: all or nothing.
    Whole,
    /// They were gathered from single messages, which stand alone.
    Gathered {
        /// Which member of the group each message is, once one of them was refused.
        members: Option<Vec<usize>>,
        /// The ids in it, with their queues: one id may be in a batch once.
        ids: HashSet<(String, String)>,
    },
}

/// A batch that is sent or about to be.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) id: i64,
    pub(super) request: Arc<v1::PublishStreamRequest>,
    pub(super) cost: usize,
    pub(super) group: Arc<Group<Stored>>,
    messages: usize,
    /// `None` for one that was published as a batch.
    gathered: Option<Option<Vec<usize>>>,
}

/// A batch of single messages is complete at this many; more gain nothing.
const GATHERED_MESSAGES_MAX: usize = 500;

/// A batch of single messages is complete at this many bytes, far below the broker's 8 MiB.
const GATHERED_BYTES_MAX: usize = 1024 * 1024;

/// So many single messages, or a quarter of the bytes, are worth a batch of their own at once.
const GATHERED_MESSAGES_WORTH: usize = 100;

impl Batch {
    /// A batch that was published as such.
    pub(super) fn whole(messages: Vec<OutgoingMessage>, cost: usize) -> Self {
        let messages = messages.into_iter().map(|message| message.0).collect();
        Self { messages, cost, group: Group::new(), kind: Kinship::Whole }
    }

    /// An empty batch to gather single messages in.
    pub(super) fn gathered() -> Self {
        let kind = Kinship::Gathered { members: None, ids: HashSet::new() };
        Self { messages: Vec::new(), cost: 0, group: Group::new(), kind }
    }

    pub(super) fn has_room_for(&self, message: &OutgoingMessage, cost: usize) -> bool {
        let Kinship::Gathered { ids, .. } = &self.kind else { return false };
        self.messages.len() < GATHERED_MESSAGES_MAX
            && self.cost + cost <= GATHERED_BYTES_MAX
            && (message.0.message_id.is_empty() || !ids.contains(&id_of(message)))
    }

    /// Adds a message; which member of the group it is.
    pub(super) fn push(&mut self, message: OutgoingMessage, cost: usize) -> usize {
        if let Kinship::Gathered { ids, .. } = &mut self.kind
            && !message.0.message_id.is_empty()
        {
            ids.insert(id_of(&message));
        }
        self.cost += cost;
        self.messages.push(message.0);
        self.messages.len() - 1
    }

    /// Whether it is large enough to go out while others are unanswered.
    pub(super) fn is_worth_sending(&self) -> bool {
        GATHERED_MESSAGES_WORTH <= self.messages.len() || GATHERED_BYTES_MAX / 4 <= self.cost
    }

    /// Makes the request of it that is kept until it is answered.
    pub(super) fn number(self, id: i64, queue: &str, confirmed_through: i64) -> Numbered {
        let messages = self.messages.len();
        let request = v1::PublishRequest {
            queue: queue.to_owned(),
            messages: self.messages,
            allow_partial: false,
        };
        let batch = v1::PublishBatch {
            batch_id: id,
            request: Some(request),
            confirmed_through_batch_id: confirmed_through,
        };
        Numbered {
            id,
            request: Arc::new(v1::PublishStreamRequest { kind: Some(Kind::Batch(batch)) }),
            cost: self.cost,
            group: self.group,
            messages,
            gathered: match self.kind {
                Kinship::Whole => None,
                Kinship::Gathered { members, .. } => Some(members),
            },
        }
    }
}

impl Numbered {
    /// Tells those who wait that it is stored.
    pub(super) fn stored(self, first_sequence: i64, duplicates: Option<v1::BatchDuplicates>) {
        let indexes = duplicates.map(|duplicates| duplicates.indexes).unwrap_or_default();
        let receipt = BatchReceipt {
            first_sequence: first_sequence.try_into().unwrap_or_default(),
            messages: self.messages,
            duplicates: indexes.into_iter().filter_map(|index| index.try_into().ok()).collect(),
        };
        self.group.finish(Ok(Stored { receipt, members: self.gathered.flatten() }));
    }

    /// Tells those whom it concerns that it is refused; returns the messages that are to be sent
    /// again because they only shared the batch with the one that was at fault.
    pub(super) fn refused(self, refused: v1::BatchRefused) -> Option<Batch> {
        let mut refusal = Refusal::from(refused.error.unwrap_or_default());
        let index = usize::try_from(refused.index).unwrap_or(usize::MAX);
        if self.gathered.is_none() && concerns_one_message(&refusal) {
            // As single calls tell it. Whoever published single messages knows of no batch.
            refusal.metadata.insert("index".to_owned(), index.to_string());
        }
        if self.gathered.is_some() && 0 < index && refusal.reason == Reason::BatchTooLarge {
            // It stands alone: what it has no room beside is in the queue by the time it comes.
            refusal = Refusal { reason: Reason::QueueFull, retryable: true, ..refusal };
        }
        let Some(members) = self.gathered.filter(|_| {
            concerns_one_message(&refusal) && 1 < self.messages && index < self.messages
        }) else {
            self.group.finish(Err(Error::Refused(refusal)));
            return None;
        };
        let mut members = members.unwrap_or_else(|| (0..self.messages).collect());
        let mut messages = messages_of(self.request);
        let mut cost = self.cost;
        for at in at_fault(&refusal.reason, index, &messages) {
            self.group.refuse(members.remove(at), Error::Refused(refusal.clone()));
            cost -= OutgoingMessage(messages.remove(at)).cost();
        }
        if messages.is_empty() {
            self.group.finish(Err(Error::Refused(refusal)));
            return None;
        }
        let kind = Kinship::Gathered { members: Some(members), ids: HashSet::new() };
        Some(Batch { messages, cost, group: self.group, kind })
    }
}

/// Whether a refusal is the fault of the message it names, so that the others may succeed.
fn concerns_one_message(refusal: &Refusal) -> bool {
    if refusal.reason == Reason::LimitReached {
        // It would have made a queue.
        return refusal.metadata.get("limit").is_some_and(|limit| limit == "max_queues");
    }
    matches!(
        refusal.reason,
        Reason::InvalidArgument
            | Reason::InvalidQueueName
            | Reason::MessageTooLarge
            | Reason::DuplicateInBatch
            | Reason::QueueNotFound
            | Reason::QueueFull
            | Reason::QueuePaused
            | Reason::FeatureUnsupported
            | Reason::PermissionDenied
    )
}

/// The messages that a refusal is of, the last first. What comes after one that a full or paused queue
/// refused is for the same queue not tried again: it would come before it, or be refused one by one.
fn at_fault(reason: &Reason, index: usize, messages: &[v1::OutgoingMessage]) -> Vec<usize> {
    let queue = &messages[index].queue;
    let is_full = matches!(reason, Reason::QueueFull | Reason::QueuePaused);
    let rest = (index + 1..messages.len()).rev();
    rest.filter(|at| is_full && messages[*at].queue == *queue).chain([index]).collect()
}

fn id_of(message: &OutgoingMessage) -> (String, String) {
    (message.0.queue.clone(), message.0.message_id.clone())
}

/// The messages of a numbered request; copied only where the stream still encodes them.
fn messages_of(request: Arc<v1::PublishStreamRequest>) -> Vec<v1::OutgoingMessage> {
    match Arc::unwrap_or_clone(request).kind {
        Some(Kind::Batch(v1::PublishBatch { request: Some(request), .. })) => request.messages,
        _ => unreachable!("a numbered request is a batch"),
    }
}
