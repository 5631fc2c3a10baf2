//! Middleware sees every point of a job's way, and traces go along with it.

use qbroker_client::{Message, OutgoingMessage};
use qbroker_worker::middleware::{JobEnd, JobFuture, Middleware, Next, Prometheus, Settlement};
use qbroker_worker::{
    ActorOptions, Context, JobError, JobReport, OutgoingJob, Retry, SendError, TraceContext, actor,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Bench, Log, run, write};

/// Writes what it sees.
struct Spy {
    name: &'static str,
    log: Log,
}

impl Spy {
    fn saw(&self, what: &str) {
        self.log.write(format!("{}: {what}", self.name));
    }
}

impl Middleware for Spy {
    fn after_declare_actor(&self, actor: &'static str, options: &ActorOptions) {
        self.saw(&format!("actor {actor} on {}", options.queue));
    }

    fn after_worker_boot(&self) {
        self.saw("boot");
    }

    fn before_worker_shutdown(&self) {
        self.saw("stopping");
    }

    fn after_worker_shutdown(&self) {
        self.saw("stopped");
    }

    fn before_enqueue(&self, job: &mut OutgoingJob) {
        job.set_header(self.name, "was here");
        self.saw("enqueue");
    }

    fn after_enqueue(&self, job: &OutgoingJob, sent: Result<(), &SendError>) {
        self.saw(&format!("enqueued {} {}", job.actor(), sent.is_ok()));
    }

    fn before_process(&self, context: &Context) {
        assert_eq!(context.message().headers[self.name], "was here");
        self.saw("before");
    }

    fn process<'a>(&'a self, context: &'a Context, next: Next<'a>) -> JobFuture<'a> {
        Box::pin(async move {
            self.saw("in");
            if context.message().headers.contains_key("needless") {
                return Err(JobError::skip("nobody needs it"));
            }
            let result = next.run().await;
            self.saw("out");
            result
        })
    }

    fn after_process(&self, _context: &Context, end: &JobEnd<'_>) {
        self.saw(&format!("after {:?}", end.settlement));
    }

    fn after_settle(
        &self,
        _context: &Context,
        settlement: Settlement,
        settled: Result<(), &qbroker_client::Error>,
    ) {
        self.saw(&format!("settled {settlement:?} {}", settled.is_ok()));
    }

    fn on_reject(&self, message: &Message, error: &JobError) {
        self.saw(&format!("rejected {} {}", message.message_type, error.kind()));
    }
}

#[actor]
async fn work(ctx: Context) {
    write(&ctx, "work");
}

#[tokio::test]
async fn hooks_are_called_in_order_and_around_each_other() {
    let mut bench = Bench::start().await;
    let spy = |name| Spy { name, log: bench.log() };
    let broker = bench.broker.clone().middleware(spy("a")).middleware(spy("b"));
    work::send(&broker).await.unwrap();
    let sent = ["a: enqueue", "b: enqueue", "b: enqueued work true", "a: enqueued work true"];
    assert_eq!(bench.lines(4).await, sent);

    let worker = run(bench.worker_of(broker.clone()).register(work));
    let begun = ["a: actor work on default", "b: actor work on default", "a: boot", "b: boot"];
    assert_eq!(bench.lines(4).await, begun);
    let done = [
        "a: before",
        "b: before",
        "a: in",
        "b: in",
        "work",
        "b: out",
        "a: out",
        "b: after Ack",
        "a: after Ack",
        "b: settled Ack true",
        "a: settled Ack true",
    ];
    assert_eq!(bench.lines(done.len()).await, done);

    // Of a broker that nobody spies on.
    let needless = work::with().header("a", "was here").header("b", "was here");
    needless.header("needless", "yes").send(&bench.broker).await.unwrap();
    let skipped = [
        "a: before",
        "b: before",
        "a: in",
        "b: after Ack",
        "a: after Ack",
        "b: settled Ack true",
        "a: settled Ack true",
    ];
    assert_eq!(bench.lines(skipped.len()).await, skipped);

    bench.publish("default", OutgoingMessage::new("").message_type("play")).await;
    let rejected = ["a: rejected play UnknownActor", "b: rejected play UnknownActor"];
    assert_eq!(bench.lines(2).await, rejected);

    worker.stop().await.unwrap();
    assert_eq!(bench.lines(4).await, ["b: stopping", "a: stopping", "b: stopped", "a: stopped"]);
    bench.stop().await;
}

/// Panics once.
#[derive(Default)]
struct Clumsy(std::sync::atomic::AtomicBool);

impl Middleware for Clumsy {
    fn before_process(&self, _context: &Context) {
        assert!(self.0.swap(true, std::sync::atomic::Ordering::Relaxed), "oh no");
    }
}

