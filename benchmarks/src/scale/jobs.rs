//! `jobs`: empty jobs through the worker beside the bare client, many at once, and a stop with many at
//! work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use qbroker_client::OutgoingMessage;
use qbroker_worker::{Broker, Context, Worker, WorkerError, actor};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::beside::Beside;
use super::figure::{Figure, MEBIBYTE, Unit};
use super::footprint::Footprint;
use super::stage::{Done, Phase, Stage};
use super::streams::drain_all;
use super::traffic::{bounded, in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use super::{jobs_stop, numbered};
use crate::report::thousands;
use crate::system::{Fallible, System as _};

/// What `jobs` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JobsArgs {
    /// Jobs of each run
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Of the messages in flight, those that wait in the worker; the others are at work
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..4_000))]
    prefetch: u32,
    /// Jobs that are at work at once, for the memory they take
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    at_once: u32,
    /// Jobs that are at work when the worker is stopped; half of them end meanwhile
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    at_stop: u32,
    #[command(flatten)]
    scale: ScaleArgs,
}

/// What the jobs that are measured take of memory at most, all of them together.
const MEMORY_MAX: f64 = 200.0 * MEBIBYTE;

const BARE: &str = "bare";
const EMPTY: &str = "empty";

/// Jobs that were done, and who waits for how many.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    wanted: AtomicU64,
    reached: Notify,
}

impl Tally {
    /// Waits until as many are done as are wanted.
    async fn all_done(&self) -> Fallible<()> {
        let done = async {
            self.reached.notified().await;
            Ok(())
        };
        bounded(done).await.context("a job is missing")
    }

    fn count(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }
}

#[actor(queue = "empty", max_retries = 0)]
async fn empty(ctx: Context) {
    ctx.state::<Arc<Tally>>().count();
}

/// At work until it is let go.
#[actor(queue = "held", max_retries = 0)]
async fn held(ctx: Context) {
    ctx.state::<Arc<Tally>>().count();
    let gate = ctx.state::<Arc<Semaphore>>().acquire().await;
    gate.expect("it is never closed").forget();
}

/// A worker in the background.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

pub(super) fn run(worker: Worker) -> Running {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(worker.run_until(async {
        // Without a sender nobody waits for it any more.
        stopped.await.ok();
    }));
    Running { stop, task }
}

impl Running {
    pub(super) async fn stop(self) -> Fallible<()> {
        drop(self.stop);
        Ok(self.task.await.context("the worker panicked")??)
    }
}

impl Scenario for JobsArgs {
    const NAME: &'static str = "jobs";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        let jobs = thousands(self.jobs as f64);
        format!("{jobs} empty jobs through a worker, beside as many messages on one stream")
    }

    fn messages_stored(&self) -> u64 {
        self.jobs
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut beside = Beside::default();
        for round in 0..self.rounds {
            // In turns first, so that none always runs in the other's wake.
            let (bare, jobs) = if round.is_multiple_of(2) {
                let bare = self.bare(stage).await?;
                (bare, self.empty(stage).await?)
            } else {
                let jobs = self.empty(stage).await?;
                (self.bare(stage).await?, jobs)
            };
            beside.add(&bare, &jobs);
        }
        let mut figures = beside.figures("empty jobs", "the bare client's consume + ack")?.to_vec();
        figures.push(self.memory(stage).await?);
        figures.extend(jobs_stop::stop(stage, self.at_stop).await?);
        Ok(Findings { figures, missing: Vec::new() })
    }
}

impl JobsArgs {
    async fn store(
        &self,
        stage: &mut Stage,
        queue: &str,
        make: impl Fn(u64) -> OutgoingMessage,
    ) -> Fallible<()> {
        let mut publisher = stage.broker()?.publisher(queue).await?;
        let open = stage.begin(&format!("publish to {queue}"), Some(self.jobs)).await?;
        publish(&mut publisher, 0..self.jobs, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages: self.jobs, in_flight: in_flight() }).await?;
        Ok(())
    }

    /// The messages of the same size by the bare client.
    async fn bare(&self, stage: &mut Stage) -> Fallible<Phase> {
        let bytes = stage.payload_bytes();
        self.store(stage, BARE, |number| OutgoingMessage::new(numbered::payload(number, bytes)))
            .await?;
        let consumer = stage.broker()?.client().consumer([BARE]).window(0).open().await?;
        let open = stage.begin("consume + ack", Some(self.jobs)).await?;
        drain_all(vec![consumer], in_flight(), self.jobs, stage.progress()).await?;
        stage.end(open, Done { messages: self.jobs, in_flight: in_flight() }).await
    }

    /// Jobs by a worker with as many in flight.
    async fn empty(&self, stage: &mut Stage) -> Fallible<Phase> {
        // An argument that nobody knows is passed over, so the payload may be as large as the other.
        let padding = stage.payload_bytes().saturating_sub(16) as usize;
        let payload = format!(r#"{{"padding":"{}"}}"#, " ".repeat(padding));
        self.store(stage, EMPTY, |_| {
            let message = OutgoingMessage::new(payload.clone());
            message.message_type("empty").content_type("application/json")
        })
        .await?;
        let tally = Arc::new(Tally::default());
        tally.wanted.store(self.jobs, Ordering::Relaxed);
        let client = stage.broker()?.client().clone();
        let worker =
            Worker::new(Broker::new(client.clone())).register(empty).state(Arc::clone(&tally));
        let open = stage.begin("empty jobs", Some(self.jobs)).await?;
        let at_work = in_flight() - self.prefetch;
        let running = run(worker.concurrency(at_work).prefetch(self.prefetch));
        tally.all_done().await?;
        // Done is what the broker has on disk.
        while !client.wait_queue_empty(EMPTY, Duration::from_secs(5)).await?.0 {}
        let phase = stage.end(open, Done { messages: self.jobs, in_flight: in_flight() }).await?;
        running.stop().await?;
        ensure!(tally.done.load(Ordering::Relaxed) == self.jobs, "a job was done twice");
        Ok(phase)
    }

    /// Sends jobs that wait, and runs a worker that has all of them at work.
    async fn hold(&self, stage: &Stage, jobs: u32) -> Fallible<(Running, Arc<Semaphore>)> {
        let broker = Broker::new(stage.broker()?.client().clone());
        let tally = Arc::new(Tally::default());
        tally.wanted.store(jobs.into(), Ordering::Relaxed);
        let gate = Arc::new(Semaphore::new(0));
        let worker = Worker::new(broker.clone()).register(held).concurrency(jobs);
        let running = run(worker.state(Arc::clone(&gate)).state(Arc::clone(&tally)));
        let mut left = jobs;
        while 0 < left {
            let batch = left.min(1_000);
            broker.send_all((0..batch).map(|_| held::with())).await?;
            left -= batch;
        }
        tally.all_done().await?;
        Ok((running, gate))
    }

    async fn memory(&self, stage: &Stage) -> Fallible<Figure> {
        let held_bytes = || Footprint::of(std::process::id()).map_or(0, |of| of.held_bytes);
        let before = held_bytes();
        let (running, gate) = self.hold(stage, self.at_once).await?;
        let grown = held_bytes().saturating_sub(before);
        gate.add_permits(self.at_once as usize);
        running.stop().await?;
        let title = format!("memory of {} jobs at work", thousands(self.at_once.into()));
        Ok(Figure::new(title, grown as f64, Unit::Bytes)
            .in_flight(self.at_once)
            .at_most(MEMORY_MAX))
    }
}
