//! Hears what the broker answers to settlements: one task for all jobs, which wakes once for many of them
//! instead of each job once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use qbroker_client::{Error, Settling};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Span, error, warn};

use crate::context::Context;
use crate::execution::panicked;
use crate::middleware::{Middleware, Settlement};

/// Takes what has been told and has no answer yet. The task ends some time after this.
#[derive(Debug)]
pub(crate) struct Answers(UnboundedSender<Expected>);

/// A job that was settled, and the answer that will come.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) context: Context,
    pub(crate) span: Span,
    pub(crate) settlement: Settlement,
    pub(crate) settling: Settling,
    /// Until then the worker has not ended.
    pub(crate) unfinished: TaskTrackerToken,
}

impl Answers {
    pub(crate) fn new(middleware: Arc<[Arc<dyn Middleware>]>) -> Self {
        let (sender, expected) = unbounded_channel();
        tokio::spawn(hear(expected, middleware));
        Self(sender)
    }

    pub(crate) fn expect(&self, expected: Expected) {
        // The task ends when nobody can send any more, or with the runtime.
        self.0.send(expected).ok();
    }
}

/// Waits for one after the other. The broker answers them in the order in which they were told.
async fn hear(mut expected: UnboundedReceiver<Expected>, middleware: Arc<[Arc<dyn Middleware>]>) {
    while let Some(next) = expected.recv().await {
        let Expected { context, span, settlement, settling, unfinished } = next;
        let answer = settling.await;
        tell(&middleware, &context, &span, settlement, &answer);
        // Who flushes when the worker has ended has the span of its last job.
        drop((context, span));
        drop(unfinished);
    }
}

/// Tells the middleware what the broker answered. The job is settled, so a hook that panics changes nothing
/// for it, nor for those that are told of next.
pub(crate) fn tell(
    middleware: &[Arc<dyn Middleware>],
    context: &Context,
    span: &Span,
    settlement: Settlement,
    answer: &Result<(), Error>,
) {
    let _entered = span.enter();
    if let Err(error) = answer {
        warn!(%error, ?settlement, "the settlement was refused: the job may be done again");
    }
    let telling = || {
        for middleware in middleware.iter().rev() {
            middleware.after_settle(context, settlement, answer.as_ref().copied());
        }
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(telling)) {
        let error = panicked(&*panic);
        error!(actor = context.actor(), %error, "a hook panicked after its job was settled");
    }
}
