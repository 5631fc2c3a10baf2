//! Reservations of the byte budget, given back by the commit that makes their bytes durable.

use parking_lot::Mutex;
use qbroker_storage::Lsn;
use tokio::sync::OwnedSemaphorePermit;

use super::line::Line;

/// Invariant: none of them waits for an LSN that is durable for longer than a commit takes.
#[derive(Debug, Default)]
pub(super) struct Unsynced(Mutex<Line<OwnedSemaphorePermit>>);

impl Unsynced {
    /// Holds a reservation until `lsn` is durable. `durable` is asked under the lock, so that the
    /// commit that makes it so is either seen here or comes to release it.
    pub(super) fn hold(
        &self,
        lsn: Lsn,
        permit: OwnedSemaphorePermit,
        durable: impl FnOnce() -> Lsn,
    ) {
        let mut held = self.0.lock();
        if durable() < lsn {
            held.push(lsn, permit);
        }
    }

    /// The log is durable up to `lsn`, and whoever asks is told so.
    pub(super) fn release(&self, lsn: Lsn) {
        // Waiters are woken with the lock let go.
        let released: Vec<_> = self.0.lock().take(lsn);
        drop(released);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_reservation_is_given_back_by_its_commit() {
        let budget = Arc::new(Semaphore::new(3));
        let permit = || budget.clone().try_acquire_owned().unwrap();
        let unsynced = Unsynced::default();
        unsynced.hold(Lsn(4), permit(), || Lsn(4));
        assert_eq!(budget.available_permits(), 3, "durable already");
        for lsn in [6, 5, 7] {
            unsynced.hold(Lsn(lsn), permit(), || Lsn(4));
        }
        unsynced.release(Lsn(5));
        assert_eq!(budget.available_permits(), 0, "never before its place in the line");
        unsynced.release(Lsn(6));
        assert_eq!(budget.available_permits(), 2);
        unsynced.release(Lsn(7));
        assert_eq!(budget.available_permits(), 3);
    }
}
