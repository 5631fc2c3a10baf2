//! Why the broker does not serve, and how the process then ends.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use qbroker_storage::{OpenError, WriteError};

use crate::auth::AccessError;
use crate::clock::ClockUnset;
use crate::engine::StartError;
use crate::exit::Exit;
use crate::tls::TlsError;

/// Why a broker cannot start, or not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}; stop what uses the port, or choose another")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the listener is not usable: {0}")]
    Listener(std::io::Error),
    #[error("the data folder {} is not usable: {source}", path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Start(StartError),
    #[error("{source}; {}", Remedy(folder))]
    Damaged { folder: PathBuf, source: StartError },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the protocol's description cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("SIGHUP cannot be listened to: {0}")]
    Signal(std::io::Error),
    #[error("a thread of the broker ended badly: {0}")]
    Recovery(tokio::task::JoinError),
    #[error("the search index's thread cannot be started: {0}")]
    Search(std::io::Error),
    #[error(transparent)]
    Clock(#[from] ClockUnset),
    #[error("the log could not be closed: {0}")]
    Close(WriteError),
}

/// The commands that tell what is damaged in a folder, and what a repair of it would cost.
#[derive(Debug)]
pub(super) struct Remedy<'a>(pub(super) &'a Path);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.0.display();
        write!(
            f,
            "see `qbroker data verify --data-dir {folder}`, then `qbroker data repair --dry-run \
             --data-dir {folder}`"
        )
    }
}

impl ServeError {
    /// Why a start on this folder failed.
    pub(super) fn of_start(folder: &Path, source: StartError) -> Self {
        match source {
            StartError::Log(OpenError::Damaged(_)) | StartError::Page(_) => {
                Self::Damaged { folder: folder.to_owned(), source }
            }
            source => Self::Start(source),
        }
    }

    /// The process's exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Damaged { .. } => Exit::Damaged,
            Self::Start(StartError::Log(OpenError::NewerFormat { .. }))
            | Self::Start(StartError::Log(OpenError::NotADataFolder { .. }))
            | Self::Start(StartError::Record { .. } | StartError::Snapshot(_))
            | Self::Access(_)
            | Self::Tls(_)
            | Self::Clock(_) => Exit::Config,
            Self::Bind { .. }
            | Self::Listener(_)
            | Self::DataDir { .. }
            | Self::Start(_)
            | Self::Close(_) => Exit::Unavailable,
            Self::Reflection(_) | Self::Signal(_) | Self::Recovery(_) | Self::Search(_) => {
                Exit::Internal
            }
        }
    }
}
