//! What a scenario found out: a value, and what it is held to.

use serde::Serialize;

use crate::report::thousands;

/// A value with its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// Messages in flight when it was taken; `None` where there were none.
    pub(crate) messages_in_flight: Option<u32>,
    pub(crate) target: Option<Bound>,
    pub(crate) reached: Option<bool>,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    Bytes,
    Count,
    MessagesPerSecond,
    Milliseconds,
    Ratio,
    Seconds,
}

/// What a value is held to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Bytes in a MiB.
pub(crate) const MEBIBYTE: f64 = 1_048_576.0;

impl Figure {
    pub(crate) fn new(title: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self {
            title: title.into(),
            value,
            unit,
            messages_in_flight: None,
            target: None,
            reached: None,
        }
    }

    /// With so many messages in flight.
    pub(crate) fn in_flight(mut self, messages: u32) -> Self {
        self.messages_in_flight = Some(messages);
        self
    }

    pub(crate) fn at_most(self, most: f64) -> Self {
        let reached = self.value <= most;
        self.held_to(Bound::AtMost(most), reached)
    }

    pub(crate) fn at_least(self, least: f64) -> Self {
        let reached = least <= self.value;
        self.held_to(Bound::AtLeast(least), reached)
    }

    fn held_to(mut self, bound: Bound, reached: bool) -> Self {
        self.target = Some(bound);
        self.reached = Some(reached);
        self
    }

    /// For the table.
    pub(crate) fn cells(&self) -> [String; 5] {
        let none = || "-".to_owned();
        let target = |bound| match bound {
            Bound::AtMost(most) => format!("<= {}", self.unit.text(most)),
            Bound::AtLeast(least) => format!(">= {}", self.unit.text(least)),
        };
        let reached = |reached| if reached { "yes" } else { "NO" }.to_owned();
        [
            self.title.clone(),
            self.unit.text(self.value),
            self.messages_in_flight.map_or_else(none, |count| thousands(f64::from(count))),
            self.target.map_or_else(none, target),
            self.reached.map_or_else(none, reached),
        ]
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Bytes if value < MEBIBYTE => format!("{} B", thousands(value)),
            Self::Bytes => format!("{} MiB", thousands(value / MEBIBYTE)),
            Self::Count => thousands(value),
            Self::MessagesPerSecond => format!("{}/s", thousands(value)),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Ratio => format!("{value:.2}"),
            Self::Seconds => format!("{value:.2} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_may_be_met_exactly() {
        let figure = |value| Figure::new("x", value, Unit::Ratio);
        assert_eq!(figure(1.2).at_most(1.2).reached, Some(true));
        assert_eq!(figure(1.3).at_most(1.2).reached, Some(false));
        assert_eq!(figure(0.7).at_least(0.8).reached, Some(false));
        assert_eq!(figure(f64::NAN).at_least(0.8).reached, Some(false));
    }

    #[test]
    fn values_are_told_in_their_unit() {
        let figure = Figure::new("memory", 300.0 * MEBIBYTE, Unit::Bytes);
        let cells = figure.in_flight(4_000).at_most(256.0 * MEBIBYTE).cells();
        assert_eq!(cells, ["memory", "300 MiB", "4,000", "<= 256 MiB", "NO"]);
        assert_eq!(Figure::new("x", 0.5, Unit::Seconds).cells()[1..3], ["0.50 s", "-"]);
    }
}
