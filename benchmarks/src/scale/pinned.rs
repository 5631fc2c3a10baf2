//! `pinned`: patterns of settling that leave a little alive everywhere, and what they leave on disk.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use qbroker_client::{
    Client, Delivery, Limit, Outcome, OutgoingMessage, QueuePolicy, QueueSpec, RetryPolicy,
};

use super::figure::{Figure, MEBIBYTE, Unit};
use super::numbered::{self, Seen};
use super::pattern::Pattern;
use super::rest::{DISK_EMPTY_MAX, most, until_disk};
use super::stage::{Done, Stage};
use super::traffic::{bounded, in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::qbroker::Consumer;
use crate::report::thousands;
use crate::system::{Consumer as _, Fallible, System as _};

/// What `pinned` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PinnedArgs {
    /// Messages of each pattern
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    messages: u64,
    /// Only this pattern; may be given several times
    #[arg(long, value_name = "PATTERN")]
    only: Vec<Pattern>,
    /// How soon a message comes back that is nacked without end
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = crate::settings::seconds::<3_600>)]
    nack_delay: f64,
    #[command(flatten)]
    scale: ScaleArgs,
}

const QUEUE: &str = "pinned";

/// How often each message is nacked, of those that are nacked without end.
const NACKS: u64 = 10;

/// Longer than anything is measured.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Resident memory, whatever was nacked.
const MEMORY_MAX: f64 = 384.0 * MEBIBYTE;

impl Scenario for PinnedArgs {
    const NAME: &'static str = "pinned";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        format!("{} messages in each pattern", thousands(self.messages as f64))
    }

    fn messages_stored(&self) -> u64 {
        self.messages
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut findings = Findings::default();
        for pattern in Pattern::ALL {
            if !self.only.is_empty() && !self.only.contains(&pattern) {
                continue;
            }
            // Whatever one pattern left is not the next one's.
            create_queue(stage.fresh().await?.client()).await?;
            let before = stage.phases().len();
            let figures = match pattern {
                Pattern::EverySecond | Pattern::Tenth | Pattern::Once => {
                    self.keep(stage, pattern).await?
                }
                Pattern::Oldest => self.oldest(stage).await?,
                Pattern::Again => self.again(stage).await?,
            };
            findings.figures.extend(figures);
            findings.figures.extend(sums(stage, before, pattern));
        }
        Ok(findings)
    }
}

impl PinnedArgs {
    /// All are stored, then each is settled once: it goes, or it stays and waits for a day.
    async fn keep(&self, stage: &mut Stage, pattern: Pattern) -> Fallible<Vec<Figure>> {
        self.publish(stage, 0..self.messages, &format!("{pattern}: publish")).await?;
        let broker = stage.broker()?;
        let mut consumer = Settler::open(broker.consumer(QUEUE, in_flight()).await?, FAR);
        let open = stage.begin(&format!("{pattern}: settle"), Some(self.messages)).await?;
        let seen = Seen::below(self.messages)?;
        let mut taken = 0;
        while taken < self.messages {
            let batch = consumer.receive().await?;
            seen.mark(&batch)?;
            taken += batch.len() as u64;
            stage.progress().add(batch.len() as u64);
            consumer.settle(batch, |number| pattern.keeps(number)).await?;
        }
        consumer.settled().await?;
        stage.end(open, Done { messages: taken, in_flight: in_flight() }).await?;
        let kept = (0..self.messages).filter(|&number| pattern.keeps(number)).count() as u64;
        ensure!(consumer.nacked == kept, "{} nacked of {kept}", consumer.nacked);
        self.rests(stage, pattern, kept).await
    }

    /// The first message is never settled, while all others come and go.
    async fn oldest(&self, stage: &mut Stage) -> Fallible<Vec<Figure>> {
        let pattern = Pattern::Oldest;
        let broker = stage.broker()?;
        self.publish(stage, 0..1, &format!("{pattern}: publish it")).await?;
        let mut holder = broker.consumer(QUEUE, 1).await?;
        let held = bounded(holder.receive()).await?;

        let mut consumer = broker.consumer(QUEUE, in_flight()).await?;
        let flowing = self.messages - 1;
        let progress = stage.progress();
        let mut consuming = tokio::task::JoinSet::new();
        let flow = async move {
            let seen = Seen::below(flowing + 1)?;
            let mut taken = 0;
            while taken < flowing {
                let batch = bounded(consumer.receive()).await?;
                seen.mark(&batch)?;
                taken += batch.len() as u64;
                consumer.ack(batch).await?;
            }
            bounded(consumer.acked()).await
        };
        consuming.spawn(flow);
        let open = stage.begin(&format!("{pattern}: all others"), Some(flowing)).await?;
        let mut publisher = broker.publisher(QUEUE).await?;
        let bytes = stage.payload_bytes();
        let make = |number| OutgoingMessage::new(numbered::payload(number, bytes));
        publish(&mut publisher, 1..self.messages, in_flight(), &progress, make).await?;
        consuming.join_next().await.expect("one task")??;
        stage.end(open, Done { messages: flowing, in_flight: in_flight() }).await?;
        let figures = self.rests(stage, pattern, 1).await?;
        // Its lease was never lost.
        holder.ack(held).await?;
        bounded(holder.acked()).await.context("the oldest message cannot be acked")?;
        Ok(figures)
    }

