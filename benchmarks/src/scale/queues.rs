//! `queues`: the same work over many queues instead of one, and what a queue takes of memory.

use qbroker_client::{Consumer, OutgoingMessage};

use super::beside::Beside;
use super::figure::{Figure, Unit};
use super::numbered;
use super::rest::most;
use super::stage::{Done, Phase, Stage};
use super::streams::drain_all;
use super::traffic::{in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::qbroker::Qbroker;
use crate::report::thousands;
use crate::system::{Fallible, System as _};

/// What `queues` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct QueuesArgs {
    /// How many queues
    #[arg(value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    queues: u32,
    /// Messages of each run
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    #[command(flatten)]
    scale: ScaleArgs,
}

/// Queues that one consume stream may name.
const QUEUES_PER_STREAM: u32 = 1_000;

/// One queue or many, with the same streams.
#[derive(Debug, Clone, Copy)]
enum Spread {
    One,
    Over(u32),
}

impl Scenario for QueuesArgs {
    const NAME: &'static str = "queues";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        let queues = thousands(f64::from(self.queues));
        format!("{queues} queues, 1 publish stream, consume streams: {}", self.streams())
    }

    fn messages_stored(&self) -> u64 {
        self.messages.max(u64::from(self.queues))
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let mut figures = vec![self.make_queues(stage).await?];
        let spreads = [Spread::One, Spread::Over(self.queues)];
        let (mut published, mut consumed) = (Beside::default(), Beside::default());
        for round in 0..self.rounds {
            // In turns first, so that none always runs in the other's wake.
            let mut runs = Vec::new();
            let one_first = round.is_multiple_of(2);
            for spread in if one_first { spreads } else { [spreads[1], spreads[0]] } {
                runs.push(self.round(stage, spread).await?);
            }
            if !one_first {
                runs.reverse();
            }
            published.add(&runs[0].0, &runs[1].0);
            consumed.add(&runs[0].1, &runs[1].1);
        }
        figures.extend(published.figures("publish over all queues", "one queue")?);
        figures.extend(consumed.figures("consume + ack from all queues", "one queue")?);
        let memory = most(stage.phases(), |phase| phase.peak_bytes);
        figures.push(Figure::new("most memory, VmHWM", memory as f64, Unit::Bytes));
        Ok(Findings { figures, missing: Vec::new() })
    }
}

impl QueuesArgs {
    fn streams(&self) -> u32 {
        self.queues.div_ceil(QUEUES_PER_STREAM)
    }

    /// One message to each queue, and away with it: what stays is the queue.
    async fn make_queues(&self, stage: &mut Stage) -> Fallible<Figure> {
        // Connections, allocator and caches are not the queues' memory.
        self.round(stage, Spread::One).await?;
        let before = stage.held_bytes()?;
        let over = Spread::Over(self.queues);
        let queues = Self { messages: self.queues.into(), ..self.clone() };
        queues.publish(stage, over, "make the queues").await?;
        queues.consume(stage, over, "empty them").await?;
        let grown = stage.held_bytes()?.saturating_sub(before) as f64;
        Ok(Figure::new("memory of a queue, about", grown / f64::from(self.queues), Unit::Bytes))
    }

    /// Publishes and then consumes.
    async fn round(&self, stage: &mut Stage, spread: Spread) -> Fallible<(Phase, Phase)> {
        let published = self.publish(stage, spread, &format!("publish to {spread}")).await?;
        let consumed = self.consume(stage, spread, &format!("consume from {spread}")).await?;
        Ok((published, consumed))
    }

    async fn publish(&self, stage: &mut Stage, spread: Spread, name: &str) -> Fallible<Phase> {
        let broker = stage.broker()?;
        let mut publisher = broker.publisher(&queue(0)).await?;
        let bytes = stage.payload_bytes();
        let make = |number| {
            let message = OutgoingMessage::new(numbered::payload(number, bytes));
            // The same work for the client, whichever queue it is.
            message.queue(queue(spread.queue_of(number)))
        };
        let open = stage.begin(name, Some(self.messages)).await?;
        publish(&mut publisher, 0..self.messages, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await
    }

    async fn consume(&self, stage: &mut Stage, spread: Spread, name: &str) -> Fallible<Phase> {
        let broker = stage.broker()?;
        let mut consumers = Vec::new();
        for stream in 0..self.streams() {
            consumers.push(self.consumer(&broker, spread, stream).await?);
        }
        let open = stage.begin(name, Some(self.messages)).await?;
        drain_all(consumers, self.window(), self.messages, stage.progress()).await?;
        stage.end(open, Done { messages: self.messages, in_flight: self.window_in_all() }).await
    }

    /// A stream that is paused.
    async fn consumer(&self, broker: &Qbroker, spread: Spread, stream: u32) -> Fallible<Consumer> {
        let queues: Vec<_> = match spread {
            Spread::One => vec![queue(0)],
            Spread::Over(queues) => {
                let first = stream * QUEUES_PER_STREAM;
                (first..queues.min(first + QUEUES_PER_STREAM)).map(queue).collect()
            }
        };
        Ok(broker.client().consumer(queues).window(0).open().await?)
    }

    /// Of each stream.
    fn window(&self) -> u32 {
        (in_flight() / self.streams()).max(1)
    }

    fn window_in_all(&self) -> u32 {
        self.window() * self.streams()
    }
}

impl Spread {
    fn queue_of(self, number: u64) -> u32 {
        match self {
            Self::One => 0,
            // It is less than the divisor.
            Self::Over(queues) => u32::try_from(number % u64::from(queues)).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One => write!(f, "one queue"),
            Self::Over(queues) => write!(f, "{} queues", thousands(f64::from(*queues))),
        }
    }
}

fn queue(number: u32) -> String {
    format!("queue-{number}")
}
