//! `qbroker dev`: a broker to try things out, gone without a trace when it ends.

use clap::Args;
use qbroker::config::ServeFlags;
use qbroker::exit::Exit;

use super::Outcome;
use super::failure::{Failure, say};
use super::serve::serve;

/// Enough for trying out, on machines whose temporary folder is small.
const DISK_RESERVE: &str = "64MiB";

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Take free ports instead of 7650 and 7651; the log names them.
    #[arg(long)]
    ephemeral: bool,
    #[command(flatten)]
    flags: ServeFlags,
}

impl DevArgs {
    /// Serves from a temporary folder until it is told to stop, and removes the folder.
    pub(super) fn run(mut self) -> Outcome {
        let folder =
            tempfile::Builder::new().prefix("qbroker-dev-").tempdir().map_err(|error| {
                Failure::new(Exit::Unavailable, format!("cannot make a temporary folder: {error}"))
            })?;
        let path = folder.path().to_string_lossy().into_owned();
        self.flags.or_set("data-dir", path);
        self.flags.or_set("disk-reserve", DISK_RESERVE);
        if self.ephemeral {
            self.flags.or_set("grpc-listen", "127.0.0.1:0");
            self.flags.or_set("http-listen", "127.0.0.1:0");
        }
        let resolved = self.flags.resolve()?;
        say("a broker to try things out: what it holds is gone when it ends");
        let outcome = serve(resolved.settings, &resolved.unknown_variables);
        if let Err(error) = folder.close() {
            say(&format!("cannot remove the temporary folder: {error}"));
        }
        outcome
    }
}
