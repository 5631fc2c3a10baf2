//! The machine that figures were taken on, without which they say nothing.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::system::Fallible;

/// What the figures depend on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The processor's own name.
    pub(crate) processor: String,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Where the servers' files are.
    pub(crate) folder: PathBuf,
    /// Of that folder: its type and where it is mounted from.
    pub(crate) file_system: String,
}

impl Machine {
    /// Describes this machine, and the disk that `folder` is on.
    ///
    /// # Errors
    ///
    /// What cannot be read: a figure without its machine is not worth having.
    pub(crate) fn describe(folder: &Path) -> Fallible<Self> {
        let folder = folder.canonicalize().with_context(|| format!("{}", folder.display()))?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name")
                .unwrap_or_else(|_| std::env::consts::ARCH.to_owned()),
            memory_bytes: memory_bytes(&field("/proc/meminfo", "MemTotal")?)?,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(&read("/proc/self/mountinfo")?, &folder)
                .context("the folder's file system is not in /proc/self/mountinfo")?,
            folder,
        })
    }

    /// Whether a sync here reaches no disk at all.
    pub(crate) fn is_volatile(&self) -> bool {
        self.file_system.starts_with("tmpfs") || self.file_system.starts_with("ramfs")
    }
}

fn read(path: &str) -> Fallible<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The first `name : value` line of a file under `/proc`.
fn field(path: &str, name: &str) -> Fallible<String> {
    let text = read(path)?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(key, _)| key.trim() == name);
    let (_, value) = found.with_context(|| format!("{path} has no {name:?}"))?;
    Ok(value.trim().to_owned())
}

fn memory_bytes(text: &str) -> Fallible<u64> {
    let kib = text.strip_suffix("kB").with_context(|| format!("not in kB: {text:?}"))?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// Type and source of the innermost mount that `folder` is below.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = PathBuf::from(place.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        Some((point, format!("{} on {}", kind.next()?, kind.next()?)))
    };
    let around = mounts.lines().filter_map(mount).filter(|(point, _)| folder.starts_with(point));
    // Of two on one place, the later hides the earlier.
    around.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_the_folders_own() {
        let mounts = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      33 21 0:29 / /tmp rw - tmpfs tmpfs rw\n\
                      34 21 0:30 / /tmpfiles rw - xfs /dev/vdb rw\n";
        let of = |folder: &str| file_system(mounts, Path::new(folder)).unwrap();
        assert_eq!(of("/var/lib/x"), "ext4 on /dev/vda");
        assert_eq!(of("/tmp/x"), "tmpfs on tmpfs");
        assert_eq!(of("/tmpfiles"), "xfs on /dev/vdb");
    }

    #[test]
    fn this_machine_can_be_described() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::describe(folder.path()).unwrap();
        assert!(0 < machine.cores && 0 < machine.memory_bytes, "{machine:?}");
    }
}
