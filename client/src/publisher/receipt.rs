//! Receipts: what a publish is answered with, and waiting for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::error::Error;
use crate::group::{Group, Member};

/// Proof that a message is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The id you chose, or the one the broker made. Empty where a message without an id is a
    /// duplicate by its unique key: what the first one is called is not told.
    pub message_id: String,
    /// Its place in the broker's log. `None` for a duplicate on a stream: the first one has it.
    pub sequence: Option<u64>,
    /// A message of this id was stored before, inside the dedup window, or an unfinished one has its
    /// unique key; this one was not stored.
    pub duplicate: bool,
}

/// Proof that a batch is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReceipt {
    pub(crate) first_sequence: u64,
    pub(crate) messages: usize,
    /// Positions of duplicates, ascending.
    pub(crate) duplicates: Vec<usize>,
}

impl BatchReceipt {
    /// How many messages the batch had.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether it had none; it always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Positions of the messages that were stored before and so not again, ascending.
    #[must_use]
    pub fn duplicates(&self) -> &[usize] {
        &self.duplicates
    }

    /// Place in the broker's log of the message at `position`; `None` for a duplicate and beyond
    /// the end.
    ///
    /// The messages stored of a batch have consecutive places. The id that the broker makes where
    /// you chose none is `q.` and this number.
    #[must_use]
    pub fn sequence(&self, position: usize) -> Option<u64> {
        if self.messages <= position {
            return None;
        }
        match self.duplicates.binary_search(&position) {
            Ok(_) => None,
            Err(before) => Some(self.first_sequence + (position - before) as u64),
        }
    }
}

/// What became of a batch, and where its members went in it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) receipt: BatchReceipt,
    /// Members in the order stored, where some were refused and left out.
    pub(super) members: Option<Vec<usize>>,
}

/// Waits until a message is on disk. The message is on its way whether or not this is waited for.
#[derive(Debug)]
#[must_use = "without waiting for it nobody knows whether the message was stored"]
pub struct PendingReceipt {
    pub(super) member: Member<Stored>,
    /// The id that was chosen, empty where the broker makes one.
    pub(super) message_id: String,
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stored = ready!(Pin::new(&mut self.member).poll(cx))?;
        let member = self.member.position();
        let position = match &stored.members {
            Some(members) => members
                .binary_search(&member)
                .expect("a member is either refused or in what was stored"),
            None => member,
        };
        let sequence = stored.receipt.sequence(position);
        let chosen = std::mem::take(&mut self.message_id);
        let message_id = match sequence {
            Some(sequence) if chosen.is_empty() => format!("q.{sequence}"),
            _ => chosen,
        };
        Poll::Ready(Ok(Receipt { message_id, sequence, duplicate: sequence.is_none() }))
    }
}

/// Waits until a batch is on disk. The batch is on its way whether or not this is waited for.
#[derive(Debug)]
#[must_use = "without waiting for it nobody knows whether the batch was stored"]
pub struct PendingBatch {
    pub(super) member: Member<Stored>,
}

impl PendingBatch {
    pub(super) fn new(group: Arc<Group<Stored>>) -> Self {
        Self { member: Member::new(group, 0) }
    }
}

impl Future for PendingBatch {
    type Output = Result<BatchReceipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stored = ready!(Pin::new(&mut self.member).poll(cx))?;
        Poll::Ready(Ok(stored.receipt.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_have_no_place_and_the_rest_are_consecutive() {
        let receipt = BatchReceipt { first_sequence: 40, messages: 5, duplicates: vec![0, 3] };
        let sequences: Vec<_> = (0..6).map(|position| receipt.sequence(position)).collect();
        assert_eq!(sequences, [None, Some(40), Some(41), None, Some(42), None]);
    }
}
