//! The way of one message through a worker: found, run, decided, settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qbroker_client::{Delivery, Error, Message, Outcome, Reason, Settlement as Whole};
use tracing::{Instrument as _, Span, error, info, info_span, warn};

use crate::context::Context;
use crate::execution::Execution;
use crate::failure::{JobError, JobResult, Verdict};
use crate::follow_up::FollowUp;
use crate::middleware::{JobEnd, Next, Settlement};
use crate::outgoing::SendError;
use crate::registry::Registered;
use crate::settle;
use crate::slots::Slot;
use crate::trace::{TRACEPARENT, TraceContext};
use crate::worker::Shared;

/// How long a settlement that is refused for now waits until it is tried again, at first and in the
/// end.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Does what a message asks for and tells the broker how it went.
pub(crate) async fn run(shared: Arc<Shared>, delivery: Delivery, slot: Slot) {
    let Some(actor) = shared.actors.get(&delivery.message.message_type) else {
        return reject(&shared, delivery).await;
    };
    begin(&shared, &delivery).await;
    let parent = delivery.message.headers.get(TRACEPARENT).and_then(|text| text.parse().ok());
    let trace = parent.map_or_else(TraceContext::root, TraceContext::child);
    let (broker, states) = (Some(shared.broker.clone()), Arc::clone(&shared.states));
    let context = Context::new(actor.name, delivery.leased(), broker, states, trace);
    let span = span(&context, parent);
    for middleware in shared.middleware() {
        middleware.on_span(&context, &span);
    }
    let job = Job { shared: &shared, actor, context: &context, span: &span };
    let settling = async {
        let (result, settlement) = job.process(&delivery, &slot).await;
        // The next job may begin while this one is settled.
        drop(slot);
        job.settle(delivery, result, settlement).await;
    };
    settling.instrument(span.clone()).await;
}

/// Tells the broker that a job begins, where others wait behind it.
async fn begin(shared: &Shared, delivery: &Delivery) {
    if shared.settings.prefetch == 0 {
        return;
    }
    // So that it is on its way when the job kills the process at once: its crash is to be counted.
    delivery.begin().await;
    // The connection writes it to the socket in a turn of its own.
    tokio::task::yield_now().await;
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

    /// Tells the broker, with all that follows from it. A job that was done but whose follow-up the
    /// broker does not take is done again rather than forgotten; one that has failed has failed anyhow.
    async fn settle(&self, delivery: Delivery, result: JobResult, settlement: Settlement) {
        let (delivery, why) = match self.tell(delivery, &result, settlement).await {
            Told::Answered(settled) => return self.settled(settlement, &settled),
            Told::Refused(delivery, why) => (delivery, why),
            Told::Nothing => return,
        };
        error!(error = %why, "what follows the job is refused");
        if settlement != Settlement::Ack {
            return self.settle_alone(delivery, &result, settlement).await;
        }
        let text = format!("what follows the job is refused: {why}");
        let failed =
            Err(JobError::of_kind("CallbackNotSent", text, Verdict::Retry { delay: None }));
        let settlement = settle::decide(&failed, self.context, &self.actor.options, rand::random());
        match self.tell(delivery, &failed, settlement).await {
            Told::Answered(settled) => self.settled(settlement, &settled),
            Told::Refused(delivery, why) => {
                error!(error = %why, "what follows the failure is refused");
                self.settle_alone(delivery, &failed, settlement).await;
            }
            Told::Nothing => {}
        }
    }

    /// Tells the broker the settlement and what follows from it, as one; waits for a while where it
    /// refuses that for now.
    async fn tell(
        &self,
        mut delivery: Delivery,
        result: &JobResult,
        settlement: Settlement,
    ) -> Told {
        let Some(outcome) = self.outcome(result, settlement) else { return Told::Nothing };
        let (context, broker) = (self.context, &self.shared.broker);
        let mut follow_up = match FollowUp::of(context, &self.actor.options, result, settlement) {
            Ok(follow_up) => follow_up,
            Err(why) => return Told::Refused(delivery, why.to_string()),
        };
        if follow_up.is_empty() {
            return Told::Answered(delivery.settle(outcome).await);
        }
        let whole =
            context.clone().scope_blocking(|| follow_up.add_to(outcome.into(), broker, context));
        let tried = match whole {
            Ok(whole) => self.try_for_a_while(&mut delivery, whole).await.map_err(SendError::from),
            Err(error) => Err(error),
        };
        follow_up.sent(broker, tried.as_ref().copied());
        match tried {
            Err(SendError::Broker(error)) if !matches!(error, Error::Refused(_)) => {
                Told::Answered(Err(error))
            }
            Err(error) => Told::Refused(delivery, error.to_string()),
            Ok(()) => Told::Answered(Ok(())),
        }
    }

    async fn try_for_a_while(&self, delivery: &mut Delivery, whole: Whole) -> Result<(), Error> {
        let (started, patience) = (Instant::now(), self.shared.broker.patience());
        let mut wait = FIRST_WAIT;
        loop {
            let tried = delivery.try_settle(whole.clone()).await;
            let Err(error @ Error::Refused(_)) = &tried else { return tried };
            // Who pauses a queue resumes it.
            let is_for_now = error.is_retryable() || error.reason() == Some(&Reason::QueuePaused);
            if !is_for_now || patience <= started.elapsed() + wait {
                return tried;
            }
            warn!(%error, "what follows the job is refused for now");
            tokio::select! {
                () = tokio::time::sleep(error.retry_delay().unwrap_or(wait)) => {}
                () = self.shared.life.giving_up() => return tried,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn settle_alone(&self, delivery: Delivery, result: &JobResult, settlement: Settlement) {
        let Some(outcome) = self.outcome(result, settlement) else { return };
        let settled = delivery.settle(outcome).await;
        self.settled(settlement, &settled);
    }

    fn outcome(&self, result: &JobResult, settlement: Settlement) -> Option<Outcome> {
        settle::outcome(settlement, result.as_ref().err(), self.context.message())
    }

    fn settled(&self, settlement: Settlement, settled: &Result<(), Error>) {
        if let Err(error) = settled {
            warn!(%error, ?settlement, "the settlement was refused: the job may be done again");
        }
        for middleware in self.shared.middleware().iter().rev() {
            middleware.after_settle(self.context, settlement, settled.as_ref().copied());
        }
    }
}

/// What came of telling the broker how a job ended.
enum Told {
    /// It has answered.
    Answered(Result<(), Error>),
    /// It does not take what follows from it: nothing was done.
    Refused(Delivery, String),
    /// There is nothing to tell.
    Nothing,
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
