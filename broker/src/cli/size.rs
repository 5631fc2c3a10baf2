//! Sizes as they are written, the same way everywhere: `4096`, `10MB`, `10MiB`.

use qbroker::config::parse_bytes;

use super::limit::removable;

/// Reads the bytes that a queue's setting is limited to.
///
/// # Errors
/// Where it is none, or 0; says how a limit is taken away.
pub(super) fn parse_limit(setting: &str, text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        Ok(0) => Err(removable(setting, "must be at least 1 byte")),
        Ok(bytes) => Ok(bytes),
        Err(why) => Err(removable(setting, &why)),
    }
}

/// Reads the bytes of one payload.
///
/// # Errors
/// Where it is none, or larger than any payload.
pub(super) fn parse_payload(text: &str) -> Result<u32, String> {
    u32::try_from(parse_bytes(text)?)
        .map_err(|_| "larger than any payload; at most 4GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_units_of_both_kinds() {
        assert_eq!(parse_bytes("4096"), Ok(4_096));
        assert_eq!((parse_bytes("10MB"), parse_bytes("10MiB")), (Ok(10_000_000), Ok(10 << 20)));
        assert_eq!((parse_bytes("0"), parse_payload("1KiB")), (Ok(0), Ok(1_024)));
        for bad in ["", "ten", "-1", "1.5MB", "0"] {
            assert!(parse_limit("max-bytes", bad).is_err(), "{bad}");
        }
        assert!(parse_payload("8GiB").is_err());
    }
}
