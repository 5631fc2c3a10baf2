//! A message as one JSON object: how it is printed, and how it is read back to be published.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use qbroker_client::{DeadLetterInfo, DeadLetterReason, Failure, Leased, Message, OutgoingMessage};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::limit;
use crate::cli::output::{Item, time};

/// A stored message. What is empty is left out.
pub(super) fn item(message: &Message) -> Item {
    let mut item = Item::new();
    let mut put = |key: &str, value: Value| {
        let empty = value.is_null() || value == json!("") || value == json!({});
        if !empty {
            item.insert(key.to_owned(), value);
        }
    };
    put("message_id", json!(message.message_id));
    put("queue", json!(message.queue));
    put("sequence", json!(message.sequence));
    put("message_type", json!(message.message_type));
    put("correlation_id", json!(message.correlation_id));
    put("content_type", json!(message.content_type));
    put("headers", json!(message.headers.iter().collect::<BTreeMap<_, _>>()));
    put("priority", Some(message.priority).filter(|it| *it != 0).map_or(Value::Null, Value::from));
    put("ordering_key", json!(message.ordering_key));
    put("fairness_key", json!(message.fairness_key));
    put("unique_key", json!(message.unique_key));
    put("publish_time", time(message.publish_time));
    put("deliver_time", time(message.deliver_time));
    put("expire_time", time(message.expire_time));
    put("max_attempts", limit::show(message.max_attempts));
    put("dead_letter", message.dead_letter.as_ref().map_or(Value::Null, dead_letter));
    let (key, payload) = payload(&message.payload);
    // Also where it is empty: a message always has one.
    item.insert(key.to_owned(), json!(payload));
    item
}

/// A message under a lease.
pub(super) fn leased_item(leased: &Leased) -> Item {
    let mut item = item(&leased.message);
    item.insert("attempt".to_owned(), json!(leased.attempt));
    if let Some(last) = &leased.last_failure {
        item.insert("last_failure".to_owned(), failure(last));
    }
    item
}

/// Text as it is, anything else in base 64 under a key that says so.
fn payload(payload: &Bytes) -> (&'static str, String) {
    match std::str::from_utf8(payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", BASE64.encode(payload)),
    }
}

fn dead_letter(info: &DeadLetterInfo) -> Value {
    json!({
        "source_queue": info.source_queue,
        "reason": reason(info.reason),
        "attempts": info.attempts,
        "time": time(info.dead_letter_time),
        "failure": info.failure.as_ref().map_or(Value::Null, failure),
    })
}

/// The protocol's word for it, in lower case.
pub(super) fn reason(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::MaxAttempts => "max_attempts",
        DeadLetterReason::MaxCrashes => "max_crashes",
        DeadLetterReason::Expired => "expired",
        DeadLetterReason::ByConsumer => "by_consumer",
        DeadLetterReason::Overflow => "overflow",
        // Also what a newer client may add.
        _ => "unknown",
    }
}

pub(super) fn failure(failure: &Failure) -> Value {
    json!({ "type": failure.kind, "message": failure.message, "details": failure.details })
}

/// How the ids begin that the broker gives; no application may choose such a one.
const BROKER_ID_START: &str = "q.";

/// What is printed of a message, and says nothing of the one that is published.
const TOLD: [&str; 12] = [
    "sequence",
    "state",
    "size_bytes",
    "publish_time",
    "deliver_time",
    "expire_time",
    "dead_letter",
    "attempt",
    "attempts",
    "last_failure",
    "lease",
    "lease_expire_time",
];

