//! The way of one message through a worker: found, run, decided, settled.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use qbroker_client::{Delivery, Message};
use tracing::{Instrument as _, Span, error, info, info_span, warn};

use crate::actor::ActorOptions;
use crate::answers::{self, Expected};
use crate::context::Context;
use crate::ending::{Ending, Telling};
use crate::execution::{Execution, panicked};
use crate::failure::{JobError, JobResult, Verdict};
use crate::middleware::{JobEnd, Next, Settlement};
use crate::registry::Registered;
use crate::settle;
use crate::slots::Slot;
use crate::trace::{TRACEPARENT, TraceContext};
use crate::worker::Shared;

/// Does what a message asks for and tells the broker how it went.
pub(crate) async fn run(shared: Arc<Shared>, delivery: Delivery, slot: Slot) {
    let Some(actor) = shared.actors.get(&delivery.message.message_type) else {
        drop(slot);
        return Box::pin(reject(&shared, delivery)).await;
    };
    begin(&shared, &delivery).await;
    let (parent, trace) = trace_of(&delivery.message);
    let context = context_of(&shared, actor.name, &delivery, trace);
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

/// The trace that a message belongs to, and the job's place in it.
fn trace_of(message: &Message) -> (Option<TraceContext>, TraceContext) {
    let parent = message.headers.get(TRACEPARENT).and_then(|text| text.parse().ok());
    (parent, parent.map_or_else(TraceContext::root, TraceContext::child))
}

fn context_of(
    shared: &Shared,
    actor: &'static str,
    delivery: &Delivery,
    trace: TraceContext,
) -> Context {
    let (broker, states) = (Some(shared.broker.clone()), Arc::clone(&shared.states));
    Context::new(actor, delivery.leased(), broker, states, trace)
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

/// The result of a job also where a middleware panics, or the actor before its work has a task of its own.
async fn caught(job: impl Future<Output = JobResult>) -> JobResult {
    let mut job = pin!(job);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(context)));
        polled.unwrap_or_else(|payload| Poll::Ready(Err(panicked(&*payload))))
    })
    .await
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
        let result = caught(next.run()).await;
        let settlement = settle::decide(&result, context, &actor.treatment, rand::random());
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

    async fn settle(&self, delivery: Delivery, result: JobResult, settlement: Settlement) {
        let Self { shared, actor, context, span } = *self;
        let (options, treatment) = (&actor.options, &actor.treatment);
        let ending = Ending { shared, context, options, treatment };
        let followed = match ending.begin(delivery, &result, settlement) {
            None => return,
            Some(Telling::OnItsWay(settling)) => {
                let (context, span) = (context.clone(), span.clone());
                let unfinished = shared.jobs.token();
                let expected = Expected { context, span, settlement, settling, unfinished };
                return shared.answers.expect(expected);
            }
            Some(Telling::Followed(followed)) => followed,
        };
        // In a box: a job that nothing follows needs no room for it.
        let settled = Box::pin(ending.follow(followed, &result, settlement)).await;
        if let Some((settlement, answer)) = settled {
            answers::tell(shared.middleware(), context, span, settlement, &answer);
        }
    }
}

/// Dead-letters a message that no actor here is for. Who waits for its end is told, as of any other
/// failure for good.
async fn reject(shared: &Shared, delivery: Delivery) {
    let message: Message = delivery.message.clone();
    let why = match message.message_type.as_str() {
        "" => "the message names no actor in its message_type".to_owned(),
        name => format!("no actor {name:?} is registered with this worker"),
    };
    let error = JobError::of_kind("UnknownActor", why, Verdict::GiveUp);
    error!(queue = message.queue, message_id = message.message_id, %error, "message dead-lettered");
    // Nobody sees this context: an actor that is not known has no hooks, and its job only the callbacks
    // that it has with it.
    let context = context_of(shared, "", &delivery, trace_of(&message).1);
    let options = ActorOptions::default();
    let treatment = &shared.broker.defaults;
    let ending = Ending { shared, context: &context, options: &options, treatment };
    let (result, settlement) = (Err(error), Settlement::DeadLetter { exhausted: false });
    let told = ending.tell(delivery, &result, settlement).await;
    if let Some((_, Err(error))) = told {
        warn!(message_id = message.message_id, %error, "the message was not dead-lettered");
        return;
    }
    let error = result.expect_err("it was made so");
    for middleware in shared.middleware() {
        middleware.on_reject(&message, &error);
    }
}
