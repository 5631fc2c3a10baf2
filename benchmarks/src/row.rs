//! The rows of the table: which shapes of work are measured, and what is aimed at.

use serde::Serialize;

/// A shape of work, the same for every system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Publish batches of 100
    PublishBatches,
    /// Publish one message per request
    PublishSingles,
    /// Publish one message per call, many callers
    PublishUnary,
    /// Consume and ack
    Consume,
    /// Publish batches and consume at the same time
    Both,
    /// One message at a time: publish, deliver, ack
    RoundTrip,
}

/// What a row is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// At least this share of the floor's rate.
    ShareOfFloor(f64),
    /// At most the floor's median time and one `fdatasync` more.
    FloorAndOneSync,
    /// The floor is a landmark only; the target is set against other brokers.
    None,
}

impl Row {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 6] = [
        Self::PublishBatches,
        Self::PublishSingles,
        Self::PublishUnary,
        Self::Consume,
        Self::Both,
        Self::RoundTrip,
    ];

    /// What the table says of it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PublishBatches => "publish, in batches",
            Self::PublishSingles => "publish, one per request",
            Self::PublishUnary => "publish, unary calls",
            Self::Consume => "consume + ack",
            Self::Both => "both at once, in batches",
            Self::RoundTrip => "round trip: publish, deliver, ack",
        }
    }

    /// Its name on the command line and in JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::PublishBatches => "publish-batches",
            Self::PublishSingles => "publish-singles",
            Self::PublishUnary => "publish-unary",
            Self::Consume => "consume",
            Self::Both => "both",
            Self::RoundTrip => "round-trip",
        }
    }

    /// Messages on their way at a time: published and not confirmed, delivered and not acked.
    pub(crate) fn in_flight(self) -> u32 {
        match self {
            Self::PublishBatches | Self::Consume | Self::Both => 4_000,
            Self::PublishSingles => 1_000,
            Self::PublishUnary => 64,
            Self::RoundTrip => 1,
        }
    }

    /// Messages in one publish request.
    pub(crate) fn batch(self) -> usize {
        match self {
            Self::PublishBatches | Self::Consume | Self::Both => BATCH,
            Self::PublishSingles | Self::PublishUnary | Self::RoundTrip => 1,
        }
    }

    /// What qbroker is held to.
    pub(crate) fn target(self) -> Target {
        match self {
            Self::PublishBatches | Self::PublishSingles | Self::PublishUnary | Self::Consume => {
                Target::ShareOfFloor(0.5)
            }
            Self::RoundTrip => Target::FloorAndOneSync,
            Self::Both => Target::None,
        }
    }

    /// Whether its figure is a time instead of a rate.
    pub(crate) fn is_latency(self) -> bool {
        self == Self::RoundTrip
    }
}

/// Messages in a publish request where there are batches.
const BATCH: usize = 100;
