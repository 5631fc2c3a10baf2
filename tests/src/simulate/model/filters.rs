//! Which messages a filter means: those of which all its terms hold.

use std::collections::BTreeSet;

use super::{Message, Sequence, State, Why};

/// What somebody means, in some states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// By their bits.
    pub(crate) states: u32,
    pub(crate) terms: Vec<Meant>,
}

/// A term of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// By the payload's number: of which rest by how much, or with which last digit.
    Rest(u64, u64),
    PublishedAfter(u64),
    PublishedBefore(u64),
    /// By the rest by two of the number of the last failure.
    Failure(u64),
    Reason(Why),
    Source(&'static str),
    Named(BTreeSet<Sequence>),
    Id(u64),
}

impl Filter {
    pub(super) fn means(&self, sequence: Sequence, message: &Message) -> bool {
        let holds = |term: &Meant| match term {
            Meant::Rest(rest, of) => message.number % of == *rest,
            Meant::PublishedAfter(ms) => *ms <= message.published_ms,
            Meant::PublishedBefore(ms) => message.published_ms < *ms,
            Meant::Failure(rest) => message.failure.is_some_and(|it| it % 2 == *rest),
            Meant::Reason(why) => message.letter.as_ref().is_some_and(|it| it.why == *why),
            Meant::Source(from) => message.letter.as_ref().is_some_and(|it| it.from == *from),
            Meant::Named(named) => named.contains(&sequence),
            Meant::Id(id) => message.id == Some(*id),
        };
        self.states & message.state.bit() != 0 && self.terms.iter().all(holds)
    }
}

impl State {
    /// Its bit in a set of states.
    pub(super) fn bit(&self) -> u32 {
        match self {
            Self::Ready => 1,
            Self::Scheduled(_) => 2,
            Self::Leased(_) => 4,
            Self::Parked => 8,
            Self::Behind => 16,
        }
    }
}
