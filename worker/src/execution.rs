//! Runs the work of one job, within its time limit, its lease and the worker's life.

use std::any::Any;
use std::time::Instant;

use qbroker_client::Delivery;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Duration, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span};

use crate::actor::{Kind, Work};
use crate::context::{CancelReason, Context};
use crate::failure::{JobError, JobResult, Verdict};
use crate::overrides;
use crate::registry::Registered;
use crate::slots::Slot;
use crate::worker::Shared;

/// The work of a job, and what bounds it.
pub(crate) struct Execution<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) actor: &'a Registered,
    pub(crate) delivery: &'a Delivery,
    pub(crate) span: &'a Span,
    pub(crate) slot: &'a Slot,
}

impl Execution<'_> {
    /// Runs it to its end, or until it may run no longer.
    pub(crate) async fn run(&self, context: &Context) -> JobResult {
        if let Some(error) = self.too_old(context) {
            return Err(error);
        }
        // While it was told of as begun, or a middleware waited: somebody else does it, or nobody should.
        if let Some(reason) = self.delivery.lost_reason() {
            let reason = CancelReason::LeaseLost(reason);
            context.cancel(reason);
            return Err(interruption(reason, None));
        }
        let limit = self.time_limit(context);
        // Beyond what the clock can tell, there is no limit.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        if let Some(deadline) = deadline {
            context.set_deadline(deadline);
        }
        let work = self.actor.start(context.clone(), context.message())?;
        // Where a middleware does not wait for its end, it must not go on without a slot and a lease.
        let mut running = AbortOnDropHandle::new(spawn(work, context.clone(), self.span.clone()));
        // Most jobs have ended once their own task has had its turn: nothing is made ready to interrupt
        // those.
        tokio::task::yield_now().await;
        if running.is_finished() {
            return ended((&mut running).await, None);
        }
        // In a box: those need no room for it.
        Box::pin(self.watch(context, running, limit, deadline)).await
    }

    /// Waits for the end of the work, or interrupts it.
    async fn watch(
        &self,
        context: &Context,
        mut running: AbortOnDropHandle<JobResult>,
        limit: Option<Duration>,
        deadline: Option<Instant>,
    ) -> JobResult {
        let reason = tokio::select! {
            joined = &mut running => return ended(joined, None),
            reason = self.interrupted(context, deadline) => reason,
        };
        context.cancel(reason);
        running.abort();
        match timeout(self.shared.settings.grace, &mut running).await {
            Ok(joined) => ended(joined, Some((reason, limit))),
            Err(_) => {
                self.shared.slots.stuck(self.slot.clone(), running.detach(), context.clone());
                // Before the settlement, whose room would else be filled.
                self.shared.follow_stuck();
                Err(interruption(reason, limit))
            }
        }
    }

    /// Waits until the work must end, and tells it before where it asked for that.
    async fn interrupted(&self, context: &Context, deadline: Option<Instant>) -> CancelReason {
        let notify = async {
            let own = overrides::flag(&context.message().headers, overrides::NOTIFY_SHUTDOWN);
            if own.unwrap_or(self.actor.treatment.notify_shutdown) {
                self.shared.life.stopping().await;
                context.cancel(CancelReason::Shutdown);
            }
            std::future::pending::<CancelReason>().await
        };
        let limit = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = notify => reason,
            () = limit => CancelReason::TimeLimit,
            reason = self.delivery.lost() => CancelReason::LeaseLost(reason),
            () = self.shared.life.giving_up() => CancelReason::Shutdown,
        }
    }

    fn time_limit(&self, context: &Context) -> Option<Duration> {
        let own = overrides::duration(&context.message().headers, overrides::TIME_LIMIT_MS);
        own.or(self.actor.treatment.time_limit)
    }

    /// What a worker sent has its age limit with it, and the broker sees to it; others' messages may
    /// have none.
    fn too_old(&self, context: &Context) -> Option<JobError> {
        let message = context.message();
        let (Some(limit), None) = (self.actor.treatment.max_age, message.expire_time) else {
            return None;
        };
        // By the broker's clock, whatever this machine's says.
        let now = context.broker_time();
        let age = message.publish_time.and_then(|time| now.duration_since(time).ok());
        age.filter(|age| limit <= *age).map(|age| {
            let why = format!("it was sent {age:?} ago and made sense for {limit:?}");
            JobError::of_kind("AgeLimitExceeded", why, Verdict::GiveUp)
        })
    }
}

fn spawn(work: Work, context: Context, span: Span) -> JoinHandle<JobResult> {
    match work.0 {
        Kind::Future(future) => tokio::spawn(context.scope(future).instrument(span)),
        Kind::Blocking(function) => {
            tokio::task::spawn_blocking(move || span.in_scope(|| context.scope_blocking(function)))
        }
    }
}

/// The result of work that has ended, by itself or because it had to.
fn ended(
    joined: Result<JobResult, JoinError>,
    interrupted: Option<(CancelReason, Option<Duration>)>,
) -> JobResult {
    let result = match joined {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(panicked(&*error.into_panic())),
        // It was aborted, which only an interruption does; else the runtime is going away.
        Err(_) => {
            let (reason, limit) = interrupted.unwrap_or((CancelReason::Shutdown, None));
            Err(interruption(reason, limit))
        }
    };
    match interrupted {
        // Whatever came out, it counts no more.
        Some((reason @ CancelReason::LeaseLost(_), limit)) => Err(interruption(reason, limit)),
        Some(_) | None => result,
    }
}

fn interruption(reason: CancelReason, limit: Option<Duration>) -> JobError {
    match reason {
        CancelReason::TimeLimit => {
            let why = format!("it took longer than {:?}", limit.unwrap_or_default());
            JobError::of_kind("TimeLimitExceeded", why, Verdict::Retry { delay: None })
        }
        CancelReason::Shutdown => {
            let why = "the worker stopped before it was done";
            JobError::of_kind("Shutdown", why, Verdict::Release { delay: None })
        }
        CancelReason::LeaseLost(reason) => {
            let why = format!("its lease has ended: {reason:?}");
            JobError::of_kind("LeaseLost", why, Verdict::Lost)
        }
    }
}

/// A panic, in the words of whoever panicked.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> JobError {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "a panic without a text".to_owned());
    JobError::of_kind("Panic", text, Verdict::Retry { delay: None })
}
