//! The search index: messages that stay long, by id, correlation id and type.
//!
//! What is looked for are dead letters, messages that wait for their time, and the outcomes of those
//! that are done. The index is derived and disposable: a thread of its own follows the log, after
//! everybody was answered, and puts into a `sled` database in a folder of its own where in the log a
//! name stands. It is never the truth: whoever finds something reads the record and asks the queues.
//! Whatever is wrong with it, an error, a panic, a folder that is of another log or from before a power
//! cut, has one answer: the folder is emptied, and filled again in the background.

mod entry;
mod feed;
mod folder;
mod guard;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use qbroker_storage::Lsn;

pub use entry::{Attribute, Named, Names, named};
pub use guard::end_on_panic;

use crate::engine::Engine;
use entry::Hasher;
use guard::Broken;
use store::Store;

/// How long a stop waits for the index to be closed.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// How far the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here was looked at.
    pub applied: Lsn,
    /// It is being filled: what was there before is missing still.
    pub filling: bool,
    /// Something is missing: it had as many entries as it may have, or of what is delayed half as many.
    pub full: bool,
    /// Names that it has.
    pub entries: u64,
    /// How often it was begun anew since the start, because something was wrong with it.
    pub discarded: u64,
}

/// The index cannot be asked just now: it is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady;

/// What those who ask share with the thread that feeds.
#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    names_max: u64,
    hasher: Hasher,
    /// None while it is being opened.
    store: Mutex<Option<Store>>,
    progress: Mutex<Progress>,
    stop: Mutex<bool>,
    stopped: Condvar,
    /// The thread has ended.
    ended: Mutex<bool>,
    has_ended: Condvar,
}

/// The search index of a broker.
#[derive(Clone, Debug)]
pub struct Search {
    shared: Arc<Shared>,
}

impl Search {
    /// Begins to follow the log; what is in `folder` is used where it fits. Holds `names_max` names.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(engine: &Arc<Engine>, folder: PathBuf, names_max: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            folder,
            names_max,
            hasher: Hasher::new(engine.log().log_id()),
            store: Mutex::new(None),
            progress: Mutex::new(Progress { filling: true, ..Progress::default() }),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
            ended: Mutex::new(false),
            has_ended: Condvar::new(),
        });
        feed::spawn(engine.clone(), shared.clone())?;
        Ok(Self { shared })
    }

    /// Where in the log this name stood, as far as is known: births of messages and records of outcomes
    /// behind `after`, each once and in order, the first `max`. Some may be of another name, or gone. May
    /// wait for the disk.
    ///
    /// # Errors
    /// [`NotReady`] while the index is being opened.
    pub fn find(
        &self,
        attribute: Attribute,
        name: &str,
        after: Lsn,
        max: usize,
    ) -> Result<Vec<Lsn>, NotReady> {
        let hash = self.shared.hasher.hash(name);
        self.look(|store| store.find(attribute, hash, after, max))
    }

    /// [`Self::find`], but the last `max` of all.
    ///
    /// # Errors
    /// [`NotReady`] while the index is being opened.
    pub fn latest(
        &self,
        attribute: Attribute,
        name: &str,
        max: usize,
    ) -> Result<Vec<Lsn>, NotReady> {
        let hash = self.shared.hasher.hash(name);
        self.look(|store| store.latest(attribute, hash, max))
    }

    fn look(
        &self,
        question: impl FnOnce(&Store) -> Result<Vec<Lsn>, Broken>,
    ) -> Result<Vec<Lsn>, NotReady> {
        let mut slot = self.shared.store.lock();
        let store = slot.as_ref().ok_or(NotReady)?;
        match question(store) {
            Ok(found) => Ok(found),
            Err(broken) => {
                self.shared.discard(&mut slot, &broken);
                Err(NotReady)
            }
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *self.shared.progress.lock()
    }

    /// [`Self::stop`], and waits for it: what the index has is in its folder then. Not for ever: it is
    /// not worth that.
    pub fn close(&self) {
        self.stop();
        let mut ended = self.shared.ended.lock();
        let wait = self.shared.has_ended.wait_while_for(&mut ended, |ended| !*ended, CLOSE_MAX);
        if wait.timed_out() {
            tracing::warn!("the search index does not end; it is left as it is");
        }
    }

    /// Ends the thread, once what it has is in the folder.
    pub fn stop(&self) {
        *self.shared.stop.lock() = true;
        self.shared.stopped.notify_all();
    }
}

impl Shared {
    /// Gives up what is open: the thread begins anew.
    fn discard(&self, slot: &mut Option<Store>, broken: &Broken) {
        tracing::warn!(problem = %broken, "the search index is begun anew; nothing else is affected");
        *slot = None;
        let mut progress = self.progress.lock();
        let discarded = progress.discarded;
        *progress = Progress { filling: true, discarded, ..Progress::default() };
    }
}
