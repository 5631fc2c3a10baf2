//! What a consumer holds and what it has to say: the consumer's side of the protocol.
//!
//! Knows no connection: requests are taken from it, responses are put into it.

mod reports;
mod stream;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use qbroker_proto::raw::{self, consume_request::Kind};
use qbroker_proto::v1;
use tokio::sync::oneshot;

use self::reports::Reports;
use super::leases::{Buffered, Leases};
use super::settlements::Settlements;
use super::trial::{Trial, Trials, keeps_lease};
use crate::error::{Error, Reason, Refusal};
use crate::group::Group;
use crate::message::{Failure, Sent};
use crate::settlement::{Outcome, Settlement};
use crate::time;

type Request = raw::ConsumeRequest;

/// The largest settlement that is sent: the broker reads requests of 16 MiB.
const SETTLEMENT_BYTES_MAX: usize = 15 << 20;
/// How long a lease may be made to last.
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_hours(12);

/// Everything a consumer holds.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What the stream is opened with; its flow is kept up to date.
    open: v1::ConsumeOpen,
    /// The present stream's, or the latest's; empty before the first is open.
    consumer_id: String,
    stream: Stream,
    leases: Leases,
    settlements: Settlements,
    /// Of leases whose work has begun and that the broker was not told of.
    started: Vec<Bytes>,
    reports: Reports,
    /// To go out before settlements.
    controls: VecDeque<Arc<Request>>,
    /// Extensions without an answer.
    extensions: BTreeMap<i64, Extension>,
    next_extension_id: i64,
    /// Changes of the queues without an answer, in their order.
    subscriptions: VecDeque<Subscription>,
    trials: Trials,
    draining: Draining,
    closing: Closing,
    /// Nobody takes deliveries any more; those handed out can still be settled.
    abandoned: bool,
    failed: Option<Error>,
}

/// How far the present stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// There is none.
    Down,
    /// `ConsumeOpen` has to be sent.
    Opening,
    /// `ConsumeOpened` has to come; nothing goes out before.
    AwaitingOpened,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// Nothing that arrives is handed out any more.
    Asked,
    /// Nothing arrives any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Half-close once every lease is settled.
    WhenSettled,
    /// Half-close once every settlement is answered; the broker releases the rest.
    Now,
}

