//! What messages can ask of a queue beside being stored and delivered.

use std::fmt;
use std::time::Duration;

use qbroker_client::{OutgoingMessage, QueuePolicy};

/// What every message of a queue asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Feature {
    /// Nothing: what the others are compared with
    Plain,
    /// One of the ten priorities
    Priorities,
    /// One of 100,000 ordering keys
    OrderingKeys,
    /// One of 1,000 fairness keys
    FairnessKeys,
    /// A unique key of its own
    UniqueKeys,
    /// An id that its publisher chose
    MessageIds,
    /// A time to live, of some days
    Ttl,
    /// That its outcome is remembered for a day
    Outcomes,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Feature {
    pub(crate) const ALL: [Self; 8] = [
        Self::Plain,
        Self::Priorities,
        Self::OrderingKeys,
        Self::FairnessKeys,
        Self::UniqueKeys,
        Self::MessageIds,
        Self::Ttl,
        Self::Outcomes,
    ];

    /// Of a queue of such messages.
    pub(crate) fn policy(self) -> QueuePolicy {
        let outcome_retention = (self == Self::Outcomes).then_some(DAY);
        QueuePolicy { outcome_retention, ..QueuePolicy::default() }
    }

    /// Into how many lines the messages are parted, each of which is delivered in order. Between
    /// them there is none.
    pub(crate) fn lines(self) -> u64 {
        match self {
            Self::Priorities => 10,
            Self::OrderingKeys => 100_000,
            Self::FairnessKeys => 1_000,
            Self::Plain | Self::UniqueKeys | Self::MessageIds | Self::Ttl | Self::Outcomes => 1,
        }
    }

    /// The message of this number asks for it.
    pub(crate) fn ask(self, message: OutgoingMessage, number: u64) -> OutgoingMessage {
        let line = number % self.lines();
        match self {
            Self::Plain | Self::Outcomes => message,
            Self::Priorities => message.priority(u8::try_from(line).expect("ten of them")),
            Self::OrderingKeys => message.ordering_key(format!("order-{line}")),
            Self::FairnessKeys => message.fairness_key(format!("tenant-{line}")),
            Self::UniqueKeys => message.unique_key(format!("job-{number}")),
            Self::MessageIds => message.message_id(format!("message-{number}")),
            // Second by second, so that they end in an order of their own.
            Self::Ttl => message.ttl(DAY + Duration::from_secs(number % 600_000)),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Priorities => "priorities",
            Self::OrderingKeys => "ordering keys",
            Self::FairnessKeys => "fairness keys",
            Self::UniqueKeys => "unique keys",
            Self::MessageIds => "message ids",
            Self::Ttl => "ttl",
            Self::Outcomes => "outcomes",
        })
    }
}
