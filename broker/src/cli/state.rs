//! `qbroker state`: values, counters, permits and barriers.

mod barrier;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::{Args, Subcommand};
use qbroker::exit::Exit;
use qbroker_client::{Client, CounterChange, Holder};
use serde_json::json;

use self::barrier::{ArriveArgs, BarrierArgs, CreateArgs};
use super::Outcome;
use super::failure::Failure;
use super::globals::Globals;
use super::output::{Item, column};

#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Print the value of a key; exits with 1 where there is none.
    Get(GetArgs),
    /// Store a value under a key.
    Set(SetArgs),
    /// Delete the value and the counter of keys; exits with 1 where there was none of them.
    Delete(KeysArgs),
    /// Print a counter, or add to it; exits with 1 where it is not there, or a bound would be passed.
    Counter(CounterArgs),
    /// Take a permit and print its id; exits with 1 where none is free.
    Acquire(AcquireArgs),
    /// Give a permit back; exits with 1 where it had ended before.
    Release(ReleaseArgs),
    /// Make a barrier, which publishes messages once all have arrived; exits with 1 where it is there.
    CreateBarrier(CreateArgs),
    /// Arrive at a barrier and show it; exits with 1 where it is not known.
    Arrive(ArriveArgs),
    /// Show a barrier; exits with 1 where it is not known.
    Barrier(BarrierArgs),
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The key.
    key: String,
    /// How long to wait for it; the broker allows 60 s at most.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The key.
    key: String,
    /// The value; read from stdin where it is missing or "-".
    value: Option<String>,
    /// How long it is kept; until it is deleted where this is not given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Only where there is none; exits with 1 where there is.
    #[arg(long)]
    if_absent: bool,
}

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    /// The keys.
    #[arg(required = true)]
    keys: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CounterArgs {
    /// The key.
    key: String,
    /// Add this, which may be negative.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    add: Option<i64>,
    /// Not below this.
    #[arg(long, value_name = "N", requires = "add", allow_negative_numbers = true)]
    min: Option<i64>,
    /// Not above this.
    #[arg(long, value_name = "N", requires = "add", allow_negative_numbers = true)]
    max: Option<i64>,
    /// How long it is kept after this; until it is deleted where this is not given.
    #[arg(long, value_name = "DURATION", requires = "add", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct AcquireArgs {
    /// The key.
    key: String,
    /// How many permits there are.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// When it ends by itself.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How long to wait for one; the broker allows 60 s at most.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The permit, as `acquire` printed it.
    id: String,
}

impl StateCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let client = globals.connect().await?;
            match self {
                Self::Get(args) => get(&args, &client, globals).await,
                Self::Set(args) => set(args, &client).await,
                Self::Delete(args) => delete(&args, &client).await,
                Self::Counter(args) => counter(args, &client, globals).await,
                Self::Acquire(args) => acquire(&args, &client, globals).await,
                Self::Release(args) => Ok(found(client.state().release(&args.id).await?)),
                Self::CreateBarrier(args) => args.run(&client).await,
                Self::Arrive(args) => args.run(&client, globals).await,
                Self::Barrier(args) => args.run(&client, globals).await,
            }
        })
    }
}

fn found(is: bool) -> Exit {
    if is { Exit::Ok } else { Exit::Negative }
}

async fn get(args: &GetArgs, client: &Client, globals: &Globals) -> Outcome {
    let Some(value) = client.state().wait_for(&args.key, args.wait).await? else {
        return Ok(Exit::Negative);
    };
    if !globals.output().is_chosen() {
        // As it was stored, whatever it is.
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&value)?;
        // What is still held back at the exit is lost without a word.
        stdout.flush()?;
        return Ok(Exit::Ok);
    }
    let mut item = item(&args.key);
    let (name, text) = match std::str::from_utf8(&value) {
        Ok(text) => ("value", text.to_owned()),
        Err(_) => ("value_base64", BASE64.encode(&value)),
    };
    item.insert(name.to_owned(), json!(text));
    globals.output().item(&[column("KEY", "key"), column("VALUE", name)], item)?;
    Ok(Exit::Ok)
}

async fn set(args: SetArgs, client: &Client) -> Outcome {
    let value = match args.value.filter(|value| value != "-") {
        Some(value) => Bytes::from(value),
        None => {
            let mut value = Vec::new();
            std::io::stdin().lock().read_to_end(&mut value).map_err(|error| {
                Failure::new(Exit::Usage, format!("cannot read the value from stdin: {error}"))
            })?;
            value.into()
        }
    };
    let state = client.state();
    if args.if_absent {
        return Ok(found(state.put_if_absent(&args.key, value, args.ttl).await?));
    }
    state.put(&args.key, value, args.ttl).await?;
    Ok(Exit::Ok)
}

async fn delete(args: &KeysArgs, client: &Client) -> Outcome {
    let mut deleted = false;
    for key in &args.keys {
        deleted |= client.state().delete(key).await?;
    }
    Ok(found(deleted))
}

async fn counter(args: CounterArgs, client: &Client, globals: &Globals) -> Outcome {
    let (applied, value) = match args.add {
        None => match client.state().counter(&args.key).await? {
            None => return Ok(Exit::Negative),
            Some(value) => (true, value),
        },
        Some(amount) => {
            let mut change = CounterChange::new(&args.key, amount);
            if let Some(minimum) = args.min {
                change = change.minimum(minimum);
            }
            if let Some(maximum) = args.max {
                change = change.maximum(maximum);
            }
            if let Some(ttl) = args.ttl {
                change = change.ttl(ttl);
            }
            let counted = client.state().add(change).await?;
            (counted.applied, counted.value)
        }
    };
    if globals.output().is_chosen() {
        let mut item = item(&args.key);
        item.insert("value".to_owned(), json!(value));
        item.insert("applied".to_owned(), json!(applied));
        let columns =
            [column("KEY", "key"), column("VALUE", "value"), column("APPLIED", "applied")];
        globals.output().item(&columns, item)?;
    } else {
        super::output::write_out(&format!("{value}\n"))?;
    }
    Ok(found(applied))
}

async fn acquire(args: &AcquireArgs, client: &Client, globals: &Globals) -> Outcome {
    let AcquireArgs { key, limit, ttl, wait } = args;
    let state = client.state();
    let Some(id) = state.acquire(key, *limit, Holder::Nobody, *ttl, *wait).await? else {
        return Ok(Exit::Negative);
    };
    if globals.output().is_chosen() {
        let mut item = item(key);
        item.insert("permit_id".to_owned(), json!(id));
        globals.output().item(&[column("KEY", "key"), column("PERMIT", "permit_id")], item)?;
    } else {
        super::output::write_out(&format!("{id}\n"))?;
    }
    Ok(Exit::Ok)
}

fn item(key: &str) -> Item {
    let mut item = Item::new();
    item.insert("key".to_owned(), json!(key));
    item
}
