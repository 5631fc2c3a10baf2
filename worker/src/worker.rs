//! A worker: takes messages from queues, a slot for each, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use qbroker_client::{Consumer, Delivery, Error, QueueShare, ScheduleSpec};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::actor::Actor;
use crate::answers::Answers;
use crate::broker::Broker;
use crate::context::States;
use crate::jobs;
use crate::life::Life;
use crate::middleware::Middleware;
use crate::registry::Registry;
use crate::signals::Signals;
use crate::slots::{Slot, Slots};

/// Does the jobs of its actors.
///
/// ```no_run
/// # use qbroker_worker::{Broker, Worker, actor};
/// # #[actor] async fn send_welcome() {}
/// # async fn example(broker: Broker) -> Result<(), qbroker_worker::WorkerError> {
/// Worker::new(broker).register(send_welcome).concurrency(8).run_until_shutdown().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    broker: Broker,
    actors: Registry,
    states: States,
    schedules: Vec<ScheduleSpec>,
    settings: Settings,
}

/// What can be set about a worker.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What jobs that are told to stop have for it.
    pub(crate) grace: Duration,
    concurrency: u32,
    /// How many wait behind those that run.
    pub(crate) prefetch: u32,
    queues: Option<Vec<QueueShare>>,
    client_id: String,
    session_grace: Option<Duration>,
    shutdown_timeout: Duration,
    stuck_max: Option<Duration>,
}

/// What all jobs of a running worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) actors: Registry,
    pub(crate) states: Arc<States>,
    pub(crate) settings: Settings,
    pub(crate) slots: Slots,
    pub(crate) life: Life,
    pub(crate) answers: Answers,
    /// Those that are not settled.
    pub(crate) jobs: TaskTracker,
    consumer: Consumer,
}

impl Shared {
    /// Asks for no more messages than there are slots without the stuck jobs, so that none waits here
    /// for a slot that is not coming.
    pub(crate) fn follow_stuck(&self) {
        let stuck = self.slots.stuck_jobs();
        let free = self.settings.concurrency.saturating_sub(stuck.try_into().unwrap_or(u32::MAX));
        let prefetch = if free == 0 { 0 } else { self.settings.prefetch };
        self.consumer.set_window(free.saturating_add(prefetch));
        for middleware in self.middleware() {
            middleware.on_stuck(stuck);
        }
    }

    pub(crate) fn middleware(&self) -> &[Arc<dyn Middleware>] {
        &self.broker.middleware
    }
}

