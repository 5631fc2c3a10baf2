//! How a setting's text becomes a value: sizes, durations, addresses and switches.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::{DiskReserve, LogFormat, WhenDamaged};

/// The suffixes of sizes, longest first so that `MiB` is not read as `B`.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
];

/// Reads a whole number of bytes: `4MiB`, `10 GB`, `65536`.
///
/// # Errors
/// Where it is none.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, factor) = UNITS
        .iter()
        .find_map(|&(unit, factor)| lower.strip_suffix(unit).map(|digits| (digits, factor)))
        .unwrap_or((&lower, 1));
    let number: u64 = digits.trim().replace('_', "").parse().map_err(|_| {
        "not a size: write a whole number of bytes, KiB, MiB, GiB or TiB".to_owned()
    })?;
    number.checked_mul(factor).ok_or_else(|| "a size beyond 16 EiB".to_owned())
}

/// Reads a size that must lie within `least` and `most`.
pub(super) fn bytes_within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let value = bytes(text)?;
    if value < least || most < value {
        return Err(format!("must be from {} to {}", Size(least), Size(most)));
    }
    Ok(value)
}

/// As [`bytes_within`], for a size of something in memory.
pub(super) fn memory_within(text: &str, least: u64, most: u64) -> Result<usize, String> {
    let value = bytes_within(text, least, most)?;
    usize::try_from(value).map_err(|_| "more than this machine can address".to_owned())
}

/// Reads a count that must lie within `least` and `most`.
pub(super) fn count_within(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.trim().replace('_', "").parse::<u32>();
    let value = number.map_err(|_| "not a whole number".to_owned())?;
    if value < least || most < value {
        return Err(format!("must be from {least} to {most}"));
    }
    Ok(value)
}

/// Reads a duration such as `30s` or `1m 30s`, at most `most`.
pub(super) fn duration_within(text: &str, most: Duration) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text.trim());
    let value = parsed.map_err(|_| "not a duration: write 500ms, 30s or 2m".to_owned())?;
    if most < value {
        return Err(format!("must be at most {}", humantime::format_duration(most)));
    }
    Ok(value)
}

/// Reads an address to listen on: an IP address and a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        "not an address: write IP:PORT, such as 127.0.0.1:7650, 0.0.0.0:7650 or [::]:7650"
            .to_owned()
    })
}

/// Reads a switch.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Reads `auto` or a size.
pub(super) fn disk_reserve(text: &str) -> Result<DiskReserve, String> {
    if text.trim() == "auto" {
        return Ok(DiskReserve::Auto);
    }
    bytes(text).map(DiskReserve::Bytes).map_err(|reason| format!("{reason}, or auto"))
}

/// Reads the format of the log.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.trim() {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be auto, text or json".to_owned()),
    }
}

/// Reads what to do about damage.
pub(super) fn when_damaged(text: &str) -> Result<WhenDamaged, String> {
    match text.trim() {
        "exit" => Ok(WhenDamaged::Exit),
        "wait" => Ok(WhenDamaged::Wait),
        _ => Err("must be exit or wait".to_owned()),
    }
}

/// A number of bytes as people write it: `4MiB`, `1500B`.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = |&&(_, shift): &&(&str, u32)| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.iter().find(whole) {
            Some(&(unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [("0", 0), ("65536", 65536), ("4MiB", 4 << 20), ("4 MiB", 4 << 20)];
        for (text, value) in cases {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        assert_eq!(bytes("1_000kB"), Ok(1_000_000));
        assert_eq!(bytes("512 b"), Ok(512));
        for bad in ["", "MiB", "4.5MiB", "-1", "4 XiB", "99999999TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        for (value, text) in [(0, "0B"), (1500, "1500B"), (4096, "4KiB"), (1 << 30, "1GiB")] {
            assert_eq!(Size(value).to_string(), text);
        }
    }

    #[test]
    fn bounds_are_inclusive_and_named() {
        assert_eq!(bytes_within("1KiB", 1024, 4096), Ok(1024));
        assert_eq!(bytes_within("4KiB", 1024, 4096), Ok(4096));
        assert_eq!(bytes_within("4097", 1024, 4096), Err("must be from 1KiB to 4KiB".to_owned()));
        assert_eq!(count_within("0", 1, 9), Err("must be from 1 to 9".to_owned()));
    }

    #[test]
    fn addresses_need_an_ip_and_a_port() {
        assert_eq!(address("[::1]:0").map(|a| a.port()), Ok(0));
        for bad in ["", "7650", ":7650", "localhost:7650", "127.0.0.1", "1.2.3.4:70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
