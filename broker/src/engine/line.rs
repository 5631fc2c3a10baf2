//! What waits for the log to be durable, in the log's order.

use std::collections::VecDeque;

use qbroker_storage::Lsn;

/// Items that each wait for an LSN. Invariant: the LSNs ascend.
#[derive(Debug)]
pub(super) struct Line<T>(VecDeque<(Lsn, T)>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Line<T> {
    /// Adds an item that waits for `lsn`, and for everything that stands before it.
    pub(super) fn push(&mut self, lsn: Lsn, item: T) {
        let lsn = self.0.back().map_or(lsn, |(last, _)| lsn.max(*last));
        self.0.push_back((lsn, item));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps items of which `keep` says so; it may change them.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.0.retain_mut(|(_, item)| keep(item));
    }

    /// Takes what waits for nothing any more once the log is durable up to `durable`.
    pub(super) fn take<C: FromIterator<T>>(&mut self, durable: Lsn) -> C {
        let count = self.0.partition_point(|(lsn, _)| *lsn <= durable);
        self.0.drain(..count).map(|(_, item)| item).collect()
    }
}
