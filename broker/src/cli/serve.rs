//! `qbroker serve`: the broker itself, from its settings to its exit code.

use clap::Args;
use qbroker::config::{ServeFlags, Settings};
use qbroker::exit::Exit;
use qbroker::server;
use tracing::{error, warn};

use super::Outcome;
use super::failure::Failure;
use super::signals::Stops;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: ServeFlags,
}

impl ServeArgs {
    /// Serves until it is told to stop.
    pub(super) fn run(self) -> Outcome {
        let resolved = self.flags.resolve()?;
        serve(resolved.settings, &resolved.unknown_variables)
    }
}

/// Serves with these settings, in a process that does nothing else.
///
/// # Errors
/// Only before the log is set up; what happens later is told there.
pub(super) fn serve(settings: Settings, unknown_variables: &[String]) -> Outcome {
    let set_up = qbroker::telemetry::init(&settings.log_level, settings.log_format);
    set_up.map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    for variable in unknown_variables {
        warn!(variable, "this environment variable is no setting and has no effect");
    }
    keep_files_private();
    keep_memory_small();
    qbroker::open_files::raise_limit();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot start: {error}")))?;
    let exit = runtime.block_on(run(settings))?;
    // Streams that did not end in time must not hold up the end of the process.
    runtime.shutdown_background();
    Ok(exit)
}

/// Whatever this process makes from here on is for its own user only: it holds what people send.
pub(super) fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Memory comes in the kernel's small pages, also where it would give the allocator huge ones: of those
/// a few are left of each that was in use, and the rest of it is held for nothing.
fn keep_memory_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        warn!(%error, "huge pages cannot be declined: the broker will take half as much memory again");
    }
}

async fn run(settings: Settings) -> Outcome {
    let stops = Stops::listen_as_server()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("no signals: {error}")))?;
    let finish = stops.finish.clone().cancelled_owned();
    tokio::select! {
        served = server::run(settings, finish) => match served {
            Ok(()) => Ok(Exit::Ok),
            // Told where its other words are.
            Err(failed) => {
                let exit = failed.exit();
                error!(exit_code = exit.code(), "{failed}");
                Ok(exit)
            }
        },
        () = stops.now.cancelled() => {
            warn!("stopped at once: the next start finds everything that was confirmed");
            Ok(stops.exit())
        }
    }
}
