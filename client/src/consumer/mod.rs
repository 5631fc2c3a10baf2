//! Consuming: a stream of deliveries whose leases survive broken connections and restarts.

mod delivery;
mod inbox;
mod leases;
mod settlements;
mod share;
mod trial;

use std::time::Duration;

use qbroker_proto::v1;

use crate::connection::Client;
use crate::driver::{Handle, Machine as _, News};
use crate::error::Error;
use crate::settlement::Outcome;
use crate::time;
pub use delivery::{Delivery, LostReason, Settling, SettlingAll};
use inbox::Inbox;
use leases::Buffered;
pub use share::QueueShare;

/// Options of a [`Consumer`], from [`Client::consumer`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `open`"]
pub struct ConsumerBuilder {
    client: Client,
    open: v1::ConsumeOpen,
}

impl Client {
    /// A consumer of these queues; missing ones are created. A queue is its name, or a
    /// [`QueueShare`] of the consumer's window.
    pub fn consumer<Q: Into<QueueShare>>(
        &self,
        queues: impl IntoIterator<Item = Q>,
    ) -> ConsumerBuilder {
        let queues = queues.into_iter().map(|queue| queue.into().into_wire());
        let open = v1::ConsumeOpen {
            queues: queues.collect(),
            flow: Some(v1::FlowUpdate { max_outstanding_messages: 256, max_outstanding_bytes: 0 }),
            client: Some(client_info()),
            session_id: self.session_id().to_owned(),
            ..v1::ConsumeOpen::default()
        };
        ConsumerBuilder { client: self.clone(), open }
    }
}

impl ConsumerBuilder {
    /// How many messages may be delivered and unsettled at a time, those included that wait in the
    /// client to be taken.
    ///
    /// Default: 256. A worker of slow jobs wants hardly more than it runs at once: what waits here
    /// could run elsewhere.
    pub fn window(mut self, messages: u32) -> Self {
        self.flow().max_outstanding_messages = messages.try_into().unwrap_or(i32::MAX);
        self
    }

    /// How many bytes may be delivered and unsettled at a time. Default: 16 MiB.
    pub fn window_bytes(mut self, bytes: u64) -> Self {
        self.flow().max_outstanding_bytes = bytes.try_into().unwrap_or(i64::MAX);
        self
    }

    /// Serves the queues strictly in the order in which they were named: while one has a message, those
    /// behind it wait.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// let consumer = client.consumer(["high", "default", "low"]).strict().open().await?;
    /// # Ok(()) }
    /// ```
    pub fn strict(mut self) -> Self {
        for (rank, queue) in (0..).zip(&mut self.open.queues) {
            queue.rank = rank;
        }
        self
    }

    /// How long a lease lasts, unless it is renewed. Default: the queue's `lease_duration`.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.open.lease_duration = Some(time::duration(duration));
        self
    }

    /// How long the broker keeps the leases of a client that is away. Default: 15 s.
    pub fn session_grace(mut self, grace: Duration) -> Self {
        self.open.session_grace = Some(time::duration(grace));
        self
    }

    /// The broker does not renew leases; [`Delivery::extend`] does.
    pub fn manual_extend(mut self) -> Self {
        self.open.manual_extend = true;
        self
    }

    /// The application calls [`Delivery::started`] for what it begins to work on. What it has not begun
    /// when it crashes comes again uncounted, however often; without this, all that it holds counts.
    pub fn report_started(mut self) -> Self {
        self.open.reports_started = true;
        self
    }

    /// How long the broker goes on renewing one lease. Default: without end.
    pub fn max_lease_extension(mut self, duration: Duration) -> Self {
        self.open.max_lease_extension = Some(time::duration(duration));
        self
    }

    /// A name for this worker, shown to operators.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.open.client.get_or_insert_default().client_id = id.into();
        self
    }

    /// Opens the consumer's stream and returns once the broker has taken it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where the broker does not, else what kept the client from reaching it
    /// within the request timeout.
    pub async fn open(self) -> Result<Consumer, Error> {
        let flow = self.open.flow.unwrap_or_default();
        let handle = Handle::start(self.client, Inbox::new(self.open)).await?;
        Ok(Consumer { handle, bytes_max: flow.max_outstanding_bytes })
    }

    fn flow(&mut self) -> &mut v1::FlowUpdate {
        self.open.flow.get_or_insert_default()
    }
}

/// Takes deliveries from queues and settles them, on one stream.
///
/// When the connection breaks or the broker restarts, the consumer comes back and names what it
/// holds: what runs goes on and is settled afterwards, and nothing is delivered twice. Only if it
/// does not come back within the session's grace are its leases lost.
///
/// When it is dropped, what was not handed out is released; deliveries in hand can still be settled.
///
/// ```no_run
/// # async fn send_mail(payload: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
/// use qbroker_client::Failure;
///
/// let consumer = client.consumer(["mails"]).window(16).open().await?;
/// while let Some(delivery) = consumer.next().await? {
///     match send_mail(&delivery.message.payload).await {
///         Ok(()) => delivery.ack(),
///         Err(error) => delivery.nack(Failure::new("io::Error", error.to_string())),
///     };
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    handle: Handle<Inbox>,
    bytes_max: i64,
}

