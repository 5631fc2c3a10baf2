//! A message in the hands of the application, and how it is settled.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use qbroker_proto::v1;

use super::inbox::Inbox;
use super::leases::Buffered;
use super::trial::{Kept, Trial};
use crate::driver::Shared;
use crate::error::Error;
use crate::group::{Member, Members};
use crate::message::{Failure, Leased};
use crate::settlement::{Outcome, Settlement};

/// A message that is yours until you settle it.
///
/// Settling returns at once with something to wait for: the settlement is on its way whether or not
/// it is waited for, together with others that are made meanwhile. Waiting tells that it is durable.
///
/// A delivery that is dropped without a settlement (a panic, a canceled task) is nacked.
///
/// A running job survives a broken connection and a restart of the broker: the lease stays, and the
/// settlement is delivered once the broker is back.
#[derive(Debug)]
pub struct Delivery {
    shared: Arc<Shared<Inbox>>,
    /// Its place among the leases; `None` once it is settled.
    key: Option<usize>,
    leased: Arc<Leased>,
}

impl Delivery {
    pub(super) fn new(shared: Arc<Shared<Inbox>>, buffered: Buffered) -> Self {
        Self { shared, key: Some(buffered.key), leased: buffered.leased }
    }

    /// Done: the message is gone for good.
    pub fn ack(self) -> Settling {
        self.settle(Outcome::Ack)
    }

    /// Failed: the message comes again by the queue's retry policy, or is dead-lettered.
    pub fn nack(self, failure: Failure) -> Settling {
        self.settle(Outcome::Nack { delay: None, failure: Some(failure) })
    }

    /// Handed back unprocessed: counts nothing.
    pub fn release(self) -> Settling {
        self.settle(Outcome::Release { delay: None })
    }

    /// Given up: to the dead-letter queue now.
    pub fn dead_letter(self, failure: Failure) -> Settling {
        self.settle(Outcome::DeadLetter { failure: Some(failure) })
    }

    /// Settles the message with any outcome, and with what is done together with it.
    ///
    /// Where the broker refuses the effects, the message is nacked as if the delivery had been
    /// dropped; [`Delivery::try_settle`] keeps it.
    pub fn settle(mut self, settlement: impl Into<Settlement>) -> Settling {
        let key = self.key.take().expect("a delivery is settled once");
        let settlement = settlement.into();
        let (group, member) = self.shared.change(|inbox| inbox.settle(key, settlement));
        Settling { member: Member::new(group, member) }
    }

    /// Says that work on it begins. Returns at once; without
    /// [`ConsumerBuilder::report_started`](crate::ConsumerBuilder::report_started) it does nothing.
    pub fn started(&self) {
        let key = self.key.expect("a delivery in hand is not settled");
        self.shared.change(|inbox| inbox.start(key));
    }

    /// As [`Delivery::started`], and waits until HTTP/2 has taken the report: for work that may end the
    /// process at once, whose crash is to be counted. While the stream is down there is no wait; the next
    /// one begins with the report.
    pub async fn begin(&self) {
        let key = self.key.expect("a delivery in hand is not settled");
        let Some(report) = self.shared.change(|inbox| inbox.start(key)) else { return };
        loop {
            let sent_on = self.shared.next_sent_on();
            if self.shared.look(|inbox| inbox.has_left(report)) {
                return;
            }
            sent_on.await;
        }
    }

    /// The message and what is known of it, to be kept beyond its settlement without a copy.
    #[must_use]
    pub fn leased(&self) -> Arc<Leased> {
        Arc::clone(&self.leased)
    }

    /// Settles the message with what is done together with it, and keeps the delivery where the broker
    /// refuses that: nothing was done then, and it can be settled again, also otherwise.
    ///
    /// Once it returns [`Ok`], or [`Error::LeaseLost`], the delivery is used up. Canceled, it may or may
    /// not be settled; where it is refused after that, the message is nacked.
    ///
    /// ```no_run
    /// # async fn example(mut delivery: qbroker_client::Delivery) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::{OutgoingMessage, Settlement};
    ///
    /// let next = OutgoingMessage::new("ready").queue("ship");
    /// if let Err(error) = delivery.try_settle(Settlement::ack().publish(next)).await {
    ///     println!("the order stays here: {error}");
    ///     delivery.release().await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the reason of the effect that was refused, [`Error::LeaseLost`], what
    /// ended the consumer otherwise.
    ///
    /// # Panics
    ///
    /// When the delivery is used up.
    pub async fn try_settle(&mut self, settlement: impl Into<Settlement>) -> Result<(), Error> {
        let key = self.key.take().expect("a delivery is settled once");
        let settlement = settlement.into();
        let trial = self.shared.change(|inbox| inbox.try_settle(key, settlement));
        let mut trying = Trying { shared: &self.shared, trial: Some(trial) };
        let answer = trying.trial.as_mut().expect("it is there until it is answered").await;
        trying.trial = None;
        drop(trying);
        answer.map_err(|kept| {
            let Kept { key, error } = *kept;
            self.key = key;
            error
        })
    }

    /// Makes the lease last for `duration` from now; `None`: for as long as it was granted for.
    ///
    /// Needed only with [`ConsumerBuilder::manual_extend`](crate::ConsumerBuilder::manual_extend);
    /// otherwise the broker renews the lease while the client is there.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] where it ended before, [`Error::Refused`] for a duration out of bounds,
    /// what ended the consumer otherwise.
    pub async fn extend(&self, duration: Option<Duration>) -> Result<(), Error> {
        let key = self.key.expect("a delivery in hand is not settled");
        let answer = self.shared.change(|inbox| inbox.extend(key, duration));
        answer.await.unwrap_or_else(|_| Err(Error::Closed("the consumer has ended".to_owned())))
    }

