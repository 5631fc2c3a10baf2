//! The report: machine, settings, and a table of both systems with their ratio.

use std::fmt;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::conditions::Conditions;
use crate::machine::Machine;
use crate::row::{Row, Target};
use crate::samples::{Samples, Spread, Summary};
use crate::settings::Settings;
use crate::system::Fallible;
use crate::workload::Load;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    conditions: Conditions,
    /// What the broker says of itself.
    broker: String,
    settings: Settings,
    rows: Vec<RowReport>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct RowReport {
    row: Row,
    shape: &'static str,
    messages_in_flight: u32,
    messages_per_request: usize,
    unit: &'static str,
    floor: Summary,
    qbroker: Summary,
    /// qbroker's figure over the floor's, round by round.
    ratio: Spread,
    target: Target,
    /// `None` where there is no target.
    reached: Option<bool>,
}

impl Report {
    /// Puts together what each row gave for the floor and for qbroker.
    ///
    /// # Errors
    ///
    /// A row without rounds.
    pub(crate) fn new(
        machine: Machine,
        conditions: Conditions,
        broker: String,
        settings: Settings,
        load: &Load,
        samples: &[(Row, Samples, Samples)],
    ) -> Fallible<Self> {
        let sync_us = conditions.fdatasync_us.p50;
        let rows = samples
            .iter()
            .map(|(row, floor, qbroker)| RowReport::new(*row, load, floor, qbroker, sync_us))
            .collect::<Option<_>>()
            .context("a row was not measured")?;
        Ok(Self { machine, conditions, broker, settings, rows })
    }
}

impl Report {
    /// qbroker's figure over the floor's, of each row.
    pub(crate) fn ratios(&self) -> impl Iterator<Item = (Row, Spread)> {
        self.rows.iter().map(|report| (report.row, report.ratio))
    }
}

impl RowReport {
    fn new(
        row: Row,
        load: &Load,
        floor: &Samples,
        qbroker: &Samples,
        sync_us: f64,
    ) -> Option<Self> {
        let rounds = floor.figures().iter().zip(qbroker.figures());
        let ratios: Vec<f64> = rounds.map(|(floor, qbroker)| qbroker / floor).collect();
        let (floor, qbroker) = (floor.summary()?, qbroker.summary()?);
        let ratio = Spread::of(&ratios)?;
        let target = row.target();
        Some(Self {
            row,
            shape: row.title(),
            messages_in_flight: load.in_flight(row),
            messages_per_request: load.batch(row),
            unit: if row.is_latency() { "us, p50" } else { "messages/s" },
            reached: match target {
                Target::ShareOfFloor(share) => Some(share <= ratio.median),
                Target::FloorAndOneSync => {
                    Some(qbroker.figure.median <= floor.figure.median + sync_us)
                }
                Target::None => None,
            },
            floor,
            qbroker,
            ratio,
            target,
        })
    }

    fn cells(&self, sync_us: f64) -> [String; 9] {
        [
            self.shape.to_owned(),
            thousands(f64::from(self.messages_in_flight)),
            thousands(self.messages_per_request as f64),
            figure(&self.floor, self.row),
            figure(&self.qbroker, self.row),
            spread(self.ratio, |ratio| format!("{ratio:.2}")),
            match self.target {
                Target::ShareOfFloor(share) => format!(">= {share:.2}"),
                Target::FloorAndOneSync => {
                    format!("<= {} us", thousands(self.floor.figure.median + sync_us))
                }
                Target::None => "-".to_owned(),
            },
            match self.reached {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            }
            .to_owned(),
            format!(
                "{:.2} / {:.2}",
                self.floor.server_processor_us_per_message.median,
                self.qbroker.server_processor_us_per_message.median
            ),
        ]
    }
}

const HEADER: [&str; 9] = [
    "shape",
    "in flight",
    "a request",
    "floor",
    "qbroker",
    "qbroker/floor",
    "target",
    "reached",
    "server us/msg",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_machine(f, &self.machine, &self.conditions)?;
        writeln!(f, "measured   {}", self.settings)?;
        writeln!(f, "broker     {}", self.broker)?;
        fmt_warnings(f, &self.conditions, self.settings.debug_build)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(HEADER);
        for row in &self.rows {
            table.add_row(row.cells(self.conditions.fdatasync_us.p50));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "\n{table}\n")?;
        writeln!(
            f,
            "Messages per second (the last row: microseconds, p50): median of the rounds (least to \
             most).\nServer us/msg: processor time of the server per message, floor / qbroker."
        )
    }
}

/// The machine and its disk.
pub(crate) fn fmt_machine(
    f: &mut fmt::Formatter<'_>,
    machine: &Machine,
    conditions: &Conditions,
) -> fmt::Result {
    writeln!(
        f,
        "machine    {} cores ({}), {:.1} GiB, Linux {}",
        machine.cores,
        machine.processor,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel
    )?;
    writeln!(
        f,
        "disk       {} at {}; 1 KiB and fdatasync: p50 {:.0} us, p99 {:.0} us",
        machine.file_system,
        machine.folder.display(),
        conditions.fdatasync_us.p50,
        conditions.fdatasync_us.p99
    )?;
    if machine.is_volatile() {
        writeln!(f, "WARNING    this folder is memory: nothing is synced. Use --dir")?;
    }
    Ok(())
}

/// Why the figures may not be worth much.
pub(crate) fn fmt_warnings(
    f: &mut fmt::Formatter<'_>,
    conditions: &Conditions,
    debug_build: bool,
) -> fmt::Result {
    let others = conditions.others_share;
    if NOISE < others {
        let percent = others * 100.0;
        writeln!(f, "WARNING    others used {percent:.0} % of the processors: measure again")?;
    }
    if debug_build {
        writeln!(f, "WARNING    built without optimisations: use cargo run --release")?;
    }
    Ok(())
}

/// Share of the processors that others may have before the figures are in doubt. The kernel's own
/// work for the disk is among them.
const NOISE: f64 = 0.1;

fn figure(summary: &Summary, row: Row) -> String {
    let rounds = spread(summary.figure, thousands);
    match summary.latency_us {
        Some(latency) if row.is_latency() => {
            format!("{rounds}, p99 {}", thousands(latency.p99))
        }
        Some(_) | None => rounds,
    }
}

fn spread(spread: Spread, text: impl Fn(f64) -> String) -> String {
    format!("{} ({} to {})", text(spread.median), text(spread.least), text(spread.most))
}

/// A whole number with commas between groups of three digits.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if 0 < position && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0.4, 999.0, 1000.0].map(thousands), ["0", "999", "1,000"]);
        assert_eq!(thousands(1_234_567.8), "1,234,568");
    }
}
