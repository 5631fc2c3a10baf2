//! The comparison: a line for each participant, its figures and how qbroker's compare with them.

use std::fmt;

use anyhow::{Context as _, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::backlog::Backlog;
use super::peer::{About, Missing, Name, RowRuns};
use crate::conditions::Conditions;
use crate::machine::Machine;
use crate::report::{self, thousands};
use crate::row::Row;
use crate::samples::{Samples, Spread, Summary};
use crate::settings::Settings;
use crate::system::Fallible;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    machine: Machine,
    conditions: Conditions,
    settings: Settings,
    pub(super) participants: Vec<Participant>,
    missing: Vec<Missing>,
}

/// A participant while it is measured.
#[derive(Debug)]
pub(crate) struct Entrant {
    pub(crate) about: About,
    pub(crate) samples: Vec<(Row, Samples)>,
    pub(crate) in_flight: Vec<(Row, u32)>,
    pub(crate) backlog: Option<Backlog>,
    /// Why it is measured no further.
    pub(crate) failure: Option<String>,
}

impl Entrant {
    pub(crate) fn new(about: About, samples: Vec<(Row, Samples)>) -> Self {
        Self { about, samples, in_flight: Vec::new(), backlog: None, failure: None }
    }

    /// Adds a round.
    pub(crate) fn add(&mut self, runs: &RowRuns) -> Fallible<()> {
        for ((row, samples), (ran, run)) in self.samples.iter_mut().zip(runs) {
            ensure!(row == ran, "{ran:?} was run in place of {row:?}");
            samples.add(*row, run)?;
        }
        Ok(())
    }

    /// Takes it out of the rest; qbroker's own failure and the floor's end the comparison.
    pub(crate) fn fail(&mut self, error: anyhow::Error) -> Fallible<()> {
        if matches!(self.about.name, Name::Floor | Name::Qbroker) {
            return Err(error);
        }
        super::note(&format!("failed: {error:?}"));
        self.failure = Some(format!("{error:#}"));
        Ok(())
    }
}

/// What is reported of a participant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Participant {
    pub(super) about: About,
    pub(super) rows: Vec<RowFigures>,
    backlog: Option<Backlog>,
    failure: Option<String>,
}

/// A cell of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RowFigures {
    pub(super) row: Row,
    messages_in_flight: u32,
    messages_per_request: usize,
    unit: &'static str,
    pub(super) figures: Summary,
    /// How many times as fast qbroker is, round by round: rates by rates, times the other way.
    qbroker_times: Option<Spread>,
}

impl Comparison {
    /// Puts together what everybody gave.
    ///
    /// # Errors
    ///
    /// qbroker is not among them.
    pub(crate) fn new(
        machine: Machine,
        conditions: Conditions,
        settings: Settings,
        entrants: Vec<Entrant>,
        missing: Vec<Missing>,
    ) -> Fallible<Self> {
        let qbroker = entrants.iter().find(|entrant| entrant.about.name == Name::Qbroker);
        let rounds: Vec<Vec<f64>> = qbroker
            .context("qbroker was not measured")?
            .samples
            .iter()
            .map(|(_, samples)| samples.figures().to_vec())
            .collect();
        let participants =
            entrants.into_iter().map(|entrant| Participant::new(entrant, &rounds)).collect();
        Ok(Self { machine, conditions, settings, participants, missing })
    }

    /// # Errors
    ///
    /// A participant that began did not get to the end.
    pub(crate) fn any_failure(&self) -> Fallible<()> {
        let failed = self.participants.iter().filter(|participant| participant.failure.is_some());
        let titles: Vec<_> = failed.map(|participant| participant.about.title).collect();
        if !titles.is_empty() {
            bail!("measured in part only: {}", titles.join(", "));
        }
        Ok(())
    }
}

impl Participant {
    fn new(entrant: Entrant, of_qbroker: &[Vec<f64>]) -> Self {
        let Entrant { about, samples, in_flight, backlog, failure } = entrant;
        let rows = samples
            .iter()
            .zip(of_qbroker)
            .filter_map(|((row, samples), qbroker)| {
                let in_flight = in_flight.iter().find(|(of_row, _)| of_row == row);
                let in_flight = in_flight.map_or_else(|| row.in_flight(), |(_, fitted)| *fitted);
                RowFigures::new(*row, in_flight, samples, qbroker)
            })
            .collect();
        Self { about, rows, backlog, failure }
    }

