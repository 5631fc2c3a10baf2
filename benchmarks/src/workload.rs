//! The workloads: how each row is driven, the same for every system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::meter::{Measured, Meter};
use crate::row::Row;
use crate::samples::histogram;
use crate::system::{Caller, Fallible, Publisher, RoundTrip as _, System, Unary};
use crate::taking::take;

/// How much is done in one run of a row; it ends at the first of the two.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The content of every message.
    pub(crate) payload: Bytes,
    /// So many messages.
    pub(crate) messages_max: u64,
    /// So long. What is on its way then is still waited for, and counted.
    pub(crate) duration_max: Duration,
    /// Messages on their way at a time, where not as many as the row says.
    pub(crate) in_flight: Option<u32>,
    /// Streams that a row's work is spread over.
    pub(crate) streams: u16,
}

/// Bytes on their way at a time: the client's window.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// Bytes in one publish request, unless a single message is larger.
const REQUEST_BYTES: usize = 1024 * 1024;

impl Load {
    /// Messages on their way at a time, on all streams together.
    pub(crate) fn in_flight(&self, row: Row) -> u32 {
        let room = u32::try_from(IN_FLIGHT_BYTES / self.payload.len()).unwrap_or(u32::MAX);
        let asked = self.in_flight.unwrap_or_else(|| row.in_flight()).min(room);
        // A stream has one at least, and all have as many. The round trip has no streams to share it.
        let streams = if row == Row::RoundTrip { 1 } else { u32::from(self.streams) };
        (asked / streams).max(1) * streams
    }

    /// Messages in one publish request.
    pub(crate) fn batch(&self, row: Row) -> usize {
        let of_stream = self.in_flight(row) / u32::from(self.streams);
        let room = (REQUEST_BYTES / self.payload.len()).clamp(1, of_stream.max(1) as usize);
        row.batch().min(room)
    }

    /// What each of the streams does.
    fn of_each_stream(&self, row: Row) -> Self {
        Self {
            messages_max: self.messages_max.div_ceil(self.streams.into()),
            in_flight: Some(self.in_flight(row) / u32::from(self.streams)),
            streams: 1,
            ..self.clone()
        }
    }
}

/// What came out of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Messages confirmed; of a row that consumes, messages acked.
    pub(crate) messages: u64,
    /// From the first message offered (or awaited) to the last answer.
    pub(crate) measured: Measured,
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
    meter: Meter,
) -> Fallible<Run> {
    let driving = async move {
        let drive = Drive { row, system: &*system, queue: &queue, load: &load, meter: &meter };
        let run = drive.run().await?;
        system.discard(&queue).await?;
        Ok(run)
    };
    bounded::<S>(row, driving).await
}

/// Runs the row of single calls once, on a queue of its own.
///
/// # Errors
///
/// As of [`run`].
pub(crate) async fn run_calls<S: Unary>(
    system: Arc<S>,
    queue: String,
    load: Load,
    meter: Meter,
) -> Fallible<Run> {
    let row = Row::PublishUnary;
    let driving = async move {
        let drive = Drive { row, system: &*system, queue: &queue, load: &load, meter: &meter };
        let run = drive.call().await?;
        system.discard(&queue).await?;
        Ok(run)
    };
    bounded::<S>(row, driving).await
}

/// Publishes the load as `row` does and leaves it in `queue`; how many messages, and the publisher.
///
/// # Errors
///
/// Anything that goes wrong.
pub(crate) async fn fill<S: System>(
    row: Row,
    system: &S,
    queue: &str,
    load: Load,
) -> Fallible<(u64, S::Publisher)> {
    let mut publisher = system.publisher(queue).await?;
    Ok((publish(&mut publisher, row, load).await?, publisher))
}

async fn bounded<S: System>(
    row: Row,
    driving: impl Future<Output = Fallible<Run>> + Send + 'static,
) -> Fallible<Run> {
    // On a worker of the runtime, where the connections' tasks are: the main thread is none. A set
    // ends its tasks when it is dropped, and a system must not outlive a run that was given up.
    let mut task = JoinSet::new();
    task.spawn(driving);
    let run = match tokio::time::timeout(STUCK, task.join_next()).await {
        Ok(driven) => driven.expect("one task").context("the workload panicked")?,
        Err(_) => Err(anyhow!("no end after {STUCK:?}")),
    };
    run.with_context(|| format!("{}: {}", S::NAME, row.title()))
}

/// A run that takes so long has lost something.
const STUCK: Duration = Duration::from_secs(300);

/// A run to be driven.
struct Drive<'a, S> {
    row: Row,
    system: &'a S,
    queue: &'a str,
    load: &'a Load,
    meter: &'a Meter,
}

