//! `check`: the rows of `quick` in two minutes, held against ratios that were reached before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::place::PlaceArgs;
use crate::quick::{self, QuickArgs};
use crate::report::Report;
use crate::row::Row;
use crate::samples::Spread;
use crate::settings::LoadArgs;
use crate::system::Fallible;

/// What `check` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// How long all runs together may take, about
    #[arg(long, value_name = "S", default_value_t = 120.0, value_parser = crate::settings::seconds::<3_600>)]
    seconds: f64,
    /// How much worse than its ratio a row may be, as a share of it: the noise of the machine
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = slack)]
    slack: f64,
    /// Other ratios than those of the repository
    #[arg(long, value_name = "FILE")]
    ratios: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Rounds: an odd number, for their middle.
const ROUNDS: u32 = 5;

/// The floor and the broker.
const SYSTEMS: f64 = 2.0;

/// Of the time, what is not in the runs themselves: warm-up, filling what is consumed.
const BESIDE: f64 = 0.3;

/// Those of the repository.
const RATIOS: &str = include_str!("../ratios.toml");

/// What a row is held to.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A row and how it did.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Verdict {
    row: Row,
    stored: Bound,
    /// The stored one and the slack.
    bound: Bound,
    ratio: Spread,
    holds: bool,
}

/// All rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Checked {
    #[serde(flatten)]
    report: Report,
    slack: f64,
    verdicts: Vec<Verdict>,
}

/// Measures, and compares.
///
/// # Errors
///
/// The ratios cannot be read, a row cannot be measured.
pub(crate) async fn run(args: CheckArgs) -> Fallible<Checked> {
    let stored = match &args.ratios {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))
            .and_then(|text| parse(&text).with_context(|| format!("{}", path.display())))?,
        None => parse(RATIOS).context("benchmarks/ratios.toml")?,
    };
    let runs = Row::ALL.len() as f64 * SYSTEMS * f64::from(ROUNDS);
    let load = LoadArgs::lasting(args.seconds * (1.0 - BESIDE) / runs)?;
    let report = quick::run(QuickArgs::new(load, ROUNDS, args.place.without_json())).await?;
    let checked = Checked::new(report, &stored, args.slack)?;
    args.place.write_json(&checked)?;
    Ok(checked)
}

/// One bound for every row, and for nothing else.
fn parse(text: &str) -> Fallible<BTreeMap<String, Bound>> {
    let stored: BTreeMap<String, Bound> = toml::from_str(text)?;
    for row in Row::ALL {
        ensure!(stored.contains_key(row.key()), "no ratio for {}", row.key());
    }
    for name in stored.keys() {
        ensure!(Row::from_str(name, false).is_ok(), "there is no row {name:?}");
    }
    Ok(stored)
}

impl Checked {
    fn new(report: Report, stored: &BTreeMap<String, Bound>, slack: f64) -> Fallible<Self> {
        let verdict = |(row, ratio): (Row, Spread)| {
            let stored = *stored.get(row.key())?;
            let bound = stored.with_slack(slack);
            Some(Verdict { row, stored, bound, ratio, holds: bound.holds(ratio.median) })
        };
        let verdicts = report.ratios().map(verdict).collect::<Option<_>>();
        let verdicts = verdicts.context("a row has no ratio")?;
        Ok(Self { report, slack, verdicts })
    }

    /// # Errors
    ///
    /// A row is worse than its ratio and the slack: which, and by how much.
    pub(crate) fn outcome(&self) -> Fallible<()> {
        let worse = self.verdicts.iter().filter(|verdict| !verdict.holds);
        let worse: Vec<_> = worse.map(Verdict::words).collect();
        if !worse.is_empty() {
            bail!("worse than before:\n{}", worse.join("\n"));
        }
        Ok(())
    }
}

impl Bound {
    fn with_slack(self, slack: f64) -> Self {
        match self {
            Self::AtLeast(least) => Self::AtLeast(least * (1.0 - slack)),
            Self::AtMost(most) => Self::AtMost(most / (1.0 - slack)),
        }
    }

    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => least <= ratio,
            Self::AtMost(most) => ratio <= most,
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtLeast(value) | Self::AtMost(value) => value,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
        }
    }
}

impl Verdict {
    fn words(&self) -> String {
        let off = (self.ratio.median / self.stored.value() - 1.0) * 100.0;
        format!(
            "{}: {:.2} of the floor, stored {}, {off:+.0} %",
            self.row.key(),
            self.ratio.median,
            self.stored
        )
    }

    fn cells(&self) -> [String; 6] {
        let ratio = |ratio: f64| format!("{ratio:.2}");
        let Spread { median, least, most } = self.ratio;
        [
            self.row.key().to_owned(),
            format!("{} ({} to {})", ratio(median), ratio(least), ratio(most)),
            self.stored.to_string(),
            self.bound.to_string(),
            format!("{:+.0} %", (median / self.stored.value() - 1.0) * 100.0),
            if self.holds { "yes" } else { "NO" }.to_owned(),
        ]
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["row", "qbroker/floor", "stored", "with slack", "off by", "holds"]);
        for verdict in &self.verdicts {
            table.add_row(verdict.cells());
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "\n{table}")
    }
}

fn slack(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(slack) if (0.0..1.0).contains(&slack) => Ok(slack),
        Ok(_) => Err("must be at least 0 and less than 1".to_owned()),
        Err(_) => Err("must be a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_ratios_are_of_every_row() {
        assert_eq!(parse(RATIOS).unwrap().len(), Row::ALL.len());
        parse("[both]\nat-least = 1.0\n").unwrap_err();
        parse(&format!("{RATIOS}\n[other]\nat-least = 1.0\n")).unwrap_err();
        parse(&RATIOS.replace("at-most", "about")).unwrap_err();
    }

    #[test]
    fn slack_lets_rates_fall_and_times_rise() {
        let (rate, time) = (Bound::AtLeast(0.5), Bound::AtMost(2.0));
        assert!(!rate.holds(0.45) && rate.with_slack(0.2).holds(0.45));
        assert!(!rate.with_slack(0.2).holds(0.39));
        assert!(!time.holds(2.4) && time.with_slack(0.2).holds(2.4));
        assert!(!time.with_slack(0.2).holds(2.6));
        assert!(!rate.with_slack(0.9).holds(f64::NAN));
    }
}
