//! `consumers`: the same messages taken by many consume streams instead of one.

use std::time::Instant;

use qbroker_client::{Client, OutgoingMessage};

use super::beside::Beside;
use super::figure::{Figure, Unit};
use super::numbered;
use super::rest::most;
use super::stage::{Done, Phase, Stage};
use super::streams::drain_all;
use super::traffic::{in_flight, publish};
use super::{Findings, ScaleArgs, Scenario};
use crate::report::thousands;
use crate::system::{Fallible, System as _};

/// What `consumers` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConsumersArgs {
    /// How many consume streams
    #[arg(value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    consumers: u32,
    /// Connections that they share
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Messages of each run
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    #[command(flatten)]
    scale: ScaleArgs,
}

const QUEUE: &str = "consumers";

impl Scenario for ConsumersArgs {
    const NAME: &'static str = "consumers";

    fn scale(&self) -> &ScaleArgs {
        &self.scale
    }

    fn settings(&self) -> String {
        let consumers = thousands(f64::from(self.consumers));
        format!("{consumers} consume streams on {} connections, one queue", self.connections)
    }

    fn messages_stored(&self) -> u64 {
        self.messages
    }

    async fn measure(&self, stage: &mut Stage) -> Fallible<Findings> {
        let client = stage.broker()?.connect(self.connections.into()).await?;
        let mut consumed = Beside::default();
        let (mut opening, mut memory) = (0.0_f64, 0.0_f64);
        for round in 0..self.rounds {
            // In turns first, so that none always runs in the other's wake.
            let (one, many) = if round.is_multiple_of(2) {
                let one = self.round(stage, &client, 1).await?;
                (one, self.round(stage, &client, self.consumers).await?)
            } else {
                let many = self.round(stage, &client, self.consumers).await?;
                (self.round(stage, &client, 1).await?, many)
            };
            consumed.add(&one.consumed, &many.consumed);
            opening = opening.max(many.opening_seconds);
            memory = memory.max(many.grown_bytes / f64::from(self.consumers));
        }
        let mut figures = consumed.figures("consume + ack by all streams", "one stream")?.to_vec();
        figures.push(Figure::new("opening all streams, most", opening, Unit::Seconds));
        figures.push(Figure::new("memory of an open stream, most", memory, Unit::Bytes));
        let memory = most(stage.phases(), |phase| phase.peak_bytes);
        figures.push(Figure::new("most memory, VmHWM", memory as f64, Unit::Bytes));
        Ok(Findings { figures, missing: Vec::new() })
    }
}

/// A run of some streams.
struct Round {
    opening_seconds: f64,
    /// What the broker held more once the streams were open.
    grown_bytes: f64,
    consumed: Phase,
}

impl ConsumersArgs {
    /// Publishes, and consumes by so many streams.
    async fn round(&self, stage: &mut Stage, client: &Client, streams: u32) -> Fallible<Round> {
        let broker = stage.broker()?;
        let mut publisher = broker.publisher(QUEUE).await?;
        let bytes = stage.payload_bytes();
        let make = |number| OutgoingMessage::new(numbered::payload(number, bytes));
        let open = stage.begin("publish", Some(self.messages)).await?;
        publish(&mut publisher, 0..self.messages, in_flight(), &stage.progress(), make).await?;
        stage.end(open, Done { messages: self.messages, in_flight: in_flight() }).await?;

        // All together as much as one stream alone.
        let window = (in_flight() / streams).max(1);
        let (before, begin) = (stage.held_bytes()?, Instant::now());
        let mut consumers = Vec::new();
        for _ in 0..streams {
            consumers.push(client.consumer([QUEUE]).window(0).open().await?);
        }
        let opening_seconds = begin.elapsed().as_secs_f64();
        let grown_bytes = stage.held_bytes()?.saturating_sub(before) as f64;
        let name = format!("consume by {}", thousands(f64::from(streams)));
        let open = stage.begin(&name, Some(self.messages)).await?;
        drain_all(consumers, window, self.messages, stage.progress()).await?;
        let done = Done { messages: self.messages, in_flight: window * streams };
        Ok(Round { opening_seconds, grown_bytes, consumed: stage.end(open, done).await? })
    }
}
