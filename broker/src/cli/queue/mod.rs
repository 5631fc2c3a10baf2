//! `qbroker queue`: queues, their policies and their figures.

use clap::{Args, Subcommand, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::{
    Client, Queue, QueueOrder, QueueQuery, QueueSpec, QueueState, QueueUpdate, Reason,
};

use self::policy::PolicyArgs;
use self::view::{DETAILS, LIST, MADE, item};
use super::Outcome;
use super::failure::Failure;
use super::globals::Globals;
use super::tally::Tally;

pub(super) use self::purge::State;

pub(super) mod overflow;
mod pause;
mod policy;
mod purge;
mod screen;
mod top;
mod view;

/// Queues asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Create a queue.
    Create(Box<CreateArgs>),
    /// List queues with what they hold.
    List(ListArgs),
    /// Show one queue: its policy and its figures.
    Show(NameArgs),
    /// Change a queue: what is named here, and nothing else.
    Update(Box<UpdateArgs>),
    /// Delete queues.
    Delete(DeleteArgs),
    /// Watch what queues hold and do.
    Top(top::TopArgs),
    /// Delete the messages of a queue.
    Purge(purge::PurgeArgs),
    /// Stop deliveries from queues, until they are resumed.
    Pause(pause::PauseArgs),
    /// Let queues go on that were paused.
    Resume(pause::ResumeArgs),
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The queue.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The queue: letters, digits, "_", "." and "-".
    name: String,
    /// It is fine where the same queue exists.
    #[arg(long)]
    if_missing: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only queues with this in their name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    contains: String,
    /// Only paused queues.
    #[arg(long)]
    paused: bool,
    /// What comes first.
    #[arg(long, value_name = "ORDER", default_value = "name")]
    sort: Sort,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// By name.
    Name,
    /// Those with the most ready messages.
    Ready,
    /// Those with the most dead letters.
    Dead,
}

impl From<Sort> for QueueOrder {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Name => Self::Name,
            Sort::Ready => Self::MostReady,
            Sort::Dead => Self::MostDead,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// The queue.
    name: String,
    /// Create the queue where it is missing.
    #[arg(long)]
    create: bool,
    /// Return a setting to its default, such as max-messages to no limit; may be repeated.
    #[arg(long, value_name = "SETTING", value_parser = policy::path)]
    reset: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The queues.
    #[arg(required = true)]
    names: Vec<String>,
    /// Also where they hold messages.
    #[arg(long)]
    force: bool,
    /// It is fine where they do not exist.
    #[arg(long)]
    if_exists: bool,
}

impl QueueCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let client = globals.connect().await?;
            match self {
                Self::Create(args) => create(*args, &client, globals).await,
                Self::List(args) => list(args, &client, globals).await,
                Self::Show(args) => show(&client.get_queue(&args.name).await?, globals),
                Self::Update(args) => update(*args, &client, globals).await,
                Self::Delete(args) => delete(&args, &client, globals).await,
                Self::Top(args) => args.run(&client, globals).await,
                Self::Purge(args) => args.run(&client, globals).await,
                Self::Pause(args) => args.run(&client).await,
                Self::Resume(args) => args.run(&client).await,
            }
        })
    }
}

fn show(queue: &Queue, globals: &Globals) -> Outcome {
    globals.output().item(&DETAILS, item(queue))?;
    Ok(Exit::Ok)
}

async fn create(args: CreateArgs, client: &Client, globals: &Globals) -> Outcome {
    let mut spec = QueueSpec::new(args.name).policy(args.policy.policy());
    spec.description = args.policy.description.unwrap_or_default();
    spec.labels = args.policy.labels.into_iter().collect();
    let queue = match args.if_missing {
        true => client.ensure_queue(spec).await?,
        false => client.create_queue(spec).await?,
    };
    globals.output().item(&MADE, item(&queue))?;
    Ok(Exit::Ok)
}

async fn list(args: ListArgs, client: &Client, globals: &Globals) -> Outcome {
    let mut query = QueueQuery {
        name_contains: args.contains,
        states: if args.paused { vec![QueueState::Paused] } else { Vec::new() },
        page_size: PAGE_SIZE,
        order: args.sort.into(),
        ..QueueQuery::default()
    };
    let mut items = Vec::new();
    loop {
        let page = client.list_queues(query.clone()).await?;
        items.extend(page.items.iter().map(item));
        if page.next_page_token.is_empty() {
            break;
        }
        query.page_token = page.next_page_token;
    }
    globals.output().list(&LIST, items)?;
    Ok(Exit::Ok)
}

async fn update(args: UpdateArgs, client: &Client, globals: &Globals) -> Outcome {
    let policy = args.policy.policy();
    let unchanged = args.policy.is_empty() && args.reset.is_empty() && !args.create;
    if unchanged {
        return Err(Failure::new(Exit::Usage, "nothing to change: name a setting or --reset one"));
    }
    let mut update = QueueUpdate::new(args.name).policy(policy);
    if let Some(description) = args.policy.description {
        update = update.description(description);
    }
    if !args.policy.labels.is_empty() {
        update = update.labels(args.policy.labels.into_iter().collect());
    }
    if args.create {
        update = update.create_missing();
    }
    let update = args.reset.into_iter().fold(update, QueueUpdate::reset);
    show(&client.update_queue(update).await?, globals)
}

async fn delete(args: &DeleteArgs, client: &Client, globals: &Globals) -> Outcome {
    let (what, flags) = match args.names.as_slice() {
        [name] => {
            let held = held(client, name).await?;
            let holding = held.map(|held| format!(" with {held} messages")).unwrap_or_default();
            let needs_force = !args.force && held.is_some_and(|held| 0 < held);
            let flags = if needs_force { "--yes --force" } else { "--yes" };
            (format!("delete the queue {name}{holding}"), flags)
        }
        names if args.force => (format!("delete {} queues", names.len()), "--yes"),
        names => {
            let flags = "--yes (and --force where they hold messages)";
            (format!("delete {} queues", names.len()), flags)
        }
    };
    globals.confirm_or_say(&what, flags)?;
    let mut tally = Tally::default();
    for name in &args.names {
        match client.delete_queue(name, args.force).await {
            Err(error) if args.if_exists && error.reason() == Some(&Reason::QueueNotFound) => {}
            deleted => tally.count(deleted),
        }
    }
    tally.outcome()
}

/// How many messages would be gone with it; nothing where the queue does not exist.
async fn held(client: &Client, name: &str) -> Result<Option<u64>, Failure> {
    match client.get_queue(name).await {
        Ok(Queue { stats, .. }) => {
            Ok(Some(stats.ready + stats.scheduled + stats.leased + stats.parked + stats.behind))
        }
        Err(error) if error.reason() == Some(&Reason::QueueNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
