//! `qbroker schedule`: messages that the broker publishes by itself, again and again.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::{
    CatchUp, Client, OutgoingMessage, Reason, Schedule, ScheduleQuery, ScheduleSpec,
};
use serde_json::{Value, json};

use super::Outcome;
use super::failure::Failure;
use super::globals::Globals;
use super::message::dress::MessageArgs;
use super::output::{Column, Item, column, time};
use super::tally::Tally;

/// Schedules that are asked for at once.
const PAGE_SIZE: u32 = 1_000;

const CREATE_HELP: &str = "\
Times are five fields (minute, hour, day of month, month, day of week), six with seconds in front,
@hourly, @daily, @weekly, @monthly, @yearly, or \"@every 90s\":

    qbroker schedule create nightly reports '{\"days\": 1}' --type build_report \\
        --cron '30 3 * * *' --time-zone Europe/Berlin

Each tick publishes once, over crashes and restarts, with the headers schedule and schedule-tick-ms.";

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// Create a schedule.
    Create(Box<CreateArgs>),
    /// List schedules.
    List,
    /// Show a schedule with its next times.
    Show(NameArgs),
    /// Change a schedule; what is not named stays.
    Update(Box<UpdateArgs>),
    /// Let schedules stand still; ticks that come meanwhile are not caught up.
    Pause(NamesArgs),
    /// Let schedules go on, with their first tick after now.
    Resume(NamesArgs),
    /// Publish a schedule's message now, beside its ticks; exits with 1 where it skips.
    Run(NameArgs),
    /// Delete schedules; what they published stays.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(super) struct CreateArgs {
    /// The schedule.
    name: String,
    /// The queue that its messages go to.
    queue: String,
    /// The payload; empty where this is missing.
    #[arg(default_value = "")]
    payload: String,
    /// When.
    #[arg(long, value_name = "TIMES")]
    cron: String,
    #[command(flatten)]
    times: TimesArgs,
    /// Create it paused.
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    message: MessageArgs,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// The schedule.
    name: String,
    /// When.
    #[arg(long, value_name = "TIMES")]
    cron: Option<String>,
    #[command(flatten)]
    times: TimesArgs,
    /// Another queue.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Another payload.
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    #[command(flatten)]
    message: MessageArgs,
}

#[derive(Debug, Args)]
pub(super) struct TimesArgs {
    /// The time zone of these times, by its IANA name; UTC where nothing says otherwise.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// What happens to ticks that were missed while the broker was down; "last" for a new one.
    #[arg(long, value_name = "POLICY")]
    catch_up: Option<CatchUpArg>,
    /// Delay each message by up to this, at most 24h.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// Skip a tick while the message before it is unfinished.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    skip_if_unfinished: Option<bool>,
}

/// What happens to ticks that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CatchUpArg {
    /// They are skipped, but for one that is at most 60 s late.
    Skip,
    /// The last one is published.
    Last,
    /// Each of them is published.
    All,
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The schedule.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct NamesArgs {
    /// The schedules.
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The schedules.
    #[arg(required = true)]
    names: Vec<String>,
    /// It is fine where they do not exist.
    #[arg(long)]
    if_exists: bool,
}

const LIST: [Column; 7] = [
    column("NAME", "name"),
    column("CRON", "cron"),
    column("TIME_ZONE", "time_zone"),
    column("QUEUE", "queue"),
    column("STATE", "state"),
    column("NEXT", "next_publish_time"),
    column("PUBLISHED", "published_total"),
];

const DETAILS: [Column; 17] = [
    column("NAME", "name"),
    column("CRON", "cron"),
    column("TIME_ZONE", "time_zone"),
    column("STATE", "state"),
    column("QUEUE", "queue"),
    column("TYPE", "message_type"),
    column("PAYLOAD", "payload"),
    column("CATCH_UP", "catch_up"),
    column("JITTER", "jitter"),
    column("SKIP_IF_UNFINISHED", "skip_if_unfinished"),
    column("NEXT", "next_publish_time"),
    column("THEN", "then"),
    column("LAST", "last_publish_time"),
    column("PUBLISHED", "published_total"),
    column("SKIPPED", "skipped_total"),
    column("LAST_SKIP", "last_skip_reason"),
    column("CREATED", "create_time"),
];

impl ScheduleCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let client = globals.connect().await?;
            match self {
                Self::Create(args) => create(*args, &client, globals).await,
                Self::List => list(&client, globals).await,
                Self::Show(args) => show(&client.get_schedule(&args.name).await?, globals),
                Self::Update(args) => update(*args, &client, globals).await,
                Self::Pause(args) => each(&args.names, |name| client.pause_schedule(name)).await,
                Self::Resume(args) => each(&args.names, |name| client.resume_schedule(name)).await,
                Self::Run(args) => run(&args.name, &client, globals).await,
                Self::Delete(args) => delete(&args, &client, globals).await,
            }
        })
    }
}

