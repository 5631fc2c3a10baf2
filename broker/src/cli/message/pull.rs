//! `qbroker message pull`: takes some messages, prints them, and says what becomes of them.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::{Client, Leased, Outcome as Settlement};
use serde_json::json;

use super::line::leased_item;
use super::peek::{COLUMNS, shown};
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::cli::globals::Globals;
use crate::cli::output::{Item, line, write_out};

#[derive(Debug, Args)]
pub(in crate::cli) struct PullArgs {
    /// The queue; made on demand, unless the broker was told not to.
    queue: String,
    /// The most messages to take.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max: u32,
    /// How long to wait for the first one; the broker allows 60 s at most.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// What becomes of them once they are printed.
    #[arg(long, value_name = "WHAT", default_value = "ack")]
    then: Then,
}

/// What becomes of messages that were printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Then {
    /// They are done, and gone for good.
    Ack,
    /// They go back to their place; it counts nothing.
    Release,
    /// They go to the dead-letter queue.
    DeadLetter,
}

impl PullArgs {
    /// Takes them. Exits with 1 where there were none.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let client = globals.connect().await?;
        let leased = client.pull([&self.queue], self.max, self.wait, None).await?;
        let printed = print(globals, &leased);
        // What nobody has seen is not done.
        let settlement = match printed {
            Ok(()) => self.then.settlement(),
            Err(_) => Settlement::Release { delay: None },
        };
        let found = !leased.is_empty();
        settle(&client, leased, &settlement).await?;
        printed?;
        Ok(if found { Exit::Ok } else { Exit::Negative })
    }
}

impl Then {
    fn settlement(self) -> Settlement {
        match self {
            Self::Ack => Settlement::Ack,
            Self::Release => Settlement::Release { delay: None },
            Self::DeadLetter => Settlement::DeadLetter {
                failure: Some(qbroker_client::Failure::new("operator", "given up by hand")),
            },
        }
    }
}

fn print(globals: &Globals, leased: &[Leased]) -> Result<(), Failure> {
    let (output, items) = (globals.output(), leased.iter().map(leased_item));
    if !output.is_chosen() {
        return Ok(write_out(&items.map(|item| line(&item)).collect::<String>())?);
    }
    let items = items.zip(leased).map(|(mut item, leased): (Item, _)| match output.has_columns() {
        true => {
            item.insert("state".to_owned(), json!("leased"));
            shown(item, &leased.message)
        }
        false => item,
    });
    Ok(output.list(&COLUMNS, items.collect())?)
}

async fn settle(
    client: &Client,
    leased: Vec<Leased>,
    settlement: &Settlement,
) -> Result<(), Failure> {
    if leased.is_empty() {
        return Ok(());
    }
    let settlements: Vec<(Bytes, Settlement)> =
        leased.into_iter().map(|leased| (leased.lease_token, settlement.clone())).collect();
    let results = client.settle(settlements).await?;
    Ok(results.into_iter().collect::<Result<(), _>>()?)
}
