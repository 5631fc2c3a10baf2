//! `qbroker state create-barrier`, `arrive` and `barrier`.

use std::time::Duration;

use clap::Args;
use qbroker::exit::Exit;
use qbroker_client::{Barrier, BarrierState, Client, NewBarrier, OutgoingMessage};
use serde_json::json;

use super::{found, item};
use crate::cli::Outcome;
use crate::cli::globals::Globals;
use crate::cli::output::column;

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// The key.
    key: String,
    /// How many arrivals complete it.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    parties: u32,
    /// When it ends, complete or not; the broker allows 365 days at most.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// A message to be published with the last arrival; may be repeated.
    #[arg(long, value_name = "QUEUE=PAYLOAD", value_parser = message)]
    then: Vec<OutgoingMessage>,
    /// A message to be published where it ends before; may be repeated.
    #[arg(long = "else", value_name = "QUEUE=PAYLOAD", value_parser = message)]
    otherwise: Vec<OutgoingMessage>,
    /// What the members bring is the payload of each --then, in place of its own.
    #[arg(long, requires = "then")]
    collect: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ArriveArgs {
    /// The barrier's key.
    key: String,
    /// Who arrives: a second time counts nothing.
    member: String,
    /// What it brings, for a barrier that collects.
    #[arg(default_value = "")]
    value: String,
    /// It failed.
    #[arg(long)]
    failed: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BarrierArgs {
    /// The key.
    key: String,
    /// How long to wait for it to complete or expire; the broker allows 60 s at most.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// A message for a queue; without "=", an empty one.
fn message(text: &str) -> Result<OutgoingMessage, String> {
    let (queue, payload) = text.split_once('=').unwrap_or((text, ""));
    match queue {
        "" => Err("a message needs a queue: QUEUE=PAYLOAD".to_owned()),
        queue => Ok(OutgoingMessage::new(payload.to_owned()).queue(queue)),
    }
}

impl CreateArgs {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let barrier = NewBarrier::new(self.key, self.parties).ttl(self.ttl);
        let barrier = self.then.into_iter().fold(barrier, NewBarrier::on_complete);
        let barrier = self.otherwise.into_iter().fold(barrier, NewBarrier::on_expire);
        let barrier = if self.collect { barrier.collect_values() } else { barrier };
        Ok(found(client.state().create_barrier(barrier).await?))
    }
}

impl ArriveArgs {
    pub(super) async fn run(self, client: &Client, globals: &Globals) -> Outcome {
        let Self { key, member, value, failed } = self;
        let barrier = client.state().arrive(&key, &member, value, failed).await?;
        show(&key, barrier, globals)
    }
}

impl BarrierArgs {
    pub(super) async fn run(self, client: &Client, globals: &Globals) -> Outcome {
        show(&self.key, client.state().barrier(&self.key, self.wait).await?, globals)
    }
}

fn show(key: &str, barrier: Option<Barrier>, globals: &Globals) -> Outcome {
    let Some(barrier) = barrier else { return Ok(Exit::Negative) };
    let state = match barrier.state {
        BarrierState::Open => "open",
        BarrierState::Complete => "complete",
        BarrierState::Expired => "expired",
        _ => "unknown",
    };
    let mut item = item(key);
    item.insert("state".to_owned(), json!(state));
    item.insert("arrived".to_owned(), json!(barrier.arrived));
    item.insert("parties".to_owned(), json!(barrier.parties));
    item.insert("failed".to_owned(), json!(barrier.failed));
    let columns = [
        column("KEY", "key"),
        column("STATE", "state"),
        column("ARRIVED", "arrived"),
        column("PARTIES", "parties"),
        column("FAILED", "failed"),
    ];
    globals.output().item(&columns, item)?;
    Ok(Exit::Ok)
}
