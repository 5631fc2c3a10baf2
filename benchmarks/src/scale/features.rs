//! `features`: many messages wait that ask for more than to be delivered, and what that costs.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use qbroker_client::{Delivery, OutgoingMessage, QueueSpec};

use super::feature::Feature;
use super::figure::{Figure, MEBIBYTE, Unit};
use super::numbered::{self, Seen};
use super::rest::most;
use super::stage::{Done, Phase, Stage};
use super::traffic::{bounded, in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::qbroker::Consumer;
use crate::report::thousands;
use crate::system::{Consumer as _, Fallible, System as _};

/// What `features` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FeaturesArgs {
    /// Messages of each feature
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    messages: u64,
    /// Only this feature; may be given several times
    #[arg(long, value_name = "FEATURE")]
    only: Vec<Feature>,
    #[command(flatten)]
    scale: ScaleArgs,
}

const QUEUE: &str = "features";

/// Resident memory, whatever the messages ask for.
const MEMORY_MAX: f64 = 384.0 * MEBIBYTE;

impl Scenario for FeaturesArgs {
    const NAME: &'static str = "features";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        format!("{} messages of each feature", thousands(self.messages as f64))
    }

    fn messages_stored(&self) -> u64 {
        self.messages
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut findings = Findings::default();
        for feature in Feature::ALL {
            if !self.only.is_empty() && !self.only.contains(&feature) {
                continue;
            }
            // Whatever one feature left is not the next one's.
            let broker = stage.fresh().await?;
            let queue = QueueSpec::new(QUEUE).policy(feature.policy());
            broker.client().create_queue(queue).await?;
            let before = stage.phases().len();
            self.fill(stage, feature).await?;
            findings.figures.push(self.crash_and_drain(stage, feature).await?);
            let memory = most(&stage.phases()[before..], |phase| phase.peak_bytes) as f64;
            let title = format!("{feature}: most memory, VmHWM");
            findings.figures.push(Figure::new(title, memory, Unit::Bytes).at_most(MEMORY_MAX));
        }
        findings.figures.extend(beside_plain(stage.phases()));
        Ok(findings)
    }
}

impl FeaturesArgs {
    async fn fill(&self, stage: &mut Stage, feature: Feature) -> Fallible<()> {
        let mut publisher = stage.broker()?.publisher(QUEUE).await?;
        let bytes = stage.payload_bytes();
        let make =
            |number| feature.ask(OutgoingMessage::new(numbered::payload(number, bytes)), number);
        let open = stage.begin(&format!("{feature}: {FILL}"), Some(self.messages)).await?;
        publish(&mut publisher, 0..self.messages, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await?;
        Ok(())
    }

    /// Killed, started again, and worked off: how soon it delivered.
    async fn crash_and_drain(&self, stage: &mut Stage, feature: Feature) -> Fallible<Figure> {
        let open = stage.begin(&format!("{feature}: SIGKILL, start"), None).await?;
        stage.kill().await?;
        let begin = Instant::now();
        let broker = stage.start_again().await?;
        let mut consumer = broker.consumer(QUEUE, in_flight()).await?;
        let first = bounded(consumer.receive()).await.context("no delivery after the start")?;
        let delivered = begin.elapsed().as_secs_f64();
        stage.end(open, Done::default()).await?;

        let open = stage.begin(&format!("{feature}: {DRAIN}"), Some(self.messages)).await?;
        self.drain(stage, feature, &mut consumer, first).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await?;
        let left = broker.client().get_queue(QUEUE).await?.stats;
        ensure!(left.ready + left.leased + left.scheduled == 0, "not drained: {left:?}");
        let title = format!("{feature}: start after SIGKILL, until the first delivery");
        Ok(Figure::new(title, delivered, Unit::Seconds).in_flight(in_flight()).at_most(2.0))
    }

    /// Every message comes once, and in the order of its line.
    async fn drain(
        &self,
        stage: &Stage,
        feature: Feature,
        consumer: &mut Consumer,
        first: Vec<Delivery>,
    ) -> Fallible<()> {
        let seen = Seen::below(self.messages)?;
        let mut lines = Lines::new(feature)?;
        let (mut taken, mut batch) = (0, first);
        loop {
            seen.mark(&batch)?;
            lines.check(&batch)?;
            taken += batch.len() as u64;
            stage.progress().add(batch.len() as u64);
            consumer.ack(batch).await?;
            if self.messages <= taken {
                return bounded(consumer.acked()).await.context("the answer to an ack is missing");
            }
            batch = bounded(consumer.receive()).await.context("a delivery is missing")?;
        }
    }
}

/// The phases that are compared.
const FILL: &str = "fill";
const DRAIN: &str = "drain";

/// The latest number of each line, and one more.
struct Lines(Vec<u64>);

impl Lines {
    fn new(feature: Feature) -> Fallible<Self> {
        Ok(Self(vec![0; usize::try_from(feature.lines())?]))
    }

    /// Looks at the next deliveries.
    ///
    /// # Errors
    ///
    /// One was overtaken by a later one of its line.
    fn check(&mut self, batch: &[Delivery]) -> Fallible<()> {
        for delivery in batch {
            let number = numbered::number(delivery)?;
            let line = usize::try_from(number)? % self.0.len();
            let latest = &mut self.0[line];
            ensure!(*latest <= number, "message {number} came after {}", *latest - 1);
            *latest = number + 1;
        }
        Ok(())
    }
}

/// The rates of each feature to those of plain messages in the same run.
fn beside_plain(phases: &[Phase]) -> Vec<Figure> {
    let rate = |feature: Feature, what| {
        let name = format!("{feature}: {what}");
        phases.iter().find(|phase| phase.name == name).map(|phase| phase.messages_per_second)
    };
    let mut figures = Vec::new();
    for feature in Feature::ALL.into_iter().filter(|&feature| feature != Feature::Plain) {
        for what in [FILL, DRAIN] {
            if let (Some(rate), Some(plain)) = (rate(feature, what), rate(Feature::Plain, what)) {
                let title = format!("{feature}: {what}, to plain messages");
                let figure = Figure::new(title, rate / plain, Unit::Ratio);
                figures.push(figure.in_flight(in_flight()));
            }
        }
    }
    figures
}