    /// Whether it is used up: settled, or its lease was found to have ended when it was.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.key.is_none()
    }

    /// Whether the lease has ended: the message is, or will be, somebody else's.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost_reason().is_some()
    }

    /// Waits until the lease ends without a settlement; to be raced against the work.
    ///
    /// ```no_run
    /// # async fn work(delivery: &qbroker_client::Delivery) {}
    /// # async fn example(delivery: qbroker_client::Delivery) -> Result<(), qbroker_client::Error> {
    /// tokio::select! {
    ///     () = work(&delivery) => delivery.ack().await?,
    ///     reason = delivery.lost() => println!("stopped, the lease is lost: {reason:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn lost(&self) -> LostReason {
        loop {
            let news = self.shared.next_news();
            if let Some(reason) = self.lost_reason() {
                return reason;
            }
            news.await;
        }
    }

    /// Why the lease has ended, where it has.
    #[must_use]
    pub fn lost_reason(&self) -> Option<LostReason> {
        let key = self.key?;
        self.shared.look(|inbox| inbox.lost(key)).map(LostReason::from_wire)
    }
}

/// A settlement that somebody waits for, and who gives the lease back where nobody does any more.
struct Trying<'a> {
    shared: &'a Shared<Inbox>,
    trial: Option<Trial>,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        let kept = self.trial.take().and_then(Trial::abandon);
        if let Some(Kept { key: Some(key), error }) = kept.map(|kept| *kept) {
            let failure = Failure::new("Refused", error.to_string());
            self.shared.change(|inbox| inbox.give_up(key, failure));
        }
    }
}

impl Deref for Delivery {
    type Target = Leased;

    fn deref(&self) -> &Leased {
        &self.leased
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let failure = Failure::new("Dropped", "the consumer dropped the delivery unsettled");
        self.shared.change(|inbox| inbox.give_up(key, failure));
    }
}

/// Why a lease ended without a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LostReason {
    /// Its time was over.
    Expired,
    /// The message was deleted.
    MessageDeleted,
    /// The queue was purged.
    QueuePurged,
    /// The queue was deleted.
    QueueDeleted,
    /// The work was canceled.
    Canceled,
    /// An operator ended the session.
    DisconnectedByAdmin,
    /// The session was begun anew by somebody else.
    SessionReset,
    /// The client came back too late, or the consumer has failed.
    SessionLost,
}

impl LostReason {
    fn from_wire(reason: v1::LeaseLostReason) -> Self {
        match reason {
            v1::LeaseLostReason::Expired => Self::Expired,
            v1::LeaseLostReason::MessageDeleted => Self::MessageDeleted,
            v1::LeaseLostReason::QueuePurged => Self::QueuePurged,
            v1::LeaseLostReason::QueueDeleted => Self::QueueDeleted,
            v1::LeaseLostReason::Canceled => Self::Canceled,
            v1::LeaseLostReason::DisconnectedByAdmin => Self::DisconnectedByAdmin,
            v1::LeaseLostReason::SessionReset => Self::SessionReset,
            v1::LeaseLostReason::Unspecified => Self::SessionLost,
        }
    }
}

/// Waits until a settlement is durable. It is on its way whether or not this is waited for.
///
/// Resolves to [`Error::LeaseLost`] where the lease had ended, to [`Error::Refused`] with
/// `ALREADY_SETTLED` where it was settled with another outcome.
#[derive(Debug)]
pub struct Settling {
    member: Member<()>,
}

impl Future for Settling {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.member).poll(cx).map_ok(|_| ())
    }
}

/// Waits until many settlements are durable. They are on their way whether or not this is waited
/// for.
///
/// Resolves to the settlements that were refused: their positions, from 0, and why.
#[derive(Debug)]
pub struct SettlingAll {
    /// The first of them that is not answered yet, and the rest.
    waiting: std::vec::IntoIter<Members<()>>,
    current: Option<Members<()>>,
    /// How many are answered.
    answered: usize,
    refused: Vec<(usize, Error)>,
}

impl SettlingAll {
    pub(super) fn new(members: Vec<Members<()>>) -> Self {
        Self { waiting: members.into_iter(), current: None, answered: 0, refused: Vec::new() }
    }
}

impl Future for SettlingAll {
    type Output = Vec<(usize, Error)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if this.current.is_none() {
                this.current = this.waiting.next();
            }
            let Some(current) = &mut this.current else {
                return Poll::Ready(std::mem::take(&mut this.refused));
            };
            let (first, count) = (this.answered, current.len());
            match ready!(Pin::new(current).poll(cx)) {
                Ok(refused) => {
                    this.refused.extend(refused.into_iter().map(|(at, why)| (first + at, why)));
                }
                Err(error) => {
                    this.refused.extend((first..first + count).map(|at| (at, error.clone())));
                }
            }
            this.answered += count;
            this.current = None;
        }
    }
}

/// Settles many deliveries of one consumer under one lock.
pub(super) fn settle_all(
    shared: &Arc<Shared<Inbox>>,
    deliveries: Vec<Delivery>,
    outcome: &Outcome,
) -> SettlingAll {
    let keys = deliveries.into_iter().map(|mut delivery| {
        assert!(Arc::ptr_eq(shared, &delivery.shared), "a delivery of another consumer");
        delivery.key.take().expect("a delivery in hand is not settled")
    });
    let keys: Vec<usize> = keys.collect();
    let mut parts: Vec<Members<()>> = Vec::new();
    shared.change(|inbox| {
        for key in keys {
            let (group, member) = inbox.settle(key, outcome.clone());
            if !parts.last_mut().is_some_and(|part| part.takes(&group, member)) {
                parts.push(Members::new(group, member..member + 1));
            }
        }
    });
    SettlingAll::new(parts)
}