/// What a line of `publish --envelope` may say, beside what is [`TOLD`].
#[derive(Debug, Deserialize)]
struct Envelope {
    payload: Option<Value>,
    payload_base64: Option<String>,
    #[serde(default)]
    queue: String,
    #[serde(default)]
    message_id: String,
    #[serde(default)]
    message_type: String,
    #[serde(default)]
    correlation_id: String,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    priority: u8,
    #[serde(default, with = "humantime_duration")]
    ttl: Option<Duration>,
    max_attempts: Option<Value>,
    #[serde(default)]
    ordering_key: String,
    #[serde(default)]
    fairness_key: String,
    #[serde(default)]
    unique_key: String,
    #[serde(default, with = "humantime_duration")]
    delay: Option<Duration>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Reads a message from an envelope, for `queue` unless it names its own.
///
/// # Errors
/// Where the line is no such object, or holds no payload or two.
pub(super) fn parse_envelope(line: &str) -> Result<OutgoingMessage, String> {
    let envelope: Envelope = serde_json::from_str(line).map_err(|error| json_error(&error))?;
    if let Some(unknown) = envelope.rest.keys().find(|key| !TOLD.contains(&key.as_str())) {
        return Err(format!("unknown key {unknown:?}"));
    }
    let payload = match (envelope.payload, envelope.payload_base64) {
        (Some(Value::String(text)), None) => Bytes::from(text),
        (Some(other), None) => Bytes::from(other.to_string()),
        (None, Some(encoded)) => {
            let bytes = BASE64.decode(encoded);
            bytes.map_err(|error| format!("payload_base64: {error}"))?.into()
        }
        (None, None) => return Err("neither payload nor payload_base64".to_owned()),
        (Some(_), Some(_)) => return Err("both payload and payload_base64".to_owned()),
    };
    // What had no id of its own has none now: the broker gives it another.
    let own_id = Some(envelope.message_id).filter(|id| !id.starts_with(BROKER_ID_START));
    let mut message = OutgoingMessage::new(payload)
        .queue(envelope.queue)
        .message_id(own_id.unwrap_or_default())
        .message_type(envelope.message_type)
        .correlation_id(envelope.correlation_id)
        .content_type(envelope.content_type)
        .priority(envelope.priority)
        .ordering_key(envelope.ordering_key)
        .fairness_key(envelope.fairness_key)
        .unique_key(envelope.unique_key);
    for (key, value) in envelope.headers {
        message = message.header(key, value);
    }
    if let Some(ttl) = envelope.ttl {
        message = message.ttl(ttl);
    }
    if let Some(max) = envelope.max_attempts {
        let text = max.as_str().map_or_else(|| max.to_string(), str::to_owned);
        let max = limit::parse(&text).map_err(|why| format!("max_attempts: {why}"))?;
        message = message.max_attempts(max);
    }
    Ok(match envelope.delay {
        Some(delay) => message.delay(delay),
        None => message,
    })
}

/// What is wrong with a line of JSON, and where in it.
pub(super) fn json_error(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let (text, column) = (error.to_string(), error.column());
    // The parser takes the line for a file: its number would be 1 whatever the line's is.
    let place = format!(" at line {} column {column}", error.line());
    let what = text.strip_suffix(&place).unwrap_or(&text);
    match error.classify() {
        Category::Data => format!("{what} (column {column})"),
        Category::Syntax | Category::Eof | Category::Io => {
            format!("not JSON: {what} (column {column})")
        }
    }
}

mod humantime_duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, de::Error as _};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| humantime::parse_duration(&text).map_err(D::Error::custom)).transpose()
    }
}

/// The environment of a program that works on `leased`.
pub(super) fn variables(leased: &Leased) -> Vec<(String, String)> {
    let message = &leased.message;
    let headers: BTreeMap<_, _> = message.headers.iter().collect();
    let mut variables = vec![
        ("ID".to_owned(), message.message_id.clone()),
        ("QUEUE".to_owned(), message.queue.clone()),
        ("SEQUENCE".to_owned(), message.sequence.to_string()),
        ("TYPE".to_owned(), message.message_type.clone()),
        ("CORRELATION_ID".to_owned(), message.correlation_id.clone()),
        ("CONTENT_TYPE".to_owned(), message.content_type.clone()),
        ("PRIORITY".to_owned(), message.priority.to_string()),
        ("PUBLISH_TIME".to_owned(), time(message.publish_time).as_str().unwrap_or("").to_owned()),
        ("ATTEMPT".to_owned(), leased.attempt.to_string()),
        ("FAILURES".to_owned(), leased.failures.to_string()),
        ("CRASHES".to_owned(), leased.crashes.to_string()),
        ("HEADERS".to_owned(), json!(headers).to_string()),
    ];
    // The convenient form; HEADERS is the exact one.
    let each = headers.iter().map(|(key, value)| (header_variable(key), (*value).clone()));
    variables.extend(each);
    variables.into_iter().map(|(name, value)| (format!("QBROKER_MESSAGE_{name}"), value)).collect()
}

