//! The stop of `jobs`: a worker with many jobs at work, half of which end while it stops; another worker
//! does the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use qbroker_client::CounterChange;
use qbroker_worker::{Broker, Context, Worker, actor};
use tokio::sync::{Semaphore, watch};

use super::figure::{Figure, Unit};
use super::jobs::{Running, run};
use super::stage::Stage;
use super::traffic::bounded;
use crate::report::thousands;
use crate::system::Fallible;

const QUEUE: &str = "stopped";

/// The counter in the broker to which each job adds one in the record that settles it.
const EFFECTS: &str = "stopped/effects";

/// What those that have not ended by then are ended and handed back after. Long enough that the others end
/// in it on a machine that does nothing else; where they do not, the second worker does them as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the jobs.
#[derive(Debug)]
struct Ledger {
    /// Of each job, how often it was done to its end.
    ended: Mutex<Vec<u32>>,
    /// Attempts that were not the first: somebody counted a handing back.
    counted: Mutex<Vec<u64>>,
    begun: watch::Sender<u64>,
    /// Lets jobs end: those of even numbers, and the others.
    gates: [Semaphore; 2],
}

#[actor(queue = "stopped", max_retries = 0, time_limit = "none")]
async fn gated(ctx: Context, number: u64) {
    let ledger = ctx.state::<Arc<Ledger>>();
    ledger.begun.send_modify(|begun| *begun += 1);
    if ctx.attempt() != 1 {
        ledger.counted.lock().push(number);
    }
    let gate = &ledger.gates[usize::from(number % 2 == 1)];
    gate.acquire().await.expect("it is never closed").forget();
    // From here on nothing waits, so nothing can end it: it was done.
    ledger.ended.lock()[usize::try_from(number).expect("it is below their number")] += 1;
    ctx.when_done(|then| {
        then.count(CounterChange::new(EFFECTS, 1));
    });
}

impl Ledger {
    fn of(jobs: u32) -> Arc<Self> {
        Arc::new(Self {
            ended: Mutex::new(vec![0; jobs as usize]),
            counted: Mutex::default(),
            begun: watch::Sender::new(0),
            gates: [Semaphore::new(0), Semaphore::new(0)],
        })
    }

    async fn has_begun(&self, jobs: u64) -> Fallible<()> {
        let mut begun = self.begun.subscribe();
        let all = async { Ok(begun.wait_for(|begun| jobs <= *begun).await.map(drop)?) };
        bounded(all).await.context("a job has not begun")
    }

    fn worker(self: &Arc<Self>, broker: &Broker, jobs: u32) -> Running {
        let worker = Worker::new(broker.clone()).register(gated).state(Arc::clone(self));
        run(worker.concurrency(jobs).shutdown_timeout(PATIENCE))
    }
}

/// Asks a worker with so many jobs at work to stop, and lets another one do what it hands back.
pub(super) async fn stop(stage: &Stage, jobs: u32) -> Fallible<[Figure; 3]> {
    let client = stage.broker()?.client().clone();
    let broker = Broker::new(client.clone());
    let ledger = Ledger::of(jobs);
    let first = ledger.worker(&broker, jobs);
    let numbers: Vec<u64> = (0..jobs.into()).collect();
    for batch in numbers.chunks(1_000) {
        broker.send_all(batch.iter().map(|number| gated::with(*number))).await?;
    }
    ledger.has_begun(jobs.into()).await?;

    let begin = Instant::now();
    let stopping = tokio::spawn(first.stop());
    ledger.gates[0].add_permits(jobs as usize);
    bounded(async { stopping.await.context("the worker panicked")? }).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let meanwhile = ledger.ended.lock().iter().sum::<u32>();
    let stats = client.get_queue(QUEUE).await?.stats;
    ensure!(stats.leased == 0, "the worker has stopped and holds {} jobs", stats.leased);
    ensure!(stats.acked_total == u64::from(meanwhile), "what has ended is not all acked");

    ledger.gates[1].add_permits(jobs as usize);
    let second = ledger.worker(&broker, jobs);
    let empty = async {
        while !client.wait_queue_empty(QUEUE, Duration::from_secs(5)).await?.0 {}
        Ok(())
    };
    bounded(empty).await.context("a job is missing")?;
    second.stop().await?;
    let wrong = wrong(&ledger, &broker, jobs).await?;
    let of = thousands(jobs.into());
    let allowed = PATIENCE.as_secs();
    let title = format!("stop with {of} jobs at work, of which half have {allowed} s to end");
    let ended = format!("jobs that have ended by then, of {of}");
    Ok([
        Figure::new(title, seconds, Unit::Seconds).in_flight(jobs),
        Figure::new(ended, f64::from(meanwhile), Unit::Count),
        Figure::new("jobs lost or repeated by it", wrong as f64, Unit::Count).at_most(0.0),
    ])
}

/// Jobs that were not done exactly once, whose effect was not, or whose handing back was counted.
async fn wrong(ledger: &Ledger, broker: &Broker, jobs: u32) -> Fallible<u64> {
    let not_once = ledger.ended.lock().iter().filter(|times| **times != 1).count() as u64;
    let counted = ledger.counted.lock().len() as u64;
    let client = broker.client();
    let effects = client.state().counter(EFFECTS).await?.unwrap_or_default();
    let stats = client.get_queue(QUEUE).await?.stats;
    let unlike = |is: u64| is.abs_diff(jobs.into());
    let other = stats.retried_total + stats.expired_leases_total + stats.dead;
    let effects = effects.abs_diff(jobs.into());
    Ok(not_once + counted + effects + unlike(stats.acked_total) + other)
}
