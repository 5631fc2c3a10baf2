//! Durations as people write them: `30s`, `1h30m`, `250ms`.

use std::time::Duration;

/// The units, longest names first where one begins with another.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads numbers with units, one after the other.
///
/// # Errors
///
/// What is wrong, for people.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let units = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(units);
        let each = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, each)| *each);
        let part = number.parse::<u64>().ok().zip(each).and_then(|(n, each)| n.checked_mul(each));
        let sum = part.and_then(|part| millis.checked_add(part));
        millis = sum.ok_or_else(|| refused(text))?;
        rest = after;
    }
    if text.is_empty() { Err(refused(text)) } else { Ok(Duration::from_millis(millis)) }
}

fn refused(text: &str) -> String {
    format!("{text:?} is no duration: write numbers with units, \"30s\", \"1h30m\" or \"250ms\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "5 m", "5w", "18446744073709551615d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
