//! What can fail: doing what, to which file, at which LSN, and what to do about it.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::lsn::{Lsn, LsnRange};

/// The disk failed: what was being done, to which file.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub struct DiskError {
    /// What was tried, as a verb: "write", "sync".
    pub doing: &'static str,
    /// The file, relative to the data folder.
    pub path: String,
    /// What the operating system said.
    pub source: Arc<io::Error>,
}

impl DiskError {
    pub(crate) fn new(doing: &'static str, path: &str, source: io::Error) -> Self {
        Self { doing, path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether there was no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), PermissionDenied | ReadOnlyFilesystem)
    }
}

/// Says what was being done when an operation of the disk fails.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &str) -> Result<T, DiskError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &str) -> Result<T, DiskError> {
        self.map_err(|source| DiskError::new(doing, path, source))
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data folder.
    #[error(
        "the data folder is in use by {holder}: stop the other broker, or choose another folder"
    )]
    Locked {
        /// Who holds it, as far as known.
        holder: String,
    },
    /// A newer qbroker wrote the folder.
    #[error(
        "the data folder has format {found}, this version reads up to {supported}: \
         use the newer version that wrote it"
    )]
    NewerFormat {
        /// The folder's format version.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// The folder holds something else.
    #[error(
        "the folder is not a qbroker data folder: it has no FORMAT file but holds {found:?}; \
         choose an empty folder"
    )]
    NotADataFolder {
        /// One of the foreign entries.
        found: String,
    },
    /// Nobody has used the folder: there is nothing to look at.
    #[error("the folder is empty: no broker has used it")]
    Unused,
    /// Confirmed data is damaged. Nothing was changed. Exit code 74; restarting does not help.
    #[error(
        "{0}. Nothing was changed and restarting does not help: restore a backup, or repair \
         the folder"
    )]
    Damaged(Box<Damage>),
    /// The disk has no room for what a start must write.
    #[error("the disk is full: {0}; free some space and start again")]
    Full(#[source] DiskError),
    /// The data folder cannot be written.
    #[error("the data folder cannot be written: {0}; check its owner and its mount")]
    ReadOnly(#[source] DiskError),
    /// Anything else the disk refused.
    #[error(transparent)]
    Disk(DiskError),
}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> Self {
        if error.is_full() {
            Self::Full(error)
        } else if error.is_read_only() {
            Self::ReadOnly(error)
        } else {
            Self::Disk(error)
        }
    }
}

impl From<Box<Damage>> for OpenError {
    fn from(damage: Box<Damage>) -> Self {
        Self::Damaged(damage)
    }
}

/// Confirmed data that cannot be read as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the data folder.
    pub file: String,
    /// Where in the file it begins.
    pub offset: Option<u64>,
    /// The first LSN that is, or may be, affected.
    pub first_lsn: Option<Lsn>,
    /// The last LSN affected, where it is known.
    pub last_lsn: Option<Lsn>,
    /// What is wrong there.
    pub problem: String,
    /// How it is known that the bytes were confirmed, if that needs saying.
    pub evidence: Option<String>,
    /// Wall-clock time of the last good frame before it, milliseconds since 1970.
    pub last_good_ms: Option<u64>,
}

impl Damage {
    pub(crate) fn of(file: impl Into<String>, problem: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            file: file.into(),
            offset: None,
            first_lsn: None,
            last_lsn: None,
            problem: problem.into(),
            evidence: None,
            last_good_ms: None,
        })
    }

    pub(crate) fn at(mut self: Box<Self>, offset: u64) -> Box<Self> {
        self.offset = Some(offset);
        self
    }

    pub(crate) fn with_lsns(mut self: Box<Self>, first: Lsn, last: Option<Lsn>) -> Box<Self> {
        self.first_lsn = Some(first);
        self.last_lsn = last;
        self
    }

    pub(crate) fn known_by(mut self: Box<Self>, evidence: impl Into<String>) -> Box<Self> {
        self.evidence = Some(evidence.into());
        self
    }
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged", self.file)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        match (self.first_lsn, self.last_lsn) {
            (Some(first), Some(last)) => write!(f, " (LSN {first} to {last})")?,
            (Some(first), None) => write!(f, " (from LSN {first} on)")?,
            (None, _) => {}
        }
        write!(f, ": {}", self.problem)?;
        if let Some(evidence) = &self.evidence {
            write!(f, "; {evidence}")?;
        }
        if let Some(ms) = self.last_good_ms {
            write!(f, "; the last good frame before it is of {ms} ms since 1970")?;
        }
        Ok(())
    }
}

/// Why the log accepts nothing any more, or a checkpoint was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk failed. After a failed write or sync of the log, only a restart may decide
    /// what is there: it is never tried again.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file that was just written does not read back as it was written.
    #[error("{path} does not read back as it was written: the disk or its driver is faulty")]
    ReadBack {
        /// The file, relative to the data folder.
        path: String,
    },
    /// The log was closed, or stopped after an error that was reported before.
    #[error("the log is stopped")]
    Stopped,
    /// The writer thread ended by a bug.
    #[error("the log's writer thread panicked")]
    Panicked,
}

/// Why a batch was not appended. It got no LSNs and nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log was closed or a write failed; the process must end.
    #[error("the log is stopped")]
    Stopped,
    /// One frame cannot hold it.
    #[error("a batch of {bytes} bytes is larger than the {bytes_max} bytes that one frame holds")]
    TooLarge {
        /// Bytes of the batch.
        bytes: usize,
        /// [`Log::batch_bytes_max`](crate::Log::batch_bytes_max).
        bytes_max: usize,
    },
    /// A record's head is longer than the format can say.
    #[error("a record's head of {bytes} bytes is longer than {bytes_max} bytes")]
    HeadTooLong {
        /// Bytes of the longest head.
        bytes: usize,
        /// The longest head there can be.
        bytes_max: usize,
    },
}

/// Why a record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No such record: never given, or its segment was dropped because nothing needed it.
    #[error("there is no record with LSN {0}")]
    NotFound(Lsn),
    /// A repair gave the record up.
    #[error("the record with LSN {0} was lost to damage and given up by a repair")]
    Lost(Lsn),
    /// Its bytes are not what was written.
    #[error("{0}")]
    Damaged(Box<Damage>),
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
}

/// A run of LSNs that a repair gave up.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The LSNs.
    pub lsns: LsnRange,
    /// Whether what happened to them is gone too (heads), or only their payloads (bodies).
    pub heads: bool,
}
