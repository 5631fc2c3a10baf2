//! The dense number of a record.

use std::fmt;

/// The number of a record: dense over a log's whole life, from 1; `Lsn(0)` is "none".
///
/// Invariant: an LSN is never given to different content once anyone was told that it is durable.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No record: what an empty log has as its last.
    pub const NONE: Self = Self(0);

    /// The LSN after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run of LSNs, both ends included; never empty.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LsnRange {
    /// The first LSN of the run.
    pub first: Lsn,
    /// The last LSN of the run.
    pub last: Lsn,
}

impl LsnRange {
    /// How many LSNs the run holds.
    #[must_use]
    pub fn count(self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Every LSN of the run, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Lsn> {
        (self.first.0..=self.last.0).map(Lsn)
    }

    /// Whether `lsn` is one of the run.
    #[must_use]
    pub fn contains(self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}