impl Consumer {
    /// Waits for the next delivery; `None` once the consumer was drained.
    ///
    /// Canceling it loses nothing. Several tasks may wait at once.
    ///
    /// # Errors
    ///
    /// What ended the consumer and cannot be mended by connecting again.
    pub async fn next(&self) -> Result<Option<Delivery>, Error> {
        Ok(self.take(1).await?.pop().map(|buffered| self.hand_out(buffered)))
    }

    /// Waits for deliveries and returns those that are there, at most `max`; empty once the consumer
    /// was drained.
    ///
    /// # Errors
    ///
    /// As [`Consumer::next`].
    pub async fn next_batch(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let batch = self.take(max.max(1)).await?;
        Ok(batch.into_iter().map(|buffered| self.hand_out(buffered)).collect())
    }

    /// Acks deliveries of this consumer together, which is cheaper than one by one.
    ///
    /// ```no_run
    /// # async fn example(consumer: qbroker_client::Consumer) -> Result<(), qbroker_client::Error> {
    /// let batch = consumer.next_batch(100).await?;
    /// for (position, error) in consumer.ack_all(batch).await {
    ///     eprintln!("number {position} of the batch was not acked: {error}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn ack_all(&self, deliveries: Vec<Delivery>) -> SettlingAll {
        self.settle_all(deliveries, &Outcome::Ack)
    }

    /// Settles deliveries of this consumer together, all with the same outcome.
    ///
    /// # Panics
    ///
    /// When a delivery is of another consumer.
    pub fn settle_all(&self, deliveries: Vec<Delivery>, outcome: &Outcome) -> SettlingAll {
        delivery::settle_all(&self.handle.shared, deliveries, outcome)
    }

    /// Changes how many messages may be delivered and unsettled at a time; 0 is a pause.
    pub fn set_window(&self, messages: u32) {
        let flow = v1::FlowUpdate {
            max_outstanding_messages: messages.try_into().unwrap_or(i32::MAX),
            max_outstanding_bytes: self.bytes_max,
        };
        self.handle.shared.change(|inbox| inbox.set_flow(flow));
    }

    /// Changes what it consumes: these queues from now on, and no others. What it has been handed of
    /// other queues stays its own; what waits to be handed out, too. Returns once the broker has
    /// taken it.
    ///
    /// ```no_run
    /// # async fn example(consumer: qbroker_client::Consumer) -> Result<(), qbroker_client::Error> {
    /// consumer.subscribe(["mails", "reports"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `QUEUE_NOT_FOUND` or `INVALID_QUEUE_NAME`: it goes on with the queues that
    /// it had. What ended the consumer otherwise: queues that are wrong in form do.
    pub async fn subscribe<Q: Into<QueueShare>>(
        &self,
        queues: impl IntoIterator<Item = Q>,
    ) -> Result<(), Error> {
        let queues = queues.into_iter().map(|queue| queue.into().into_wire()).collect();
        let answer = self.handle.shared.change(|inbox| inbox.subscribe(queues));
        answer.await.unwrap_or_else(|_| Err(Error::Closed("the consumer has ended".to_owned())))
    }

    /// Ends deliveries: what was not handed out is released, and once this returns nothing more
    /// comes. Deliveries in hand can still be settled.
    ///
    /// # Errors
    ///
    /// What ended the consumer otherwise.
    pub async fn drain(&self) -> Result<(), Error> {
        self.handle.shared.change(Inbox::drain);
        self.handle.shared.tell(News::State);
        loop {
            let news = self.handle.shared.next_news();
            if self.handle.shared.look(|inbox| inbox.is_drained()) {
                return Ok(());
            }
            self.check()?;
            news.await;
        }
    }

    /// Drains, waits until every settlement made so far is durable, and ends the stream.
    ///
    /// Deliveries still in hand are released by the broker, uncounted: settle first what was done.
    ///
    /// # Errors
    ///
    /// What ended the consumer before that.
    pub async fn close(&self) -> Result<(), Error> {
        self.handle.shared.change(Inbox::close_now);
        self.handle.shared.tell(News::State);
        self.handle.ended().await
    }

    async fn take(&self, max: usize) -> Result<Vec<Buffered>, Error> {
        let shared = &self.handle.shared;
        loop {
            let arrival = shared.next_arrival();
            let (taken, more, ended) = shared.look(|inbox| {
                let taken = inbox.take(max);
                (taken, inbox.has_deliveries(), inbox.is_draining())
            });
            if more {
                // Whoever else waits.
                shared.tell(News::Arrivals);
            }
            if !taken.is_empty() || ended {
                return Ok(taken);
            }
            self.check()?;
            arrival.await;
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.handle.shared.look(|inbox| inbox.failure().cloned()).map_or(Ok(()), Err)
    }

    fn hand_out(&self, buffered: Buffered) -> Delivery {
        Delivery::new(self.handle.shared.clone(), buffered)
    }
}

fn client_info() -> v1::ClientInfo {
    v1::ClientInfo {
        pid: std::process::id().try_into().unwrap_or_default(),
        sdk: "qbroker-client".to_owned(),
        sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..v1::ClientInfo::default()
    }
}
