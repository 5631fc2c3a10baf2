//! Room on the disk, looked at before it is used up.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::qbroker::DISK_RESERVE_BYTES;
use crate::report::thousands;
use crate::system::Fallible;

/// Of the log around a message: its head, its settlement, its share of pages and checkpoints.
const BYTES_AROUND: u64 = 200;

/// Segments of 64 MiB beside what lives: spares, and those that are about to go.
const SEGMENTS_BYTES: u64 = 16 * (64 << 20);

/// Refuses to begin where `folder`'s disk has no room for so many messages.
pub(crate) fn check(folder: &Path, messages: u64, payload_bytes: u32) -> Fallible<()> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot look at the disk of {}", folder.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    let needed = needed(messages, payload_bytes);
    let mebibytes = |bytes: u64| thousands((bytes >> 20) as f64);
    ensure!(
        needed <= free,
        "{} MiB are free at {}, and {} messages of {payload_bytes} bytes need {} MiB, the broker's \
         reserve included: name another folder by --dir, or fewer messages",
        mebibytes(free),
        folder.display(),
        thousands(messages as f64),
        mebibytes(needed)
    );
    Ok(())
}

/// For so many messages.
fn needed(messages: u64, payload_bytes: u32) -> u64 {
    messages * (u64::from(payload_bytes) + BYTES_AROUND) + SEGMENTS_BYTES + DISK_RESERVE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_million_messages_of_a_kibibyte_need_twelve_gigabytes_and_the_reserve() {
        let gigabytes = needed(10_000_000, 1024) / 1_000_000_000;
        assert_eq!(gigabytes, 12 + 1 + 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), 1, 1024).unwrap();
        let error = check(folder.path(), 1 << 50, 1024).unwrap_err().to_string();
        assert!(error.contains("messages of 1024 bytes need"), "{error}");
    }
}
