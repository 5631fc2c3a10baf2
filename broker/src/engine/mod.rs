//! Where the queues, the log and the clock meet.
//!
//! A turn takes the lock, lets the core decide and apply, appends the records and lets the lock go;
//! it waits for nothing. Everything that follows from it, answers and refusals included, is held
//! until the log is durable up to the last record appended by then: [`Engine::durable`] for
//! whoever asked, [`Outbox`] for streams. There is no other way out.

mod checkpoint;
mod history;
mod letters;
mod line;
mod open;
mod operations;
mod outbox;
mod outcomes;
mod paging;
mod purge;
mod replay;
mod streams;
mod scan;
mod timer;
mod unsynced;
mod watching;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hashbrown::HashMap;
use parking_lot::Mutex;
use qbroker_storage::{
    AppendError, Bound, FollowError, Log, Lsn, ReadError, Space, StoredRecord, Stretch,
};
use rustc_hash::FxBuildHasher;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub use history::Traces;
pub use open::{Failure, Options, StartError};
pub use outbox::Outbox;
pub use replay::recover;
pub use scan::{Match, Scan, Scanned};
pub use streams::{About, Connected};
pub use watching::Watching;

use streams::Stream;
use unsynced::Unsynced;
use watching::Watcher;

use crate::clock::Clock;
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::index::paged::PagedIndex;
use crate::queue::refused::Refused;
use crate::queue::state::{Key, Kind};
use crate::queue::time::Now;
use crate::queue::{
    self, BatchOutcome, Delivery, Effect, Lost, Output, ProducerOpened, PullId, Pulled, Queue,
    Stop, StreamId,
};

/// The core as it runs today.
pub type Core = queue::Core<PagedIndex>;

/// The log stopped after a failed write or sync, or because the broker is closing. What was asked
/// may or may not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has stopped; what was asked may or may not have been done")]
pub struct Stopped;

/// How far the log is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Durable {
    lsn: Lsn,
    stopped: bool,
}

/// What a consumer's stream is told.
#[derive(Debug)]
pub enum ConsumerEvent {
    Deliver(Vec<Delivery>),
    LeasesLost(Vec<LeaseToken>, Lost),
    /// Another stream took its place.
    Replaced,
    /// An operator ended it.
    Disconnected,
    /// Answers a call of settlements.
    Settled {
        call: i64,
        unanswered: OwnedSemaphorePermit,
        failures: Vec<(LeaseToken, Refused)>,
        invalid: Vec<bytes::Bytes>,
    },
    /// Answers a call of extensions.
    Extended {
        call: i64,
        unanswered: OwnedSemaphorePermit,
        duration_ms: Option<u64>,
        failures: Vec<(LeaseToken, Refused)>,
        invalid: Vec<bytes::Bytes>,
    },
    /// Answers a change of queues; why it was not made, where it was not.
    Subscribed(OwnedSemaphorePermit, Option<Refused>),
    Drained(OwnedSemaphorePermit),
    /// Nothing more comes in.
    End,
}

/// What a publishing stream is told.
#[derive(Debug)]
pub enum PublishEvent {
    Opened(ProducerOpened),
    /// Batches have their outcomes; they count as unanswered until these are taken.
    Outcomes(Vec<BatchOutcome>, OwnedSemaphorePermit),
    /// The core ends the stream.
    Refused(Refused),
    /// Nothing more comes in.
    End,
}

/// All queues over one log.
#[derive(Debug)]
pub struct Engine {
    state: Mutex<State>,
    log: Log,
    durable: watch::Receiver<Durable>,
    clock: Clock,
    /// Bytes that are unsynced, over all connections, in [`BUDGET_UNIT`]s.
    budget: Arc<Semaphore>,
    budget_units: u32,
    unsynced: Arc<Unsynced>,
    timer: Notify,
    /// Wakes who works on operations.
    operations: Notify,
    /// Ends the checkpoint thread.
    checkpoints: checkpoint::Checkpoints,
    commits: Arc<open::Commits>,
    /// Pages of the index that could not be read, and were made anew.
    pages_rebuilt: AtomicU64,
}

