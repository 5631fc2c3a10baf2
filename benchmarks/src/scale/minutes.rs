//! Times, also minute by minute: one bad minute is not ten.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::samples::histogram;
use crate::system::Fallible;

/// Nanoseconds, by the minute to which they belong.
#[derive(Debug)]
pub(crate) struct Minutes {
    all: Histogram<u64>,
    each: Vec<Histogram<u64>>,
}

impl Minutes {
    pub(crate) fn new() -> Self {
        Self { all: histogram(), each: Vec::new() }
    }

    /// So many times alike, of messages that are so far from the beginning.
    ///
    /// # Errors
    ///
    /// There cannot be such a time.
    pub(crate) fn record(&mut self, since: Duration, nanoseconds: u64, times: u64) -> Fallible<()> {
        let minute = usize::try_from(since.as_secs() / 60)?;
        if self.each.len() <= minute {
            self.each.resize_with(minute + 1, histogram);
        }
        self.each[minute].record_n(nanoseconds, times)?;
        Ok(self.all.record_n(nanoseconds, times)?)
    }

    pub(crate) fn all(&self) -> &Histogram<u64> {
        &self.all
    }

    /// Of 99 % of a minute's times the longest: in the best minute, the middle one and the worst. A
    /// minute with less than half of the times of the fullest is none: the last one may be a moment.
    pub(crate) fn p99_spread(&self) -> [u64; 3] {
        let most = self.each.iter().map(Histogram::len).max().unwrap_or_default();
        let whole = self.each.iter().filter(|minute| most <= 2 * minute.len());
        let mut of_each: Vec<_> = whole.map(|times| times.value_at_quantile(0.99)).collect();
        of_each.sort_unstable();
        let at = |index: usize| of_each.get(index).copied().unwrap_or_default();
        [at(0), at(of_each.len() / 2), at(of_each.len().saturating_sub(1))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_minute_is_told_apart() {
        let mut minutes = Minutes::new();
        assert_eq!(minutes.p99_spread(), [0, 0, 0]);
        for (second, nanoseconds) in [(0, 100), (59, 100), (60, 900), (119, 900), (240, 200)] {
            minutes.record(Duration::from_secs(second), nanoseconds, 10).unwrap();
        }
        minutes.record(Duration::from_secs(300), 1, 4).unwrap();
        assert_eq!(minutes.all().len(), 54);
        assert_eq!(minutes.p99_spread(), [100, 200, 900]);
    }
}
