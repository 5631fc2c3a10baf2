//! `qbroker definitions`: queues and their policies, as a file that goes from broker to broker.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use qbroker::exit::Exit;
use qbroker_client::{Client, Queue, QueueQuery, QueueUpdate};

use self::changes::{COLUMNS, Change};
use self::file::{Definition, Definitions};
use super::Outcome;
use super::failure::{Failure, say};
use super::globals::{Format, Globals};
use super::output::write_out;
use super::tally::Tally;

mod changes;
mod file;

/// Queues asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum DefinitionsCommand {
    /// Print the queues and their policies as JSON.
    Export(ExportArgs),
    /// Make the queues of a file what it says they are.
    Import(ImportArgs),
}

const EXPORT_HELP: &str = "\
Descriptions, labels and what was set of each policy; what has its default is left out, so that it has
the default of the broker that imports it. No messages, no pauses, no tokens.";

#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub(super) struct ExportArgs {
    /// Only queues with this in their name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    contains: String,
}

const IMPORT_HELP: &str = "\
A queue of the file is made, or changed to what the file says; what the file does not say of it
returns to its default. Queues that are not in the file stay as they are, and so do messages. Once
imported, a file changes nothing when it is imported again. A file with a field that this version does
not know is refused as a whole. A queue that the broker refuses does not keep the others from being
imported: the exit code is 3.";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(super) struct ImportArgs {
    /// The file; - for stdin.
    file: PathBuf,
    /// Change nothing, print what would be changed; the exit code is 1 where that is something.
    #[arg(long)]
    dry_run: bool,
}

impl DefinitionsCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::Export(args) => globals.block_on(export(args, globals)),
            Self::Import(args) => {
                // A file that cannot be read needs no broker to say so.
                let definitions = Definitions::parse(&read(&args.file)?)?;
                globals.block_on(import(definitions, args.dry_run, globals))
            }
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(file).map(|read| text = read),
    };
    let name = file.display();
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read {name}: {error}")))?;
    Ok(text)
}

async fn export(args: ExportArgs, globals: &Globals) -> Outcome {
    if globals.output.is_some_and(|format| format != Format::Json) {
        return Err(Failure::new(Exit::Usage, "definitions are JSON: --output can only be json"));
    }
    let client = globals.connect().await?;
    let queues = queues(&client, args.contains).await?;
    let definitions = Definitions::of(queues.iter().map(Definition::of).collect());
    write_out(&definitions.to_text())?;
    Ok(Exit::Ok)
}

/// All queues, with their policies as they were set.
async fn queues(client: &Client, name_contains: String) -> Result<Vec<Queue>, Failure> {
    let page_size = PAGE_SIZE;
    let mut query =
        QueueQuery { name_contains, page_size, policy_as_set: true, ..QueueQuery::default() };
    let mut queues = Vec::new();
    loop {
        let page = client.list_queues(query.clone()).await?;
        queues.extend(page.items);
        if page.next_page_token.is_empty() {
            return Ok(queues);
        }
        query.page_token = page.next_page_token;
    }
}

async fn import(definitions: Definitions, dry_run: bool, globals: &Globals) -> Outcome {
    let client = globals.connect().await?;
    let there: BTreeMap<String, Definition> = queues(&client, String::new())
        .await?
        .iter()
        .map(|queue| (queue.name.clone(), Definition::of(queue)))
        .collect();
    let (mut tally, mut items, mut changed) = (Tally::default(), Vec::new(), 0);
    let total = definitions.queues.len();
    for wanted in definitions.queues {
        let Some(change) = Change::between(there.get(&wanted.name), &wanted) else { continue };
        let done = match dry_run {
            true => Ok(()),
            false => client.update_queue(update(wanted)).await.map(drop),
        };
        if done.is_ok() {
            changed += 1;
            items.extend(change.items());
        }
        tally.count(done);
    }
    if !items.is_empty() || !globals.output().has_columns() {
        globals.output().report(&COLUMNS, items)?;
    }
    if !globals.quiet {
        let would = if dry_run { "would be " } else { "" };
        say(&format!("{changed} of {total} queues {would}made or changed"));
    }
    match tally.outcome()? {
        Exit::Ok if dry_run && 0 < changed => Ok(Exit::Negative),
        exit => Ok(exit),
    }
}

/// What makes a queue what a file says it is.
fn update(wanted: Definition) -> QueueUpdate {
    QueueUpdate::new(wanted.name)
        .description(wanted.description)
        .labels(wanted.labels.into_iter().collect())
        .whole_policy(wanted.policy.into())
        .create_missing()
}
