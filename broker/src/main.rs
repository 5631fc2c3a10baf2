//! The `qbroker` command: the broker, and everything one does with it from a shell.

mod cli;

use std::process::ExitCode;

use qbroker_allocator::{Allocator, keep_memory};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    qbroker::search::end_on_panic();
    keep_memory();
    cli::main().into()
}