async fn create(args: CreateArgs, client: &Client, globals: &Globals) -> Outcome {
    match client.get_schedule(&args.name).await {
        Err(error) if error.reason() == Some(&Reason::ScheduleNotFound) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => {
            let why = format!("the schedule {} exists; update it", args.name);
            return Err(Failure::new(Exit::Data, why));
        }
    }
    let message = args.message.dress(OutgoingMessage::new(args.payload).queue(args.queue));
    let spec = ScheduleSpec::new(args.name, args.cron, message);
    let spec = args.times.set(spec).paused(args.paused);
    show(&client.put_schedule(spec).await?, globals)
}

async fn update(args: UpdateArgs, client: &Client, globals: &Globals) -> Outcome {
    let before = client.get_schedule(&args.name).await?;
    let mut message = before.message.clone();
    if let Some(payload) = args.payload {
        message = message.payload(payload);
    }
    if let Some(queue) = args.queue {
        message = message.queue(queue);
    }
    let mut spec = ScheduleSpec::from(before).message(args.message.dress(message));
    if let Some(cron) = args.cron {
        spec = spec.cron(cron);
    }
    show(&client.put_schedule(args.times.set(spec)).await?, globals)
}

impl TimesArgs {
    fn set(self, mut spec: ScheduleSpec) -> ScheduleSpec {
        if let Some(zone) = self.time_zone {
            spec = spec.time_zone(zone);
        }
        if let Some(catch_up) = self.catch_up {
            spec = spec.catch_up(match catch_up {
                CatchUpArg::Skip => CatchUp::Skip,
                CatchUpArg::Last => CatchUp::Last,
                CatchUpArg::All => CatchUp::All,
            });
        }
        if let Some(jitter) = self.jitter {
            spec = spec.jitter(jitter);
        }
        match self.skip_if_unfinished {
            Some(skip) => spec.skip_if_unfinished(skip),
            None => spec,
        }
    }
}

async fn list(client: &Client, globals: &Globals) -> Outcome {
    let mut query = ScheduleQuery { page_size: PAGE_SIZE, ..ScheduleQuery::default() };
    let mut items = Vec::new();
    loop {
        let page = client.list_schedules(query.clone()).await?;
        items.extend(page.items.iter().map(item));
        if page.next_page_token.is_empty() {
            break;
        }
        query.page_token = page.next_page_token;
    }
    globals.output().list(&LIST, items)?;
    Ok(Exit::Ok)
}

fn show(schedule: &Schedule, globals: &Globals) -> Outcome {
    let mut item = item(schedule);
    if !globals.output().has_columns() {
        item.remove("then");
    }
    globals.output().item(&DETAILS, item)?;
    Ok(Exit::Ok)
}

async fn each<'a, F>(names: &'a [String], done: impl Fn(&'a str) -> F) -> Outcome
where
    F: Future<Output = Result<Schedule, qbroker_client::Error>>,
{
    let mut tally = Tally::default();
    for name in names {
        tally.count(done(name).await);
    }
    tally.outcome()
}

async fn run(name: &str, client: &Client, globals: &Globals) -> Outcome {
    let Some(id) = client.trigger_schedule(name).await? else { return Ok(Exit::Negative) };
    let mut item = Item::new();
    item.insert("message_id".to_owned(), json!(id));
    globals.output().item(&[column("MESSAGE_ID", "message_id")], item)?;
    Ok(Exit::Ok)
}

async fn delete(args: &DeleteArgs, client: &Client, globals: &Globals) -> Outcome {
    globals.confirm(&match args.names.as_slice() {
        [name] => format!("delete the schedule {name}"),
        names => format!("delete {} schedules", names.len()),
    })?;
    let mut tally = Tally::default();
    for name in &args.names {
        match client.delete_schedule(name).await {
            Err(error) if args.if_exists && error.reason() == Some(&Reason::ScheduleNotFound) => {}
            deleted => tally.count(deleted),
        }
    }
    tally.outcome()
}

/// A schedule by key.
fn item(schedule: &Schedule) -> Item {
    let catch_up = match schedule.catch_up {
        CatchUp::Skip => "skip",
        CatchUp::Last => "last",
        CatchUp::All => "all",
        _ => "unknown",
    };
    let next: Vec<Value> = schedule.next_publish_times.iter().map(|at| time(Some(*at))).collect();
    let then: Vec<&str> = next.iter().skip(1).filter_map(Value::as_str).collect();
    let zone = if schedule.time_zone.is_empty() { "UTC" } else { &schedule.time_zone };
    let item = json!({
        "name": schedule.name,
        "cron": schedule.cron,
        "time_zone": zone,
        "state": if schedule.paused { "paused" } else { "active" },
        "queue": schedule.queue,
        "message_type": schedule.message_type,
        "payload": String::from_utf8_lossy(&schedule.payload),
        "catch_up": catch_up,
        "jitter": humantime::format_duration(schedule.jitter).to_string(),
        "skip_if_unfinished": schedule.skip_if_unfinished,
        "next_publish_time": next.first(),
        "next_publish_times": next,
        "then": then.join(" "),
        "last_publish_time": time(schedule.last_publish_time),
        "published_total": schedule.published_total,
        "skipped_total": schedule.skipped_total,
        "last_skip_reason": schedule.last_skip_reason,
        "create_time": time(schedule.create_time),
    });
    let Value::Object(item) = item else { unreachable!("it was made as an object") };
    item
}
