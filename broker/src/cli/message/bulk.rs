//! Publishes a file of JSON lines: many on their way at once, each one accounted for.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use qbroker::exit::Exit;
use qbroker_client::{Error, OutgoingMessage, PendingReceipt, Publisher};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::publish::PublishArgs;
use crate::cli::Outcome;
use crate::cli::failure::{Failure, say};
use crate::cli::globals::Globals;
use crate::cli::output::{Item, column};
use crate::cli::signals::Stops;

/// The longest line: more than the broker takes, and a bound on what a file without line ends costs.
pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;

/// Messages on their way at once; their bytes are bounded by the publisher.
const PENDING_MAX: usize = 8192;

/// How many refused lines are told one by one.
const REFUSALS_TOLD: u64 = 10;

/// Publishes each line of the file at `path` and returns once all are answered.
pub(super) async fn publish(globals: &Globals, args: &PublishArgs, path: &Path) -> Outcome {
    let stops = Stops::listen()?;
    let (mut source, size) = open(path).await?;
    let client = globals.connect().await?;
    let publisher = client.publisher(args.queue()).open().await?;
    let mut bulk = Bulk::new(publisher, progress(globals, size));
    let outcome = tokio::select! {
        outcome = bulk.run(args, source.as_mut(), &stops) => outcome,
        () = stops.now.cancelled() => {
            Err(Failure::new(stops.cut_short(), "stopped at once: the rest may be stored or not"))
        }
    };
    bulk.bar.finish_and_clear();
    bulk.tell(globals)?;
    outcome?;
    Ok(if stops.finish.is_cancelled() { stops.cut_short() } else { bulk.exit() })
}

pub(super) type Source = Box<dyn AsyncBufRead + Unpin + Send>;

/// The file at `path` ("-": stdin), and its size where it has one.
///
/// # Errors
/// Where it cannot be read.
pub(super) async fn open(path: &Path) -> Result<(Source, Option<u64>), Failure> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(tokio::io::stdin())), None));
    }
    let unreadable =
        |error| Failure::new(Exit::Data, format!("cannot read {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let metadata = file.metadata().await.map_err(unreadable)?;
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), size))
}

