//! The folder of the index, which holds nothing that anybody needs.

use std::io;
use std::path::{Path, PathBuf};

/// Empties it.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Whatever stands there under its name.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(folder),
        cleared => cleared,
    }
}

/// Says that somebody is about to open what is there.
pub(super) fn mark(folder: &Path) -> io::Result<()> {
    std::fs::write(marker(folder), b"the search index is being opened\n")
}

/// Whether somebody was about to, and did not get over it.
pub(super) fn is_marked(folder: &Path) -> bool {
    marker(folder).exists()
}

/// It is open.
pub(super) fn unmark(folder: &Path) -> io::Result<()> {
    std::fs::remove_file(marker(folder))
}

fn marker(folder: &Path) -> PathBuf {
    folder.with_extension("opening")
}
