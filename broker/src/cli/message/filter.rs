//! `--filter`: which messages a command means.

use std::time::SystemTime;

use clap::{Args, ValueEnum as _};
use qbroker_client::{DeadLetterReason, MessageFilter};

use super::publish::timestamp;
use crate::cli::queue::State;

/// What `--filter` can say, below the help of each command that has it.
pub(in crate::cli) const FILTER_HELP: &str = "\
Filters, of which all must hold:
  id=ID[,ID...]         one of these ids, also q. and a sequence
  state=STATE           ready, scheduled, leased, parked or behind
  after=TIME            published at this time or later: RFC 3339, or so long ago (2h)
  before=TIME           published before this time
  type=TYPE             of this message type
  correlation-id=ID     with this correlation id
  header.KEY=VALUE      with this header, its whole value
  failure-type=TYPE     whose last failure is of this type
  reason=REASON         a dead letter: max-attempts, max-crashes, expired, by-consumer, overflow
  source=QUEUE          a dead letter from this queue
  contains=TEXT         with this text somewhere in its payload";

/// Conditions that messages must meet.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct FilterArgs {
    /// Only messages for which this holds; may be repeated. See below.
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE", value_parser = condition)]
    conditions: Vec<MessageFilter>,
}

impl FilterArgs {
    /// What they say together; `None` where they say nothing.
    pub(in crate::cli) fn filter(&self) -> Option<MessageFilter> {
        let conditions = self.conditions.iter().cloned();
        conditions.reduce(MessageFilter::and)
    }
}

/// Conditions, or all messages: nothing is never everything.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct WhichArgs {
    /// Only messages for which this holds; may be repeated. See below.
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE", value_parser = condition)]
    conditions: Vec<MessageFilter>,
    /// All messages.
    #[arg(long)]
    all: bool,
}

impl WhichArgs {
    /// What they say.
    pub(in crate::cli) fn filter(&self) -> MessageFilter {
        let conditions = self.conditions.iter().cloned();
        conditions.reduce(MessageFilter::and).unwrap_or_else(MessageFilter::all)
    }
}

fn condition(text: &str) -> Result<MessageFilter, String> {
    let (key, value) = text.split_once('=').ok_or("a filter is KEY=VALUE")?;
    let any = MessageFilter::new();
    Ok(match key {
        "id" => any.ids(value.split(',')),
        "state" => any.state(state(value)?.into()),
        "after" => any.published_after(moment(value)?),
        "before" => any.published_before(moment(value)?),
        "type" => any.message_type(value),
        "correlation-id" => any.correlation_id(value),
        "failure-type" => any.failure_type(value),
        "reason" => any.dead_letter_reason(reason(value)?),
        "source" => any.source_queue(value),
        "contains" => any.payload_contains(value.to_owned()),
        key => match key.strip_prefix("header.") {
            Some(header) => any.header(header, value),
            None => return Err(format!("{key:?} is no filter; --help lists them")),
        },
    })
}

/// A time, or how long ago it was.
fn moment(text: &str) -> Result<SystemTime, String> {
    match humantime::parse_duration(text) {
        Ok(ago) => {
            let then = SystemTime::now().checked_sub(ago);
            let then = then.filter(|then| SystemTime::UNIX_EPOCH <= *then);
            then.ok_or_else(|| "that is too long ago".into())
        }
        Err(_) => timestamp(text),
    }
}

fn state(text: &str) -> Result<State, String> {
    let known = "a state is ready, scheduled, leased, parked or behind";
    State::from_str(text, false).map_err(|_| known.to_owned())
}

fn reason(text: &str) -> Result<DeadLetterReason, String> {
    match text.replace('_', "-").as_str() {
        "max-attempts" => Ok(DeadLetterReason::MaxAttempts),
        "max-crashes" => Ok(DeadLetterReason::MaxCrashes),
        "expired" => Ok(DeadLetterReason::Expired),
        "by-consumer" => Ok(DeadLetterReason::ByConsumer),
        "overflow" => Ok(DeadLetterReason::Overflow),
        _ => {
            let known = "max-attempts, max-crashes, expired, by-consumer or overflow";
            Err(format!("a reason is {known}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qbroker_client::MessageState;

    #[test]
    fn each_filter_is_read() {
        let any = MessageFilter::new();
        for (text, expected) in [
            ("id=q.1,own", any.clone().ids(["q.1", "own"])),
            ("state=parked", any.clone().state(MessageState::Parked)),
            ("type=mail=x", any.clone().message_type("mail=x")),
            ("header.tenant=", any.clone().header("tenant", "")),
            ("reason=max_attempts", any.clone().dead_letter_reason(DeadLetterReason::MaxAttempts)),
            ("contains=a b", any.clone().payload_contains("a b")),
        ] {
            assert_eq!(condition(text), Ok(expected), "{text}");
        }
        let at = "2026-11-20T18:00:00Z";
        let expected = any.published_before(timestamp(at).unwrap());
        assert_eq!(condition(&format!("before={at}")), Ok(expected));
        assert!(condition("after=2h").is_ok());
        for bad in ["type", "what=ever", "state=gone", "after=soon", "reason=x", "before=9999999y"]
        {
            assert!(condition(bad).is_err(), "{bad}");
        }
    }
}
