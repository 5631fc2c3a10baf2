//! The broker at a size: what it takes of memory and disk, and how fast and how late it is then.

mod backlog;
mod beside;
mod cancel;
mod consumers;
mod delayed;
mod due;
mod exposition;
mod feature;
mod features;
mod figure;
mod footprint;
mod idle;
mod jobs;
mod jobs_stop;
mod latency;
mod minutes;
mod numbered;
mod open_loop;
mod outcome;
mod pattern;
mod percentiles;
mod pinned;
mod plot;
mod probe;
mod progress;
mod queues;
mod recorder;
mod rest;
mod slow;
mod space;
mod stage;
mod streams;
mod traffic;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::task::JoinSet;

use self::figure::Figure;
use self::outcome::Outcome;
use self::recorder::thin;
use self::stage::Stage;
use crate::conditions::Watch;
use crate::machine::Machine;
use crate::place::{PlaceArgs, write_file};
use crate::qbroker;
use crate::system::{Fallible, System as _};

pub(crate) use self::backlog::BacklogArgs;
pub(crate) use self::consumers::ConsumersArgs;
pub(crate) use self::delayed::DelayedArgs;
pub(crate) use self::features::FeaturesArgs;
pub(crate) use self::jobs::JobsArgs;
pub(crate) use self::latency::LatencyArgs;
pub(crate) use self::pinned::PinnedArgs;
pub(crate) use self::queues::QueuesArgs;

/// What every scenario is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScaleArgs {
    /// Size of each message
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=16_384))]
    payload: u32,
    /// Draws memory and disk over time into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// A question about the broker at a size.
pub(crate) trait Scenario: Send + Sync + 'static {
    /// The subcommand.
    const NAME: &'static str;

    fn scale(&self) -> &ScaleArgs;

    /// What it was told, in words.
    fn settings(&self) -> String;

    /// Messages that are stored at once, at most.
    fn messages_stored(&self) -> u64;

    /// Measures. The phases are written down by the stage.
    fn measure(&self, stage: &mut Stage) -> impl Future<Output = Fallible<Findings>> + Send;
}

/// What came out, but for the phases.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    figures: Vec<Figure>,
    /// What could not be measured, and why.
    missing: Vec<String>,
}

/// Measures and reports.
pub(crate) async fn run<S: Scenario>(scenario: S) -> Fallible<()> {
    // On a worker of the runtime, where the connections' tasks are: the main thread is none. A set
    // ends its tasks when it is dropped, and a broker must not outlive a run that was given up.
    let mut task = JoinSet::new();
    task.spawn(async move { measure(&scenario).await });
    task.join_next().await.expect("one task").context("the scenario panicked")?
}

async fn measure<S: Scenario>(scenario: &S) -> Fallible<()> {
    let args = scenario.scale();
    let program = args.place.program()?;
    let machine = Machine::describe(&args.place.parent())?;
    let folder = args.place.folder(S::NAME)?;
    space::check(folder.path(), scenario.messages_stored(), args.payload)?;
    let broker = qbroker::version(&program).await?;
    let mut watch = Watch::start(folder.path())?;
    watch.time_disk()?;
    let mut stage = Stage::start(program, folder, args.payload).await?;
    let Findings { figures, missing } =
        scenario.measure(&mut stage).await.with_context(|| words_of(&stage))?;
    watch.time_disk()?;
    let outcome = Outcome {
        scenario: S::NAME,
        settings: scenario.settings(),
        machine,
        conditions: watch.end()?,
        broker,
        payload_bytes: args.payload,
        debug_build: cfg!(debug_assertions),
        phases: stage.phases().to_vec(),
        figures,
        missing,
        samples: thin(&stage.samples(), SAMPLES_REPORTED),
    };
    args.place.write_json(&outcome)?;
    if let Some(path) = &args.svg {
        write_file(path, &plot::draw(&outcome))?;
    }
    drop(stage);
    Ok(write!(std::io::stdout().lock(), "{outcome}")?)
}

/// Enough for a picture.
const SAMPLES_REPORTED: usize = 600;

/// What the broker said last, where one runs.
fn words_of(stage: &Stage) -> String {
    let words = stage.broker().map(|broker| broker.server().last_words());
    words.map_or_else(|_| "no broker ran".to_owned(), |words| format!("it said last:\n{words}"))
}
