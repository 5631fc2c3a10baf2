//! Settlements that may be refused while the lease stays: who asked gets it back.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::{Error, Reason};

/// Why a settlement was not done, and the key of the lease where that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) key: Option<usize>,
    pub(super) error: Error,
}

impl Kept {
    fn new(key: Option<usize>, error: Error) -> Box<Self> {
        Box::new(Self { key, error })
    }
}

type Answer = Result<(), Box<Kept>>;

/// Those that somebody waits for, by the keys of their leases.
#[derive(Debug, Default)]
pub(super) struct Trials(HashMap<usize, oneshot::Sender<Answer>>);

/// Waits for the answer to one.
#[derive(Debug)]
pub(super) struct Trial(oneshot::Receiver<Answer>);

impl Trials {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn begin(&mut self, key: usize) -> Trial {
        let (sender, receiver) = oneshot::channel();
        self.0.insert(key, sender);
        Trial(receiver)
    }

    /// The lease has ended.
    pub(super) fn end(&mut self, key: usize, result: Result<(), Error>) {
        if let Some(sender) = self.0.remove(&key) {
            // Whoever asked may have gone.
            sender.send(result.map_err(|error| Kept::new(None, error))).ok();
        }
    }

    /// Every lease has ended.
    pub(super) fn end_all(&mut self, error: &Error) {
        let keys: Vec<usize> = self.0.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(key, Err(error.clone())));
    }

    /// The settlement was refused, and the lease is kept; whether somebody has its key now.
    pub(super) fn give_back(&mut self, key: usize, error: Error) -> bool {
        let asked = self.0.remove(&key);
        asked.is_some_and(|sender| sender.send(Err(Kept::new(Some(key), error))).is_ok())
    }
}

impl Trial {
    /// One that is not sent: with the key of its lease, where that is kept.
    pub(super) fn unsent(key: Option<usize>, error: Error) -> Self {
        let (sender, receiver) = oneshot::channel();
        sender.send(Err(Kept::new(key, error))).expect("the receiver is at hand");
        Self(receiver)
    }

    /// Nobody waits any more; what was answered meanwhile, where that was a refusal.
    pub(super) fn abandon(mut self) -> Option<Box<Kept>> {
        self.0.close();
        self.0.try_recv().ok().and_then(Result::err)
    }
}

impl Future for Trial {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let closed = || Error::Closed("the consumer has ended".to_owned());
        let gone = |_| Err(Kept::new(None, closed()));
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(gone))
    }
}

/// Whether a settlement that was refused so has left the lease as it was.
pub(super) fn keeps_lease(error: &Error) -> bool {
    match error.reason() {
        Some(Reason::LeaseLost | Reason::AlreadySettled | Reason::TokenInvalid) | None => false,
        Some(_) => true,
    }
}
