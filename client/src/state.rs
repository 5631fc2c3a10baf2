//! Values, counters, permits and barriers beside the messages.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use qbroker_proto::v1::{self, acquire_permit_request, state_service_client::StateServiceClient};

use crate::connection::{Channel, Client, MESSAGE_BYTES_MAX};
use crate::error::Error;
use crate::message::{OutgoingMessage, count};
use crate::time;

/// Small shared state of the broker: durable, and gone when its time is over.
///
/// Keys have 1 to 256 bytes; values, counters, permits and barriers have theirs each for themselves. A
/// [`Settlement`](crate::Settlement) can store, count and arrive in the same step as an ack.
///
/// ```no_run
/// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
/// use std::time::Duration;
///
/// let state = client.state();
/// state.put("report-7", "done", Some(Duration::from_secs(600))).await?;
/// let report = state.wait_for("report-7", Duration::from_secs(10)).await?;
/// println!("{report:?}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    client: &'a Client,
}

/// How a counter is changed; see [`State::add`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a change does nothing until it is handed in"]
pub struct CounterChange(pub(crate) v1::AddToCounter);

/// What became of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// Otherwise a bound would have been passed, or it was there already: nothing was changed.
    pub applied: bool,
    /// Its value now; 0 where there is none.
    pub value: i64,
}

/// Whom a permit ends with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// With this client's session: when the process is gone for longer than its grace.
    ///
    /// A session begins with the client's first consumer or pull.
    #[default]
    Session,
    /// With a lease, however that ends.
    Lease(Bytes),
    /// With its time alone.
    Nobody,
}

/// A barrier to make; see [`State::create_barrier`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a barrier does nothing until it is created"]
pub struct NewBarrier(v1::CreateBarrierRequest);

/// A barrier as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Barrier {
    /// Arrivals that complete it.
    pub parties: u32,
    /// Arrivals so far.
    pub arrived: u32,
    /// Of these, failed.
    pub failed: u32,
    /// How far it is.
    pub state: BarrierState,
}

/// How far a barrier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BarrierState {
    /// Waiting for arrivals.
    Open,
    /// All have arrived.
    Complete,
    /// Its time was over before.
    Expired,
    /// A state that this client does not know, of a newer broker.
    Unknown,
}

/// What a member of a barrier brought.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BarrierMember {
    /// Who it was.
    pub member_id: String,
    /// What it brought.
    pub value: Bytes,
    /// It failed.
    pub failed: bool,
}

impl Client {
    /// The broker's shared state.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        State { client: self }
    }
}

impl CounterChange {
    /// Adds `amount`, which may be negative, to the counter under `key`.
    pub fn new(key: impl Into<String>, amount: i64) -> Self {
        Self(v1::AddToCounter { key: key.into(), amount, ..v1::AddToCounter::default() })
    }

    /// What it starts from where it is absent. Default: 0.
    pub fn initial(mut self, initial: i64) -> Self {
        self.0.initial = Some(initial);
        self
    }

    /// Not where it is there already.
    pub fn if_absent(mut self) -> Self {
        self.0.if_absent = true;
        self
    }

    /// Not below this.
    pub fn minimum(mut self, minimum: i64) -> Self {
        self.0.minimum = Some(minimum);
        self
    }

    /// Not above this.
    pub fn maximum(mut self, maximum: i64) -> Self {
        self.0.maximum = Some(maximum);
        self
    }

    /// The bounds hold for the sum with these counters.
    pub fn sum_with(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.sum_with.extend(keys.into_iter().map(Into::into));
        self
    }

    /// How long it is kept after this change. Default: until it is deleted.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = Some(time::duration(ttl));
        self
    }
}

impl NewBarrier {
    /// A barrier under `key` that so many arrivals complete.
    pub fn new(key: impl Into<String>, parties: u32) -> Self {
        let parties = parties.try_into().unwrap_or(i32::MAX);
        Self(v1::CreateBarrierRequest { key: key.into(), parties, ..Default::default() })
    }

    /// How long it waits for its members. Default: 15 min.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = Some(time::duration(ttl));
        self
    }

    /// Published with the last arrival, exactly once; it must name its queue.
    pub fn on_complete(mut self, message: OutgoingMessage) -> Self {
        self.0.on_complete.push(message.0);
        self
    }

    /// Published once if the time is over before; it must name its queue.
    pub fn on_expire(mut self, message: OutgoingMessage) -> Self {
        self.0.on_expire.push(message.0);
        self
    }

    /// What the members bring is the payload of what is published on completion:
    /// [`BarrierMember::all_of`] reads it.
    pub fn collect_values(mut self) -> Self {
        self.0.collect_values = true;
        self
    }
}

