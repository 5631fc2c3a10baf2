//! The command line: noun, verb, and the same manners everywhere.
//!
//! Data goes to stdout, everything else to stderr; a command that deletes asks on a terminal and
//! fails without `--yes` elsewhere; how it ended is its exit code.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use qbroker::exit::Exit;

use self::failure::Failure;
use self::globals::Globals;

mod completions;
mod config;
mod consumer;
mod data;
mod dead;
mod definitions;
mod dev;
mod failure;
mod globals;
mod health;
mod limit;
mod message;
mod operation;
mod output;
mod prompt;
mod queue;
mod schedule;
mod serve;
mod signals;
mod size;
mod tally;
mod state;
mod token;
mod version;

/// What a command returns: how it ended, or why it could not.
type Outcome = Result<Exit, Failure>;

/// A durable message broker in one binary.
#[derive(Debug, Parser)]
#[command(name = "qbroker", version, after_help = Exit::table(), max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    Serve(Box<serve::ServeArgs>),
    /// Run a broker to try things out: temporary data, loopback, no tokens.
    Dev(Box<dev::DevArgs>),
    /// Create, list, show, update, pause, delete and purge queues.
    #[command(subcommand, visible_alias = "queues")]
    Queue(queue::QueueCommand),
    /// Export and import queues with their policies, as a file.
    #[command(subcommand)]
    Definitions(definitions::DefinitionsCommand),
    /// Publish, pull, peek at, consume, move and delete messages.
    #[command(subcommand, visible_alias = "messages")]
    Message(Box<message::MessageCommand>),
    /// List consumers, and end their streams.
    #[command(subcommand, visible_alias = "consumers")]
    Consumer(consumer::ConsumerCommand),
    /// List, show, redrive and delete dead letters.
    #[command(subcommand)]
    Dead(Box<dead::DeadCommand>),
    /// List, show, cancel and wait for operations: moves and deletions of many messages.
    #[command(subcommand, visible_alias = "operations")]
    Operation(operation::OperationCommand),
    /// Create, list, show, update, pause, run and delete schedules: recurring messages.
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(schedule::ScheduleCommand),
    /// Values, counters, permits and barriers beside the messages.
    #[command(subcommand)]
    State(state::StateCommand),
    /// Ask whether a broker is there and ready.
    Health(health::HealthArgs),
    /// Check or repair a data folder, while no broker uses it.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Show and check the settings of `serve`.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make tokens and the hashes that a broker stores of them.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print the version.
    Version,
    /// Print a script that completes this command line in a shell.
    Completions(completions::CompletionsArgs),
}

/// Runs the command that the process was started with.
pub(crate) fn main() -> Exit {
    match parse_from(std::env::args_os()) {
        Ok(cli) => run(cli),
        Err(error) => usage(&error),
    }
}

/// Reads a line.
fn parse_from<T: Into<OsString> + Clone>(
    words: impl IntoIterator<Item = T>,
) -> Result<Cli, clap::Error> {
    let found = take_negative_numbers(Cli::command()).try_get_matches_from(words)?;
    Cli::from_arg_matches(&found)
}

/// A command whose values may be negative numbers everywhere: no flag is a digit, and what takes none
/// says so better than advice to write `-- -1`.
fn take_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    });
    command.mut_subcommands(take_negative_numbers)
}

fn run(cli: Cli) -> Exit {
    let globals = cli.globals;
    let outcome = match cli.command {
        Command::Serve(args) => args.run(),
        Command::Dev(args) => args.run(),
        Command::Queue(command) => command.run(&globals),
        Command::Definitions(command) => command.run(&globals),
        Command::Message(command) => command.run(&globals),
        Command::Consumer(command) => command.run(&globals),
        Command::Dead(command) => command.run(&globals),
        Command::Operation(command) => command.run(&globals),
        Command::Schedule(command) => command.run(&globals),
        Command::State(command) => command.run(&globals),
        Command::Health(args) => args.run(&globals),
        Command::Data(command) => command.run(&globals),
        Command::Config(command) => command.run(&globals),
        Command::Token(command) => command.run(&globals),
        Command::Version => version::run(&globals),
        Command::Completions(args) => args.run(Cli::command()),
    };
    outcome.unwrap_or_else(|failure| failure.report())
}

/// Prints help or what is wrong with the line, and says how that ends.
fn usage(error: &clap::Error) -> Exit {
    // A reader that has gone away does not change what the line was.
    error.print().ok();
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

/// A line as a test would type it, without the name of the program.
#[cfg(test)]
fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
    parse_from(std::iter::once("qbroker").chain(line.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        take_negative_numbers(Cli::command()).debug_assert();
    }

    #[test]
    fn a_negative_number_is_a_value_and_refused_as_one() {
        let refusal = |line: &[&str]| parse(line).expect_err("negative").to_string();
        let refused = refusal(&["queue", "create", "q", "--max-attempts", "-1"]);
        assert!(refused.contains("a number from 1"), "{refused}");
        for (flag, value) in
            [("--max-messages", "-1"), ("--max-bytes", "-1"), ("--retry-max", "-1")]
        {
            let line = ["queue", "update", "q", flag, value];
            let refused = refusal(&line);
            assert!(!refused.contains("-- -1"), "{refused}");
        }
        assert!(parse(&["state", "counter", "k", "--add", "-1"]).is_ok());
        assert!(parse(&["message", "publish", "q", "-1"]).is_ok());
    }

    #[test]
    fn help_is_no_error_and_everything_else_is_usage() {
        let exit = |line: &[&str]| match parse(line) {
            Ok(_) => None,
            Err(error) => Some(if error.use_stderr() { Exit::Usage } else { Exit::Ok }),
        };
        assert_eq!(exit(&["--help"]), Some(Exit::Ok));
        assert_eq!(exit(&["queue", "create", "--help"]), Some(Exit::Ok));
        assert_eq!(exit(&["--version"]), Some(Exit::Ok));
        assert_eq!(exit(&[]), Some(Exit::Usage));
        assert_eq!(exit(&["queue"]), Some(Exit::Usage));
        assert_eq!(exit(&["quue", "list"]), Some(Exit::Usage));
        assert_eq!(exit(&["queue", "list", "--colour"]), Some(Exit::Usage));
        assert_eq!(exit(&["queue", "list", "--timeout", "soon"]), Some(Exit::Usage));
        assert_eq!(exit(&["version"]), None);
    }

    #[test]
    fn global_flags_stand_before_the_noun_or_behind_the_verb() {
        for line in [
            ["--url", "http://b:1", "queue", "list"],
            ["queue", "--url", "http://b:1", "list"],
            ["queue", "list", "--url", "http://b:1"],
        ] {
            assert_eq!(parse(&line).unwrap().globals.url, "http://b:1");
        }
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains(" 74  damaged data: do not restart"), "{help}");
        assert!(help.contains(" 64  wrong usage"), "{help}");
    }
}
