//! The thread that follows the log, and takes in what is worth finding.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qbroker_storage::{Bound, FollowError, Lsn, LsnRange};
use tracing::{info, warn};

use super::entry::{Attribute, found_at, names_of};
use super::guard::{Broken, contained};
use super::store::Store;
use super::{Progress, Shared, folder};
use crate::clock;
use crate::engine::Engine;

/// What is read of the log at a time.
const STRETCH: Bound = Bound { records: 4_096, bytes: 1 << 20 };
/// How often it looks whether there is more.
const LOOK: Duration = Duration::from_millis(200);
/// What is gathered is written after this time, however little it is.
const WRITE_AFTER: Duration = Duration::from_secs(30);
/// How long it does nothing after it had to begin anew.
const REST: Duration = Duration::from_secs(1);

pub(super) fn spawn(engine: Arc<Engine>, shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("search".to_owned());
    thread.spawn(move || {
        let mut feeder = Feeder { engine, shared, next: Lsn(1), written: Instant::now() };
        feeder.run();
    })
}

struct Feeder {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    /// The first record that was not looked at.
    next: Lsn,
    written: Instant,
}

impl Feeder {
    fn run(&mut self) {
        while !self.is_stopped(Duration::ZERO) {
            let opened = contained(|| self.open());
            match opened {
                Ok(store) => {
                    self.tell(&store, false);
                    *self.shared.store.lock() = Some(store);
                    self.follow();
                }
                Err(broken) => self.begin_anew(&broken),
            }
        }
        self.close();
    }

    fn begin_anew(&self, broken: &Broken) {
        let mut slot = self.shared.store.lock();
        self.shared.discard(&mut slot, broken);
        drop(slot);
        if let Err(error) = folder::clear(&self.shared.folder) {
            warn!(problem = %error, "the search index's folder cannot be emptied");
        }
        self.is_stopped(REST);
    }

    fn open(&mut self) -> Result<Store, Broken> {
        let log = self.engine.log();
        let (folder, durable) = (&self.shared.folder, log.durable_lsn());
        // A database that takes the process with it must not do so twice.
        if folder::is_marked(folder) {
            folder::clear(folder)?;
        }
        folder::mark(folder)?;
        let store = Store::open(folder, log.log_id(), clock::boot_id(), durable)?;
        folder::unmark(folder)?;
        self.next = store.applied().next();
        self.written = Instant::now();
        Ok(store)
    }

    /// Takes in what comes, until it is to stop or something is wrong.
    fn follow(&mut self) {
        loop {
            let began = Instant::now();
            let was_busy = match contained(|| self.step()) {
                Ok(was_busy) => was_busy,
                Err(_) if self.is_stopped(Duration::ZERO) => return,
                Err(broken) => {
                    self.begin_anew(&broken);
                    return;
                }
            };
            // Half of a core is everybody else's, however much there is to do.
            let rest = if was_busy { began.elapsed() } else { LOOK };
            if self.is_stopped(rest) {
                return;
            }
        }
    }

    /// Does a bounded piece of work; whether there was any.
    fn step(&mut self) -> Result<bool, Broken> {
        let durable = self.engine.log().durable_lsn();
        let wanted = self.engine.look(|core| core.last_searchable()).1;
        let mut was_busy = true;
        if durable < self.next {
            was_busy = false;
        } else if wanted < self.next {
            // Nothing of what came is worth finding.
            self.next = durable.next();
        } else {
            self.take_in_next(durable)?;
        }
        if was_busy {
            self.with_store(|store| {
                self.tell(store, false);
                Ok(())
            })?;
        }
        let is_due = self.with_store(|store| Ok(store.is_due()))?;
        if is_due || WRITE_AFTER <= self.written.elapsed() {
            let applied = Lsn(self.next.0 - 1);
            self.with_store(|store| store.write(applied))?;
            self.written = Instant::now();
        }
        let liveness = self.engine.log().liveness().clone();
        let more = self.with_store(|store| store.tidy(|lsn| liveness.is_kept(lsn)))?;
        Ok(was_busy || more)
    }

