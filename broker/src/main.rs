//! The `qbroker` command: the broker, and everything one does with it from a shell.

mod cli;

use std::process::ExitCode;

/// Payloads come and go by the mebibyte; the system's allocator gives each such buffer back to the
/// kernel and takes the page faults again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    qbroker::search::end_on_panic();
    cli::main().into()
}
