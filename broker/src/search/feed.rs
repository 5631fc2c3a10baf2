//! The thread that follows the log, and takes in what is worth finding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qbroker_storage::{Bound, FollowError, Lsn, LsnRange, Space, give_way};
use tracing::{error, info, warn};

use super::entry::{Attribute, Found, found, named};
use super::guard::Broken;
use super::store::{Of, Store};
use super::{Progress, Shared, folder};
use crate::engine::Engine;

/// What is read of the log at a time.
const STRETCH: Bound = Bound { records: 4_096, bytes: 1 << 20 };
/// How often it looks whether there is more.
const LOOK: Duration = Duration::from_millis(200);
/// What is gathered is written after this time, however little it is.
const WRITE_AFTER: Duration = Duration::from_secs(30);
/// How long it does nothing after it had to begin anew for the first time; each time twice as long.
const REST: Duration = Duration::from_millis(100);
/// So often it begins anew, then not before the next start: each time costs the memory of a database that
/// nobody dares to close.
const DISCARDED_MAX: u32 = 10;

pub(super) fn spawn(engine: Arc<Engine>, shared: Arc<Shared>) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("search".to_owned());
    let run = move || {
        give_way();
        let mut feeder = Feeder { engine, shared, next: Lsn(1), written: Instant::now() };
        feeder.run();
        *feeder.shared.ended.lock() = true;
        feeder.shared.has_ended.notify_all();
    };
    thread.spawn(run).map(drop)
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
        for discarded in 1.. {
            if self.waits_for_room() {
                break;
            }
            let Err(broken) = self.open().and_then(|()| self.follow()) else { break };
            if self.is_stopped(Duration::ZERO) {
                break;
            }
            self.begin_anew(&broken);
            if discarded == DISCARDED_MAX {
                error!("the search index is off until the next start: it cannot be kept");
                return;
            }
            self.is_stopped(REST * 2_u32.pow(discarded - 1));
        }
        self.close();
    }

    /// Waits until the disk has room for what nobody needs; whether it is to stop.
    fn waits_for_room(&self) -> bool {
        while !self.is_stopped(Duration::ZERO) {
            if self.has_room() {
                return false;
            }
            self.is_stopped(LOOK);
        }
        true
    }

    fn has_room(&self) -> bool {
        self.engine.log().space() == Space::Ample
    }

    fn begin_anew(&self, broken: &Broken) {
        let mut slot = self.shared.store.lock();
        self.shared.discard(&mut slot, broken);
        drop(slot);
        self.shared.progress.lock().discarded += 1;
        if let Err(error) = folder::clear(&self.shared.folder) {
            warn!(problem = %error, "the search index's folder cannot be emptied");
        }
    }

    fn open(&mut self) -> Result<(), Broken> {
        let log = self.engine.log();
        let boot_id = self.engine.clock().boot_id();
        let of = Of { log_id: log.log_id(), boot_id, durable: log.durable_lsn() };
        let folder = &self.shared.folder;
        // A database that takes the process with it must not do so twice.
        if folder::is_marked(folder) {
            folder::clear(folder)?;
        }
        folder::mark(folder)?;
        let store = Store::open(folder, &of, self.shared.names_max)?;
        folder::unmark(folder)?;
        self.next = store.applied().next();
        self.written = Instant::now();
        self.tell(&store, false);
        *self.shared.store.lock() = Some(store);
        Ok(())
    }

    /// Takes in what comes, until it is to stop or something is wrong.
    fn follow(&mut self) -> Result<(), Broken> {
        loop {
            let began = Instant::now();
            let was_busy = self.step()?;
            // Half of a core is everybody else's, however much there is to do.
            let rest = if was_busy { began.elapsed() } else { LOOK };
            if self.is_stopped(rest) {
                return Ok(());
            }
        }
    }

    /// Does a bounded piece of work; whether there was any.
    fn step(&mut self) -> Result<bool, Broken> {
        if !self.has_room() {
            return Ok(false);
        }
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
                for (lsn, head) in &stretch.heads {
                    self.take_in(found(*lsn, head))?;
                }
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
            let Some(found) = found(lsn, head) else { return };
            outcome = self.take_in(Some(found)).and_then(|()| {
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

    /// Takes in the names of a message, unless it is gone by now or there is no room.
    fn take_in(&self, found: Option<Found>) -> Result<(), Broken> {
        let Some(Found { place, is_delayed }) = found else { return Ok(()) };
        let log = self.engine.log();
        if !log.liveness().is_kept(place) {
            return Ok(());
        }
        let has_room = self.with_store(|store| {
            let is_full = store.is_full(is_delayed);
            if is_full {
                store.miss();
            }
            Ok(!is_full)
        });
        if !has_room? {
            return Ok(());
        }
        let Some(Ok(record)) = log.read(&[place]).pop() else { return Ok(()) };
        let Some(named) = named(place, &record) else { return Ok(()) };
        self.with_store(|store| {
            for attribute in Attribute::ALL {
                let name = named.names.get(attribute);
                if !name.is_empty() {
                    store.add(attribute, self.shared.hasher.hash(name), place);
                }
            }
            Ok(())
        })
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
        *progress = Progress {
            applied: Lsn(self.next.0 - 1),
            filling,
            full: store.misses(),
            entries: store.entries(),
            discarded: progress.discarded,
        };
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
        if let Err(broken) = store.close(applied) {
            warn!(problem = %broken, "the search index was not closed; it is begun anew");
        }
    }
}