    fn take_in_next(&mut self, durable: Lsn) -> Result<(), Broken> {
        match self.engine.log().follow(self.next, STRETCH) {
            Ok(stretch) => {
                let found = stretch.heads.iter().filter_map(|(lsn, head)| found_at(*lsn, head));
                self.take_in(found.collect())?;
                self.next = stretch.next;
            }
            // What was dropped had nothing in it that is kept: the rest is looked through.
            Err(FollowError::Gone { from, .. }) => {
                info!(%from, "the search index is filled from what the log keeps");
                self.fill(LsnRange { first: from, last: durable })?;
                self.next = durable.next();
            }
            Err(FollowError::Unreadable(error)) => {
                warn!(problem = %error, "the search index passes over what cannot be read");
                self.next = self.next.next();
            }
        }
        Ok(())
    }

    /// Looks through what the log keeps of a stretch, in whatever order.
    fn fill(&self, lsns: LsnRange) -> Result<(), Broken> {
        let log = self.engine.log();
        let mut outcome = Ok(());
        let mut began = Instant::now();
        log.heads(lsns, &mut |lsn, head| {
            if outcome.is_err() || !log.liveness().is_kept(lsn) {
                return;
            }
            let Some(found) = found_at(lsn, head) else { return };
            outcome = self.take_in(vec![found]).and_then(|()| {
                // What is filled is not told as looked at before all of it is.
                let applied = Lsn(lsns.first.0 - 1);
                self.with_store(|store| {
                    self.tell(store, true);
                    if store.is_due() { store.write(applied) } else { Ok(()) }
                })
            });
            if Duration::from_millis(20) <= began.elapsed() {
                if self.is_stopped(began.elapsed()) {
                    outcome = Err(Broken::Unfit("the broker stops before it was filled"));
                }
                began = Instant::now();
            }
        });
        outcome
    }

    /// Takes in the names that stand in these records, which is more than an index needs to be told of
    /// those that are gone by now.
    fn take_in(&self, lsns: Vec<Lsn>) -> Result<(), Broken> {
        let log = self.engine.log();
        for lsn in lsns {
            if !log.liveness().is_kept(lsn) {
                continue;
            }
            let Some(Ok(record)) = log.read(&[lsn]).pop() else { continue };
            let Some((_, names)) = names_of(lsn, &record) else { continue };
            self.with_store(|store| {
                for attribute in Attribute::ALL {
                    let name = names.get(attribute);
                    if !name.is_empty() {
                        store.add(attribute, self.shared.hasher.hash(name), lsn);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn with_store<T>(
        &self,
        act: impl FnOnce(&mut Store) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let mut slot = self.shared.store.lock();
        act(slot.as_mut().ok_or(Broken::Unfit("somebody who asked met an error"))?)
    }

    fn tell(&self, store: &Store, filling: bool) {
        let mut progress = self.shared.progress.lock();
        let discarded = progress.discarded;
        let (applied, full) = (Lsn(self.next.0 - 1), store.is_full());
        *progress = Progress { applied, filling, full, entries: store.entries(), discarded };
    }

    /// Waits that long, or until it is to stop; whether it is.
    fn is_stopped(&self, wait: Duration) -> bool {
        let mut stop = self.shared.stop.lock();
        if !*stop && !wait.is_zero() {
            self.shared.stopped.wait_for(&mut stop, wait);
        }
        *stop
    }

    fn close(&self) {
        let Some(store) = self.shared.store.lock().take() else { return };
        let applied = Lsn(self.next.0 - 1);
        if let Err(broken) = contained(|| store.close(applied)) {
            warn!(problem = %broken, "the search index was not closed; it is begun anew");
        }
    }
}