/// Why a worker ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// Two actors have this name; nothing was begun.
    #[error("two actors have the name {0:?}")]
    DuplicateActor(&'static str),
    /// There is no queue to take messages from; nothing was begun.
    #[error("a worker without actors and without queues has nothing to do")]
    NothingToDo,
    /// The broker does not let it take messages, or no longer.
    #[error(transparent)]
    Broker(#[from] Error),
    /// Jobs ignore that they should stop; they run on as long as the process does.
    #[error("{jobs} jobs do not stop")]
    Stuck {
        /// How many.
        jobs: usize,
    },
    /// The process cannot listen for signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Jobs that are begun together, at most: those before them have had their turn by then.
const BATCH_MAX: usize = 64;

/// A worker that ends because of jobs that do not stop leaves with this code, EX_TEMPFAIL: its
/// supervisor is to start it again.
const EXIT_STUCK: i32 = 75;

/// A worker that is told twice to end leaves with this code.
const EXIT_AT_ONCE: i32 = 1;

/// How long the broker has to confirm the last settlements; what it does not have by then it gives to
/// somebody else when the session's grace is over.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Worker {
    /// A worker for this broker, with the middleware that it has.
    pub fn new(broker: Broker) -> Self {
        let settings = Settings {
            grace: Duration::from_secs(5),
            concurrency: 8,
            prefetch: 0,
            queues: None,
            client_id: String::new(),
            session_grace: None,
            shutdown_timeout: Duration::from_mins(10),
            stuck_max: Some(Duration::from_mins(10)),
        };
        let (actors, states, schedules) = (Registry::default(), States::default(), Vec::new());
        Self { broker, actors, states, schedules, settings }
    }

    /// Its broker.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Makes a schedule when it starts, or changes the one of its name; from
    /// [`OutgoingJob::schedule`](crate::OutgoingJob::schedule). It is the broker's: every worker may make
    /// it, it ticks once for all of them, and goes on without any until somebody deletes it.
    pub fn schedule(mut self, schedule: ScheduleSpec) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// Adds an actor. Unless [`Worker::queues`] says something else, messages are taken from the queues
    /// of all actors, in turn.
    pub fn register<A: Actor>(mut self, actor: A) -> Self {
        self.actors.add(actor, &self.broker.defaults);
        self
    }

    /// What jobs find by [`Context::state`](crate::Context::state); one of each type.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// How many jobs run at a time. Default: 8. Less than 1 counts as that.
    ///
    /// Futures cost little: some hundred are fine where jobs wait for others. A blocking job takes a
    /// thread.
    pub fn concurrency(mut self, jobs: u32) -> Self {
        self.settings.concurrency = jobs.max(1);
        self
    }

    /// How many more messages wait in this process for a slot. Default: 0, so that nothing waits here
    /// that could run elsewhere; jobs of less than a few milliseconds gain by as many as there are
    /// slots. The broker is then told of each job before it begins: what only waited in a worker that was
    /// killed has not crashed. Where a report is lost with its process, the job's crash does not count.
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.settings.prefetch = messages;
        self
    }

    /// The queues to take messages from, instead of those of the actors: with ranks, weights and
    /// windows, or only some.
    ///
    /// ```no_run
    /// # use qbroker_worker::{Broker, QueueShare, Worker};
    /// # fn example(broker: Broker) -> Worker {
    /// Worker::new(broker).queues([
    ///     QueueShare::new("urgent").rank(0),
    ///     QueueShare::new("mail").rank(1).weight(3),
    ///     QueueShare::new("reports").rank(1).weight(1).window(2),
    /// ])
    /// # }
    /// ```
    pub fn queues<Q: Into<QueueShare>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.settings.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// A name for this worker, shown to operators.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.settings.client_id = id.into();
        self
    }

    /// How long the broker waits for a worker that is gone, killed or cut off, until its jobs are done
    /// elsewhere; 1 s to 10 min. Default: 15 s. It should be longer than the broker takes to restart.
    pub fn session_grace(mut self, grace: Duration) -> Self {
        self.settings.session_grace = Some(grace);
        self
    }

    /// How long jobs may go on when the worker stops; then they are ended and handed back, uncounted.
    /// Default: 10 min. Less than what the supervisor allows is right.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// How long a job that must end has for it. Then its lease is given up, and if it still runs (a
    /// blocking one can), it is stuck: it keeps its slot. Default: 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long a job may be stuck until the worker ends, for its supervisor to start it again: only
    /// that frees the slot. Default: 10 min; `None`: for ever.
    pub fn stuck_max(mut self, max: impl Into<Option<Duration>>) -> Self {
        self.settings.stuck_max = max.into();
        self
    }

    /// Runs until SIGTERM or SIGINT comes, and ends in order: it takes no more messages, lets its jobs
    /// finish, ends those that take longer than the shutdown timeout, and hands back what is not done,
    /// uncounted.
    ///
    /// A second signal ends the process at once, with code 1. Jobs that do not stop end it with code
    /// 75, after everything else is in order: nothing less ends a thread.
    ///
    /// # Errors
    ///
    /// As [`Worker::run_until`].
    pub async fn run_until_shutdown(self) -> Result<(), WorkerError> {
        let mut signals = Signals::listen().map_err(WorkerError::Signals)?;
        let (first, told) = tokio::sync::oneshot::channel::<()>();
        let running = self.run_until(async {
            // Without a sender nobody listens any more, which only the end of this function does.
            told.await.ok();
        });
        let listening = async {
            // Not within the macros: what nobody logs is not evaluated.
            let signal = signals.next().await;
            info!(signal, "the worker stops");
            drop(first);
            let signal = signals.next().await;
            error!(signal, "the worker stops at once");
            leave(EXIT_AT_ONCE)
        };
        let ended = tokio::select! {
            ended = running => ended,
            never = listening => never,
        };
        if let Err(error @ WorkerError::Stuck { .. }) = &ended {
            error!(%error, "the process ends");
            leave(EXIT_STUCK);
        }
        ended
    }

    /// As [`Worker::run_until_shutdown`], but runs until a future of yours is ready, and never ends the
    /// process.
    ///
    /// # Errors
    ///
    /// It cannot begin ([`WorkerError::DuplicateActor`], [`WorkerError::NothingToDo`]), the broker does
    /// not let it ([`WorkerError::Broker`]), or jobs do not stop ([`WorkerError::Stuck`]).
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let shared = Arc::new(self.open().await?);
        for middleware in shared.middleware() {
            middleware.after_worker_boot();
        }
        info!(concurrency = shared.settings.concurrency, "the worker takes messages");
        let taken = tokio::select! {
            taken = take(&shared) => taken,
            () = shutdown => Ok(()),
        };
        end(&shared).await;
        let jobs = shared.slots.stuck_jobs();
        if jobs == 0 {
            return taken;
        }
        // They matter most: while they run, not even the runtime ends.
        if let Err(error) = taken {
            error!(%error, "the worker ends");
        }
        Err(WorkerError::Stuck { jobs })
    }

    async fn open(self) -> Result<Shared, WorkerError> {
        let Self { broker, actors, states, schedules, mut settings } = self;
        if let Some(name) = actors.duplicate {
            return Err(WorkerError::DuplicateActor(name));
        }
        let own = || actors.queues().into_iter().map(QueueShare::new).collect();
        let queues: Vec<QueueShare> = settings.queues.take().unwrap_or_else(own);
        if queues.is_empty() {
            return Err(WorkerError::NothingToDo);
        }
        for actor in actors.iter() {
            for middleware in broker.middleware.iter() {
                middleware.after_declare_actor(actor.name, &actor.options);
            }
        }
        let own = actors.iter().filter_map(|actor| actor.scheduled.clone());
        for schedule in own.chain(schedules) {
            broker.schedule(schedule).await?;
        }
        let window = settings.concurrency.saturating_add(settings.prefetch);
        let mut consumer = broker.client().consumer(queues).window(window);
        if let Some(grace) = settings.session_grace {
            consumer = consumer.session_grace(grace);
        }
        if 0 < settings.prefetch {
            // What only waits here when the worker is killed has not crashed.
            consumer = consumer.report_started();
        }
        let consumer = consumer.client_id(settings.client_id.clone()).open().await?;
        let slots = Slots::new(settings.concurrency as usize, settings.stuck_max);
        let answers = Answers::new(Arc::clone(&broker.middleware));
        let (states, life, jobs) = (Arc::new(states), Life::default(), TaskTracker::new());
        Ok(Shared { broker, actors, states, settings, slots, life, answers, jobs, consumer })
    }
}