#[derive(Debug)]
struct State {
    core: Core,
    consumers: HashMap<ConsumerId, Stream, FxBuildHasher>,
    pulls: HashMap<PullId, oneshot::Sender<(Lsn, Vec<Delivery>)>, FxBuildHasher>,
    publishers: HashMap<u64, Arc<Outbox<PublishEvent>>, FxBuildHasher>,
    /// Calls that wait for something under a key to change.
    watchers: HashMap<(Kind, Key), Vec<Watcher>, FxBuildHasher>,
    last_stream: u64,
    letters: letters::Letters,
    /// When the timer will look by itself, on the boot clock.
    armed_ms: u64,
    /// Turns that wait for a page; nothing goes out of memory meanwhile.
    loading: usize,
    /// LSN of the checkpoint in place; zero: there is none.
    checkpoint: Lsn,
}

/// A permit stands for so many bytes.
const BUDGET_UNIT: usize = 1024;
/// Queues that are looked at before others have their turn.
const QUEUES_AT_ONCE: usize = 256;

impl Engine {
    /// Gives the core one command, and grants what became possible.
    ///
    /// Returns the answer and the LSN that must be durable before anybody is told of it.
    pub fn turn<T>(
        &self,
        command: impl FnMut(&mut Core, Now, &mut Output) -> queue::Turn<T>,
    ) -> Result<(Lsn, Result<T, Refused>), Stopped> {
        self.turn_with(command, |_, answer| answer)
    }

    /// [`Self::turn`], whose answer is also given to `then` together with the state, under the same
    /// lock: a consumer's outbox must be known before its first delivery is.
    fn turn_with<T, R>(
        &self,
        mut command: impl FnMut(&mut Core, Now, &mut Output) -> queue::Turn<T>,
        then: impl FnOnce(&mut State, Result<T, Refused>) -> R,
    ) -> Result<(Lsn, R), Stopped> {
        let mut state = self.state.lock();
        state.core.set_disk_full(self.log.space() != Space::Ample);
        let mut now = self.clock.now();
        state.core.see(now);
        let mut out = Output::default();
        let answer = loop {
            match command(&mut state.core, now, &mut out) {
                Ok(answer) => break Ok(answer),
                Err(Stop::Refused(refused)) => break Err(refused),
                Err(Stop::Missing(page)) => {
                    state = self.load_within(state, page, &mut out, &mut now)?;
                }
            }
        };
        self.append(&mut state, out, now)?;
        let result = then(&mut state, answer);
        let mut out = Output::default();
        while let Err(page) = state.core.dispatch(now, &mut out) {
            state = self.load_within(state, page, &mut out, &mut now)?;
        }
        let lsn = self.append(&mut state, out, now)?;
        self.page_out(&mut state, now)?;
        self.arm(&mut state, now);
        Ok((lsn, result))
    }

    /// Appends a turn's records and sends its effects on their way.
    fn append(&self, state: &mut State, out: Output, now: Now) -> Result<Lsn, Stopped> {
        let Output { full, batch, effects, retired, .. } = out;
        for batch in full.into_iter().chain([batch]).filter(|batch| !batch.is_empty()) {
            match self.log.append(batch) {
                Ok(_) => {}
                Err(AppendError::Stopped) => return Err(Stopped),
                // The core has applied it by now: there is no way back. The configuration was
                // checked for what a turn may need, see [`queue::turn_bytes_max`].
                Err(error) => panic!("a turn's records do not fit a frame: {error}"),
            }
        }
        debug_assert_eq!(self.log.next_lsn(), state.core.next_lsn(), "the engine alone gives LSNs");
        if !retired.is_empty() {
            self.log.liveness().retire(&retired);
        }
        let lsn = state.core.last_lsn();
        for effect in effects {
            state.send(lsn, effect, now);
        }
        Ok(lsn)
    }

    /// Gives the core a command that needs no time and gives no answer.
    pub fn command(&self, mut command: impl FnMut(&mut Core)) -> Result<Lsn, Stopped> {
        let done = self.turn(|core, _, _| {
            command(core);
            Ok(())
        });
        done.map(|(lsn, _)| lsn)
    }