impl<S: System> Drive<'_, S> {
    async fn run(&self) -> Fallible<Run> {
        match self.row {
            Row::PublishBatches | Row::PublishSingles => self.publish().await,
            Row::PublishUnary => bail!("only some systems take single calls"),
            Row::Consume => self.consume().await,
            Row::Both => self.both().await,
            Row::RoundTrip => self.round_trip().await,
        }
    }

    async fn publish(&self) -> Fallible<Run> {
        let publishers = self.publishers().await?;
        let begun = self.meter.begin().await?;
        let messages = publish_all(publishers, self.row, self.load).await?;
        Ok(Run { messages, measured: begun.end().await?, latency: None })
    }

    async fn consume(&self) -> Fallible<Run> {
        let mut stored = self.load.messages_max;
        if self.system.needs_messages() {
            // Not measured; it may take as long as what is.
            stored = publish_all(self.publishers().await?, self.row, self.load).await?;
        }
        let consumers = self.consumers().await?;
        let (_all, all) = watch::channel(Some(stored));
        let begun = self.meter.begin().await?;
        let messages = take(consumers, self.load.clone(), all).await?;
        Ok(Run { messages, measured: begun.end().await?, latency: None })
    }

    /// Publishes and consumes at once; ends when the last message published is acked.
    async fn both(&self) -> Fallible<Run> {
        let (publishers, consumers) = (self.publishers().await?, self.consumers().await?);
        let (published, all) = watch::channel(None);
        // What was published is consumed to the end, or backlog would count as speed.
        let to_the_end = Load { duration_max: Duration::MAX, ..self.load.clone() };
        let begun = self.meter.begin().await?;
        let consuming = tokio::spawn(take(consumers, to_the_end, all));
        let messages = publish_all(publishers, self.row, self.load).await?;
        published.send_replace(Some(messages));
        let messages = consuming.await??;
        Ok(Run { messages, measured: begun.end().await?, latency: None })
    }

    async fn publishers(&self) -> Fallible<Vec<S::Publisher>> {
        let mut publishers = Vec::new();
        for _ in 0..self.load.streams {
            publishers.push(self.system.publisher(self.queue).await?);
        }
        Ok(publishers)
    }

    async fn consumers(&self) -> Fallible<Vec<S::Consumer>> {
        let window = self.load.of_each_stream(self.row).in_flight(self.row);
        let mut consumers = Vec::new();
        for _ in 0..self.load.streams {
            consumers.push(self.system.consumer(self.queue, window).await?);
        }
        Ok(consumers)
    }

    async fn round_trip(&self) -> Fallible<Run> {
        let mut trip = self.system.round_trip(self.queue).await?;
        let mut latency = histogram();
        let begun = self.meter.begin().await?;
        let start = Instant::now();
        while start.elapsed() < self.load.duration_max && latency.len() < self.load.messages_max {
            let begin = Instant::now();
            trip.there(&self.load.payload).await?;
            record(&mut latency, begin)?;
            trip.back().await?;
        }
        let measured = begun.end().await?;
        Ok(Run { messages: latency.len(), measured, latency: Some(latency) })
    }
}

impl<S: Unary> Drive<'_, S> {
    /// Publishes by single calls, as many at a time as the row says.
    async fn call(&self) -> Fallible<Run> {
        let caller = self.system.caller(self.queue).await?;
        let calls = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        let begun = self.meter.begin().await?;
        for _ in 0..self.load.in_flight(self.row) {
            callers.spawn(call(caller.clone(), self.load.clone(), Arc::clone(&calls)));
        }
        let mut latency = histogram();
        while let Some(of_caller) = callers.join_next().await {
            latency.add(of_caller??)?;
        }
        let measured = begun.end().await?;
        Ok(Run { messages: latency.len(), measured, latency: Some(latency) })
    }
}

/// Publishes by all of these streams at once, each its share of the load; how many messages.
async fn publish_all<P: Publisher>(publishers: Vec<P>, row: Row, load: &Load) -> Fallible<u64> {
    let share = load.of_each_stream(row);
    let mut tasks = JoinSet::new();
    for mut publisher in publishers {
        let share = share.clone();
        tasks.spawn(async move { publish(&mut publisher, row, share).await });
    }
    let mut messages = 0;
    while let Some(published) = tasks.join_next().await {
        messages += published.context("a publisher panicked")??;
    }
    Ok(messages)
}

/// Publishes with as much in flight as the row says, until the load is done; how many messages.
async fn publish(publisher: &mut impl Publisher, row: Row, load: Load) -> Fallible<u64> {
    let (batch, in_flight) = (load.batch(row) as u64, u64::from(load.in_flight(row)));
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
            return Ok(confirmed);
        }
        confirmed += publisher.confirmed().await?;
    }
}

async fn call(
    mut caller: impl Caller,
    load: Load,
    calls: Arc<AtomicU64>,
) -> Fallible<Histogram<u64>> {
    let mut latency = histogram();
    let start = Instant::now();
    while start.elapsed() < load.duration_max
        && calls.fetch_add(1, Ordering::Relaxed) < load.messages_max
    {
        let begin = Instant::now();
        caller.publish(load.payload.clone()).await?;
        record(&mut latency, begin)?;
    }
    Ok(latency)
}

fn record(latency: &mut Histogram<u64>, begin: Instant) -> Fallible<()> {
    Ok(latency.record(u64::try_from(begin.elapsed().as_nanos())?)?)
}