/// Takes messages and begins their jobs, until something ends it.
async fn take(shared: &Arc<Shared>) -> Result<(), WorkerError> {
    loop {
        tokio::select! {
            next = next(shared) => {
                let (slots, deliveries) = next?;
                // Only draining ends deliveries, and that is not begun here.
                if deliveries.is_empty() {
                    return Ok(());
                }
                for (slot, delivery) in slots.into_iter().zip(deliveries) {
                    // In a box: what a task itself holds is copied when it begins and when it ends.
                    shared.jobs.spawn(Box::pin(jobs::run(Arc::clone(shared), delivery, slot)));
                }
            }
            () = shared.slots.stuck_changed() => shared.follow_stuck(),
            () = shared.slots.stuck_too_long() => {
                return Err(WorkerError::Stuck { jobs: shared.slots.stuck_jobs() });
            }
        }
    }
}

/// Slots that are free, and messages for them, of which there may be fewer. Canceling it loses neither.
async fn next(shared: &Shared) -> Result<(Vec<Slot>, Vec<Delivery>), WorkerError> {
    let slots = shared.slots.take(BATCH_MAX).await;
    let deliveries = shared.consumer.next_batch(slots.len()).await?;
    Ok((slots, deliveries))
}

/// Takes no more, lets jobs finish, ends the others, and hands back what is not done.
async fn end(shared: &Shared) {
    let jobs = &shared.jobs;
    for middleware in shared.middleware().iter().rev() {
        middleware.before_worker_shutdown();
    }
    shared.life.stop();
    jobs.close();
    let timeout = shared.settings.shutdown_timeout;
    let draining = tokio::time::timeout(timeout, shared.consumer.drain());
    let finishing = tokio::time::timeout(timeout, jobs.wait());
    let (drained, finished) = tokio::join!(draining, finishing);
    if let Ok(Err(error)) = drained {
        warn!(%error, "the consumer has ended before the worker");
    }
    if finished.is_err() {
        warn!(jobs = jobs.len(), "jobs take too long and are handed back");
        shared.life.give_up();
        let ending =
            tokio::time::timeout(shared.settings.grace.saturating_add(CLOSE_TIMEOUT), jobs.wait());
        if ending.await.is_err() {
            warn!(jobs = jobs.len(), "jobs were not settled; their leases end with the session");
        }
    }
    match tokio::time::timeout(CLOSE_TIMEOUT, shared.consumer.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the consumer did not end in order"),
        Err(_) => warn!("the broker is away; what it was not told is done again"),
    }
    for middleware in shared.middleware().iter().rev() {
        middleware.after_worker_shutdown();
    }
    info!("the worker has stopped");
}

/// Ends the process, whatever still runs in it.
#[expect(clippy::exit, reason = "what calls this owns the process, and no less ends its threads")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
