//! What is said of a message beside its payload, wherever one is made.

use std::time::Duration;

use clap::Args;
use qbroker_client::{Limit, OutgoingMessage};

use crate::cli::limit;

#[derive(Debug, Args)]
pub(in crate::cli) struct MessageArgs {
    /// What kind of work this is.
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// The application's own id.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// What the payload is, such as application/json.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header; may be repeated.
    #[arg(long = "header", short = 'H', value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How urgent it is, 0 (the least) to 9.
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// Dead-letter it where it was not done so long after it was published; 0s: never.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Failures until it is dead-lettered, or "unlimited", instead of the queue's limit.
    #[arg(long, value_name = "N", value_parser = limit::parse)]
    max_attempts: Option<Limit>,
    /// Those of one key are delivered one at a time, in order.
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Whose it is: messages of different keys (tenants, say) share the queue fairly.
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
    /// While an unfinished message of the queue has this key, another one is not stored.
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a header is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl MessageArgs {
    /// Adds what the flags say.
    pub(in crate::cli) fn dress(&self, mut message: OutgoingMessage) -> OutgoingMessage {
        if let Some(kind) = &self.message_type {
            message = message.message_type(kind);
        }
        if let Some(id) = &self.correlation_id {
            message = message.correlation_id(id);
        }
        if let Some(kind) = &self.content_type {
            message = message.content_type(kind);
        }
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(max) = self.max_attempts {
            message = message.max_attempts(max);
        }
        if let Some(key) = &self.ordering_key {
            message = message.ordering_key(key);
        }
        if let Some(key) = &self.fairness_key {
            message = message.fairness_key(key);
        }
        if let Some(key) = &self.unique_key {
            message = message.unique_key(key);
        }
        self.headers.iter().fold(message, |message, (key, value)| message.header(key, value))
    }
}