    /// A tenth of the messages, each nacked and delivered again ten times over.
    async fn again(&self, stage: &mut Stage) -> Fallible<Vec<Figure>> {
        let pattern = Pattern::Again;
        let stored = self.messages.div_ceil(NACKS);
        self.publish(stage, 0..stored, &format!("{pattern}: publish")).await?;
        let broker = stage.broker()?;
        let delay = Duration::from_secs_f64(self.nack_delay);
        let mut consumer = Settler::open(broker.consumer(QUEUE, in_flight()).await?, delay);
        let all = stored * NACKS;
        let open = stage.begin(&format!("{pattern}: nack"), Some(all)).await?;
        while consumer.nacked < all {
            let batch = consumer.receive().await?;
            let early = batch.iter().find(|delivery| NACKS <= u64::from(delivery.failures));
            ensure!(early.is_none(), "back before its day was over: {early:?}");
            stage.progress().add(batch.len() as u64);
            // After the last nack it stays for a day.
            let (last, again): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|delivery| u64::from(delivery.failures) + 1 == NACKS);
            consumer.nack(last, FAR).await?;
            consumer.nack(again, delay).await?;
        }
        consumer.settled().await?;
        stage.end(open, Done { messages: all, in_flight: in_flight() }).await?;
        self.rests(stage, pattern, stored).await
    }

    async fn publish(
        &self,
        stage: &mut Stage,
        numbers: std::ops::Range<u64>,
        name: &str,
    ) -> Fallible<()> {
        let mut publisher = stage.broker()?.publisher(QUEUE).await?;
        let messages = numbers.end - numbers.start;
        let bytes = stage.payload_bytes();
        let make = |number| OutgoingMessage::new(numbered::payload(number, bytes));
        let open = stage.begin(name, Some(messages)).await?;
        publish(&mut publisher, numbers, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages, in_flight: in_flight() }).await?;
        Ok(())
    }

    /// What is left once the pattern has ended, and how soon the disk shows it.
    async fn rests(&self, stage: &mut Stage, pattern: Pattern, kept: u64) -> Fallible<Vec<Figure>> {
        let stats = stage.broker()?.client().get_queue(QUEUE).await?.stats;
        let left = stats.ready + stats.leased + stats.scheduled;
        ensure!(left == kept, "{pattern}: {left} messages are left, not {kept}: {stats:?}");
        let bound = 2 * stats.bytes + DISK_EMPTY_MAX;
        let gone = until_disk(stage, &format!("{pattern}: disk"), bound).await?;
        let live = Figure::new(format!("{pattern}: live bytes"), stats.bytes as f64, Unit::Bytes);
        let disk = stage.disk_bytes()? as f64;
        let disk = Figure::new(format!("{pattern}: disk at the end"), disk, Unit::Bytes);
        Ok(vec![live, disk.at_most(bound as f64), gone])
    }
}

/// Takes messages and settles them.
struct Settler {
    consumer: Consumer,
    /// Of a nack.
    delay: Duration,
    nacked: u64,
}

impl Settler {
    fn open(consumer: Consumer, delay: Duration) -> Self {
        Self { consumer, delay, nacked: 0 }
    }

    /// The next deliveries, whichever attempt it is.
    async fn receive(&mut self) -> Fallible<Vec<Delivery>> {
        bounded(self.consumer.receive()).await.context("a delivery is missing")
    }

    /// Nacks those that `keeps`, and acks the others.
    async fn settle(&mut self, batch: Vec<Delivery>, keeps: impl Fn(u64) -> bool) -> Fallible<()> {
        let (mut kept, mut done) = (Vec::new(), Vec::new());
        for delivery in batch {
            let part = if keeps(numbered::number(&delivery)?) { &mut kept } else { &mut done };
            part.push(delivery);
        }
        self.consumer.ack(done).await?;
        self.nack(kept, self.delay).await
    }

    async fn nack(&mut self, batch: Vec<Delivery>, delay: Duration) -> Fallible<()> {
        self.nacked += batch.len() as u64;
        let outcome = Outcome::Nack { delay: Some(delay), failure: None };
        self.consumer.settle(batch, &outcome).await
    }

    async fn settled(&mut self) -> Fallible<()> {
        bounded(self.consumer.acked()).await.context("the answer to a settlement is missing")
    }
}

/// A queue that gives nothing up.
async fn create_queue(client: &Client) -> Fallible<()> {
    let policy = QueuePolicy {
        max_attempts: Some(Limit::Unlimited),
        retry: RetryPolicy { jitter: Some(0.0), ..RetryPolicy::default() },
        ..QueuePolicy::default()
    };
    client.create_queue(QueueSpec::new(QUEUE).policy(policy)).await?;
    Ok(())
}

/// Of the phases from `first` on.
fn sums(stage: &Stage, first: usize, pattern: Pattern) -> [Figure; 2] {
    let phases = &stage.phases()[first..];
    let copied = phases.iter().map(|phase| phase.totals.compacted_bytes).sum();
    let memory = most(phases, |phase| phase.peak_bytes) as f64;
    [
        Figure::new(format!("{pattern}: copied by compaction"), copied, Unit::Bytes),
        Figure::new(format!("{pattern}: most memory, VmHWM"), memory, Unit::Bytes)
            .at_most(MEMORY_MAX),
    ]
}
