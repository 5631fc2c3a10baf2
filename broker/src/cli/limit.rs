//! Limits as they are written and shown: a number, or `unlimited`.

use std::str::FromStr;

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

/// Reads what a queue's setting is limited to, for which no limit is the default: there is no word for that.
///
/// # Errors
/// Where it is none, or not above 0; says how a limit is taken away.
pub(super) fn parse_set<T: FromStr + Default + PartialOrd>(
    setting: &str,
    text: &str,
) -> Result<T, String> {
    let why = "must be a number above 0";
    text.parse().ok().filter(|limit| T::default() < *limit).ok_or_else(|| removable(setting, why))
}

/// Why a limit is none, and how to have none.
pub(super) fn removable(setting: &str, why: &str) -> String {
    format!("{why}; `queue update QUEUE --reset {setting}` takes the limit away")
}

/// A limit as it is printed.
pub(super) fn show(limit: Option<Limit>) -> Value {
    match limit {
        None => Value::Null,
        Some(Limit::Unlimited) => json!("unlimited"),
        Some(Limit::AtMost(limit)) => json!(limit),
    }
}
