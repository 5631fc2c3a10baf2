//! `qbroker message consume`: prints messages as they come, or hands each one to a program.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use qbroker::exit::Exit;
use qbroker_client::{Client, Consumer, Delivery, Error};

use super::line::leased_item;
use super::shares::ShareArgs;
use super::work::{LEAVE_PATIENCE, SETTLE_PATIENCE, Worker};
use crate::cli::Outcome;
use crate::cli::failure::{Failure, say};
use crate::cli::globals::{Format, Globals};
use crate::cli::output::{line, write_out};
use crate::cli::signals::Stops;

/// How long the broker is asked to wait at a time for a queue to be empty.
const EMPTY_WAIT: Duration = Duration::from_secs(20);

/// Messages printed and acked together: one write, one settlement.
const PRINTED_AT_ONCE: usize = 256;

#[derive(Debug, Args)]
#[command(after_help = EXEC_HELP)]
pub(in crate::cli) struct ConsumeArgs {
    /// The queues; made on demand, unless the broker was told not to.
    #[arg(required = true)]
    queues: Vec<String>,
    #[command(flatten)]
    shares: ShareArgs,
    /// Run this shell command for each message instead of printing it.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Commands to run at once.
    #[arg(long, value_name = "N", default_value = "1", requires = "exec")]
    concurrency: NonZeroU32,
    /// Publish what the command writes to stdout to this queue: together with the ack, or neither.
    #[arg(long, value_name = "QUEUE", requires = "exec")]
    then_publish: Option<String>,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End once the queues hold nothing ready, scheduled or leased.
    #[arg(long)]
    until_empty: bool,
}

const EXEC_HELP: &str = "\
With --exec, the command gets the payload on stdin and in its environment QBROKER_MESSAGE_ID and
QBROKER_MESSAGE_ATTEMPT, and beside them, named the same way, QUEUE, SEQUENCE, TYPE,
CORRELATION_ID, CONTENT_TYPE, PRIORITY, PUBLISH_TIME, FAILURES, CRASHES, HEADERS (JSON) and
HEADER_<KEY>. Exit code 0 acks the message; any other nacks it, with the end of its stderr for an
error, and it comes again by the queue's policy. With --then-publish, what it writes is the
payload of a message that is published in the same step as the ack; where the broker refuses it,
the message is nacked. A lease that is lost ends the command by SIGTERM.

Without --exec, messages are written to stdout as JSON lines; each is acked once it is written.

SIGINT or SIGTERM: takes no more, finishes what runs. A second one ends it at once; what ran comes
again and counts no attempt.";

/// What a queue being empty is waited for with; never ready where nobody asked.
type Emptiness<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

impl ConsumeArgs {
    /// Consumes until it is told to stop.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        let has_columns = |format| matches!(format, Format::Table | Format::Plain);
        if self.exec.is_none() && globals.output.is_some_and(has_columns) {
            // What asks for JSON gets it, each message in a line of its own: a document has an end.
            let message = "messages are printed one by one as JSON lines: --output (or QBROKER_OUTPUT) \
                           can only be jsonl or json";
            return Err(Failure::new(Exit::Usage, message));
        }
        let stops = Stops::listen()?;
        let told = stops.clone();
        let at_last = async {
            // Commands may run for long after the first signal; what is only printed may not.
            match self.exec {
                Some(_) => told.now.cancelled().await,
                None => told.finish.cancelled().await,
            }
            tokio::time::sleep(SETTLE_PATIENCE).await;
        };
        tokio::select! {
            outcome = self.consume(globals, stops) => outcome,
            () = at_last => {
                let message = "the broker does not answer: what was done last may come again";
                Err(Failure::new(Exit::TryLater, message))
            }
        }
    }

    async fn consume(&self, globals: &Globals, stops: Stops) -> Outcome {
        let client = globals.connect().await?;
        let mut consumer = client.consumer(self.shares.of(&self.queues)?);
        if let Some(window) = self.window() {
            consumer = consumer.window(window);
        }
        let consumer = consumer.open().await?;
        let empty = self.emptiness(&client);
        let consumed = match &self.exec {
            Some(command) => {
                let worker =
                    Worker::new(command, self.concurrency.get(), self.count, stops.clone())
                        .then_publish(self.then_publish.clone());
                worker.run(&consumer, empty, globals.quiet).await
            }
            None => self.print(&consumer, empty, &stops).await,
        };
        // Also where it failed: what was not handed out should not wait for the session's end.
        let closed = tokio::time::timeout(LEAVE_PATIENCE, consumer.close()).await;
        consumed?;
        // Everything was settled: a broker that is gone by now misses nothing.
        closed.unwrap_or(Ok(()))?;
        Ok(stops.exit())
    }

    /// No more than is worked on, or wanted, may wait here: it could be worked on elsewhere.
    fn window(&self) -> Option<u32> {
        let wanted = self.count.map(|count| u32::try_from(count).unwrap_or(u32::MAX).max(1));
        let workers = self.exec.is_some().then_some(self.concurrency.get());
        match (wanted, workers) {
            (Some(wanted), Some(workers)) => Some(wanted.min(workers)),
            (wanted, workers) => wanted.or(workers),
        }
    }

    fn emptiness<'a>(&'a self, client: &'a Client) -> Emptiness<'a> {
        if !self.until_empty {
            return Box::pin(std::future::pending());
        }
        Box::pin(async {
            // One after the other, until one pass finds all of them empty.
            loop {
                let mut waited = false;
                for queue in &self.queues {
                    while !client.wait_queue_empty(queue, EMPTY_WAIT).await?.0 {
                        waited = true;
                    }
                }
                if !waited {
                    return Ok(());
                }
            }
        })
    }

    async fn print(
        &self,
        consumer: &Consumer,
        mut empty: Emptiness<'_>,
        stops: &Stops,
    ) -> Result<(), Failure> {
        let mut left = self.count.unwrap_or(u64::MAX);
        while 0 < left {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PRINTED_AT_ONCE);
            let batch = tokio::select! {
                biased;
                () = stops.finish.cancelled() => break,
                batch = consumer.next_batch(most) => batch?,
                emptied = &mut empty => return Ok(emptied?),
            };
            if batch.is_empty() {
                break;
            }
            left -= batch.len() as u64;
            print_and_ack(consumer, batch).await?;
        }
        Ok(())
    }
}

/// A message is done once it is written, and not before.
async fn print_and_ack(consumer: &Consumer, batch: Vec<Delivery>) -> Result<(), Failure> {
    let text: String = batch.iter().map(|delivery| line(&leased_item(delivery))).collect();
    if let Err(error) = write_out(&text) {
        // Closing waits for the answer, as long as there is hope for one.
        drop(consumer.settle_all(batch, &qbroker_client::Outcome::Release { delay: None }));
        return Err(error.into());
    }
    for (_, error) in consumer.ack_all(batch).await {
        let Error::LeaseLost(_) = &error else { return Err(error.into()) };
        // Printed, but not ours any more: it will come again, here or elsewhere.
        say(&error.to_string());
    }
    Ok(())
}
