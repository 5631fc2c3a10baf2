//! A message before it is sent: in an application's hands, or waiting in another message's headers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qbroker_client::{Limit, OutgoingMessage};
use serde::{Deserialize, Serialize};

use crate::failure::BoxError;

/// Everything about a message, its content included.
///
/// As JSON it is a step of a pipeline that waits: an object of what is set, by the protocol's names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Draft {
    pub(crate) queue: String,
    pub(crate) message_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) content_type: String,
    #[serde(with = "text")]
    pub(crate) payload: Vec<u8>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) priority: u8,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) correlation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) ordering_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) fairness_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) unique_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
    /// Unix time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deliver_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_ms: Option<u64>,
    /// -1: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_attempts: Option<i64>,
    /// The argument that the step before it fills.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fills: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(priority: &u8) -> bool {
    *priority == 0
}

impl Draft {
    /// Waits this long once it is sent.
    pub(crate) fn set_delay(&mut self, delay: Duration) {
        (self.delay_ms, self.deliver_ms) = (Some(millis(delay)), None);
    }

    /// Waits until then.
    pub(crate) fn set_time(&mut self, time: SystemTime) {
        // What is before 1970 is past, and so is 1970.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        (self.delay_ms, self.deliver_ms) = (None, Some(millis(since)));
    }

    /// Makes sense for this long once it is sent.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        // To the broker, none at all means for ever.
        self.ttl_ms = Some(millis(ttl).max(1));
    }

    /// Puts a value, its JSON, where an argument of its waits for one.
    ///
    /// # Errors
    ///
    /// It has no arguments to add it to.
    pub(crate) fn fill_in(&mut self, json: &str) -> Result<(), BoxError> {
        if let Some(name) = self.fills.take() {
            let arguments = std::str::from_utf8(&self.payload)?;
            self.payload = fill(arguments, &name, json)?.into_bytes();
        }
        Ok(())
    }

    pub(crate) fn set_attempts(&mut self, limit: Limit) {
        self.max_attempts = Some(match limit {
            Limit::Unlimited => -1,
            Limit::AtMost(attempts) => attempts.into(),
        });
    }

    /// The same in the client's words.
    pub(crate) fn into_message(self) -> OutgoingMessage {
        let mut message = OutgoingMessage::new(self.payload)
            .queue(self.queue)
            .message_type(self.message_type)
            .content_type(self.content_type)
            .priority(self.priority)
            .message_id(self.message_id)
            .correlation_id(self.correlation_id)
            .ordering_key(self.ordering_key)
            .fairness_key(self.fairness_key)
            .unique_key(self.unique_key);
        for (key, value) in self.headers {
            message = message.header(key, value);
        }
        if let Some(delay_ms) = self.delay_ms {
            message = message.delay(Duration::from_millis(delay_ms));
        } else if let Some(deliver_ms) = self.deliver_ms {
            message = message.deliver_time(UNIX_EPOCH + Duration::from_millis(deliver_ms));
        }
        if let Some(ttl_ms) = self.ttl_ms {
            message = message.ttl(Duration::from_millis(ttl_ms));
        }
        if let Some(attempts) = self.max_attempts {
            let limit = u32::try_from(attempts).map_or(Limit::Unlimited, Limit::AtMost);
            message = message.max_attempts(limit);
        }
        message
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A JSON object of arguments with one more in front: `value` is its JSON.
///
/// # Errors
///
/// There is no object to add it to.
pub(crate) fn fill(arguments: &str, name: &str, value: &str) -> Result<String, BoxError> {
    let rest = arguments.trim().strip_prefix('{').ok_or("the arguments are no JSON object")?;
    let name = serde_json::to_string(name)?;
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    Ok(format!("{{{name}:{value}{comma}{rest}"))
}

/// A payload within JSON: only a text can be.
mod text {
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(payload: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let refused = |_| S::Error::custom("only arguments that are a text can wait for others");
        to.serialize_str(std::str::from_utf8(payload).map_err(refused)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(String::deserialize(from)?.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_waits_is_what_it_was() {
        let mut draft = Draft {
            queue: "images".to_owned(),
            message_type: "resize".to_owned(),
            payload: br#"{"pixels":640}"#.to_vec(),
            headers: BTreeMap::from([("tenant".to_owned(), "acme".to_owned())]),
            priority: 3,
            fills: Some("path".to_owned()),
            ..Draft::default()
        };
        draft.set_delay(Duration::from_secs(5));
        draft.set_attempts(Limit::Unlimited);
        let text = serde_json::to_string(&draft).expect("it is a text");
        assert!(!text.contains("correlation_id"), "{text}");
        assert_eq!(serde_json::from_str::<Draft>(&text).expect("it was written here"), draft);
        draft.payload = vec![0xff];
        assert!(serde_json::to_string(&draft).is_err());
    }

    #[test]
    fn an_argument_is_filled_in() {
        for (arguments, filled) in [
            (r#"{"pixels":640}"#, r#"{"path":[1],"pixels":640}"#),
            ("{}", r#"{"path":[1]}"#),
            (" { } ", r#"{"path":[1] }"#),
        ] {
            assert_eq!(fill(arguments, "path", "[1]").expect("it is an object"), filled);
        }
        assert!(fill("[]", "path", "1").is_err());
    }
}