/// On stderr, and only where that is a terminal.
fn progress(globals: &Globals, size: Option<u64>) -> ProgressBar {
    if globals.quiet {
        return ProgressBar::hidden();
    }
    let template = match size {
        Some(_) => "{bar:40} {percent:>3} %  {msg}  {binary_bytes_per_sec}  {eta} left",
        None => "{spinner} {binary_bytes}  {msg}  {binary_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style)
}

#[derive(Debug)]
struct Bulk {
    publisher: Publisher,
    bar: ProgressBar,
    began: Instant,
    /// Lines on their way, by number, with their length. Oldest first.
    pending: VecDeque<(u64, u64, PendingReceipt)>,
    lines: u64,
    stored: u64,
    duplicates: u64,
    refused: u64,
    bytes: u64,
}

impl Bulk {
    fn new(publisher: Publisher, bar: ProgressBar) -> Self {
        Self {
            publisher,
            bar,
            began: Instant::now(),
            pending: VecDeque::new(),
            lines: 0,
            stored: 0,
            duplicates: 0,
            refused: 0,
            bytes: 0,
        }
    }

    /// Reads to the end, or until it is asked to finish, and waits for every answer.
    async fn run(
        &mut self,
        args: &PublishArgs,
        source: &mut (dyn AsyncBufRead + Unpin + Send),
        stops: &Stops,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        let finish = stops.finish.cancelled();
        tokio::pin!(finish);
        loop {
            let more = tokio::select! {
                biased;
                // The next line may be long in coming; one that has only begun is not published.
                () = &mut finish => false,
                more = read_line(source, &mut line) => more?,
            };
            if !more {
                break;
            }
            self.lines += 1;
            self.offer(args, &line).await?;
            while PENDING_MAX <= self.pending.len() {
                self.settle_oldest().await?;
            }
        }
        while !self.pending.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Sends a line on its way; tells the reason where it is refused before that.
    async fn offer(&mut self, args: &PublishArgs, line: &[u8]) -> Result<(), Failure> {
        if let Err(reason) = self.try_offer(args, line).await? {
            self.refuse(self.lines, &reason);
        }
        Ok(())
    }

    async fn try_offer(
        &mut self,
        args: &PublishArgs,
        line: &[u8],
    ) -> Result<Result<(), String>, Failure> {
        let message = match message_of(args, line) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Ok(())),
            Err(reason) => return Ok(Err(reason)),
        };
        match self.publisher.offer(message).await {
            Ok(receipt) => {
                self.pending.push_back((self.lines, line.len() as u64, receipt));
                Ok(Ok(()))
            }
            Err(Error::Option(reason)) => Ok(Err(reason)),
            Err(error) => Err(error.into()),
        }
    }

    async fn settle_oldest(&mut self) -> Result<(), Failure> {
        let Some((line, bytes, receipt)) = self.pending.pop_front() else { return Ok(()) };
        match receipt.await {
            Ok(receipt) => {
                self.stored += u64::from(!receipt.duplicate);
                self.duplicates += u64::from(receipt.duplicate);
                self.bytes += bytes;
            }
            // The fault of this line; whatever is the fault of the moment ends the command.
            Err(Error::Refused(refusal)) if !refusal.retryable => {
                self.refuse(line, &refusal.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        self.bar.inc(bytes);
        self.bar.set_message(format!("{} messages", HumanCount(self.stored)));
        Ok(())
    }

    fn refuse(&mut self, line: u64, reason: &str) {
        self.refused += 1;
        let told = match self.refused {
            ..=REFUSALS_TOLD => format!("line {line}: {reason}"),
            refused if refused == REFUSALS_TOLD + 1 => "more lines were refused".to_owned(),
            _ => return,
        };
        self.bar.suspend(|| say(&told));
    }

    fn exit(&self) -> Exit {
        match (self.refused, self.stored + self.duplicates) {
            (0, _) => Exit::Ok,
            (_, 0) => Exit::Data,
            (_, _) => Exit::Partial,
        }
    }

    /// The figures: one line for people, or data where a format was asked for.
    fn tell(&self, globals: &Globals) -> io::Result<()> {
        let took = self.began.elapsed().max(Duration::from_micros(1)).as_secs_f64();
        let rate = self.stored as f64 / took;
        if globals.output.is_some() {
            let figures = json!({
                "stored": self.stored, "duplicates": self.duplicates, "refused": self.refused,
                "bytes": self.bytes, "seconds": took, "messages_per_second": rate,
            });
            let item: Item = figures.as_object().expect("it was just made as an object").clone();
            let columns = [
                column("STORED", "stored"),
                column("DUPLICATES", "duplicates"),
                column("REFUSED", "refused"),
                column("BYTES", "bytes"),
                column("SECONDS", "seconds"),
                column("MESSAGES_PER_SECOND", "messages_per_second"),
            ];
            return globals.output().item(&columns, item);
        }
        if !globals.quiet {
            let rates =
                format!("{rate:.0} messages/s, {}/s", HumanBytes(per_second(self.bytes, took)));
            say(&format!(
                "stored {} messages, {} duplicates, {} refused, in {took:.2} s: {rates}",
                HumanCount(self.stored),
                HumanCount(self.duplicates),
                HumanCount(self.refused)
            ));
        }
        Ok(())
    }
}

/// The message of a line; none where it is blank.
pub(super) fn message_of(
    args: &PublishArgs,
    line: &[u8],
) -> Result<Option<OutgoingMessage>, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    args.message_of_line(text).map(Some)
}

fn per_second(bytes: u64, seconds: f64) -> u64 {
    let micros = Duration::from_secs_f64(seconds).as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// Reads one line into `line`; false at the end.
///
/// # Errors
/// Where the file cannot be read, or has no line end for too long.
pub(super) async fn read_line(
    source: &mut (dyn AsyncBufRead + Unpin + Send),
    line: &mut Vec<u8>,
) -> Result<bool, Failure> {
    line.clear();
    let read = source.take(LINE_BYTES_MAX).read_until(b'\n', line).await;
    let length = read.map_err(|error| Failure::new(Exit::Data, format!("cannot read: {error}")))?;
    if length as u64 == LINE_BYTES_MAX {
        let message =
            format!("a line of {} or more: is this a file of lines?", HumanBytes(LINE_BYTES_MAX));
        return Err(Failure::new(Exit::Data, message));
    }
    Ok(length != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_one_by_one_and_endless_ones_refused() {
        let mut source: &[u8] = b"a\n\nlast";
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut source, &mut line).await.unwrap() {
            lines.push(line.clone());
        }
        assert_eq!(lines, [&b"a\n"[..], b"\n", b"last"]);
        let endless = vec![b'x'; (16 << 20) + 1];
        let failure = read_line(&mut &endless[..], &mut line).await.expect_err("endless");
        assert_eq!(failure.exit(), Exit::Data);
    }
}
