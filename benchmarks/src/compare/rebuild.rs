//! The other brokers' clients are built only when they are asked for: they would double what every
//! build of the workspace waits for.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::system::Fallible;

/// Becomes the same command, built with the clients by the cargo that runs this.
///
/// # Errors
///
/// It returns only when cargo cannot be run.
pub(super) fn with_clients(cargo: &OsStr) -> Fallible<()> {
    super::note("building the clients of the other brokers too (--features peers)");
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let target = own.parent().and_then(Path::parent).context("this program is not in a target")?;
    let mut command = Command::new(cargo);
    command.args(["run", "-p", env!("CARGO_PKG_NAME"), "--features", "peers"]);
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    command.arg("--target-dir").arg(target);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.arg("--").args(std::env::args_os().skip(1));
    Err(command.exec()).context("cannot run cargo")
}
