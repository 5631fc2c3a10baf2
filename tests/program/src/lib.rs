//! The broker's program, for those who run it as it is: tests, benchmarks, examples.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The broker to run: the one named, else the one that cargo builds, else the one beside this
/// program.
///
/// # Errors
///
/// There is none, or it cannot be built: nothing else is run in its place.
pub fn find(named: Option<&Path>) -> io::Result<PathBuf> {
    let program = match named {
        Some(path) => path.to_owned(),
        None => {
            let own = std::env::current_exe()?;
            if let Some(cargo) = std::env::var_os("CARGO") {
                build_beside(&cargo, &own)?;
            }
            own.with_file_name("qbroker")
        }
    };
    if program.is_file() {
        return Ok(program);
    }
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "there is no broker at {}: build it with `cargo build {release}-p qbroker`, or name it \
             with --qbroker",
            program.display()
        ),
    ))
}

/// Builds the broker into the folder that this program is in, so that what runs is the code at hand
/// and not what was built some time ago.
fn build_beside(cargo: &OsStr, own: &Path) -> io::Result<()> {
    let target = own.parent().and_then(Path::parent);
    let target = target.ok_or_else(|| io::Error::other("this program is not in a target"))?;
    let status = build(cargo).args(["--quiet", "--target-dir"]).arg(target).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("the broker cannot be built ({status})")))
}

/// A call of cargo that builds the broker, with the profile that this was built with, and with the
/// features of the whole workspace, as for its tests: mostly it is built already.
pub fn build(cargo: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bin", "qbroker"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What cargo says of the package that runs is not for others: a build script that asks for it
    // (ring's does) would run again, and all that stands on it be built again, at each change from
    // cargo to cargo.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_broker_is_named_and_nothing_replaces_it() {
        let error = find(Some(Path::new("/nowhere/qbroker"))).unwrap_err().to_string();
        assert!(error.starts_with("there is no broker at /nowhere/qbroker: build it"), "{error}");
    }
}
