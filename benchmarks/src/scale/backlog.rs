//! `backlog`: many messages wait. What they take, what they cost whoever publishes, and how soon
//! the broker is back after a crash.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use qbroker_client::OutgoingMessage;

use super::exposition::Exposition;
use super::figure::{Figure, MEBIBYTE, Unit};
use super::rest::{DISK_EMPTY_MAX, hold, most, until_disk};
use super::stage::{Done, Phase, Stage};
use super::traffic::{self, Order, bounded, drain, in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::place::folder_in;
use crate::qbroker::Qbroker;
use crate::report::thousands;
use crate::samples::Spread;
use crate::system::{Consumer as _, Fallible, System as _};

/// What `backlog` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BacklogArgs {
    /// Messages that wait
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    messages: u64,
    /// How long it is watched while nothing happens
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = crate::settings::seconds::<86_400>)]
    hold_seconds: f64,
    #[command(flatten)]
    scale: ScaleArgs,
}

/// The queue that holds them.
const QUEUE: &str = "backlog";

/// Parts that it is filled in, each beside an empty broker.
const PARTS: u64 = 5;

/// What the empty broker is given, and what goes through in the steady state, at most.
const PART_MESSAGES_MAX: u64 = 1_000_000;

/// Resident memory, whatever waits.
const MEMORY_MAX: f64 = 256.0 * MEBIBYTE;

impl Scenario for BacklogArgs {
    const NAME: &'static str = "backlog";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        format!("{} messages wait", thousands(self.messages as f64))
    }

    fn messages_stored(&self) -> u64 {
        // The empty broker stands beside it.
        self.messages + self.part_messages() + WARM_UP_MESSAGES_MAX
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut figures = self.fill(stage).await?;
        hold(stage, self.hold_seconds).await?;
        figures.extend(self.crash_and_drain(stage).await?);
        let memory = most(stage.phases(), |phase| phase.peak_bytes);
        let held = most(stage.phases(), |phase| phase.held_max_bytes);
        figures.push(
            Figure::new("most memory, VmHWM", memory as f64, Unit::Bytes).at_most(MEMORY_MAX),
        );
        figures.push(Figure::new("most memory of its own, held", held as f64, Unit::Bytes));
        figures.push(until_disk(stage, "disk of a drained queue", DISK_EMPTY_MAX).await?);
        let steady = self.steady(stage).await?;
        figures.extend(amplification("steady", &steady, stage.payload_bytes()));
        Ok(Findings { figures, missing: Vec::new() })
    }
}

impl BacklogArgs {
    fn part_messages(&self) -> u64 {
        self.messages.div_ceil(PARTS).min(PART_MESSAGES_MAX)
    }

    /// Part by part, each right after an empty broker has had as much to write.
    async fn fill(&self, stage: &mut Stage) -> Fallible<Vec<Figure>> {
        let broker = stage.broker()?;
        let mut publisher = broker.publisher(QUEUE).await?;
        let payload = traffic::payload(stage.payload_bytes());
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for part in 1..=PARTS {
            let empty = empty_rate(stage, self.part_messages()).await?;
            let numbers = self.messages * (part - 1) / PARTS..self.messages * part / PARTS;
            let messages = numbers.end - numbers.start;
            spares_ready(&broker).await?;
            let open = stage.begin(&format!("fill to {part}/{PARTS}"), Some(messages)).await?;
            let make = |_| OutgoingMessage::new(payload.clone());
            publish(&mut publisher, numbers, in_flight(), &stage.progress(), make).await?;
            let phase = stage.end(open, Done { messages, in_flight: in_flight() }).await?;
            ratios.push(phase.messages_per_second / empty);
            rates.push(empty);
        }
        let median = |values: &[f64]| Spread::of(values).map(|spread| spread.median);
        let ratio = median(&ratios).context("no part was filled")?;
        let empty = median(&rates).context("no part was filled")?;
        let empty = Figure::new("publish rate of an empty broker", empty, Unit::MessagesPerSecond);
        let ratio = Figure::new("publish rate, to that of an empty broker", ratio, Unit::Ratio);
        let last = stage.phases().last().context("no part was filled")?;
        let mut figures =
            vec![empty.in_flight(in_flight()), ratio.in_flight(in_flight()).at_least(0.8)];
        figures.extend(amplification("last part of the fill", last, stage.payload_bytes()));
        Ok(figures)
    }

