//! qbroker's figures beside the floor: what a durable broker over gRPC can come close to.

mod conditions;
mod floor;
mod machine;
mod meter;
mod process;
mod qbroker;
mod quick;
mod report;
mod row;
mod samples;
mod system;
mod workload;

use std::io::Write as _;

use clap::{Parser, Subcommand};

/// The broker's own, so that the floor has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Serves the floor; `quick` starts it as a process of its own
    #[command(hide = true)]
    FloorServer(floor::FloorArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Quick(args) => {
            let report = quick::run(args).await?;
            Ok(write!(std::io::stdout().lock(), "{report}")?)
        }
        Command::FloorServer(args) => floor::serve(args).await,
    }
}