    fn cells(&self) -> Vec<String> {
        let synced = if self.about.confirm.synced { "yes" } else { "no" };
        let mut cells = vec![self.about.title.to_owned(), synced.to_owned()];
        for row in super::ROWS {
            let figures = self.rows.iter().find(|figures| figures.row == row);
            cells.push(figures.map_or_else(|| "-".to_owned(), |figures| figures.cell(self)));
        }
        match &self.backlog {
            Some(backlog) => {
                cells.push(mebibytes(backlog.memory.held_bytes));
                cells.push(format!("{:.1}", backlog.restart_seconds));
            }
            None => cells.extend(["-".to_owned(), "-".to_owned()]),
        }
        cells
    }
}

impl RowFigures {
    /// `None` of a row without rounds.
    fn new(row: Row, in_flight: u32, samples: &Samples, of_qbroker: &[f64]) -> Option<Self> {
        let rounds = of_qbroker.iter().zip(samples.figures());
        let times: Vec<_> = rounds
            .map(|(qbroker, own)| if row.is_latency() { own / qbroker } else { qbroker / own })
            .collect();
        Some(Self {
            row,
            messages_in_flight: in_flight,
            messages_per_request: row.batch(),
            unit: if row.is_latency() { "us, p50" } else { "messages/s" },
            figures: samples.summary()?,
            qbroker_times: Spread::of(&times),
        })
    }

    fn cell(&self, of: &Participant) -> String {
        let mut cell = thousands(self.figures.figure.median);
        if let (Some(latency), true) = (self.figures.latency_us, self.row.is_latency()) {
            cell = format!("{cell} / {}", thousands(latency.p99));
        }
        match self.qbroker_times {
            Some(times) if of.about.name != Name::Qbroker => {
                format!("{cell}\n{}", times_text(times.median))
            }
            _ => cell,
        }
    }
}

/// `12x`, with a digit behind the point where it matters.
fn times_text(times: f64) -> String {
    if times < 0.95 {
        format!("{times:.2}x")
    } else if times < 9.95 {
        format!("{times:.1}x")
    } else {
        format!("{times:.0}x")
    }
}

fn mebibytes(bytes: u64) -> String {
    thousands(bytes as f64 / f64::from(1 << 20))
}

const HEADER: [&str; 9] = [
    "",
    "confirm\nis synced",
    "publish,\nbatches",
    "publish,\nsingles",
    "consume\n+ ack",
    "both\nat once",
    "one in flight\np50 / p99 us",
    "held\nMiB",
    "restart\ns",
];

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        report::fmt_machine(f, &self.machine, &self.conditions)?;
        writeln!(f, "measured   {}", self.settings)?;
        report::fmt_warnings(f, &self.conditions, self.settings.debug_build)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(HEADER);
        for participant in &self.participants {
            table.add_row(participant.cells());
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "\n{table}\n")?;
        writeln!(
            f,
            "Messages per second: median of the rounds; below it how many times as fast qbroker is \
             (of times: how\nmany times as long it takes). Held, restart: {}.",
            self.backlog_words()
        )?;
        self.fmt_notes(f)
    }
}

impl Comparison {
    fn backlog_words(&self) -> String {
        let backlog = self.participants.iter().find_map(|participant| participant.backlog);
        backlog.map_or_else(
            || "not measured".to_owned(),
            |backlog| {
                format!(
                    "memory with {} messages waiting, the page cache aside;\nfrom the start after \
                     SIGKILL to the first delivery",
                    thousands(backlog.messages as f64)
                )
            },
        )
    }