    /// Killed, started again, and worked off in order.
    async fn crash_and_drain(&self, stage: &mut Stage) -> Fallible<Vec<Figure>> {
        let open = stage.begin("SIGKILL, start, first delivery", None).await?;
        stage.kill().await?;
        let begin = Instant::now();
        let broker = stage.start_again().await?;
        let serving = begin.elapsed().as_secs_f64();
        let mut consumer = broker.consumer(QUEUE, in_flight()).await?;
        let first = bounded(consumer.receive()).await.context("no delivery after the start")?;
        let delivered = begin.elapsed().as_secs_f64();
        stage.end(open, Done::default()).await?;

        let open = stage.begin("drain", Some(self.messages)).await?;
        let mut order = Order::default();
        order.check(&first)?;
        let rest = self.messages - first.len() as u64;
        consumer.ack(first).await?;
        drain(&mut consumer, &mut order, rest, &stage.progress()).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await?;
        let left = broker.client().get_queue(QUEUE).await?.stats;
        ensure!(left.ready + left.leased + left.scheduled == 0, "not drained: {left:?}");
        Ok(vec![
            Figure::new("start after SIGKILL, until it serves", serving, Unit::Seconds),
            Figure::new("start after SIGKILL, until the first delivery", delivered, Unit::Seconds)
                .in_flight(in_flight())
                .at_most(2.0),
        ])
    }

    /// Publishes and consumes at once, on a queue that stays short.
    async fn steady(&self, stage: &mut Stage) -> Fallible<Phase> {
        const QUEUE: &str = "steady";
        let broker = stage.broker()?;
        let messages = self.messages.min(PART_MESSAGES_MAX);
        let mut publisher = broker.publisher(QUEUE).await?;
        let mut consumer = broker.consumer(QUEUE, in_flight()).await?;
        let payload = traffic::payload(stage.payload_bytes());
        let open = stage.begin("steady: publish and consume", Some(2 * messages)).await?;
        let progress = stage.progress();
        let mut consuming = tokio::task::JoinSet::new();
        consuming.spawn(async move {
            drain(&mut consumer, &mut Order::default(), messages, &progress).await
        });
        let make = |_| OutgoingMessage::new(payload.clone());
        publish(&mut publisher, 0..messages, in_flight(), &stage.progress(), make).await?;
        consuming.join_next().await.expect("one task")??;
        stage.end(open, Done { messages, in_flight: in_flight() }).await
    }
}

/// Bytes written for each byte of payload: what the broker meant to write, the zeros of a pool that
/// grows, and what the device has written but for those.
fn amplification(when: &str, phase: &Phase, payload_bytes: u32) -> Vec<Figure> {
    const MOST: f64 = 1.2;
    let figure = |what: &str, value| {
        let figure = Figure::new(format!("{what} to payload, {when}"), value, Unit::Ratio);
        figure.in_flight(phase.messages_in_flight)
    };
    let log = figure("written to segments", phase.log_amplification(payload_bytes));
    let zeros = figure("zeros written ahead", phase.pool_growth(payload_bytes));
    let device = phase.amplification(payload_bytes);
    let device = device.map(|ratio| figure("written by the device, zeros aside,", ratio));
    let mut figures = vec![log.at_most(MOST), zeros];
    figures.extend(device.map(|figure| figure.at_most(MOST)));
    figures
}

/// Waits until the pool of segments is at rest, so that nobody has a head start.
async fn spares_ready(broker: &Qbroker) -> Fallible<()> {
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        let zeroed = Exposition::read(broker.http()).await?.value("qbroker_log_zeroed_bytes_total");
        let zeroed = Some(zeroed?);
        if zeroed == before {
            return Ok(());
        }
        before = zeroed;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the broker has been preparing segments for {:?}", LOOKS_MAX * LOOK_EVERY)
}

/// A filler that is at work has written something in so long.
const LOOK_EVERY: Duration = Duration::from_millis(300);

const LOOKS_MAX: u32 = 400;

/// As much as its caches hold, and more.
const WARM_UP_MESSAGES_MAX: u64 = 200_000;

/// Messages per second of a broker that is as new as its folder, with all that waits known by
/// heart: so nothing but the log and its pool of segments grows.
async fn empty_rate(stage: &Stage, messages: u64) -> Fallible<f64> {
    stage.progress().begin("an empty broker", Some(messages));
    let data = folder_in(stage.folder(), "empty")?;
    let in_memory = (messages + 2 * WARM_UP_MESSAGES_MAX).to_string();
    let flags = ["--messages-in-memory", &in_memory];
    let broker = Qbroker::start_with(stage.program(), &data, &flags).await?;
    let _end = broker.server().end_on_drop();
    let mut publisher = broker.publisher(QUEUE).await?;
    let payload = traffic::payload(stage.payload_bytes());
    let make = |_| OutgoingMessage::new(payload.clone());
    // A process that has just begun touches memory for the first time, the full one does not.
    let warm_up = messages.min(WARM_UP_MESSAGES_MAX);
    publish(&mut publisher, 0..warm_up, in_flight(), &stage.progress(), make).await?;
    spares_ready(&broker).await?;
    let begin = Instant::now();
    publish(&mut publisher, 0..messages, in_flight(), &stage.progress(), make).await?;
    let rate = messages as f64 / begin.elapsed().as_secs_f64();
    broker.server().kill();
    std::fs::remove_dir_all(data)?;
    Ok(rate)
}
