//! How much a stream may have unanswered: who does not read his answers is not listened to.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;

/// One stream's share, in units of its own choice. What was admitted counts until its answer is
/// taken from the outbox, and the permit with it.
#[derive(Debug)]
pub(super) struct Unanswered {
    free: Arc<Semaphore>,
    max: usize,
}

/// Held by whoever answers the stream. Dropped, nothing more is admitted.
#[derive(Debug)]
pub(super) struct Answering(Arc<Semaphore>);

impl Unanswered {
    pub(super) fn new(max: usize) -> (Self, Answering) {
        let free = Arc::new(Semaphore::new(max));
        (Self { free: free.clone(), max }, Answering(free))
    }

    /// Waits for room; what is more than all of it waits for all of it.
    ///
    /// # Errors
    /// Where nobody is there any more to answer.
    pub(super) async fn admit(&self, units: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let units = u32::try_from(units.min(self.max)).unwrap_or(u32::MAX);
        let permit = self.free.clone().acquire_many_owned(units).await;
        permit.map_err(|_| Fault::Unreadable("the stream has ended".to_owned()))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_reads_nothing_is_not_listened_to_and_who_is_gone_keeps_nobody_waiting() {
        let (unanswered, answering) = Unanswered::new(3);
        let first = unanswered.admit(2).now_or_never().expect("there is room").unwrap();
        assert!(unanswered.admit(2).now_or_never().is_none());
        drop(first);
        // Larger than all there is.
        let all = unanswered.admit(7).now_or_never().expect("there is room").unwrap();
        let mut waiting = Box::pin(unanswered.admit(1));
        assert!((&mut waiting).now_or_never().is_none());
        drop(answering);
        assert!(waiting.now_or_never().expect("nobody will answer").is_err());
        drop(all);
    }
}