#[derive(Debug)]
struct Subscription {
    queues: Vec<v1::QueueSelector>,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Subscription {
    fn request(&self) -> Arc<Request> {
        request(Kind::Subscribe(v1::Subscribe { queues: self.queues.clone() }))
    }
}

#[derive(Debug)]
struct Extension {
    request: Arc<Request>,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Inbox {
    pub(super) fn new(open: v1::ConsumeOpen) -> Self {
        Self {
            open,
            consumer_id: String::new(),
            stream: Stream::Down,
            leases: Leases::default(),
            settlements: Settlements::new(),
            started: Vec::new(),
            reports: Reports::default(),
            controls: VecDeque::new(),
            extensions: BTreeMap::new(),
            next_extension_id: 1,
            subscriptions: VecDeque::new(),
            trials: Trials::default(),
            draining: Draining::No,
            closing: Closing::No,
            abandoned: false,
            failed: None,
        }
    }

    /// Hands out the next deliveries, at most `max`.
    ///
    /// None while there is no stream: the broker may have given them to somebody else meanwhile, and
    /// says so when the next stream opens.
    pub(super) fn take(&mut self, max: usize) -> Vec<Buffered> {
        if self.stream == Stream::Open { self.leases.take(max) } else { Vec::new() }
    }

    pub(super) fn has_deliveries(&self) -> bool {
        self.stream == Stream::Open && self.leases.has_buffered()
    }

    /// Whether nothing will be handed out any more.
    pub(super) fn is_draining(&self) -> bool {
        self.draining != Draining::No
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining == Draining::Done
    }

    /// Settles a lease; its group and which member of it this is. The caller gives `key` up.
    pub(super) fn settle(
        &mut self,
        key: usize,
        settlement: impl Into<Settlement>,
    ) -> (Arc<Group<()>>, usize) {
        if let Some(error) = self.cannot_settle(key) {
            self.leases.forget(key);
            let group = Group::new();
            group.finish(Err(error));
            return (group, 0);
        }
        let settlement = settlement.into().of(self.leases.token(key).clone());
        if let Some(error) = too_large(&settlement) {
            self.give_up(key, Failure::new("Refused", error.to_string()));
            let group = Group::new();
            group.finish(Err(error));
            return (group, 0);
        }
        self.hand_in(key, &settlement)
    }

    fn hand_in(&mut self, key: usize, settlement: &v1::Settlement) -> (Arc<Group<()>>, usize) {
        self.leases.settle(key);
        self.settlements.add(key, settlement)
    }

    /// Settles a lease, whose key the caller gets back where the broker keeps it.
    pub(super) fn try_settle(&mut self, key: usize, settlement: Settlement) -> Trial {
        if let Some(error) = self.cannot_settle(key) {
            self.leases.forget(key);
            return Trial::unsent(None, error);
        }
        let settlement = settlement.of(self.leases.token(key).clone());
        if let Some(error) = too_large(&settlement) {
            return Trial::unsent(Some(key), error);
        }
        let trial = self.trials.begin(key);
        // Its answer comes by the trial.
        drop(self.hand_in(key, &settlement));
        trial
    }

    /// The lease of a delivery that is gone is given back: it failed.
    pub(super) fn give_up(&mut self, key: usize, failure: Failure) {
        drop(self.settle(key, Outcome::Nack { delay: None, failure: Some(failure) }));
    }

    /// Why the lease ended without a settlement, where it did.
    pub(super) fn lost(&self, key: usize) -> Option<v1::LeaseLostReason> {
        let gone = || self.failed.as_ref().map(|_| v1::LeaseLostReason::Unspecified);
        self.leases.lost(key).or_else(gone)
    }

    /// The application begins to work on a lease; the number of the report, where there is one.
    pub(super) fn start(&mut self, key: usize) -> Option<u64> {
        if !self.open.reports_started || self.failed.is_some() {
            return None;
        }
        self.started.push(self.leases.start(key)?);
        Some(self.reports.ask())
    }

    /// Whether HTTP/2 has taken the report of this number, or there is no stream that could.
    pub(super) fn has_left(&self, report: u64) -> bool {
        self.stream != Stream::Open || self.reports.have_left(report)
    }

    /// Makes a lease last for `duration` from now, or for as long as it was granted for.
    pub(super) fn extend(
        &mut self,
        key: usize,
        duration: Option<Duration>,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (answer, answered) = oneshot::channel();
        // Of a bad one the broker ends the stream.
        let is_bad = |duration| !(LEASE_MIN..=LEASE_MAX).contains(&duration);
        let bad = duration.filter(|duration| is_bad(*duration)).map(|duration| {
            let why =
                format!("a lease lasts from {LEASE_MIN:?} to {LEASE_MAX:?}, not {duration:?}");
            Error::Refused(Refusal::unsent(Reason::InvalidArgument, why))
        });
        if let Some(error) = self.cannot_settle(key).or(bad) {
            // The receiver is at hand: it cannot be gone.
            answer.send(Err(error)).ok();
            return answered;
        }
        let call_id = self.next_extension_id;
        self.next_extension_id += 1;
        let request = request(Kind::Extend(v1::ExtendLeasesRequest {
            call_id,
            lease_tokens: vec![self.leases.token(key).clone()],
            session_id: String::new(),
            lease_duration: duration.map(time::duration),
        }));
        self.controls.push_back(Arc::clone(&request));
        self.extensions.insert(call_id, Extension { request, answer });
        answered
    }

    /// Changes how much may be delivered and unsettled at a time.
    pub(super) fn set_flow(&mut self, flow: v1::FlowUpdate) {
        self.open.flow = Some(flow);
        if self.draining == Draining::No {
            self.controls.push_back(request(Kind::Flow(flow)));
        }
    }

    /// Takes from these queues from now on.
    pub(super) fn subscribe(
        &mut self,
        queues: Vec<v1::QueueSelector>,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (answer, answered) = oneshot::channel();
        if let Some(error) = &self.failed {
            // The receiver is at hand: it cannot be gone.
            answer.send(Err(error.closed())).ok();
            return answered;
        }
        let subscription = Subscription { queues, answer };
        self.controls.push_back(subscription.request());
        self.subscriptions.push_back(subscription);
        answered
    }

    /// The broker answered the first change of queues.
    ///
    /// # Errors
    ///
    /// There was none.
    fn subscribed(&mut self, answer: v1::Subscribed) -> Result<(), Error> {
        let Some(Subscription { queues, answer: waits }) = self.subscriptions.pop_front() else {
            return Err(Error::Protocol("a change of queues was answered twice".to_owned()));
        };
        let result = answer.error.map_or(Ok(()), |error| Err(Error::from(error)));
        if result.is_ok() {
            self.open.queues = queues;
        }
        // Whoever asked may have gone.
        waits.send(result).ok();
        Ok(())
    }

    /// Ends deliveries, and hands back what was not handed out.
    pub(super) fn drain(&mut self) {
        if self.draining == Draining::No {
            self.draining = Draining::Asked;
            self.controls.push_back(request(Kind::Drain(v1::Drain {})));
        }
        self.release_buffered();
    }

    /// Half-closes once every lease is settled.
    pub(super) fn close_when_settled(&mut self) {
        self.drain();
        if self.closing == Closing::No {
            self.closing = Closing::WhenSettled;
        }
    }

    /// Half-closes once every settlement is answered, whatever is still held.
    pub(super) fn close_now(&mut self) {
        self.drain();
        self.closing = Closing::Now;
    }

    /// The broker took the consumer and told what it lost meanwhile.
    fn resume(&mut self, opened: v1::ConsumeOpened) {
        if !self.consumer_id.is_empty() {
            if opened.resumed {
                self.leases.lose(&opened.lost_lease_tokens, v1::LeaseLostReason::Unspecified);
            } else {
                self.leases.lose_all(v1::LeaseLostReason::Unspecified);
            }
        } else if let Some(flow) = self.open.flow.filter(|_| !self.is_draining()) {
            self.controls.push_front(request(Kind::Flow(flow)));
        }
        self.consumer_id = opened.consumer_id;
        self.stream = Stream::Open;
    }

    /// Messages arrived.
    ///
    /// # Errors
    ///
    /// They do not have the form of messages.
    fn delivered(&mut self, batch: raw::DeliveryBatch) -> Result<(), Error> {
        let unreadable = |error| Error::Protocol(format!("a delivery cannot be read: {error}"));
        let sent = batch.time.and_then(Sent::at);
        self.leases.deliver(batch.deliveries, sent).map_err(unreadable)?;
        if self.is_draining() {
            self.release_buffered();
        }
        Ok(())
    }

    /// The broker answered every settle request up to `call_id`.
    ///
    /// # Errors
    ///
    /// The answer does not fit what was sent.
    fn settled(&mut self, answer: v1::SettleResponse) -> Result<(), Error> {
        let calls = self.settlements.answered(answer.call_id)?;
        let mut failures: HashMap<Bytes, v1::ItemError> = answer
            .failures
            .into_iter()
            .map(|failure| (failure.lease_token, failure.error.unwrap_or_default()))
            .collect();
        for call in calls {
            let refused = call.finish(&mut failures, |key| self.leases.token(key));
            if refused.is_empty() && self.trials.is_empty() {
                call.keys.iter().for_each(|key| self.leases.forget(*key));
            } else {
                self.sort_out(&call.keys, refused);
            }
        }
        Ok(())
    }

    /// A call was answered in which something was refused, or that somebody gets a key back from.
    fn sort_out(&mut self, keys: &[usize], refused: Vec<(usize, Error)>) {
        let mut refused: HashMap<usize, Error> = refused.into_iter().collect();
        for &key in keys {
            match refused.remove(&key) {
                Some(error) if keeps_lease(&error) => {
                    self.leases.keep(key);
                    let failure = Failure::new("Refused", error.to_string());
                    if !self.trials.give_back(key, error) {
                        self.give_up(key, failure);
                    }
                }
                error => {
                    self.leases.forget(key);
                    self.trials.end(key, error.map_or(Ok(()), Err));
                }
            }
        }
    }

    /// The broker answered an extension.
    fn extended(&mut self, answer: v1::ExtendLeasesResponse) {
        let Some(extension) = self.extensions.remove(&answer.call_id) else { return };
        let failure = answer.failures.into_iter().next();
        let result = failure.map_or(Ok(()), |f| Err(Error::from(f.error.unwrap_or_default())));
        // Whoever asked may have gone.
        extension.answer.send(result).ok();
    }

    /// The broker delivers nothing more.
    fn drained(&mut self) {
        if self.draining == Draining::Asked {
            self.draining = Draining::Done;
        }
    }

    fn cannot_settle(&self, key: usize) -> Option<Error> {
        if let Some(error) = &self.failed {
            return Some(error.closed());
        }
        let reason = self.leases.lost(key)?;
        Some(Error::LeaseLost(format!("the broker said so before ({})", reason.as_str_name())))
    }

    fn release_buffered(&mut self) {
        for buffered in self.leases.take(usize::MAX) {
            // Nobody waits for it: what is not released here is when the session ends.
            drop(self.settle(buffered.key, Outcome::Release { delay: None }));
        }
    }
}

/// Why a settlement is not sent: the broker would not read the request.
fn too_large(settlement: &v1::Settlement) -> Option<Error> {
    let size = settlement.encoded_len();
    (SETTLEMENT_BYTES_MAX < size).then(|| {
        let why =
            format!("the settlement has {size} bytes; at most {SETTLEMENT_BYTES_MAX} can be sent");
        Error::Refused(Refusal::unsent(Reason::BatchTooLarge, why))
    })
}

fn request(kind: Kind) -> Arc<Request> {
    Arc::new(Request { kind: Some(kind) })
}
