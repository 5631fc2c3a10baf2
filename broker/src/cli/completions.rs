//! `qbroker completions`.

use clap::{Args, Command};
use clap_complete::Shell;
use qbroker::exit::Exit;

use super::Outcome;
use super::output::write_out;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell: bash, elvish, fish, powershell or zsh.
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the script that completes `command`.
    pub(super) fn run(&self, mut command: Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "qbroker", &mut script);
        write_out(&String::from_utf8(script).expect("scripts are made of text"))?;
        Ok(Exit::Ok)
    }
}