impl BarrierMember {
    /// The members that the payload of a message of a barrier tells of, in the order of their arrival.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] where it is no such payload.
    pub fn all_of(payload: &Bytes) -> Result<Vec<Self>, Error> {
        use prost::Message as _;
        let results = v1::BarrierResults::decode(payload.clone())
            .map_err(|error| Error::Protocol(format!("not what members brought: {error}")))?;
        let member = |it: v1::BarrierMember| {
            let v1::BarrierMember { member_id, value, failed } = it;
            Self { member_id, value, failed }
        };
        Ok(results.members.into_iter().map(member).collect())
    }
}

impl Barrier {
    fn from_wire(barrier: v1::Barrier) -> Self {
        let state = match barrier.state() {
            v1::BarrierState::Open => BarrierState::Open,
            v1::BarrierState::Complete => BarrierState::Complete,
            v1::BarrierState::Expired => BarrierState::Expired,
            v1::BarrierState::Unspecified => BarrierState::Unknown,
        };
        Self {
            parties: count(barrier.parties),
            arrived: count(barrier.arrived),
            failed: count(barrier.failed),
            state,
        }
    }
}

/// Every call fails with [`Error::Refused`], [`Error::Disconnected`] or [`Error::TimedOut`]; after the
/// latter two a change may have been made. Those that are safe to repeat are repeated.
impl State<'_> {
    /// Stores a value, in place of one that is there; `None`: until it is deleted.
    ///
    /// # Errors
    ///
    /// What kept it from being stored, or left that unknown.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), Error> {
        self.store(key, value.into(), ttl, false).await.map(drop)
    }

    /// Stores a value unless there is one; whether it did.
    ///
    /// # Errors
    ///
    /// What kept it from being stored, or left that unknown.
    pub async fn put_if_absent(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        self.store(key, value.into(), ttl, true).await
    }

    async fn store(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        if_absent: bool,
    ) -> Result<bool, Error> {
        let (key, ttl) = (key.to_owned(), ttl.map(time::duration));
        let value = Some(v1::StoreValue { key, value, ttl, if_absent });
        let request = v1::PutValueRequest { value };
        let call = |channel, request| async move { state(channel).put_value(request).await };
        // Repeated after a lost answer, it might find its own value.
        let response = self.client.call(!if_absent, Duration::ZERO, request, call).await?;
        Ok(response.stored)
    }

    /// The value of a key, where there is one.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        self.wait_for(key, Duration::ZERO).await
    }

    /// The value of a key, as soon as there is one within `wait`, at most 60 s.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn wait_for(&self, key: &str, wait: Duration) -> Result<Option<Bytes>, Error> {
        Ok(self.get_all([key], wait).await?.remove(key))
    }

    /// The values of keys that are there, as soon as all of them are, or after `wait`.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn get_all(
        &self,
        keys: impl IntoIterator<Item = impl Into<String>>,
        wait: Duration,
    ) -> Result<HashMap<String, Bytes>, Error> {
        let keys = keys.into_iter().map(Into::into).collect();
        let wait_timeout = Some(time::duration(wait));
        let request = v1::BatchGetValuesRequest { keys, wait_timeout };
        let call = |channel, request| async move { state(channel).batch_get_values(request).await };
        Ok(self.client.call(true, wait, request, call).await?.values)
    }

    /// Deletes the value and the counter of a key; whether there was one.
    ///
    /// # Errors
    ///
    /// What kept it from being deleted, or left that unknown.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        let request = v1::DeleteValueRequest { key: key.to_owned() };
        let call = |channel, request| async move { state(channel).delete_value(request).await };
        Ok(self.client.call(false, Duration::ZERO, request, call).await?.deleted)
    }

    /// Changes a counter within its bounds, once however often the call is repeated.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use std::time::Duration;
    /// use qbroker_client::CounterChange;
    ///
    /// let one = CounterChange::new("calls-12:05", 1).maximum(100).ttl(Duration::from_secs(60));
    /// if client.state().add(one).await?.applied {
    ///     println!("one of a hundred in this minute");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// What kept it from being changed, or left that unknown; a bound is none.
    pub async fn add(&self, change: CounterChange) -> Result<Counted, Error> {
        let request_id = crate::connection::random_id();
        let request = v1::ChangeCounterRequest { change: Some(change.0), request_id };
        let call = |channel, request| async move { state(channel).change_counter(request).await };
        let response = self.client.call(true, Duration::ZERO, request, call).await?;
        Ok(Counted { applied: response.applied, value: response.value })
    }

    /// A counter, where there is one.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn counter(&self, key: &str) -> Result<Option<i64>, Error> {
        let request = v1::BatchGetCountersRequest { keys: vec![key.to_owned()] };
        let call =
            |channel, request| async move { state(channel).batch_get_counters(request).await };
        Ok(self.client.call(true, Duration::ZERO, request, call).await?.values.remove(key))
    }

    /// Takes one of `limit` permits of a key, waiting up to `wait` for one to be free; its id, where it
    /// got one. It ends by [`State::release`], after `ttl`, or with its holder.
    ///
    /// # Errors
    ///
    /// `SESSION_LOST` or `LEASE_LOST` where the holder is gone; what kept the client from asking.
    pub async fn acquire(
        &self,
        key: &str,
        limit: u32,
        holder: Holder,
        ttl: Duration,
        wait: Duration,
    ) -> Result<Option<String>, Error> {
        use acquire_permit_request::Holder as Wire;
        let holder = match holder {
            Holder::Session => Some(Wire::SessionId(self.client.session_id().to_owned())),
            Holder::Lease(token) => Some(Wire::LeaseToken(token)),
            Holder::Nobody => None,
        };
        let request = v1::AcquirePermitRequest {
            key: key.to_owned(),
            limit: limit.try_into().unwrap_or(i32::MAX),
            ttl: Some(time::duration(ttl)),
            wait_timeout: Some(time::duration(wait)),
            holder,
            request_id: crate::connection::random_id(),
        };
        let call = |channel, request| async move { state(channel).acquire_permit(request).await };
        let response = self.client.call(true, wait, request, call).await?;
        Ok(response.acquired.then_some(response.permit_id))
    }

    /// Gives a permit back; whether it had not ended before.
    ///
    /// # Errors
    ///
    /// What kept it from being given back, or left that unknown.
    pub async fn release(&self, permit_id: &str) -> Result<bool, Error> {
        let request = v1::ReleasePermitRequest { permit_id: permit_id.to_owned() };
        let call = |channel, request| async move { state(channel).release_permit(request).await };
        Ok(self.client.call(false, Duration::ZERO, request, call).await?.released)
    }

    /// Makes a barrier, unless its key is known as one; whether it did.
    ///
    /// # Errors
    ///
    /// What kept it from being made, or left that unknown.
    pub async fn create_barrier(&self, barrier: NewBarrier) -> Result<bool, Error> {
        let call = |channel, request| async move { state(channel).create_barrier(request).await };
        Ok(self.client.call(false, Duration::ZERO, barrier.0, call).await?.created)
    }

    /// Arrives at a barrier, once however often it is called; the barrier, where it is known.
    ///
    /// # Errors
    ///
    /// What kept the member from arriving, or left that unknown.
    pub async fn arrive(
        &self,
        barrier: &str,
        member_id: &str,
        value: impl Into<Bytes>,
        failed: bool,
    ) -> Result<Option<Barrier>, Error> {
        let arrive = arrival(barrier, member_id, value.into(), failed);
        let request = v1::ArriveAtBarrierRequest { arrive: Some(arrive) };
        let call =
            |channel, request| async move { state(channel).arrive_at_barrier(request).await };
        let response = self.client.call(true, Duration::ZERO, request, call).await?;
        Ok(response.barrier.map(Barrier::from_wire))
    }

    /// A barrier, where it is known: as soon as it is not open any more, or after `wait`.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn barrier(&self, key: &str, wait: Duration) -> Result<Option<Barrier>, Error> {
        let (key, wait_timeout) = (key.to_owned(), Some(time::duration(wait)));
        let request = v1::GetBarrierRequest { key, wait_timeout };
        let call = |channel, request| async move { state(channel).get_barrier(request).await };
        Ok(self.client.call(true, wait, request, call).await?.barrier.map(Barrier::from_wire))
    }
}

pub(crate) fn arrival(barrier: &str, member_id: &str, value: Bytes, failed: bool) -> v1::Arrive {
    let (barrier, member_id) = (barrier.to_owned(), member_id.to_owned());
    v1::Arrive { barrier, member_id, value, failed }
}

fn state(channel: Channel) -> StateServiceClient<Channel> {
    StateServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
