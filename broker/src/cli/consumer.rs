//! `qbroker consumer`: the streams that are open, and ending them.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use qbroker::exit::Exit;
use qbroker_client::{Client, ConnectedConsumer, ConsumerQuery};
use serde_json::{Value, json};

use super::Outcome;
use super::globals::Globals;
use super::output::{Column, Item, column, time};
use super::tally::Tally;

/// Consumers asked for at a time; the most the broker gives.
const PAGE_SIZE: u32 = 1000;

const COLUMNS: [Column; 8] = [
    column("ID", "consumer_id"),
    column("CLIENT", "client"),
    column("ADDRESS", "remote_address"),
    column("TOKEN", "principal"),
    column("QUEUES", "queue_names"),
    column("HELD", "outstanding_messages"),
    column("WINDOW", "window"),
    column("CONNECTED", "connect_time"),
];

#[derive(Debug, Subcommand)]
pub(super) enum ConsumerCommand {
    /// List the consumers that are connected, the oldest first.
    List(ListArgs),
    /// End consumers' streams.
    Disconnect(DisconnectArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only consumers of this queue.
    #[arg(long, value_name = "NAME", default_value = "")]
    queue: String,
}

const DISCONNECT_HELP: &str = "\
The stream fails with CONSUMER_DISCONNECTED, which tells the client not to come back by itself. What
it holds waits for its session's grace. With --end-session it is lost at once, with all that the
session holds: that counts as a crash of each message, and the session's other streams end, too.";

#[derive(Debug, Args)]
#[command(after_help = DISCONNECT_HELP)]
pub(super) struct DisconnectArgs {
    /// The consumers, as `consumer list` names them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// End their sessions, too.
    #[arg(long)]
    end_session: bool,
}

impl ConsumerCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            let client = globals.connect().await?;
            match self {
                Self::List(args) => list(args, &client, globals).await,
                Self::Disconnect(args) => disconnect(&args, &client).await,
            }
        })
    }
}

async fn list(args: ListArgs, client: &Client, globals: &Globals) -> Outcome {
    let mut query =
        ConsumerQuery { queue: args.queue, page_size: PAGE_SIZE, ..ConsumerQuery::default() };
    let mut items = Vec::new();
    loop {
        let page = client.list_consumers(query.clone()).await?;
        items.extend(page.items.iter().map(item));
        if page.next_page_token.is_empty() {
            break;
        }
        query.page_token = page.next_page_token;
    }
    let output = globals.output();
    if !output.has_columns() {
        items.iter_mut().for_each(|item| drop(item.remove("queue_names")));
    }
    output.list(&COLUMNS, items)?;
    Ok(Exit::Ok)
}

async fn disconnect(args: &DisconnectArgs, client: &Client) -> Outcome {
    let mut tally = Tally::default();
    for id in &args.ids {
        tally.count(client.disconnect_consumer(id, args.end_session).await);
    }
    tally.outcome()
}

/// A consumer by key.
fn item(consumer: &ConnectedConsumer) -> Item {
    let labels: BTreeMap<_, _> = consumer.labels.iter().collect();
    let item = json!({
        "consumer_id": consumer.consumer_id,
        "session_id": consumer.session_id,
        "client": client(consumer),
        "client_id": consumer.client_id,
        "hostname": consumer.hostname,
        "pid": consumer.pid,
        "sdk": consumer.sdk,
        "sdk_version": consumer.sdk_version,
        "labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "remote_address": consumer.remote_address,
        "principal": consumer.principal,
        "queues": consumer.queues,
        "queue_names": consumer.queues.join(" "),
        "outstanding_messages": consumer.outstanding_messages,
        "outstanding_bytes": consumer.outstanding_bytes,
        "window": consumer.window,
        "draining": consumer.draining,
        "connect_time": time(consumer.connect_time),
    });
    let Value::Object(item) = item else { unreachable!("it was made as an object") };
    item
}

/// What a person knows a worker by: its own name, else its process, else its library.
fn client(consumer: &ConnectedConsumer) -> String {
    match consumer {
        it if !it.client_id.is_empty() => it.client_id.clone(),
        it if it.pid == 0 => it.sdk.clone(),
        it if it.hostname.is_empty() => format!("pid {}", it.pid),
        it => format!("{}:{}", it.hostname, it.pid),
    }
}