    fn fmt_notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nWhat a confirm means, and how each was run:")?;
        for participant in &self.participants {
            let About { title, version, confirm, settings, .. } = &participant.about;
            let windows: Vec<_> = participant
                .rows
                .iter()
                .map(|row| thousands(f64::from(row.messages_in_flight)))
                .collect();
            writeln!(f, "  {title} ({version})")?;
            writeln!(f, "    confirm: {}", confirm.means)?;
            writeln!(f, "    {settings}; in flight: {}", windows.join(", "))?;
            if let Some(failure) = &participant.failure {
                writeln!(f, "    FAILED: {failure}")?;
            }
        }
        for missing in &self.missing {
            writeln!(f, "  skipped: {}: {}", super::key(missing.name), missing.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::peer::Confirm;
    use crate::meter::Measured;
    use crate::process_tree::Memory;
    use crate::samples::{Latency, histogram};
    use crate::workload::Run;
    use std::time::Duration;

    /// qbroker at 2,000 messages a second and 1 ms, and a peer at 100 and 2 ms.
    pub(in crate::compare) fn comparison() -> Comparison {
        let entrants = vec![
            entrant(Name::Qbroker, "qbroker", 2_000, 1),
            entrant(Name::Beanstalkd, "beanstalkd", 100, 2),
        ];
        let missing = vec![Missing {
            name: Name::NatsDefault,
            reason: "nats-server is not installed".to_owned(),
            package: Some("nats-server"),
        }];
        let conditions = Conditions {
            fdatasync_us: Latency { p50: 100.0, p99: 200.0, max: 300.0 },
            others_share: 0.0,
        };
        let settings = Settings {
            rounds: 1,
            messages_max: 2_000,
            seconds_max: 1.0,
            payload_bytes: 1024,
            connections: None,
            debug_build: false,
        };
        let machine = Machine::describe(&std::env::temp_dir()).unwrap();
        Comparison::new(machine, conditions, settings, entrants, missing).unwrap()
    }

    fn entrant(name: Name, title: &'static str, messages: u64, latency_ms: u64) -> Entrant {
        let about = About {
            name,
            title,
            version: "1.0".to_owned(),
            confirm: Confirm { synced: true, means: "synced" },
            settings: "its defaults".to_owned(),
        };
        let samples = crate::compare::ROWS.map(|row| (row, Samples::new())).into();
        let mut entrant = Entrant::new(about, samples);
        let runs = crate::compare::ROWS.map(|row| {
            let mut latency = histogram();
            latency.record(latency_ms * 1_000_000).unwrap();
            let measured =
                Measured { elapsed: Duration::from_secs(1), server: Duration::from_millis(1) };
            let latency = row.is_latency().then_some(latency);
            (row, Run { messages, measured, latency })
        });
        entrant.add(&runs.into()).unwrap();
        entrant.in_flight.push((Row::Consume, 1_000));
        let memory = Memory { held_bytes: 3 << 20, peak_bytes: 4 << 20 };
        let backlog = Backlog { messages: 500, fill_seconds: 1.0, memory, restart_seconds: 0.25 };
        entrant.backlog = Some(backlog);
        entrant
    }

    #[test]
    fn rates_and_times_are_compared_so_that_more_is_better_for_qbroker() {
        let comparison = comparison();
        let rows = &comparison.participants[1].rows;
        for figures in rows {
            let expected = if figures.row.is_latency() { 2.0 } else { 20.0 };
            let times = figures.qbroker_times.unwrap().median;
            assert!((times - expected).abs() < 0.01, "{figures:?}");
        }
        assert_eq!(rows[2].messages_in_flight, 1_000);
        assert_eq!(rows[0].messages_in_flight, Row::PublishBatches.in_flight());
    }

    #[test]
    fn the_table_names_who_took_part_and_who_did_not() {
        let text = comparison().to_string();
        for expected in ["beanstalkd", "20x", "2.0x", "0.2", "nats-server is not installed"] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn a_failure_is_told_and_is_the_outcome() {
        let mut failed = entrant(Name::Beanstalkd, "beanstalkd", 100, 2);
        failed.fail(anyhow::anyhow!("lost a message")).unwrap();
        let own = entrant(Name::Qbroker, "qbroker", 1, 1).fail(anyhow::anyhow!("lost a message"));
        own.unwrap_err();
        let mut comparison = comparison();
        comparison.any_failure().unwrap();
        comparison.participants[1].failure = failed.failure;
        let error = comparison.any_failure().unwrap_err().to_string();
        assert_eq!(error, "measured in part only: beanstalkd");
        assert!(comparison.to_string().contains("FAILED: lost a message"));
    }

    #[test]
    fn small_ratios_keep_their_digits() {
        assert_eq!([0.123, 1.04, 9.96, 41.7].map(times_text), ["0.12x", "1.0x", "10x", "42x"]);
    }
}
