//! `qbroker config`: the settings of `serve`, as they would be taken.

use clap::{Args, Subcommand};
use qbroker::config::{ConfigError, Resolved, SETTINGS, ServeFlags};
use qbroker::exit::Exit;
use serde_json::json;

use super::Outcome;
use super::failure::{Failure, say};
use super::globals::Globals;
use super::output::{Column, Item, column, write_out};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting as `serve` would take it with the same flags, environment and file.
    Show(Box<ShowArgs>),
    /// Print every setting with its default and meaning.
    Defaults,
    /// Say whether the settings are right; print nothing else.
    Check(Box<ServeFlags>),
    /// Print the reference page of the settings, or of the metrics.
    Reference(ReferenceArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Print where each value came from, too.
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    flags: ServeFlags,
}

#[derive(Debug, Args)]
pub(super) struct ReferenceArgs {
    /// The metrics instead of the settings.
    #[arg(long)]
    metrics: bool,
}

impl ConfigCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::Show(args) => show(*args, globals)?,
            Self::Defaults => defaults(globals)?,
            Self::Check(flags) => {
                resolve(*flags)?;
            }
            Self::Reference(args) if args.metrics => {
                write_out(&qbroker::metrics::reference_page())?
            }
            Self::Reference(_) => write_out(&qbroker::config::reference_page())?,
        }
        Ok(Exit::Ok)
    }
}

/// The settings these flags give, with a word about variables that mean nothing.
///
/// # Errors
/// As [`ServeFlags::resolve`].
pub(super) fn resolve(flags: ServeFlags) -> Result<Resolved, Failure> {
    let resolved = flags.resolve()?;
    for variable in &resolved.unknown_variables {
        say(&format!("the environment variable {variable} is no setting and has no effect"));
    }
    Ok(resolved)
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

fn show(args: ShowArgs, globals: &Globals) -> Result<(), Failure> {
    let resolved = resolve(args.flags)?;
    let item = |row: &qbroker::config::ResolvedRow| {
        let mut item = Item::new();
        item.insert("name".to_owned(), json!(row.setting.name));
        item.insert("value".to_owned(), json!(row.text));
        if args.origin {
            item.insert("origin".to_owned(), json!(row.origin.to_string()));
        }
        item
    };
    let all = [column("NAME", "name"), column("VALUE", "value"), column("ORIGIN", "origin")];
    let columns: &[Column] = if args.origin { &all } else { &all[..2] };
    Ok(globals.output().list(columns, resolved.rows.iter().map(item).collect())?)
}

fn defaults(globals: &Globals) -> Result<(), Failure> {
    let items = SETTINGS.iter().map(|setting| {
        let mut item = Item::new();
        item.insert("name".to_owned(), json!(setting.name));
        item.insert("default".to_owned(), json!(setting.default_text()));
        item.insert("variable".to_owned(), json!(setting.variable()));
        item.insert("meaning".to_owned(), json!(setting.summary()));
        item
    });
    let columns =
        [column("NAME", "name"), column("DEFAULT", "default"), column("MEANING", "meaning")];
    Ok(globals.output().list(&columns, items.collect())?)
}
