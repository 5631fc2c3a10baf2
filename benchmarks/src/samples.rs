//! What the rounds of one row gave, for one system.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::row::Row;
use crate::system::Fallible;
use crate::workload::Run;

/// The rounds of a row so far.
#[derive(Debug)]
pub(crate) struct Samples {
    /// A figure per round: messages per second, or microseconds where the row is one of latency.
    figures: Vec<f64>,
    /// The server's processor time per message, in microseconds, per round.
    server_us: Vec<f64>,
    latency: Histogram<u64>,
}

/// The middle of several rounds and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// All that is reported of a row and a system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Of the rounds: messages per second, or p50 in microseconds of a row of latency.
    pub(crate) figure: Spread,
    /// A figure per round, in order.
    pub(crate) rounds: Vec<f64>,
    pub(crate) server_processor_us_per_message: Spread,
    /// Over all rounds; only of rows that wait for single messages.
    pub(crate) latency_us: Option<Latency>,
}

/// How long single messages took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Samples {
    pub(crate) fn new() -> Self {
        Self { figures: Vec::new(), server_us: Vec::new(), latency: histogram() }
    }

    /// Adds a round.
    ///
    /// # Errors
    ///
    /// A run without messages has no figure.
    pub(crate) fn add(&mut self, row: Row, run: &Run) -> Fallible<()> {
        anyhow::ensure!(0 < run.messages, "no message went through");
        let messages = run.messages as f64;
        self.figures.push(match (&run.latency, row.is_latency()) {
            (Some(latency), true) => microseconds(latency.value_at_quantile(0.5)),
            (_, false) => messages / run.measured.elapsed.as_secs_f64(),
            (None, true) => anyhow::bail!("a run of latency without latencies"),
        });
        self.server_us.push(run.measured.server.as_secs_f64() * 1e6 / messages);
        if let Some(latency) = &run.latency {
            self.latency.add(latency)?;
        }
        Ok(())
    }

    /// The figure of each round.
    pub(crate) fn figures(&self) -> &[f64] {
        &self.figures
    }

    /// `None` before the first round.
    pub(crate) fn summary(&self) -> Option<Summary> {
        Some(Summary {
            figure: Spread::of(&self.figures)?,
            rounds: self.figures.clone(),
            server_processor_us_per_message: Spread::of(&self.server_us)?,
            latency_us: (!self.latency.is_empty()).then(|| Latency::of(&self.latency)),
        })
    }
}

impl Latency {
    /// Of nanoseconds.
    pub(crate) fn of(latency: &Histogram<u64>) -> Self {
        Self {
            p50: microseconds(latency.value_at_quantile(0.5)),
            p99: microseconds(latency.value_at_quantile(0.99)),
            max: microseconds(latency.max()),
        }
    }
}

/// For nanoseconds, to three digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn microseconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        Some(Self { median: f64::midpoint(sorted[lower], sorted[upper]), least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Measured;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = |figures: &[f64]| {
            let spread = Spread::of(figures)?;
            Some([spread.least, spread.median, spread.most])
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some([3.0, 3.0, 3.0]));
        assert_eq!(spread(&[9.0, 1.0, 5.0]), Some([1.0, 5.0, 9.0]));
        assert_eq!(spread(&[4.0, 1.0, 9.0, 2.0]), Some([1.0, 3.0, 9.0]));
    }

    #[test]
    fn a_row_of_latency_reports_times_and_the_others_rates() {
        let mut latency = histogram();
        [100_000, 200_000, 300_000].iter().for_each(|&ns| latency.record(ns).unwrap());
        let measured =
            Measured { elapsed: Duration::from_millis(500), server: Duration::from_micros(60) };
        let run = Run { messages: 3, measured, latency: Some(latency) };

        let mut samples = Samples::new();
        samples.add(Row::RoundTrip, &run).unwrap();
        let summary = samples.summary().unwrap();
        assert!((199.0..201.0).contains(&summary.figure.median), "{summary:?}");
        assert_eq!(summary.server_processor_us_per_message.median, 20.0);

        let mut samples = Samples::new();
        samples.add(Row::PublishUnary, &run).unwrap();
        let summary = samples.summary().unwrap();
        assert_eq!(summary.figure.median, 6.0);
        assert!((299.0..301.0).contains(&summary.latency_us.unwrap().p99), "{summary:?}");

        let nothing = Run { messages: 0, measured, latency: None };
        samples.add(Row::Consume, &nothing).unwrap_err();
    }
}
