//! The way of one message through a worker: found, run, decided, settled.

use std::sync::Arc;
use std::time::Instant;

use qbroker_client::{Delivery, Message};
use tracing::{Instrument as _, Span, error, info, info_span, warn};

use crate::actor::Callback;
use crate::context::Context;
use crate::execution::Execution;
use crate::failure::{JobError, JobResult, Verdict};
use crate::middleware::{JobEnd, Next, Settlement};
use crate::outgoing::SendError;
use crate::registry::Registered;
use crate::report::JobReport;
use crate::settle;
use crate::slots::Slot;
use crate::trace::{TRACEPARENT, TraceContext};
use crate::worker::Shared;

/// Does what a message asks for and tells the broker how it went.
pub(crate) async fn run(shared: Arc<Shared>, delivery: Delivery, slot: Slot) {
    let Some(actor) = shared.actors.get(&delivery.message.message_type) else {
        return reject(&shared, delivery).await;
    };
    let parent = delivery.message.headers.get(TRACEPARENT).and_then(|text| text.parse().ok());
    let trace = parent.map_or_else(TraceContext::root, TraceContext::child);
    let (broker, states) = (Some(shared.broker.clone()), Arc::clone(&shared.states));
    let context = Context::new(actor.name, (*delivery).clone(), broker, states, trace);
    let span = span(&context, parent);
    for middleware in shared.middleware() {
        middleware.on_span(&context, &span);
    }
    let job = Job { shared: &shared, actor, context: &context, span: &span };
    let settling = async {
        let (result, settlement) = job.process(&delivery, &slot).await;
        // The next job may begin while this one is settled.
        drop(slot);
        job.settle(delivery, &result, settlement).await;
    };
    settling.instrument(span.clone()).await;
}

fn span(context: &Context, parent: Option<TraceContext>) -> Span {
    let (message, trace) = (context.message(), context.trace());
    let hex = |id: u64| format!("{id:016x}");
    info_span!(
        "job",
        actor = context.actor(),
        queue = message.queue,
        message_id = message.message_id,
        attempt = context.attempt(),
        trace_id = format!("{:032x}", trace.trace_id),
        span_id = hex(trace.span_id),
        parent_span_id = parent.map(|parent| hex(parent.span_id)),
    )
}

/// A message whose actor is known.
struct Job<'a> {
    shared: &'a Shared,
    actor: &'a Registered,
    context: &'a Context,
    span: &'a Span,
}

impl Job<'_> {
    async fn process(&self, delivery: &Delivery, slot: &Slot) -> (JobResult, Settlement) {
        for middleware in self.shared.middleware() {
            middleware.before_process(self.context);
        }
        let started = Instant::now();
        let Self { shared, actor, span, context } = *self;
        let execution = Execution { shared, actor, delivery, span, slot };
        let next = Next { context, rest: shared.middleware(), execution: &execution };
        let result = next.run().await;
        let settlement = settle::decide(&result, context, &actor.options, rand::random());
        let duration = started.elapsed();
        self.log(&result, settlement);
        let end = JobEnd { result: &result, settlement, duration };
        for middleware in shared.middleware().iter().rev() {
            middleware.after_process(context, &end);
        }
        (result, settlement)
    }

    fn log(&self, result: &JobResult, settlement: Settlement) {
        let Err(failed) = result else { return };
        match settlement {
            Settlement::Ack => info!(reason = %failed, "job skipped"),
            Settlement::Retry { delay } => {
                warn!(error = %failed, retry = self.context.failures() + 1, ?delay, "job failed, to be tried again");
            }
            Settlement::DeadLetter { exhausted } => {
                error!(error = %failed, exhausted, "job failed for good, dead-lettered");
            }
            Settlement::Release { .. } => info!(reason = %failed, "job handed back"),
            Settlement::Nothing => warn!(reason = %failed, "job stopped, somebody else may do it"),
        }
    }

    async fn settle(&self, delivery: Delivery, result: &JobResult, settlement: Settlement) {
        let error = result.as_ref().err();
        let (unsent, settlement) = match self.call_back(error, settlement).await {
            Ok(()) => (None, settlement),
            Err(why) => self.without_callback(&why, settlement),
        };
        let error = unsent.as_ref().and_then(|unsent| unsent.as_ref().err()).or(error);
        let message = self.context.message();
        let Some(outcome) = settle::outcome(settlement, error, message) else { return };
        let settled = delivery.settle(outcome).await;
        if let Err(error) = &settled {
            warn!(%error, ?settlement, "the settlement was refused: the job may be done again");
        }
        for middleware in self.shared.middleware().iter().rev() {
            middleware.after_settle(self.context, settlement, settled.as_ref().copied());
        }
    }

    /// The job has ended, but who should hear of it cannot. One that was done is done again rather
    /// than forgotten; one that has failed has failed anyhow.
    fn without_callback(
        &self,
        why: &SendError,
        settlement: Settlement,
    ) -> (Option<JobResult>, Settlement) {
        error!(error = %why, "the actor's callback cannot be sent");
        if settlement != Settlement::Ack {
            return (None, settlement);
        }
        let text = format!("the actor's callback cannot be sent: {why}");
        let failed = JobError::of_kind("CallbackNotSent", text, Verdict::Retry { delay: None });
        let failed = Err(failed);
        let options = &self.actor.options;
        let settlement = settle::decide(&failed, self.context, options, rand::random());
        (Some(failed), settlement)
    }

    /// Sends what the actor's callbacks are told; it is on disk before the job is settled, so that a
    /// crash repeats it rather than loses it. The id keeps a repeated one from being stored twice.
    async fn call_back(
        &self,
        error: Option<&JobError>,
        settlement: Settlement,
    ) -> Result<(), SendError> {
        let options = &self.actor.options;
        let failed = matches!(settlement, Settlement::Retry { .. } | Settlement::DeadLetter { .. });
        let done = settlement == Settlement::Ack && error.is_none();
        let exhausted = settlement == Settlement::DeadLetter { exhausted: true };
        let due: [(bool, Option<Callback>, &str); 3] = [
            (done, options.on_success, "success"),
            (failed, options.on_failure, "failure"),
            (exhausted, options.on_exhausted, "exhausted"),
        ];
        for (due, callback, name) in due {
            let Some(callback) = callback.filter(|_| due) else { continue };
            let leased = self.context.leased();
            let report = JobReport::new(self.actor.name, leased, error);
            let id = format!("job-{}-{}-{name}", leased.message.sequence, leased.attempt);
            callback(report)
                .message_id(id)
                .trace(self.context.trace())
                .send(&self.shared.broker)
                .await?;
        }
        Ok(())
    }
}

/// Dead-letters a message that no actor here is for.
async fn reject(shared: &Shared, delivery: Delivery) {
    let message: Message = delivery.message.clone();
    let why = match message.message_type.as_str() {
        "" => "the message names no actor in its message_type".to_owned(),
        name => format!("no actor {name:?} is registered with this worker"),
    };
    let error = JobError::of_kind("UnknownActor", why, Verdict::GiveUp);
    error!(queue = message.queue, message_id = message.message_id, %error, "message dead-lettered");
    for middleware in shared.middleware() {
        middleware.on_reject(&message, &error);
    }
    if let Err(error) = delivery.dead_letter(error.to_failure()).await {
        warn!(message_id = message.message_id, %error, "the message was not dead-lettered");
    }
}
