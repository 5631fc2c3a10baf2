//! The report of a scenario: what was measured, on what, in which phases, and what came out.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::figure::{Figure, MEBIBYTE};
use super::recorder::Sample;
use super::stage::Phase;
use crate::conditions::Conditions;
use crate::machine::Machine;
use crate::report::{fmt_machine, fmt_warnings, thousands};

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: &'static str,
    /// What it was told, in words.
    pub(crate) settings: String,
    pub(crate) machine: Machine,
    pub(crate) conditions: Conditions,
    /// What the broker says of itself.
    pub(crate) broker: String,
    pub(crate) payload_bytes: u32,
    /// Whether this program was built without optimisations.
    pub(crate) debug_build: bool,
    pub(crate) phases: Vec<Phase>,
    pub(crate) figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
    /// Memory and disk over time, thinned out.
    pub(crate) samples: Vec<Sample>,
}

const PHASES: [&str; 10] = [
    "phase",
    "s",
    "messages",
    "in flight",
    "messages/s",
    "held MiB",
    "VmHWM MiB",
    "disk MiB",
    "at the end",
    "written MiB",
];

const FIGURES: [&str; 5] = ["", "value", "in flight", "target", "reached"];

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_machine(f, &self.machine, &self.conditions)?;
        writeln!(
            f,
            "measured   {}: {}; {} byte payloads; client and server on the same cores, over loopback",
            self.scenario,
            self.settings,
            thousands(f64::from(self.payload_bytes))
        )?;
        writeln!(f, "broker     {}, with its defaults", self.broker)?;
        fmt_warnings(f, &self.conditions, self.debug_build)?;
        writeln!(f, "\n{}\n", table(&PHASES, self.phases.iter().map(cells)))?;
        writeln!(
            f,
            "Held: the most memory of its own (RssAnon and RssShmem). VmHWM: the most that was ever \
             resident, since the\nprocess began. Disk: the most, and at the end. Written: by the \
             device, for everybody on it, zeros ahead\nof use included.\n"
        )?;
        writeln!(f, "{}\n", table(&FIGURES, self.figures.iter().map(Figure::cells)))?;
        self.missing.iter().try_for_each(|missing| writeln!(f, "not measured: {missing}"))
    }
}

fn table<const N: usize>(header: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    rows.for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cells(phase: &Phase) -> [String; 10] {
    let mebibytes = |bytes: u64| thousands(bytes as f64 / MEBIBYTE);
    let of_messages = |value: f64| match phase.messages {
        0 => "-".to_owned(),
        _ => thousands(value),
    };
    [
        phase.name.clone(),
        format!("{:.2}", phase.seconds),
        of_messages(phase.messages as f64),
        of_messages(f64::from(phase.messages_in_flight)),
        of_messages(phase.messages_per_second),
        mebibytes(phase.held_max_bytes),
        mebibytes(phase.peak_bytes),
        mebibytes(phase.disk_max_bytes),
        mebibytes(phase.disk_bytes),
        phase.written_bytes.map_or_else(|| "-".to_owned(), mebibytes),
    ]
}
