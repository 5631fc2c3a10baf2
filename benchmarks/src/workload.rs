//! The workloads: how each row is driven, the same for every system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::row::Row;
use crate::samples::histogram;
use crate::system::{Caller, Consumer, Fallible, Publisher, RoundTrip as _, System};

/// How much is done in one run of a row; it ends at the first of the two.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The content of every message.
    pub(crate) payload: Bytes,
    /// So many messages.
    pub(crate) messages_max: u64,
    /// So long. What is on its way then is still waited for, and counted.
    pub(crate) duration_max: Duration,
}

/// What came out of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Messages confirmed; of a row that consumes, messages acked.
    pub(crate) messages: u64,
    /// From the first message offered (or awaited) to the last answer.
    pub(crate) elapsed: Duration,
    /// Nanoseconds of each call or round trip, where a row has them.
    pub(crate) latency: Option<Histogram<u64>>,
}

/// Runs `row` once, on a queue of its own.
///
/// # Errors
///
/// Anything that goes wrong, an answer that does not come among it.
pub(crate) async fn run<S: System>(
    row: Row,
    system: Arc<S>,
    queue: String,
    load: Load,
) -> Fallible<Run> {
    // On a worker of the runtime, where the connections' tasks are: the main thread is none.
    let driving = tokio::spawn(drive(row, system, queue, load));
    let run = match tokio::time::timeout(STUCK, driving).await {
        Ok(driven) => driven.context("the workload panicked")?,
        Err(_) => Err(anyhow!("no end after {STUCK:?}")),
    };
    run.with_context(|| format!("{}: {}", S::NAME, row.title()))
}

/// A run that takes so long has lost something.
const STUCK: Duration = Duration::from_secs(300);

async fn drive<S: System>(row: Row, system: Arc<S>, queue: String, load: Load) -> Fallible<Run> {
    let system = &*system;
    let run = match row {
        Row::PublishBatches | Row::PublishSingles => publish_row(row, system, &queue, &load).await,
        Row::PublishUnary => call_row(row, system, &queue, &load).await,
        Row::Consume => consume_row(row, system, &queue, &load).await,
        Row::Both => both_row(row, system, &queue, &load).await,
        Row::RoundTrip => round_trip_row(system, &queue, &load).await,
    };
    let run = run?;
    system.discard(&queue).await?;
    Ok(run)
}

async fn publish_row<S: System>(row: Row, system: &S, queue: &str, load: &Load) -> Fallible<Run> {
    let publisher = system.publisher(queue).await?;
    publish(publisher, row, load.clone()).await
}

/// Publishes with as much in flight as the row says, until the load is done.
async fn publish(mut publisher: impl Publisher, row: Row, load: Load) -> Fallible<Run> {
    let (batch, in_flight) = (row.batch() as u64, u64::from(row.in_flight()));
    let (mut offered, mut confirmed) = (0, 0);
    let start = Instant::now();
    loop {
        let goes_on = start.elapsed() < load.duration_max;
        while goes_on && offered < load.messages_max && offered + batch <= confirmed + in_flight {
            let messages = batch.min(load.messages_max - offered);
            publisher.offer(&load.payload, usize::try_from(messages)?).await?;
            offered += messages;
        }
        if confirmed == offered {
            return Ok(Run { messages: confirmed, elapsed: start.elapsed(), latency: None });
        }
        confirmed += publisher.confirmed().await?;
    }
}

/// Publishes by single calls, as many at a time as the row says.
async fn call_row<S: System>(row: Row, system: &S, queue: &str, load: &Load) -> Fallible<Run> {
    let caller = system.caller(queue).await?;
    let calls = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    let start = Instant::now();
    for _ in 0..row.in_flight() {
        callers.spawn(call(caller.clone(), load.clone(), Arc::clone(&calls), start));
    }
    let mut latency = histogram();
    while let Some(of_caller) = callers.join_next().await {
        latency.add(of_caller??)?;
    }
    Ok(Run { messages: latency.len(), elapsed: start.elapsed(), latency: Some(latency) })
}

async fn call(
    mut caller: impl Caller,
    load: Load,
    calls: Arc<AtomicU64>,
    start: Instant,
) -> Fallible<Histogram<u64>> {
    let mut latency = histogram();
    while start.elapsed() < load.duration_max
        && calls.fetch_add(1, Ordering::Relaxed) < load.messages_max
    {
        let begin = Instant::now();
        caller.publish(load.payload.clone()).await?;
        record(&mut latency, begin)?;
    }
    Ok(latency)
}

async fn consume_row<S: System>(row: Row, system: &S, queue: &str, load: &Load) -> Fallible<Run> {
    let mut stored = load.messages_max;
    if system.needs_messages() {
        // Not timed; by the clock it may take as long as the timed part.
        stored = publish(system.publisher(queue).await?, row, load.clone()).await?.messages;
    }
    let consumer = system.consumer(queue, row.in_flight()).await?;
    let (_all, all) = watch::channel(Some(stored));
    consume(consumer, load.clone(), all).await
}

/// Consumes and acks until the load is done, or as many as `all` says once that is known.
async fn consume<C: Consumer>(
    mut consumer: C,
    load: Load,
    mut all: watch::Receiver<Option<u64>>,
) -> Fallible<Run> {
    let mut messages = 0;
    let start = Instant::now();
    loop {
        let known = *all.borrow_and_update();
        let timed_out = known.is_some() && load.duration_max <= start.elapsed();
        if timed_out || known.is_some_and(|all| all <= messages) {
            break;
        }
        tokio::select! {
            batch = consumer.receive() => {
                let batch = batch?;
                messages += C::check(&batch, &load.payload)?;
                consumer.ack(batch).await?;
            }
            changed = all.changed(), if known.is_none() => changed.context("nobody publishes")?,
        }
    }
    consumer.acked().await?;
    Ok(Run { messages, elapsed: start.elapsed(), latency: None })
}

/// Publishes and consumes at once; ends when the last message published is acked.
async fn both_row<S: System>(row: Row, system: &S, queue: &str, load: &Load) -> Fallible<Run> {
    let publisher = system.publisher(queue).await?;
    let consumer = system.consumer(queue, row.in_flight()).await?;
    let (published, all) = watch::channel(None);
    // What was published is consumed to the end, or backlog would count as speed.
    let to_the_end = Load { duration_max: Duration::MAX, ..load.clone() };
    let consuming = tokio::spawn(consume(consumer, to_the_end, all));
    let publishing = publish(publisher, row, load.clone()).await?;
    published.send_replace(Some(publishing.messages));
    consuming.await?
}

async fn round_trip_row<S: System>(system: &S, queue: &str, load: &Load) -> Fallible<Run> {
    let mut trip = system.round_trip(queue).await?;
    let mut latency = histogram();
    let start = Instant::now();
    while start.elapsed() < load.duration_max && latency.len() < load.messages_max {
        let begin = Instant::now();
        trip.there(&load.payload).await?;
        record(&mut latency, begin)?;
        trip.back().await?;
    }
    Ok(Run { messages: latency.len(), elapsed: start.elapsed(), latency: Some(latency) })
}

fn record(latency: &mut Histogram<u64>, begin: Instant) -> Fallible<()> {
    Ok(latency.record(u64::try_from(begin.elapsed().as_nanos())?)?)
}