    /// Whether a lease still holds.
    pub fn is_held(&self, token: LeaseToken) -> bool {
        self.look(|core| core.is_held(token)).1
    }

    /// Asks something of the state. The answer counts once the log is durable up to the LSN.
    pub fn look<T>(&self, question: impl FnOnce(&Core) -> T) -> (Lsn, T) {
        let state = self.state.lock();
        let answer = question(&state.core);
        (state.core.last_lsn(), answer)
    }

    /// Looks at queues after one, by name: some of them, before others have their turn. The last of
    /// these, where there may be more.
    pub fn look_at_queues(
        &self,
        after: Option<&str>,
        visit: &mut dyn FnMut(&Core, &Queue),
    ) -> Option<Arc<str>> {
        let state = self.state.lock();
        let queues = state.core.queues_after(after.unwrap_or_default()).take(QUEUES_AT_ONCE);
        let mut last = None;
        for (count, queue) in (1..).zip(queues) {
            visit(&state.core, queue);
            last = (count == QUEUES_AT_ONCE).then(|| queue.name.clone());
        }
        last
    }

    /// Gives the core one command and waits until its answer may be told.
    pub async fn call<T>(
        &self,
        command: impl FnMut(&mut Core, Now, &mut Output) -> queue::Turn<T>,
    ) -> Result<Result<T, Refused>, Stopped> {
        let (lsn, answer) = self.turn(command)?;
        self.durable(lsn).await?;
        Ok(answer)
    }

    /// [`Self::call`] with a reservation for what it adds to the log. That is held until it is on disk,
    /// also where whoever asked has gone by then.
    pub async fn call_with<T>(
        &self,
        permit: OwnedSemaphorePermit,
        command: impl FnMut(&mut Core, Now, &mut Output) -> queue::Turn<T>,
    ) -> Result<Result<T, Refused>, Stopped> {
        let (lsn, answer) = self.turn(command)?;
        self.release_when_durable(lsn, permit);
        self.durable(lsn).await?;
        Ok(answer)
    }

    /// Asks something of the state and waits until the answer may be told.
    pub async fn ask<T>(&self, question: impl FnOnce(&Core) -> T) -> Result<T, Stopped> {
        let (lsn, answer) = self.look(question);
        self.durable(lsn).await?;
        Ok(answer)
    }

