//! A test's own folder: gone afterwards, kept when the test fails.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary folder with the data folder of a broker in it.
#[derive(Debug)]
pub struct Folder {
    folder: Option<TempDir>,
    data: PathBuf,
}

impl Folder {
    /// A fresh folder; the data folder in it is not made yet.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("qbroker-test-").tempdir();
        let folder = folder.expect("temporary folders can be made");
        let data = folder.path().join("data");
        Self { folder: Some(folder), data }
    }

    /// The broker's data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The data folder as an argument.
    pub fn data_text(&self) -> &str {
        self.data.to_str().expect("temporary paths are UTF-8")
    }

    /// A file or folder beside the data folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.data.with_file_name(name)
    }

    /// Files in one of the data folder's folders, sorted by name; `""` is the data folder itself.
    ///
    /// # Panics
    /// When there is no such folder.
    pub fn files(&self, dir: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data.join(dir)).expect("the folder is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        paths
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept for a look: {}", folder.keep().display());
        }
    }
}
