//! `qbroker message publish`: one message from the command line, or a file of them.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};
use qbroker::exit::Exit;
use qbroker_client::OutgoingMessage;
use serde_json::json;

use super::dress::MessageArgs;
use super::{atomic, bulk};
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::cli::globals::Globals;
use crate::cli::output::{Item, column};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("content").args(["payload", "jsonl"])))]
#[command(group(ArgGroup::new("when").args(["delay", "at"])))]
pub(in crate::cli) struct PublishArgs {
    /// The queue; made on demand, unless the broker was told not to.
    queue: String,
    /// The payload; read from stdin where it is missing or "-".
    payload: Option<String>,

    /// Publish each line of FILE ("-": stdin), which must be JSON, as one message, whose content type
    /// is application/json unless another is named.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// Lines are objects as `message consume` prints them: payload (or payload_base64), message_id
    /// (but for the broker's own), message_type, correlation_id, content_type, headers, priority,
    /// ttl, max_attempts, ordering_key, fairness_key, unique_key, delay, queue.
    #[arg(long, requires = "jsonl")]
    envelope: bool,
    /// All lines are one batch: all of them are stored, in whichever queues they name, or none.
    #[arg(long, requires = "jsonl")]
    atomic: bool,

    /// The message's id; the same id again, inside the queue's dedup window, is stored once.
    #[arg(long, value_name = "ID", conflicts_with = "jsonl")]
    id: Option<String>,
    #[command(flatten)]
    message: MessageArgs,
    /// Deliver no earlier than this long from now.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Deliver no earlier than at this time (RFC 3339, 2026-11-20T18:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    at: Option<SystemTime>,
}

pub(super) fn timestamp(text: &str) -> Result<SystemTime, String> {
    let time = text.parse::<jiff::Timestamp>().map(SystemTime::from);
    time.map_err(|_| "a time is as in RFC 3339, with its zone: 2026-11-20T18:00:00Z".to_owned())
}

impl PublishArgs {
    /// Publishes, and returns once everything is on disk.
    pub(super) async fn run(&self, globals: &Globals) -> Outcome {
        match &self.jsonl {
            Some(path) if self.atomic => atomic::publish(globals, self, path).await,
            Some(path) => bulk::publish(globals, self, path).await,
            None => self.publish_one(globals).await,
        }
    }

    /// The queue that messages go to which name none.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// The message that a line of `--jsonl` means.
    ///
    /// # Errors
    /// Where it is not what was announced.
    pub(super) fn message_of_line(&self, line: &str) -> Result<OutgoingMessage, String> {
        let message = if self.envelope {
            super::line::parse_envelope(line)?
        } else {
            let valid = serde_json::from_str::<serde::de::IgnoredAny>(line);
            valid.map_err(|error| super::line::json_error(&error))?;
            OutgoingMessage::new(line.to_owned()).content_type("application/json")
        };
        Ok(self.dress(message))
    }

    /// Adds what the flags say.
    fn dress(&self, mut message: OutgoingMessage) -> OutgoingMessage {
        if let Some(id) = &self.id {
            message = message.message_id(id);
        }
        message = self.message.dress(message);
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(time) = self.at {
            message = message.deliver_time(time);
        }
        message
    }

    async fn publish_one(&self, globals: &Globals) -> Outcome {
        let message = self.dress(OutgoingMessage::new(self.read_payload()?));
        let client = globals.connect().await?;
        let publisher = client.publisher(&self.queue).open().await?;
        let receipt = publisher.publish(message).await?;
        let mut item = Item::new();
        item.insert("message_id".to_owned(), json!(receipt.message_id));
        item.insert("sequence".to_owned(), json!(receipt.sequence));
        item.insert("duplicate".to_owned(), json!(receipt.duplicate));
        let columns = [
            column("MESSAGE_ID", "message_id"),
            column("SEQUENCE", "sequence"),
            column("DUPLICATE", "duplicate"),
        ];
        globals.output().item(&columns, item)?;
        Ok(Exit::Ok)
    }

    fn read_payload(&self) -> Result<Vec<u8>, Failure> {
        match self.payload.as_deref() {
            Some(text) if text != "-" => Ok(text.as_bytes().to_vec()),
            _ => {
                let mut payload = Vec::new();
                std::io::stdin().read_to_end(&mut payload).map_err(|error| {
                    Failure::new(Exit::Data, format!("cannot read the payload: {error}"))
                })?;
                Ok(payload)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use qbroker_client::Limit;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn parse(line: &[&str]) -> Result<PublishArgs, clap::Error> {
        let words = std::iter::once("publish").chain(line.iter().copied());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn flags_dress_the_message() {
        let line = ["mails", "-", "-H", "tenant=a=b", "--type", "send", "--delay", "1m 5s"];
        let line = [&line[..], &["--priority", "7", "--ttl", "2h", "--max-attempts", "3"]].concat();
        let line = [&line[..], &["--ordering-key", "o", "--unique-key", "u"]].concat();
        let line = [&line[..], &["--fairness-key", "f"]].concat();
        let args = parse(&line).unwrap();
        let expected = OutgoingMessage::new("x")
            .header("tenant", "a=b")
            .message_type("send")
            .priority(7)
            .ttl(Duration::from_secs(7200))
            .max_attempts(Limit::AtMost(3))
            .ordering_key("o")
            .fairness_key("f")
            .unique_key("u")
            .delay(Duration::from_secs(65));
        assert_eq!(args.dress(OutgoingMessage::new("x")), expected);
    }

    #[test]
    fn a_line_is_json_as_it_stands_or_an_envelope() {
        let args = parse(&["q", "--jsonl", "f"]).unwrap();
        let message = args.message_of_line("{\"a\": 1}").unwrap();
        let expected = OutgoingMessage::new("{\"a\": 1}").content_type("application/json");
        assert_eq!(message, expected);
        assert!(args.message_of_line("{").expect_err("half").starts_with("not JSON: "));
        let args = parse(&["q", "--jsonl", "f", "--envelope", "--content-type", "t"]).unwrap();
        let message = args.message_of_line("{\"payload\": \"p\"}").unwrap();
        let expected = OutgoingMessage::new("p").content_type("t");
        assert_eq!(format!("{message:?}"), format!("{expected:?}"));
    }

    #[test]
    fn what_contradicts_itself_is_usage() {
        for line in [
            &["q", "payload", "--jsonl", "f"][..],
            &["q", "--envelope"],
            &["q", "--atomic"],
            &["q", "x", "--header", "novalue"],
            &["q", "x", "--delay", "1s", "--at", "2026-01-01T00:00:00Z"],
            &["q", "x", "--at", "tomorrow"],
            &["q", "--jsonl", "f", "--id", "same"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }
}