    /// Waits until the log is on disk up to `lsn`.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), Stopped> {
        let mut durable = self.durable.clone();
        let reached = durable.wait_for(|durable| lsn <= durable.lsn || durable.stopped).await;
        match reached {
            Ok(durable) if lsn <= durable.lsn => Ok(()),
            _ => Err(Stopped),
        }
    }

    /// The log's progress from here on. Taken before the state is looked at, it misses nothing that
    /// happens after the look.
    pub fn progress(&self) -> Progress {
        let mut durable = self.durable.clone();
        durable.mark_unchanged();
        Progress(durable)
    }

    /// Reserves room for bytes on their way; it is given back when the permit is dropped. More than
    /// the whole budget waits for all of it.
    pub async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.budget_units);
        let permit = self.budget.clone().acquire_many_owned(units).await;
        permit.expect("the budget is never closed")
    }

    /// Gives a reservation back once the log is durable up to `lsn`: from then on what it stood for
    /// is on disk, whether anybody reads of it or not.
    pub fn release_when_durable(&self, lsn: Lsn, permit: OwnedSemaphorePermit) {
        self.unsynced.hold(lsn, permit, || self.durable.borrow().lsn);
    }

    /// Bytes that are reserved now.
    pub fn pending_bytes(&self) -> u64 {
        let free = self.budget.available_permits();
        ((self.budget_units as usize).saturating_sub(free) * BUDGET_UNIT) as u64
    }

    /// Messages that connected streams hold.
    pub fn held_by_streams(&self) -> u64 {
        self.look(|core| core.held_by_streams()).1
    }

    /// Reads records that are durable; where that takes the disk, on a thread that may wait.
    pub async fn read(
        self: &Arc<Self>,
        lsns: Vec<Lsn>,
    ) -> Result<Vec<Result<StoredRecord, ReadError>>, Stopped> {
        if let Some(records) = self.log.read_now(&lsns) {
            return Ok(records);
        }
        let engine = self.clone();
        let reading = tokio::task::spawn_blocking(move || engine.log.read(&lsns));
        // It ends early with the runtime alone.
        reading.await.map_err(|_| Stopped)
    }

    /// Reads the log's heads from `from` on, in order; where that may take the disk, on a thread that
    /// may wait.
    pub async fn follow(
        self: &Arc<Self>,
        from: Lsn,
        bound: Bound,
    ) -> Result<Result<Stretch, FollowError>, Stopped> {
        let engine = self.clone();
        let reading = tokio::task::spawn_blocking(move || engine.log.follow(from, bound));
        reading.await.map_err(|_| Stopped)
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Opens a consumer, with an outbox that gets everything from its first delivery on.
    ///
    /// It is connected at once, and until [`Self::disconnect`]; it may be told of once the log is
    /// durable up to the LSN.
    pub fn open_consumer(&self, open: &queue::OpenConsumer, about: About) -> OpenedConsumer {
        let about = Arc::new(about);
        self.turn_with(
            |core, now, out| core.open_consumer(open, now, out),
            |state, opened| {
                opened.map(|opened| {
                    let outbox =
                        Arc::new(Outbox::new(self.durable.clone(), self.commits.stopped()));
                    let stream = Stream { outbox: outbox.clone(), about };
                    state.consumers.insert(opened.consumer, stream);
                    (opened, outbox)
                })
            },
        )
    }

    /// A consumer's connection broke.
    pub fn disconnect(&self, consumer: ConsumerId) {
        let mut state = self.state.lock();
        state.consumers.remove(&consumer);
        state.core.disconnect(consumer, self.clock.now());
        self.arm(&mut state, self.clock.now());
    }

    /// A consumer is done; what it still holds is released.
    pub fn close_consumer(&self, consumer: ConsumerId) -> Result<Lsn, Stopped> {
        let closed = self.turn_with(
            |core, now, out| core.close_consumer(consumer, now, out),
            |state, _| state.consumers.remove(&consumer),
        );
        closed.map(|(lsn, _)| lsn)
    }

    /// Takes messages at once, or says where the answer will come.
    pub fn pull(&self, pull: &queue::Pull) -> Result<(Lsn, Result<PullAnswer, Refused>), Stopped> {
        self.turn_with(
            |core, now, out| core.pull(pull, now, out),
            |state, pulled| {
                pulled.map(|pulled| match pulled {
                    Pulled::Now(deliveries) => PullAnswer::Now(deliveries),
                    Pulled::Waiting(id) => {
                        let (sender, receiver) = oneshot::channel();
                        state.pulls.insert(id, sender);
                        PullAnswer::Waiting(id, receiver)
                    }
                })
            },
        )
    }

    /// A pull waits no more; whatever was granted to it meanwhile is released.
    pub fn cancel_pull(&self, pull: PullId, mut answer: oneshot::Receiver<(Lsn, Vec<Delivery>)>) {
        {
            let mut state = self.state.lock();
            state.pulls.remove(&pull);
            let now = self.clock.now();
            if state.core.cancel_pull(pull, now) {
                self.arm(&mut state, now);
                return;
            }
        }
        if let Ok((_, deliveries)) = answer.try_recv() {
            self.undeliver(&deliveries);
        }
    }

    /// Releases deliveries that could not be handed over. The broker may be stopping; then the
    /// leases are kept, and released when their session does not name them.
    pub fn undeliver(&self, deliveries: &[Delivery]) {
        let released = self.turn(|core, _, out| {
            core.undeliver(deliveries.iter().map(|delivery| delivery.token), out)
        });
        if released.is_err() {
            tracing::debug!("deliveries were not released: the log has stopped");
        }
    }

    /// Deliveries are on their way: leases that end by time run from now.
    pub fn let_go(&self, deliveries: &[Delivery]) {
        if deliveries.iter().any(|delivery| delivery.timed) {
            let now = self.clock.now();
            let mut state = self.state.lock();
            state.core.let_go(deliveries.iter().map(|delivery| delivery.token), now);
            self.arm(&mut state, now);
        }
    }

    /// A new publishing stream and its outbox.
    pub fn open_publisher(&self) -> (StreamId, Arc<Outbox<PublishEvent>>) {
        let outbox = Arc::new(Outbox::new(self.durable.clone(), self.commits.stopped()));
        let mut state = self.state.lock();
        state.last_stream += 1;
        let stream = state.last_stream;
        state.publishers.insert(stream, outbox.clone());
        (StreamId(stream), outbox)
    }

    /// A publishing stream is gone; `producer` is its epoch, where it has one.
    pub fn close_publisher(&self, stream: StreamId, producer: Option<u64>) {
        let mut state = self.state.lock();
        state.publishers.remove(&stream.0);
        if let Some(epoch) = producer {
            state.core.close_producer(epoch, stream);
        }
    }

    /// Stops the deadlines: the broker is stopping, and nobody loses a lease by it.
    pub fn freeze(&self) {
        self.state.lock().core.freeze();
    }

    /// Wakes the timer where something is due earlier than it knows.
    fn arm(&self, state: &mut State, now: Now) {
        let next_ms = state.next_look(now);
        if next_ms < state.armed_ms {
            state.armed_ms = next_ms;
            self.timer.notify_one();
        }
    }
}