#[tokio::test]
async fn a_hook_that_panics_fails_its_job_and_nothing_else() {
    let mut bench = Bench::start().await;
    let retry = qbroker_client::RetryPolicy {
        initial_backoff: Some(std::time::Duration::ZERO),
        ..qbroker_client::RetryPolicy::default()
    };
    let policy = qbroker_client::QueuePolicy { retry, ..qbroker_client::QueuePolicy::default() };
    let spec = qbroker_client::QueueSpec::new("default").policy(policy);
    bench.client().create_queue(spec).await.unwrap();
    let broker = bench.broker.clone().middleware(Clumsy::default());
    let worker = run(bench.worker_of(broker).register(work).concurrency(1));
    work::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "work");
    bench.empty("default").await;
    let stats = bench.client().get_queue("default").await.unwrap().stats;
    assert_eq!((stats.retried_total, stats.acked_total), (1, 1));
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// Writes that a job is settled, and panics where it was asked to.
struct Nervous(Log);

impl Middleware for Nervous {
    fn after_settle(
        &self,
        context: &Context,
        _settlement: Settlement,
        _settled: Result<(), &qbroker_client::Error>,
    ) {
        self.0.write("settled");
        assert!(!context.message().headers.contains_key("nervous"), "oh no");
    }
}

#[tokio::test]
async fn a_hook_that_panics_after_its_job_was_settled_keeps_no_other_from_being_told() {
    let mut bench = Bench::start().await;
    let broker = bench.broker.clone().middleware(Nervous(bench.log()));
    let worker = run(bench.worker_of(broker).register(work).concurrency(1));
    for _ in 0..2 {
        work::with().header("nervous", "yes").send(&bench.broker).await.unwrap();
        let mut seen = bench.lines(2).await;
        seen.sort_unstable();
        assert_eq!(seen, ["settled", "work"]);
    }
    // It waits for those that are settled, and ends.
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// Lets a job wait until the test opens it.
struct Gate(std::sync::Arc<tokio::sync::Semaphore>, Log);

impl Middleware for Gate {
    fn process<'a>(&'a self, context: &'a Context, next: Next<'a>) -> JobFuture<'a> {
        Box::pin(async move {
            if context.message().headers.contains_key("gated") {
                self.1.write("waits");
                self.0.acquire().await.unwrap().forget();
            }
            next.run().await
        })
    }

    fn after_process(&self, context: &Context, end: &JobEnd<'_>) {
        let reason = context.cancel_reason();
        self.1.write(format!("{:?} {reason:?}", end.settlement));
    }
}

#[tokio::test]
async fn a_job_whose_lease_ends_before_it_begins_is_not_begun() {
    let mut bench = Bench::start().await;
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let broker = bench.broker.clone().middleware(Gate(gate.clone(), bench.log()));
    let worker = run(bench.worker_of(broker).register(work).concurrency(2));
    let gated = work::with().header("gated", "yes").send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "waits");
    bench.client().delete_messages("default", vec![gated.message_id]).await.unwrap();
    // The worker has heard of that when it is told of what came after it.
    work::send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(2).await, ["work", "Ack None"]);
    gate.add_permits(1);
    assert_eq!(bench.line().await, "Nothing Some(LeaseLost(MessageDeleted))");
    worker.stop().await.unwrap();
    assert_eq!(bench.unread(), [""; 0]);
    bench.stop().await;
}

#[actor(max_retries = 1, min_backoff = "1ms")]
async fn flaky(ctx: Context, good_at: u32) -> Result<(), Retry> {
    if ctx.attempt() < good_at {
        return Err(Retry::after(std::time::Duration::ZERO));
    }
    write(&ctx, "good");
    Ok(())
}

#[tokio::test]
async fn prometheus_is_told_what_dramatiq_would_tell_it() {
    let mut bench = Bench::start().await;
    let metrics = Prometheus::new();
    let address = metrics.serve("127.0.0.1:0").await.unwrap();
    let taken = metrics.serve(address).await.expect_err("it is in use").to_string();
    assert!(taken.contains(&address.to_string()), "{taken}");
    let broker = bench.broker.clone().middleware(metrics);
    let worker = run(bench.worker_of(broker.clone()).register(flaky));
    flaky::send(&broker, 2).await.unwrap();
    assert_eq!(bench.line().await, "good");
    flaky::send(&broker, 9).await.unwrap();
    bench.messages("default.dead", 1).await;
    worker.stop().await.unwrap();

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let labels = "{queue_name=\"default\",actor_name=\"flaky\"}";
    for line in [
        format!("dramatiq_messages_total{labels} 4"),
        format!("dramatiq_message_errors_total{labels} 3"),
        format!("dramatiq_message_retries_total{labels} 2"),
        format!("dramatiq_message_rejects_total{labels} 1"),
        format!("dramatiq_messages_inprogress{labels} 0"),
        format!("dramatiq_message_duration_milliseconds_count{labels} 4"),
        "qbroker_worker_stuck_jobs 0".to_owned(),
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8".to_owned(),
    ] {
        assert!(page.contains(&line), "{line:?} is not in {page}");
    }
    bench.stop().await;
}

