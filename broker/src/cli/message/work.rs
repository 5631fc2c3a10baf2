//! A worker made of a shell command: so many at once, each message settled by what becomes of it.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use qbroker::exit::Exit;
use qbroker_client::{
    Consumer, Delivery, Error, Failure as Why, OutgoingMessage, Settlement, Settling,
};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::exec::{Job, Verdict, execute};
use super::line::variables;
use crate::cli::failure::{Failure, say};
use crate::cli::signals::Stops;

/// How long to try, after the last command, to tell the broker how it ended: as long as it keeps the
/// leases of a client that is away.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(15);

/// How long to try to take leave of a broker that has the outcome of all that was done: it only
/// hands back sooner what was not begun. Less than what Docker gives a container to stop, 10 s.
pub(super) const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Hands messages to a command.
pub(super) struct Worker {
    command: Arc<str>,
    /// What the command writes is published there.
    then: Option<String>,
    concurrency: u32,
    /// Messages to take in all.
    wanted: u64,
    stops: Stops,
    tally: Tally,
    taken: u64,
    running: u32,
    tasks: JoinSet<Ended>,
}

/// What became of the messages, as far as the broker has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    done: u64,
    failed: u64,
    released: u64,
    lost: u64,
}

impl Tally {
    fn count(&mut self, fate: Fate) {
        *match fate {
            Fate::Done => &mut self.done,
            Fate::Failed => &mut self.failed,
            Fate::Released => &mut self.released,
        } += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, failed, released, lost } = self;
        write!(f, "{done} done, {failed} failed, {released} released, {lost} lost")
    }
}

/// What a settlement says of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Failed,
    Released,
}

/// A task that came to its end.
enum Ended {
    /// A command, with its message, and what became of it.
    Worked(Box<Delivery>, io::Result<Verdict>),
    /// A settlement, what it says of its message, and whether the broker has taken it.
    Settled(Fate, Result<(), Error>),
}

impl Worker {
    /// A worker that runs at most `concurrency` commands at once, on `count` messages in all.
    pub(super) fn new(command: &str, concurrency: u32, count: Option<u64>, stops: Stops) -> Self {
        Self {
            command: command.into(),
            then: None,
            concurrency,
            wanted: count.unwrap_or(u64::MAX),
            stops,
            tally: Tally::default(),
            taken: 0,
            running: 0,
            tasks: JoinSet::new(),
        }
    }

    /// Publishes what the command writes to this queue, together with the ack.
    pub(super) fn then_publish(self, then: Option<String>) -> Self {
        Self { then, ..self }
    }

