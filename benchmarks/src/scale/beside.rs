//! A rate beside another, round by round, so that a noisy neighbour hits both.

use anyhow::Context as _;

use super::figure::{Figure, Unit};
use super::stage::Phase;
use crate::samples::Spread;
use crate::system::Fallible;

/// Rates of two forms of the same work.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    ratios: Vec<f64>,
    rates: Vec<f64>,
    in_flight: u32,
}

/// The share of the plain form's rate that the large form must keep.
const SHARE_LEAST: f64 = 0.5;

impl Beside {
    /// Adds a round.
    pub(crate) fn add(&mut self, plain: &Phase, large: &Phase) {
        self.ratios.push(large.messages_per_second / plain.messages_per_second);
        self.rates.push(large.messages_per_second);
        self.in_flight = large.messages_in_flight;
    }

    /// The large form's rate, and its share of the plain one's: medians of the rounds.
    ///
    /// # Errors
    ///
    /// There were no rounds.
    pub(crate) fn figures(&self, large: &str, plain: &str) -> Fallible<[Figure; 2]> {
        let median = |values: &[f64]| Spread::of(values).map(|spread| spread.median);
        let rate = median(&self.rates).context("no round was measured")?;
        let ratio = median(&self.ratios).context("no round was measured")?;
        let figure = |title, value, unit| Figure::new(title, value, unit).in_flight(self.in_flight);
        Ok([
            figure(large.to_owned(), rate, Unit::MessagesPerSecond),
            figure(format!("{large}, to {plain}"), ratio, Unit::Ratio).at_least(SHARE_LEAST),
        ])
    }
}
