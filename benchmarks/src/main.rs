//! qbroker's figures beside the floor, what a durable broker over gRPC can come close to, and beside
//! those of other brokers; and the broker at a size.

mod check;
mod compare;
mod conditions;
mod floor;
mod machine;
mod meter;
mod place;
mod process;
mod process_tree;
mod qbroker;
mod quick;
mod report;
mod round_trip;
mod row;
mod samples;
mod scale;
mod settings;
mod svg;
mod system;
mod taking;
mod workload;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use qbroker_allocator::{Allocator, keep_memory};
use tokio::signal::unix::{SignalKind, signal};

/// The broker's own, so that the floor has it too.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Measures qbroker on this machine.
#[derive(Debug, Parser)]
#[command(name = "qbroker-benchmarks", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish, consume and round trip, beside the floor, in a few minutes
    Quick(quick::QuickArgs),
    /// The rows of `quick` in two minutes; fails where one is worse than it was
    Check(check::CheckArgs),
    /// The same work for other brokers as installed here, beside qbroker and the floor
    Compare(compare::CompareArgs),
    /// Many messages wait: memory, disk, rates, and the start after a crash
    Backlog(scale::BacklogArgs),
    /// Many messages wait for their time: memory, disk, and how late those come that are due
    Delayed(scale::DelayedArgs),
    /// The same work over many queues instead of one
    Queues(scale::QueuesArgs),
    /// The same messages taken by many consume streams instead of one
    Consumers(scale::ConsumersArgs),
    /// Settling that leaves a little alive everywhere, and what it leaves on disk
    Pinned(scale::PinnedArgs),
    /// Messages with priorities, keys, ids and a time to live, beside plain ones
    Features(scale::FeaturesArgs),
    /// Confirm, delivery and ack: one message at a time, and under load
    Latency(scale::LatencyArgs),
    /// Empty jobs through the worker, beside the bare client; many at once, and a stop
    Jobs(scale::JobsArgs),
    /// Serves the floor; `quick` starts it as a process of its own
    #[command(hide = true)]
    FloorServer(floor::FloorArgs),
}

fn main() -> ExitCode {
    keep_memory();
    measure()
}

#[tokio::main]
async fn measure() -> ExitCode {
    match run_until_interrupted(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        // In one line and the last: a backtrace would push it out of what is kept of a long output.
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Dropping what runs ends the servers and removes their files.
async fn run_until_interrupted(command: Command) -> anyhow::Result<()> {
    tokio::select! {
        ended = run(command) => ended,
        signal = interrupted() => anyhow::bail!("ended by {}", signal?),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Quick(args) => {
            let report = quick::run(args).await?;
            Ok(write!(std::io::stdout().lock(), "{report}")?)
        }
        Command::Check(args) => {
            let checked = check::run(args).await?;
            write!(std::io::stdout().lock(), "{checked}")?;
            checked.outcome()
        }
        Command::Compare(args) => compare::run(args).await,
        Command::Backlog(args) => scale::run(args).await,
        Command::Delayed(args) => scale::run(args).await,
        Command::Queues(args) => scale::run(args).await,
        Command::Consumers(args) => scale::run(args).await,
        Command::Pinned(args) => scale::run(args).await,
        Command::Features(args) => scale::run(args).await,
        Command::Latency(args) => scale::run(args).await,
        Command::Jobs(args) => scale::run(args).await,
        Command::FloorServer(args) => floor::serve(args).await,
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT").map_err(Into::into),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
