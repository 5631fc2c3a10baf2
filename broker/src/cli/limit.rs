//! Limits as they are written and shown: a number, or `unlimited`.

use qbroker_client::Limit;
use serde_json::{Value, json};

/// Reads a limit.
///
/// # Errors
/// Where it is none.
pub(super) fn parse(text: &str) -> Result<Limit, String> {
    match (text, text.parse::<u32>()) {
        ("unlimited", _) => Ok(Limit::Unlimited),
        (_, Ok(limit @ 1..)) => Ok(Limit::AtMost(limit)),
        (_, Ok(0) | Err(_)) => Err("must be a number from 1, or unlimited".to_owned()),
    }
}

/// A limit as it is printed.
pub(super) fn show(limit: Option<Limit>) -> Value {
    match limit {
        None => Value::Null,
        Some(Limit::Unlimited) => json!("unlimited"),
        Some(Limit::AtMost(limit)) => json!(limit),
    }
}
