//! `quick`: every row for the floor and for qbroker, in turns, on this machine.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use crate::conditions::Watch;
use crate::floor::Floor;
use crate::machine::Machine;
use crate::meter::Meter;
use crate::place::{PlaceArgs, folder_in};
use crate::qbroker::{self, Qbroker};
use crate::report::Report;
use crate::row::Row;
use crate::samples::Samples;
use crate::settings::LoadArgs;
use crate::system::{Fallible, System as _, Unary};
use crate::workload::{self, Load, Run};

/// What `quick` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct QuickArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Measures only this row; may be given several times
    #[arg(long, value_name = "ROW")]
    only: Vec<Row>,
    /// Records the broker with `perf` into this folder while it is timed, which slows it
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Measures and reports.
pub(crate) async fn run(args: QuickArgs) -> Fallible<Report> {
    let program = args.place.program()?;
    let machine = Machine::describe(&args.place.parent())?;
    let folder = args.place.folder("quick")?;
    let (payload_bytes, connections) = (args.load.payload_bytes(), args.load.connections());
    let floor =
        Floor::start(&folder_in(folder.path(), "floor")?, payload_bytes, connections).await?;
    let mut qbroker = Qbroker::start(&program, &folder_in(folder.path(), "qbroker")?).await?;
    if let Some(connections) = connections {
        qbroker.reconnect(connections).await?;
    }
    let broker = qbroker::version(&program).await?;
    let settings = args.load.settings(args.rounds);

    // A run that is given up may hold on to them for longer than the folder is there.
    let _ends = [floor.server().end_on_drop(), qbroker.server().end_on_drop()];
    let bench = Bench {
        load: args.load.load(),
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
    let report = Report::new(machine, watch.end()?, broker, settings, &bench.load, &samples)?;
    args.place.write_json(&report)?;
    Ok(report)
}

impl QuickArgs {
    /// All rows.
    pub(crate) fn new(load: LoadArgs, rounds: u32, place: PlaceArgs) -> Self {
        Self { load, rounds, only: Vec::new(), profile: None, place }
    }

    /// The rows asked for, in the table's order.
    fn rows(&self) -> Vec<Row> {
        let asked = |row: &Row| self.only.is_empty() || self.only.contains(row);
        Row::ALL.into_iter().filter(asked).collect()
    }
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
