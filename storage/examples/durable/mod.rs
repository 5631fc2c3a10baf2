//! An observer that others wait for; the tests with threads use it too.

use parking_lot::{Condvar, Mutex};
use qbroker_storage::{Lsn, Observer, WriteError};

/// How far the log is durable.
#[derive(Default)]
pub(crate) struct Durable {
    lsn: Mutex<Lsn>,
    grown: Condvar,
}

impl Observer for Durable {
    fn durable(&self, lsn: Lsn) {
        *self.lsn.lock() = lsn;
        self.grown.notify_all();
    }

    fn failed(&self, error: &WriteError) {
        panic!("{error}");
    }
}

impl Durable {
    /// Waits until the log is durable up to `lsn`.
    pub(crate) fn wait(&self, lsn: Lsn) {
        let mut durable = self.lsn.lock();
        while *durable < lsn {
            self.grown.wait(&mut durable);
        }
    }
}
