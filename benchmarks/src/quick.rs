//! `quick`: every row for the floor and for qbroker, in turns, on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;

use crate::conditions::Watch;
use crate::floor::Floor;
use crate::machine::Machine;
use crate::meter::Meter;
use crate::qbroker::{self, Qbroker};
use crate::report::Report;
use crate::row::Row;
use crate::samples::Samples;
use crate::system::{Fallible, System as _, Unary};
use crate::workload::{self, Load, Run};

/// What `quick` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct QuickArgs {
    /// Ends each run after so many messages
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Ends each run after so many seconds, where that is earlier
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Size of each message; the most that is in flight stays below the floor's file
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    payload: u32,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Measures only this row; may be given several times
    #[arg(long, value_name = "ROW")]
    only: Vec<Row>,
    /// Writes everything that was measured to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Records the broker with `perf` into this folder while it is timed, which slows it
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Where the servers keep their files while it runs [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The broker to measure [default: built by cargo where cargo runs this, else the one beside it]
    #[arg(long, value_name = "FILE")]
    qbroker: Option<PathBuf>,
}

/// How the figures were taken; part of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) messages_max: u64,
    pub(crate) seconds_max: f64,
    pub(crate) payload_bytes: u32,
    /// Whether this program, and so the floor, was built without optimisations.
    pub(crate) debug_build: bool,
    /// What the broker says of itself.
    pub(crate) qbroker: String,
}

/// Measures and reports.
pub(crate) async fn run(args: QuickArgs) -> Fallible<Report> {
    let program = qbroker::find(args.qbroker.as_deref()).await?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::describe(&parent)?;
    let folder = tempfile::Builder::new().prefix("qbroker-benchmark-").tempdir_in(&parent)?;
    let floor = Floor::start(&folder_in(folder.path(), "floor")?, args.payload as usize).await?;
    let qbroker = Qbroker::start(&program, &folder_in(folder.path(), "qbroker")?).await?;
    let settings = args.settings(qbroker::version(&program).await?);

    // A run that is given up may hold on to them for longer than the folder is there.
    let _ends = [floor.server().end_on_drop(), qbroker.server().end_on_drop()];
    let bench = Bench {
        load: args.load(),
        rows: args.rows(),
        profile: args.profile.clone(),
        floor: Arc::new(floor),
        qbroker: Arc::new(qbroker),
    };
    bench.warm_up().await?;
    let mut watch = Watch::start(folder.path())?;
    let mut samples: Vec<_> =
        bench.rows.iter().map(|&row| (row, Samples::new(), Samples::new())).collect();
    for round in 0..args.rounds {
        watch.time_disk()?;
        for (row, of_floor, of_qbroker) in &mut samples {
            bench.measure(*row, round, of_floor, of_qbroker).await?;
        }
    }
    let report = Report::new(machine, watch.end()?, settings, &samples)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}

impl QuickArgs {
    fn settings(&self, qbroker: String) -> Settings {
        Settings {
            rounds: self.rounds,
            messages_max: self.messages,
            seconds_max: self.seconds,
            payload_bytes: self.payload,
            debug_build: cfg!(debug_assertions),
            qbroker,
        }
    }

    fn load(&self) -> Load {
        Load {
            payload: Bytes::from(vec![7; self.payload as usize]),
            messages_max: self.messages,
            duration_max: Duration::from_secs_f64(self.seconds),
            in_flight: None,
        }
    }

    /// The rows asked for, in the table's order.
    fn rows(&self) -> Vec<Row> {
        let asked = |row: &Row| self.only.is_empty() || self.only.contains(row);
        Row::ALL.into_iter().filter(asked).collect()
    }
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if 0.0 < seconds && seconds <= 60.0 => Ok(seconds),
        Ok(_) => Err("must be more than 0 and at most 60".to_owned()),
        Err(_) => Err("must be a number of seconds".to_owned()),
    }
}

fn folder_in(parent: &Path, name: &str) -> Fallible<PathBuf> {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Both systems, running.
#[derive(Debug)]
struct Bench {
    load: Load,
    rows: Vec<Row>,
    profile: Option<PathBuf>,
    floor: Arc<Floor>,
    qbroker: Arc<Qbroker>,
}

impl Bench {
    /// Every row once and little of it: connections, allocators and page cache are not the subject.
    async fn warm_up(&self) -> Fallible<()> {
        let messages_max = self.load.messages_max.div_ceil(20);
        let duration_max = self.load.duration_max / 5;
        let load = Load { messages_max, duration_max, ..self.load.clone() };
        for &row in &self.rows {
            let queue = format!("{row:?}-warm-up");
            run_once(row, &self.floor, &queue, &load, None).await?;
            run_once(row, &self.qbroker, &queue, &load, None).await?;
        }
        Ok(())
    }

    /// One round of a row: the two systems right after each other, so that a noisy neighbour hits
    /// both, and in turns first, so that none always runs in the other's wake.
    async fn measure(
        &self,
        row: Row,
        round: u32,
        of_floor: &mut Samples,
        of_qbroker: &mut Samples,
    ) -> Fallible<()> {
        let queue = format!("{row:?}-{round}");
        let floor = async { run_once(row, &self.floor, &queue, &self.load, None).await };
        let profile = self.profile.as_ref().map(|folder| folder.join(format!("{queue}.perf")));
        let qbroker = async { run_once(row, &self.qbroker, &queue, &self.load, profile).await };
        let (floor, qbroker) = if round.is_multiple_of(2) {
            let floor = floor.await?;
            (floor, qbroker.await?)
        } else {
            let qbroker = qbroker.await?;
            (floor.await?, qbroker)
        };
        of_floor.add(row, &floor)?;
        of_qbroker.add(row, &qbroker)
    }
}

async fn run_once<S: Unary>(
    row: Row,
    system: &Arc<S>,
    queue: &str,
    load: &Load,
    profile: Option<PathBuf>,
) -> Fallible<Run> {
    let meter = Meter::new(system.server().id(), profile);
    let (shared, queue, load) = (Arc::clone(system), queue.to_owned(), load.clone());
    let run = match row {
        Row::PublishUnary => workload::run_calls(shared, queue, load, meter).await,
        _ => workload::run(row, shared, queue, load, meter).await,
    };
    run.with_context(|| {
        format!("{}'s server said last:\n{}", S::NAME, system.server().last_words())
    })
}
