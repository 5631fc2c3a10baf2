//! What a stream is to be told, held until the log is durable up to it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use qbroker_storage::Lsn;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::{Durable, Stopped};

/// A queue of events in the order of the log; one task takes them out.
///
/// Its length is bounded by what fills it: a consumer's window, a publisher's unanswered batches.
#[derive(Debug)]
pub struct Outbox<T> {
    events: Mutex<Line<T>>,
    filled: Notify,
    durable: watch::Receiver<Durable>,
    /// Canceled once the log has stopped.
    stopped: CancellationToken,
}

impl<T> Outbox<T> {
    pub(super) fn new(durable: watch::Receiver<Durable>, stopped: CancellationToken) -> Self {
        Self { events: Mutex::default(), filled: Notify::new(), durable, stopped }
    }

    /// Adds an event that may be told once `lsn` is durable.
    ///
    /// Whoever pushes after its turn may come behind an event of a later one: it is then told
    /// together with that one.
    pub fn push(&self, lsn: Lsn, event: T) {
        let mut events = self.events.lock();
        let was_empty = events.is_empty();
        events.push(lsn, event);
        drop(events);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Changes what nobody has taken; `keep` says whether an event stays.
    pub(super) fn retain(&self, keep: impl FnMut(&mut T) -> bool) {
        self.events.lock().retain(keep);
    }

    /// Waits for events that may be told, and takes all of them.
    pub async fn next(&self) -> Result<VecDeque<T>, Stopped> {
        let mut durable = self.durable.clone();
        loop {
            let now = *durable.borrow_and_update();
            match self.take(now.lsn) {
                Taken::Events(events) => return Ok(events),
                _ if now.stopped => return Err(Stopped),
                Taken::Held => durable.changed().await.map_err(|_| Stopped)?,
                // Commits are no news here: there may be thousands of streams that wait so.
                Taken::Empty => tokio::select! {
                    () = self.filled.notified() => {}
                    () = self.stopped.cancelled() => return Err(Stopped),
                },
            }
        }
    }

    fn take(&self, durable: Lsn) -> Taken<T> {
        let mut events = self.events.lock();
        let taken: VecDeque<T> = events.take(durable);
        match (taken.is_empty(), events.is_empty()) {
            (false, _) => Taken::Events(taken),
            (true, false) => Taken::Held,
            (true, true) => Taken::Empty,
        }
    }
}

/// What an outbox holds for now.
enum Taken<T> {
    Events(VecDeque<T>),
    /// Something, but not yet durable.
    Held,
    Empty,
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Context, Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    #[tokio::test]
    async fn an_event_is_held_until_its_lsn_is_durable() {
        let (commit, durable) = watch::channel(Durable { lsn: Lsn(1), stopped: false });
        let outbox = Outbox::new(durable, CancellationToken::new());
        outbox.push(Lsn(1), 'a');
        outbox.push(Lsn(2), 'b');
        outbox.push(Lsn(3), 'c');
        assert_eq!(outbox.next().await, Ok(VecDeque::from(['a'])));
        assert!(matches!(outbox.take(Lsn(1)), Taken::Held));
        commit.send_replace(Durable { lsn: Lsn(3), stopped: false });
        assert_eq!(outbox.next().await, Ok(VecDeque::from(['b', 'c'])));
        commit.send_replace(Durable { lsn: Lsn(3), stopped: true });
        assert_eq!(outbox.next().await, Err(Stopped));
    }

    #[tokio::test]
    async fn who_waits_for_nothing_learns_of_no_commit_and_of_the_logs_end() {
        let (commit, durable) = watch::channel(Durable { lsn: Lsn(1), stopped: false });
        let stopped = CancellationToken::new();
        let outbox = Outbox::<char>::new(durable, stopped.clone());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut next = pin!(outbox.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        commit.send_replace(Durable { lsn: Lsn(2), stopped: false });
        assert!(!woken.0.load(Relaxed), "a commit is no news");
        stopped.cancel();
        assert!(woken.0.load(Relaxed));
        assert_eq!(next.await, Err(Stopped));
    }

    #[tokio::test]
    async fn nothing_is_told_early_where_a_late_push_comes_behind_a_later_event() {
        let (_commit, durable) = watch::channel(Durable { lsn: Lsn(11), stopped: false });
        let outbox = Outbox::new(durable, CancellationToken::new());
        for lsn in [5, 12, 10, 13] {
            outbox.push(Lsn(lsn), lsn);
        }
        assert_eq!(outbox.next().await, Ok(VecDeque::from([5])));
        assert!(matches!(outbox.take(Lsn(11)), Taken::Held));
        let Taken::Events(events) = outbox.take(Lsn(12)) else { panic!("they are durable") };
        assert_eq!(events, [12, 10]);
    }
}
