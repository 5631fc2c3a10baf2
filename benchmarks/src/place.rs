//! What every command is told: which broker, where its files go, and where the figures go.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use tempfile::TempDir;

use crate::system::Fallible;

/// Where to measure, and where to report.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Writes everything that was measured to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the servers keep their files while it runs [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The broker to measure [default: built by cargo where cargo runs this, else the one beside it]
    #[arg(long, value_name = "FILE")]
    qbroker: Option<PathBuf>,
}

impl PlaceArgs {
    /// For a part of a command that reports itself.
    pub(crate) fn without_json(&self) -> Self {
        Self { json: None, ..self.clone() }
    }

    /// The broker to measure.
    pub(crate) fn program(&self) -> Fallible<PathBuf> {
        Ok(qbroker_program::find(self.qbroker.as_deref())?)
    }

    /// The folder that is there already.
    pub(crate) fn parent(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// A folder for this run, gone when it is dropped.
    pub(crate) fn folder(&self, command: &str) -> Fallible<TempDir> {
        let parent = self.parent();
        let prefix = format!("qbroker-{command}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent);
        folder.with_context(|| format!("cannot make a folder in {}", parent.display()))
    }

    /// Writes the report where a file was named.
    pub(crate) fn write_json(&self, report: &impl Serialize) -> Fallible<()> {
        let Some(path) = &self.json else { return Ok(()) };
        write_file(path, &serde_json::to_string_pretty(report)?)
    }
}

/// Makes a folder in one that is there.
pub(crate) fn folder_in(parent: &Path, name: &str) -> Fallible<PathBuf> {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

pub(crate) fn write_file(path: &Path, text: &str) -> Fallible<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
