//! The `qbroker` command: the broker, and everything one does with it from a shell.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
