//! File systems of a test's own: small ones, and ones that cannot be written.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// A file system in memory of so many bytes, at a folder that is made.
    ///
    /// `None` where this process may not mount: tests then say so, and what they show is left to
    /// the simulated disk.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn memory(path: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(path).expect("the folder can be made");
        let size = format!("size={bytes}");
        mount(&["-t", "tmpfs", "-o", &size, "qbroker-test"], path)
    }

    /// Makes it unwritable, or writable again.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        drop(mount(&["-o", mode], &self.path).expect("a mount can be changed").keep());
    }

    fn keep(self) -> PathBuf {
        let path = self.path.clone();
        std::mem::forget(self);
        path
    }
}

fn mount(arguments: &[&str], path: &Path) -> Option<Mount> {
    let mounted = Command::new("mount").args(arguments).arg(path).output();
    match mounted {
        Ok(output) if output.status.success() => Some(Mount { path: path.to_owned() }),
        other => {
            eprintln!("NOT SHOWN on a real disk, this process may not mount: {other:?}");
            None
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whoever still has files open there is ended by the test.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.path.display());
        }
    }
}