/// How the log's commits follow each other.
#[derive(Debug)]
pub struct Progress(watch::Receiver<Durable>);

impl Progress {
    /// Waits for a commit after those that were seen. What came unseen counts as one.
    pub async fn next_commit(&mut self) -> Result<(), Stopped> {
        self.0.changed().await.map_err(|_| Stopped)
    }
}

/// What [`Engine::open_consumer`] gives: the LSN to wait for, and the consumer or its refusal.
pub type OpenedConsumer =
    Result<(Lsn, Result<(queue::Opened, Arc<Outbox<ConsumerEvent>>), Refused>), Stopped>;

/// What a pull gets.
#[derive(Debug)]
pub enum PullAnswer {
    Now(Vec<Delivery>),
    /// Its answer, with the LSN that must be durable before.
    Waiting(PullId, oneshot::Receiver<(Lsn, Vec<Delivery>)>),
}

impl State {
    /// Puts an effect where its addressee finds it once it may be known.
    fn send(&mut self, lsn: Lsn, effect: Effect, now: Now) {
        match effect {
            Effect::Deliver { consumer, deliveries } => {
                self.tell(consumer, lsn, ConsumerEvent::Deliver(deliveries));
            }
            Effect::LeasesLost { consumer, mut leases, why } => {
                self.take_back(consumer, &mut leases);
                if !leases.is_empty() {
                    self.tell(consumer, lsn, ConsumerEvent::LeasesLost(leases, why));
                }
            }
            Effect::Replaced { consumer } => {
                self.tell(consumer, lsn, ConsumerEvent::Replaced);
                self.consumers.remove(&consumer);
            }
            Effect::Disconnected { consumer } => {
                self.tell(consumer, lsn, ConsumerEvent::Disconnected);
                self.consumers.remove(&consumer);
            }
            Effect::AnswerPull { pull, deliveries } => {
                // A pull that is gone takes its answer back itself.
                if let Some(waiting) = self.pulls.remove(&pull) {
                    drop(waiting.send((lsn, deliveries)));
                }
            }
            Effect::Fenced { stream, producer } => {
                if let Some(publisher) = self.publishers.get(&stream.0) {
                    let refused = Refused::ProducerFenced(producer);
                    publisher.push(lsn, PublishEvent::Refused(refused));
                }
            }
            Effect::StateChanged { kind, key } => self.state_changed(kind, key),
            Effect::DeadLetters { queue, count } => self.letters.arrived(queue, count, now),
        }
    }
}
