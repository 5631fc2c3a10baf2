//! What a job knows about itself, and how it is told to stop.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use qbroker_client::{Failure, Leased, LostReason, Message};
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::follow_up::WhenDone;
use crate::trace::TraceContext;

tokio::task_local! {
    static CURRENT: Context;
}

/// One attempt of a job: its message, and whether it should stop; cheap to clone.
///
/// An actor has it as its first argument, where it wants it.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    actor: &'static str,
    leased: Arc<Leased>,
    /// None in a test that has none.
    broker: Option<Broker>,
    states: Arc<States>,
    trace: TraceContext,
    deadline: OnceLock<Instant>,
    when_done: Mutex<WhenDone>,
    canceled: Canceled,
}

/// Whether a job should stop, and those who wait to hear of it.
#[derive(Debug, Default)]
struct Canceled {
    reason: OnceLock<CancelReason>,
    told: Notify,
}

/// Why a job should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// Its time limit is over: the attempt has failed.
    TimeLimit,
    /// The worker stops. Return a [`Release`](crate::Release) to have the job done elsewhere.
    Shutdown,
    /// Its lease has ended: somebody else does it, or nobody should. What it returns counts no more.
    LeaseLost(LostReason),
}

impl Context {
    pub(crate) fn new(
        actor: &'static str,
        leased: Arc<Leased>,
        broker: Option<Broker>,
        states: Arc<States>,
        trace: TraceContext,
    ) -> Self {
        let canceled = Canceled::default();
        let (deadline, when_done) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Inner {
            actor,
            leased,
            broker,
            states,
            trace,
            deadline,
            when_done,
            canceled,
        }))
    }

    /// The job that runs here: in an actor, and in what it calls or awaits. `None` elsewhere, in tasks
    /// and threads that a job has started too.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// The actor's name.
    #[must_use]
    pub fn actor(&self) -> &'static str {
        self.0.actor
    }

    /// The message, as it is in the broker.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.0.leased.message
    }

    /// Which attempt this is, from 1: 1 + failures + crashes.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.leased.attempt
    }

    /// How often the job has failed before: the number of this retry, 0 at first.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.0.leased.failures
    }

    /// How often a worker was gone before it had settled the job.
    #[must_use]
    pub fn crashes(&self) -> u32 {
        self.0.leased.crashes
    }

    /// How it failed the last time.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.0.leased.last_failure.as_ref()
    }

    /// The broker, to send more jobs to.
    ///
    /// # Panics
    ///
    /// In a [`detached`](Context::detached) context that was given none.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        self.0.broker.as_ref().expect("this context was given no broker")
    }

    /// Asks for what is to be done in the record that settles this job as done: jobs that it sends,
    /// values that it stores, counters, barriers. A crash leaves all of that and the job done, or
    /// nothing; what a job sends by [`Broker::send`] it sends again when it is done again.
    ///
    /// ```
    /// use std::time::Duration;
    /// use qbroker_worker::{BoxError, Context, actor};
    ///
    /// #[actor]
    /// async fn import(ctx: Context, file: String) -> Result<(), BoxError> {
    ///     let rows: u64 = 1_000;
    ///     ctx.when_done(|then| {
    ///         then.send(tell::with(format!("{rows} rows of {file}")));
    ///         then.store(format!("rows/{file}"), rows.to_string(), Some(Duration::from_secs(3600)));
    ///     });
    ///     Ok(())
    /// }
    ///
    /// #[actor]
    /// async fn tell(text: String) {
    ///     println!("{text}");
    /// }
    /// ```
    pub fn when_done(&self, ask: impl FnOnce(&mut WhenDone)) {
        // Whoever panicked with it failed, and what it asked for is not done.
        ask(&mut self.0.when_done.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn take_when_done(&self) -> WhenDone {
        let mut when_done = self.0.when_done.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut when_done)
    }

    /// What [`Worker::state`](crate::Worker::state) was given of this type: a database pool, settings.
    ///
    /// # Panics
    ///
    /// When it was given none: the attempt then fails, with the type's name.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> &T {
        let state = self.0.states.get();
        state.unwrap_or_else(|| panic!("no state of type {}", std::any::type_name::<T>()))
    }

    /// The job's place in its trace; the messages that it sends carry it on.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.0.trace
    }

    /// The present time by the broker's clock, by which the times in a message are; in a
    /// [`detached`](Context::detached) context by this machine's. So it does not matter whether this
    /// machine's clock is right.
    #[must_use]
    pub fn broker_time(&self) -> SystemTime {
        self.0.leased.broker_time().unwrap_or_else(SystemTime::now)
    }

    /// When its time limit is over, if it has one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Why the job should stop, if it should. For loops of blocking jobs.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.0.canceled.reason.get().copied()
    }

    /// Whether the job should stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.cancel_reason().is_some()
    }

    /// Waits until the job should stop. A future is dropped soon after its time limit or its lease is
    /// over; of a shutdown it hears only with `notify_shutdown`.
    ///
    /// ```
    /// use qbroker_worker::{BoxError, Context, Release, actor};
    /// # async fn export_next_page(id: u64) -> Result<bool, BoxError> { Ok(id == 0) }
    ///
    /// #[actor(queue = "exports", notify_shutdown)]
    /// async fn export(ctx: Context, id: u64) -> Result<(), BoxError> {
    ///     loop {
    ///         tokio::select! {
    ///             done = export_next_page(id) => if done? { return Ok(()) },
    ///             _ = ctx.canceled() => return Err(Release::now().into()),
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn canceled(&self) -> CancelReason {
        loop {
            let told = self.0.canceled.told.notified();
            if let Some(reason) = self.cancel_reason() {
                return reason;
            }
            told.await;
        }
    }

    /// Waits for a future in a blocking job: to send more jobs, say.
    ///
    /// # Panics
    ///
    /// In a job that is a future itself: await it there.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        tokio::runtime::Handle::current().block_on(CURRENT.scope(self.clone(), future))
    }

    pub(crate) fn leased(&self) -> &Leased {
        &self.0.leased
    }

    /// The first reason stays.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        if self.0.canceled.reason.set(reason).is_ok() {
            self.0.canceled.told.notify_waiters();
        }
    }

    pub(crate) fn set_deadline(&self, deadline: Instant) {
        // It is set once, before the work begins.
        self.0.deadline.get_or_init(|| deadline);
    }

    pub(crate) async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    pub(crate) fn scope_blocking<T>(self, function: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, function)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("actor", &self.actor())
            .field("message_id", &self.message().message_id)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// What jobs share, by type.
#[derive(Debug, Default)]
pub(crate) struct States(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(state));
    }

    fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}
