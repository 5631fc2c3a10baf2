//! How many jobs run at a time, and those among them that do not stop when they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::context::Context;
use crate::failure::JobResult;

/// The right to run one job; free again when the last clone is dropped.
pub(crate) type Slot = Arc<OwnedSemaphorePermit>;

/// The slots of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    stuck: Arc<Stuck>,
    /// How long a job may be stuck until the worker ends because of it.
    stuck_max: Option<Duration>,
}

#[derive(Debug, Default)]
struct Stuck {
    jobs: AtomicUsize,
    /// Their number has changed.
    changed: Notify,
    /// One of them has been stuck for too long.
    too_long: Notify,
}

impl Slots {
    pub(crate) fn new(count: usize, stuck_max: Option<Duration>) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), stuck: Arc::default(), stuck_max }
    }

    /// Waits for a free slot, and takes those with it that are free as well, at most `max`.
    pub(crate) async fn take(&self, max: usize) -> Vec<Slot> {
        let first = Arc::clone(&self.free).acquire_owned().await;
        let first = first.expect("the slots are never closed");
        let more = std::iter::from_fn(|| Arc::clone(&self.free).try_acquire_owned().ok());
        std::iter::once(first).chain(more).take(max).map(Arc::new).collect()
    }

    /// Leaves its slot to a job that was told to stop, did not, and counts as failed. Nothing can end
    /// a thread; should it end by itself, the slot is free again.
    pub(crate) fn stuck(&self, slot: Slot, mut running: JoinHandle<JobResult>, context: Context) {
        let jobs = self.stuck.change(|jobs| jobs.fetch_add(1, Ordering::Relaxed) + 1);
        let (actor, message_id) = (context.actor(), context.message().message_id.clone());
        warn!(actor, message_id, jobs, "a job does not stop and keeps its slot");
        let (stuck, stuck_max) = (Arc::clone(&self.stuck), self.stuck_max);
        tokio::spawn(async move {
            let too_long = async {
                match stuck_max {
                    Some(max) => tokio::time::sleep(max).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Whatever came out of it, it counts no more.
                _ = &mut running => {}
                () = too_long => {
                    error!(actor, message_id, "a job has not stopped for too long: the worker ends");
                    stuck.too_long.notify_one();
                    // Its outcome counts no more.
                    drop(running.await);
                }
            }
            drop(slot);
            let jobs = stuck.change(|jobs| jobs.fetch_sub(1, Ordering::Relaxed) - 1);
            warn!(actor, message_id, jobs, "a job that was stuck has ended");
        });
    }

    /// How many jobs are stuck.
    pub(crate) fn stuck_jobs(&self) -> usize {
        self.stuck.jobs.load(Ordering::Relaxed)
    }

    /// Waits until the number of stuck jobs is another one.
    pub(crate) async fn stuck_changed(&self) {
        self.stuck.changed.notified().await;
    }

    /// Waits until a job has been stuck for too long.
    pub(crate) async fn stuck_too_long(&self) {
        self.stuck.too_long.notified().await;
    }
}

impl Stuck {
    fn change(&self, change: impl FnOnce(&AtomicUsize) -> usize) -> usize {
        let jobs = change(&self.jobs);
        self.changed.notify_one();
        jobs
    }
}
