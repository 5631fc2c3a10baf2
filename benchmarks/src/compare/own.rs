//! qbroker and the floor as participants.

use std::path::{Path, PathBuf};

use super::peer::{About, Confirm, Entry, Found, Name, Peer};
use crate::floor::Floor;
use crate::qbroker::{self, Qbroker};
use crate::system::Fallible;

impl Peer for Qbroker {
    /// The broker's program.
    type Setup = PathBuf;

    async fn start(program: &PathBuf, folder: &Path) -> Fallible<Self> {
        Self::start(program, folder).await
    }
}

impl Peer for Floor {
    /// The size of the messages that it hands out.
    type Setup = usize;

    async fn start(payload_bytes: &usize, folder: &Path) -> Fallible<Self> {
        Self::start(folder, *payload_bytes, None).await
    }
}

/// The broker at `program`.
pub(crate) async fn qbroker(program: PathBuf) -> Fallible<Found> {
    let about = About {
        name: Name::Qbroker,
        title: "qbroker",
        version: qbroker::version(&program).await?,
        confirm: Confirm {
            synced: true,
            means: "fdatasync of the log, once for a group of batches",
        },
        settings: "its defaults; acks are answered once they are on disk".to_owned(),
    };
    Ok(Entry::<Qbroker>::as_the_rows_say(about, program))
}

/// This program's own server that keeps no queue.
pub(crate) fn floor(payload_bytes: usize) -> Found {
    let about = About {
        name: Name::Floor,
        title: "floor",
        version: env!("CARGO_PKG_VERSION").to_owned(),
        confirm: Confirm {
            synced: true,
            means: "fdatasync of one file, once for a group of batches",
        },
        settings: "no broker: appends, syncs, hands out stored messages".to_owned(),
    };
    Entry::<Floor>::as_the_rows_say(about, payload_bytes)
}
