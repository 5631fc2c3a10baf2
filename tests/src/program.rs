//! The `qbroker` program under test: where it is, and running its commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The program, built by cargo at the first use.
///
/// Cargo names programs to the tests of their own package only, so cargo is asked here: one more
/// build of what is mostly built already, and never a stale program. `--workspace` has it choose
/// the features that `cargo test --workspace` chose, which makes the build a look at time stamps.
/// `QBROKER_BIN` names another program to test, a release build say.
///
/// # Panics
/// When the program does not build.
pub fn path() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("QBROKER_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let mut cargo = qbroker_program::build(env!("CARGO"));
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let built = cargo.output().expect("cargo runs");
    assert!(built.status.success(), "the program does not build");
    let messages = String::from_utf8(built.stdout).expect("cargo writes UTF-8");
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    messages.lines().rev().find_map(executable).expect("cargo names what it built")
}

/// The program with these arguments, in an environment that holds nothing else.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started, or was ended by a signal.
pub fn run(arguments: &[&str]) -> Ran {
    Ran::of(command(arguments).output().expect("it starts"))
}

impl Ran {
    /// What a finished process left.
    ///
    /// # Panics
    /// When it was ended by a signal, or wrote something else than text.
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).expect("it writes UTF-8"),
            err: String::from_utf8(output.stderr).expect("it writes UTF-8"),
        }
    }
}