/// `trace-id` becomes `HEADER_TRACE_ID`.
fn header_variable(key: &str) -> String {
    let allowed = |character: char| match character.is_ascii_alphanumeric() {
        true => character.to_ascii_uppercase(),
        false => '_',
    };
    format!("HEADER_{}", key.chars().map(allowed).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    use qbroker_client::Limit;
    use qbroker_proto::v1;

    fn delivery(payload: &'static [u8]) -> Leased {
        let publish_time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let message = v1::Message {
            message_id: "m-1".to_owned(),
            queue: "mails".to_owned(),
            payload: Bytes::from_static(payload),
            headers: [("trace-id".to_owned(), "t\"1".to_owned())].into(),
            priority: 4,
            max_attempts: Some(-1),
            sequence: 9,
            publish_time: Some(publish_time.into()),
            ..v1::Message::default()
        };
        let message = Some(message);
        v1::Delivery { message, attempt: 2, failures: 1, ..v1::Delivery::default() }.into()
    }

    #[test]
    fn a_message_is_one_object_without_what_is_empty() {
        let item = leased_item(&delivery(b"hello"));
        let expected = json!({
            "message_id": "m-1", "queue": "mails", "sequence": 9, "payload": "hello", "priority": 4,
            "headers": {"trace-id": "t\"1"}, "publish_time": "2023-11-14T22:13:20Z", "attempt": 2,
            "max_attempts": "unlimited",
        });
        assert_eq!(Value::Object(item), expected);
    }

    #[test]
    fn bytes_that_are_no_text_survive_a_round_trip() {
        let line = serde_json::to_string(&leased_item(&delivery(&[0xff, 0, 1]))).unwrap();
        assert!(line.contains("\"payload_base64\":\"/wAB\""), "{line}");
        let again = parse_envelope(&line).unwrap();
        let direct = OutgoingMessage::new(vec![0xff, 0, 1])
            .queue("mails")
            .message_id("m-1")
            .priority(4)
            .max_attempts(Limit::Unlimited)
            .header("trace-id", "t\"1");
        assert_eq!(again, direct);
    }

    #[test]
    fn an_envelope_says_what_is_wrong_with_it() {
        let error = |line: &str| parse_envelope(line).expect_err(line);
        assert_eq!(error("{}"), "neither payload nor payload_base64");
        assert!(error("{\"payload\": 1, \"payload_base64\": \"\"}").starts_with("both"));
        assert!(error("{\"payload_base64\": \"?\"}").starts_with("payload_base64: "));
        assert!(error("{\"payload\": 1, \"delay\": \"soon\"}").contains("expected number"));
        let zero = error("{\"payload\": 1, \"max_attempts\": 0}");
        assert_eq!(zero, "max_attempts: must be a number from 1, or unlimited");
        assert!(error("{").contains("EOF"));
        assert!(error("[]").contains("expected"));
        assert_eq!(error("{\"payload\": 1, \"priorty\": 9}"), "unknown key \"priorty\"");
    }

    #[test]
    fn an_id_that_the_broker_gave_is_not_the_messages_own() {
        let parse = |line: &str| parse_envelope(line).unwrap();
        let own = parse("{\"payload\": \"p\", \"message_id\": \"q7\"}");
        assert_eq!(own, OutgoingMessage::new("p").message_id("q7"));
        let given = parse("{\"payload\": \"p\", \"message_id\": \"q.7\"}");
        assert_eq!(given, OutgoingMessage::new("p"));
    }

    #[test]
    fn a_payload_that_is_no_string_is_taken_as_json() {
        let line = "{\"payload\": {\"user\": 7}, \"delay\": \"5s\", \"ttl\": \"1m\"}";
        let message = parse_envelope(line).unwrap();
        let expected = OutgoingMessage::new("{\"user\":7}")
            .delay(Duration::from_secs(5))
            .ttl(Duration::from_secs(60));
        assert_eq!(message, expected);
    }

    #[test]
    fn a_program_finds_everything_in_its_environment() {
        let variables: BTreeMap<_, _> = variables(&delivery(b"")).into_iter().collect();
        assert_eq!(variables["QBROKER_MESSAGE_ID"], "m-1");
        assert_eq!(variables["QBROKER_MESSAGE_ATTEMPT"], "2");
        assert_eq!(variables["QBROKER_MESSAGE_PRIORITY"], "4");
        assert_eq!(variables["QBROKER_MESSAGE_HEADERS"], r#"{"trace-id":"t\"1"}"#);
        assert_eq!(variables["QBROKER_MESSAGE_HEADER_TRACE_ID"], "t\"1");
        assert_eq!(variables["QBROKER_MESSAGE_PUBLISH_TIME"], "2023-11-14T22:13:20Z");
    }
}