#[actor(queue = "open", max_retries = 1, min_backoff = "1ms", on_success = unheard)]
async fn done_in_vain() {}

#[actor(queue = "shut")]
async fn unheard(report: JobReport) {
    drop(report);
}

#[tokio::test]
async fn metrics_tell_what_became_of_a_job_whose_callback_was_refused() {
    let bench = Bench::start().await;
    bench.client().create_queue(qbroker_client::QueueSpec::new("shut")).await.unwrap();
    bench.client().pause_queue("shut", true).await.unwrap();
    let metrics = Prometheus::new();
    let broker = bench.broker.clone().send_timeout(std::time::Duration::ZERO);
    let worker = run(bench.worker_of(broker.middleware(metrics.clone())).register(done_in_vain));
    done_in_vain::send(&bench.broker).await.unwrap();
    bench.publish("open", OutgoingMessage::new("").message_type("play")).await;
    bench.messages("open.dead", 2).await;
    worker.stop().await.unwrap();
    let page = metrics.text();
    let labels = "{queue_name=\"open\",actor_name=\"done_in_vain\"}";
    for line in [
        format!("dramatiq_messages_total{labels} 2"),
        format!("dramatiq_message_errors_total{labels} 2"),
        format!("dramatiq_message_rejects_total{labels} 1"),
        "dramatiq_message_rejects_total{queue_name=\"open\",actor_name=\"play\"} 1".to_owned(),
        "qbroker_worker_settlements_refused_total 0".to_owned(),
    ] {
        assert!(page.contains(&line), "{line:?} is not in {page}");
    }
    bench.stop().await;
}

#[actor]
async fn first(ctx: Context) -> Result<(), SendError> {
    write(&ctx, ctx.trace().to_string());
    second::send(ctx.broker()).await?;
    Ok(())
}

#[actor]
async fn second(ctx: Context) {
    write(&ctx, ctx.message().headers["traceparent"].clone());
    write(&ctx, ctx.trace().to_string());
    write(&ctx, format!("{:?}", ctx.message().headers.get("tracestate")));
}

#[tokio::test]
async fn a_trace_goes_from_the_publisher_through_jobs_to_the_jobs_they_send() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(first).register(second).concurrency(1));
    let origin: TraceContext =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    first::with().trace(origin).header("tracestate", "vendor=1").send(&bench.broker).await.unwrap();
    let lines = bench.lines(4).await;
    let [one, sent, two] = [0, 1, 2].map(|at| lines[at].parse::<TraceContext>().unwrap());
    assert_eq!([one.trace_id, sent.trace_id, two.trace_id], [origin.trace_id; 3]);
    assert_eq!(sent, one, "what a job sends has the job as its parent");
    assert_ne!(one.span_id, origin.span_id);
    assert_ne!(two.span_id, one.span_id);
    assert_eq!(two.flags, 1);
    assert_eq!(lines[3], "Some(\"vendor=1\")");

    let broker = bench.broker.clone().trace_source(move || Some(origin));
    second::send(&broker).await.unwrap();
    assert_eq!(bench.lines(3).await[0], origin.to_string());
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// Leaves a job before its end, or panics around it.
struct Unsteady(Log);

impl Middleware for Unsteady {
    fn process<'a>(&'a self, context: &'a Context, next: Next<'a>) -> JobFuture<'a> {
        let is_hasty = context.message().headers.contains_key("hasty");
        Box::pin(async move {
            assert!(is_hasty, "oh no");
            tokio::select! {
                result = next.run() => result,
                () = BEGUN.notified() => Err(JobError::skip("it takes too long")),
            }
        })
    }

    fn after_process(&self, _context: &Context, end: &JobEnd<'_>) {
        let kind = end.result.as_ref().map_or_else(|error| error.kind(), |_| "none");
        self.0.write(format!("{:?} after {kind}", end.settlement));
    }
}

static BEGUN: tokio::sync::Notify = tokio::sync::Notify::const_new();

/// Writes when it is no more.
struct Gone(Log);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.write("gone");
    }
}

#[actor(max_retries = 0)]
async fn endless(ctx: Context) {
    let _gone = Gone(ctx.state::<Log>().clone());
    BEGUN.notify_one();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_job_does_not_outlive_a_middleware_that_leaves_it() {
    let mut bench = Bench::start().await;
    let broker = bench.broker.clone().middleware(Unsteady(bench.log()));
    let worker = run(bench.worker_of(broker).register(endless).concurrency(1));
    endless::with().header("hasty", "yes").send(&bench.broker).await.unwrap();
    let mut seen = bench.lines(2).await;
    seen.sort_unstable();
    assert_eq!(seen, ["Ack after Skipped", "gone"]);

    // A panic is a failure like any other: who waits for the job is told.
    endless::send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "DeadLetter { exhausted: true } after Panic");
    worker.stop().await.unwrap();
    bench.stop().await;
}
