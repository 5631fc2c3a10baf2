//! The leases that a consumer has: waiting to be handed out, in hand, or being settled.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::{DecodeError, Message as _};
use qbroker_proto::v1;
use slab::Slab;

use crate::message::{Leased, Sent};

/// Every lease whose end is not known, by a key that its delivery carries.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: Slab<Lease>,
    /// Delivered, not handed out.
    buffered: VecDeque<Buffered>,
}

#[derive(Debug)]
struct Lease {
    token: Bytes,
    state: LeaseState,
    /// The application has begun to work on it.
    started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    Held,
    /// Its settlement waits for an answer, which alone says whether it was lost before.
    Settling,
    Lost(v1::LeaseLostReason),
}

/// A delivery and the key of its lease.
#[derive(Debug)]
pub(super) struct Buffered {
    pub(super) key: usize,
    /// Large, and passed on several times.
    pub(super) leased: Arc<Leased>,
}

impl Leases {
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Takes in what arrived, each a `Delivery`.
    ///
    /// # Errors
    ///
    /// One of them is none; those before it are taken.
    pub(super) fn deliver(
        &mut self,
        deliveries: Vec<Bytes>,
        sent: Option<Sent>,
    ) -> Result<(), DecodeError> {
        for delivery in deliveries {
            let leased = Leased::from(v1::Delivery::decode(delivery)?);
            let leased = Arc::new(Leased { sent, ..leased });
            let token = leased.lease_token.clone();
            let key = self.leases.insert(Lease { token, state: LeaseState::Held, started: false });
            self.buffered.push_back(Buffered { key, leased });
        }
        Ok(())
    }

    pub(super) fn has_buffered(&self) -> bool {
        !self.buffered.is_empty()
    }

    /// Hands out the next deliveries, at most `max`.
    pub(super) fn take(&mut self, max: usize) -> Vec<Buffered> {
        let count = max.min(self.buffered.len());
        self.buffered.drain(..count).collect()
    }

    pub(super) fn token(&self, key: usize) -> &Bytes {
        &self.leases[key].token
    }

    /// The application begins to work on it; its token, where that is news.
    pub(super) fn start(&mut self, key: usize) -> Option<Bytes> {
        let lease = &mut self.leases[key];
        let is_news =
            lease.state == LeaseState::Held && !std::mem::replace(&mut lease.started, true);
        is_news.then(|| lease.token.clone())
    }

    /// What the application works on.
    pub(super) fn started_tokens(&self) -> Vec<Bytes> {
        let started = self.leases.iter().filter(|(_, lease)| match lease.state {
            LeaseState::Held | LeaseState::Settling => lease.started,
            LeaseState::Lost(_) => false,
        });
        started.map(|(_, lease)| lease.token.clone()).collect()
    }

    /// The lease is being settled.
    pub(super) fn settle(&mut self, key: usize) {
        self.leases[key].state = LeaseState::Settling;
    }

    /// The settlement was refused, and the lease is kept.
    pub(super) fn keep(&mut self, key: usize) {
        self.leases[key].state = LeaseState::Held;
    }

    /// The lease has ended, and nobody asks for it any more.
    pub(super) fn forget(&mut self, key: usize) {
        self.leases.remove(key);
    }

    /// Why the lease ended without a settlement, where it did.
    pub(super) fn lost(&self, key: usize) -> Option<v1::LeaseLostReason> {
        match self.leases[key].state {
            LeaseState::Lost(reason) => Some(reason),
            LeaseState::Held | LeaseState::Settling => None,
        }
    }

    /// What the broker must be told to keep when a stream takes the place of another.
    pub(super) fn held_tokens(&self) -> Vec<Bytes> {
        let held = self.leases.iter().filter(|(_, lease)| match lease.state {
            LeaseState::Held | LeaseState::Settling => true,
            LeaseState::Lost(_) => false,
        });
        held.map(|(_, lease)| lease.token.clone()).collect()
    }

    /// These leases ended without a settlement. What was not handed out of them never will be:
    /// somebody else has it, or will.
    pub(super) fn lose(&mut self, tokens: &[Bytes], reason: v1::LeaseLostReason) {
        let tokens: HashSet<&Bytes> = tokens.iter().collect();
        self.lose_where(reason, |token| tokens.contains(token));
    }

    /// Every lease ended without a settlement.
    pub(super) fn lose_all(&mut self, reason: v1::LeaseLostReason) {
        self.lose_where(reason, |_| true);
    }

    /// The broker does not know the log that the leases are of. Those that are being settled hear so.
    pub(super) fn forget_log(&mut self) {
        self.lose_all(v1::LeaseLostReason::Unspecified);
        for (_, lease) in &mut self.leases {
            lease.started = false;
        }
    }

    fn lose_where(&mut self, reason: v1::LeaseLostReason, ended: impl Fn(&Bytes) -> bool) {
        for (_, lease) in &mut self.leases {
            if lease.state == LeaseState::Held && ended(&lease.token) {
                lease.state = LeaseState::Lost(reason);
            }
        }
        let leases = &mut self.leases;
        self.buffered.retain(|buffered| {
            let held = leases[buffered.key].state == LeaseState::Held;
            if !held {
                leases.remove(buffered.key);
            }
            held
        });
    }
}
