//! Consumers and waiting pulls: who takes messages, and how much room each has.
//!
//! All of it belongs to this start: after a restart the sessions are known, and their streams come
//! back by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::connect::OpenConsumer;
use super::ids::{ConsumerId, SessionId};
use super::pull::{Pull, PullId};
use super::pulled::RequestKey;
use super::shares::{Selector, Shares};

/// How much may be out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub messages: u32,
    /// One message is delivered when nothing is out, however large it is.
    pub bytes: u64,
}

/// A connected stream.
#[derive(Debug)]
pub struct Consumer {
    pub session: SessionId,
    /// Each once, by name.
    pub queues: Vec<Arc<str>>,
    pub window: Window,
    pub lease_duration_ms: Option<u64>,
    pub timed: bool,
    pub reports_started: bool,
    pub extension_ms_max: u64,
    pub outstanding_messages: u32,
    pub outstanding_bytes: u64,
    draining: bool,
    /// Its queues that it is not lined up at, for lack of room; the next one first.
    blocked: VecDeque<Arc<str>>,
    /// The queue that gave last: the others come before it.
    gave_last: Option<Arc<str>>,
    /// How its room is shared among its queues, where it said so; otherwise they take turns.
    shares: Option<Box<Shares>>,
}

impl Consumer {
    /// A consumer that has nothing yet.
    pub(super) fn new(session: SessionId, open: &OpenConsumer) -> Self {
        let selectors: BTreeMap<&str, &Selector> =
            open.queues.iter().rev().map(|selector| (selector.queue.as_str(), selector)).collect();
        Self {
            session,
            queues: selectors.keys().map(|name| Arc::from(*name)).collect(),
            shares: Shares::new(selectors.values().copied()).map(Box::new),
            window: open.window,
            lease_duration_ms: open.lease_duration_ms,
            timed: open.manual_extend,
            reports_started: open.reports_started,
            extension_ms_max: open.extension_ms_max,
            outstanding_messages: 0,
            outstanding_bytes: 0,
            draining: false,
            blocked: VecDeque::new(),
            gave_last: None,
        }
    }

    /// How its room is shared among its queues, where it said so.
    pub(super) fn shares(&self) -> Option<&Shares> {
        self.shares.as_deref()
    }

    /// Whether it takes nothing more.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Where one of its queues is in [`Self::queues`].
    pub(super) fn place_of(&self, queue: &str) -> Option<usize> {
        self.queues.binary_search_by(|other| (**other).cmp(queue)).ok()
    }

    /// Its shares, and where one of its queues is in them.
    fn share_mut(&mut self, queue: &str) -> Option<(&mut Shares, usize)> {
        let place = self.place_of(queue)?;
        Some((self.shares.as_deref_mut()?, place))
    }

    /// A lease of one of its queues was its own before it came.
    pub(super) fn hold(&mut self, queue: &str) {
        if let Some((shares, place)) = self.share_mut(queue) {
            shares.holds(place);
        }
    }

    /// How its room is shared from now on.
    pub(super) fn set_shares(&mut self, shares: Option<Shares>) {
        self.shares = shares.map(Box::new);
    }

    /// At how many of its queues it is not lined up.
    pub(super) fn waits_at(&self) -> usize {
        self.blocked.len()
    }

    /// It had its turn at a queue and got so many messages; where none, it has left the queue's line.
    /// Who waits longest comes next, and the queue that gave last comes last.
    pub(super) fn had_turn(&mut self, queue: &Arc<str>, got: usize, reached: u64) {
        if 0 < got {
            self.gave_last = Some(queue.clone());
        } else {
            let last = self.blocked.back();
            let before_last = self.room() == 0 && last.is_some() && last == self.gave_last.as_ref();
            self.blocked.insert(self.blocked.len() - usize::from(before_last), queue.clone());
        }
        if let Some((shares, place)) = self.share_mut(queue) {
            shares.gave(place, u32::try_from(got).unwrap_or(u32::MAX), reached);
        }
    }

    /// The queues to stand at next, at most so many: all of them where it is found out among them which
    /// one comes first, else one.
    pub(super) fn stand_at_next(&mut self, most: usize) -> Vec<Arc<str>> {
        let count = match &mut self.shares {
            Some(shares) => {
                shares.stand();
                most
            }
            None => most.min(1),
        };
        self.blocked.drain(..count).collect()
    }

    /// It stands at this queue again; false where it did already.
    pub(super) fn stand_at(&mut self, queue: &Arc<str>) -> bool {
        let Some(at) = self.blocked.iter().position(|other| other == queue) else { return false };
        self.blocked.remove(at);
        if let Some((shares, place)) = self.share_mut(queue) {
            shares.stand_at(place);
        }
        true
    }

    /// It is gone.
    pub(super) fn wait_nowhere(&mut self) {
        self.blocked.clear();
    }

    /// A lease of this queue is not its own any more.
    pub(super) fn gave_back_of(&mut self, queue: &str) {
        if let Some((shares, place)) = self.share_mut(queue) {
            shares.gave_back(place);
        }
    }

    /// It takes nothing more.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// A lease takes room.
    pub(super) fn take(&mut self, bytes: u32) {
        self.outstanding_messages += 1;
        self.outstanding_bytes += u64::from(bytes);
    }

    /// Messages it may still take; zero where it must wait.
    pub(super) fn room(&self) -> u32 {
        let full = self.window.bytes <= self.outstanding_bytes && 0 < self.outstanding_messages;
        if self.draining || full {
            return 0;
        }
        self.window.messages.saturating_sub(self.outstanding_messages)
    }

    /// Bytes it may still take, unless nothing is out.
    pub(super) fn bytes_room(&self) -> u64 {
        self.window.bytes.saturating_sub(self.outstanding_bytes)
    }
}

/// Somebody who takes messages from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    Consumer(ConsumerId),
    Pull(PullId),
}

#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) pull: Pull,
    pub(super) session: SessionId,
}

impl WaitingPull {
    /// Its name, where it has one.
    pub(super) fn key(&self) -> Option<RequestKey> {
        let request = &self.pull.request_id;
        (!request.is_empty()).then(|| (self.session, request.clone()))
    }
}

#[cfg(test)]
impl Consumer {
    /// Its queues that it is not lined up at.
    pub(super) fn blocked(&self) -> &VecDeque<Arc<str>> {
        &self.blocked
    }
}