    /// Works until it is told to stop, has had enough, or `empty` says that there is no more; then
    /// finishes what runs, until the broker has the outcome of it all.
    ///
    /// # Errors
    /// Where the consumer ends, or the command cannot be started.
    pub(super) async fn run(
        mut self,
        consumer: &Consumer,
        empty: Pin<Box<dyn Future<Output = Result<(), Error>> + '_>>,
        quiet: bool,
    ) -> Result<(), Failure> {
        let mut outcome = self.take(consumer, empty).await;
        if !quiet && self.stops.finish.is_cancelled() && 0 < self.running {
            say(&format!(
                "finishing what runs ({}); a second signal ends it at once",
                self.running
            ));
        }
        // What was delivered and not begun goes back now, not when the last command ends.
        let drain = consumer.drain();
        tokio::pin!(drain);
        let mut drained = false;
        while !self.tasks.is_empty() {
            if outcome.is_err() {
                // Nothing that ends from here on could be settled, or nothing can be run at all.
                self.stops.now.cancel();
            }
            let step = tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(consumer, ended),
                result = &mut drain, if !drained => {
                    drained = true;
                    result.map_err(Failure::from)
                }
                () = tokio::time::sleep(SETTLE_PATIENCE), if self.running == 0 => {
                    let message = "the broker does not answer: what was done last may come again";
                    return Err(Failure::new(Exit::TryLater, message));
                }
            };
            outcome = outcome.and(step);
        }
        outcome?;
        if !quiet {
            say(&self.tally.to_string());
        }
        Ok(())
    }

    async fn take(
        &mut self,
        consumer: &Consumer,
        mut empty: Pin<Box<dyn Future<Output = Result<(), Error>> + '_>>,
    ) -> Result<(), Failure> {
        while self.taken < self.wanted {
            let room = self.running < self.concurrency;
            tokio::select! {
                biased;
                () = self.stops.finish.cancelled() => return Ok(()),
                Some(ended) = self.tasks.join_next() => self.end(consumer, ended)?,
                next = consumer.next(), if room => match next? {
                    Some(delivery) => self.begin(delivery),
                    None => return Ok(()),
                },
                emptied = &mut empty => return Ok(emptied?),
            }
        }
        Ok(())
    }

    fn begin(&mut self, delivery: Delivery) {
        self.taken += 1;
        self.running += 1;
        let stop = self.stops.now.child_token();
        let takes_output = self.then.is_some();
        self.tasks.spawn(work(Arc::clone(&self.command), takes_output, delivery, stop));
    }

    fn end(&mut self, consumer: &Consumer, ended: Result<Ended, JoinError>) -> Result<(), Failure> {
        match ended.expect("tasks are never cancelled, and a panic is a bug") {
            Ended::Worked(delivery, verdict) => {
                self.running -= 1;
                self.narrow(consumer);
                let (fate, settling) = self.settle(*delivery, verdict)?;
                self.tasks.spawn(async move { Ended::Settled(fate, settling.await) });
                Ok(())
            }
            Ended::Settled(fate, Ok(())) => {
                self.tally.count(fate);
                Ok(())
            }
            Ended::Settled(_, Err(Error::LeaseLost(reason))) => {
                // Its outcome does not count: somebody else has the message, or will.
                warn!(reason, "a message was lost before it was settled");
                self.tally.lost += 1;
                Ok(())
            }
            Ended::Settled(_, Err(error @ Error::Refused(_))) if self.then.is_some() => {
                // Nothing was published, and the message comes again.
                warn!(%error, "what a command wrote was not taken: its message was nacked");
                self.tally.count(Fate::Failed);
                Ok(())
            }
            Ended::Settled(_, Err(error)) => Err(error.into()),
        }
    }

    /// Towards the end of a counted run, asks for no more than will be taken. To be called before a
    /// settlement makes room.
    fn narrow(&self, consumer: &Consumer) {
        let rest = (self.wanted - self.taken).saturating_add(u64::from(self.running));
        if rest < u64::from(self.concurrency) {
            consumer.set_window(u32::try_from(rest).unwrap_or(u32::MAX));
        }
    }

    /// Tells the broker; the tally has it once that is known to have taken it.
    fn settle(
        &self,
        delivery: Delivery,
        verdict: io::Result<Verdict>,
    ) -> Result<(Fate, Settling), Failure> {
        Ok(match verdict {
            Ok(Verdict::Done(output)) => {
                let settling = match &self.then {
                    None => delivery.ack(),
                    Some(queue) => {
                        let message = OutgoingMessage::new(output).queue(queue);
                        delivery.settle(Settlement::ack().publish(message))
                    }
                };
                (Fate::Done, settling)
            }
            Ok(Verdict::Failed { kind, message, details }) => {
                (Fate::Failed, delivery.nack(Why::new(kind, message).details(details)))
            }
            Ok(Verdict::Stopped) => (Fate::Released, delivery.release()),
            Err(error) => {
                drop(delivery.release());
                let message = format!("cannot run the command: {error}");
                return Err(Failure::new(Exit::Unavailable, message));
            }
        })
    }
}

/// Runs the command on one message; its end, or the lease's, whichever comes first.
async fn work(
    command: Arc<str>,
    takes_output: bool,
    delivery: Delivery,
    stop: CancellationToken,
) -> Ended {
    let (payload, variables) = (delivery.message.payload.clone(), variables(&delivery));
    let job = Job { payload, variables, takes_output };
    let running = execute(&command, job, &stop);
    tokio::pin!(running);
    let verdict = tokio::select! {
        verdict = &mut running => verdict,
        reason = delivery.lost() => {
            warn!(message_id = delivery.message.message_id, ?reason, "lost a message: its command is stopped");
            stop.cancel();
            running.await
        }
    };
    Ended::Worked(Box::new(delivery), verdict)
}
