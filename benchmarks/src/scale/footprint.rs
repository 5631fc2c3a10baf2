//! What one process takes of memory, what a folder takes of its disk, and what that disk has written.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::system::Fallible;

/// What the kernel counts of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Memory of its own: anonymous and shared pages. Neither its program nor the page cache.
    pub(crate) held_bytes: u64,
    /// All that is resident of it (`VmRSS`).
    pub(crate) resident_bytes: u64,
    /// The most that was ever resident (`VmHWM`).
    pub(crate) peak_bytes: u64,
}

impl Footprint {
    /// Of the process with this id; `None` once it has ended.
    pub(crate) fn of(id: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{id}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let kib = |name| value(status, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok();
        Some(Self {
            held_bytes: (kib("RssAnon")? + kib("RssShmem")?) * 1024,
            resident_bytes: kib("VmRSS")? * 1024,
            peak_bytes: kib("VmHWM")? * 1024,
        })
    }
}

/// What stands behind `name:` at the begin of a line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
}

/// What `folder` and all in it take on disk. Files that vanish meanwhile take nothing.
pub(crate) fn disk_bytes(folder: &Path) -> Fallible<u64> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    let mut bytes = 0;
    for entry in entries {
        let Ok(metadata) = entry.as_ref().map_err(drop).and_then(|e| e.metadata().map_err(drop))
        else {
            continue;
        };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// The counters of the device that a folder is on.
///
/// They count for everybody who uses it. `/proc/<id>/io`, which counts for one process, is of no use
/// here: it counts a page of the cache whole for each small write, and such a page may have 2 MiB.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    stat: PathBuf,
}

impl Device {
    /// `None` where the kernel does not count, as for a file system that is on no one device.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let id = std::fs::metadata(folder).ok()?.dev();
        let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
        let device = Self { stat: format!("/sys/dev/block/{major}:{minor}/stat").into() };
        device.written_bytes().map(|_| device)
    }

    /// Written since the machine started, by everybody.
    pub(crate) fn written_bytes(&self) -> Option<u64> {
        sectors_written(&std::fs::read_to_string(&self.stat).ok()?).map(|sectors| sectors * 512)
    }
}

/// The seventh figure.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_its_own_is_what_no_file_is_behind() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t 800 kB\nRssAnon:\t 70 kB\n\
                      RssFile:\t 725 kB\nRssShmem:\t 5 kB\n";
        let expected =
            Footprint { held_bytes: 75 << 10, resident_bytes: 800 << 10, peak_bytes: 900 << 10 };
        assert_eq!(Footprint::parse(status), Some(expected));
        assert_eq!(Footprint::parse(""), None);
        assert!(0 < Footprint::of(std::process::id()).unwrap().held_bytes);
    }

    #[test]
    fn a_folder_takes_what_its_files_do_and_holes_take_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        let before = disk_bytes(folder.path()).unwrap();
        std::fs::write(folder.path().join("log/full"), vec![7; 1 << 20]).unwrap();
        std::fs::File::create(folder.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::fs::File::open(folder.path().join("log/full")).unwrap().sync_all().unwrap();
        let grown = disk_bytes(folder.path()).unwrap() - before;
        assert!(((1 << 20)..(2 << 20)).contains(&grown), "{grown}");
    }

    #[test]
    fn a_device_counts_sectors() {
        let stat = "  11  12  13  14  15  16  8  18  0  20  21\n";
        assert_eq!(sectors_written(stat), Some(8));
        assert_eq!(sectors_written("1 2 3"), None);
        // No device is behind it.
        assert!(Device::of(Path::new("/proc")).is_none());
    }
}
