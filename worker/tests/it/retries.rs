//! What fails is tried again, as its actor says, and in the end dead-lettered.

use std::time::{Duration, Instant};

use qbroker_client::{DeadLetterReason, OutgoingMessage};
use qbroker_worker::{
    BarrierState, BoxError, Context, GiveUp, Group, JobReport, Release, Retry, actor,
};

use crate::harness::{Bench, PATIENCE, run, write};

#[derive(Debug, thiserror::Error)]
enum MailError {
    #[error("no such mailbox: {0}")]
    NoMailbox(String),
    #[error("the server is away")]
    Away,
}

#[actor(
    queue = "mail",
    max_retries = 2,
    min_backoff = "1ms",
    max_backoff = "2ms",
    throws(MailError::NoMailbox(_)),
    on_success = delivered,
    on_failure = failed,
    on_exhausted = exhausted
)]
async fn mail(ctx: Context, to: String) -> Result<(), MailError> {
    write(&ctx, format!("{to} {} {}", ctx.attempt(), ctx.failures()));
    match to.as_str() {
        "ann" => Ok(()),
        "bob" if 1 < ctx.attempt() => Ok(()),
        "eve" => Err(MailError::NoMailbox(to)),
        _ => Err(MailError::Away),
    }
}

#[actor(queue = "reports")]
async fn delivered(ctx: Context, report: JobReport) {
    tell(&ctx, "delivered", &report);
}

#[actor(queue = "reports")]
async fn failed(ctx: Context, report: JobReport) {
    tell(&ctx, "failed", &report);
}

#[actor(queue = "reports")]
async fn exhausted(ctx: Context, report: JobReport) {
    tell(&ctx, "exhausted", &report);
}

fn tell(ctx: &Context, how: &str, report: &JobReport) {
    let JobReport { actor, queue, attempt, arguments, failure, .. } = report;
    assert_eq!((actor.as_str(), queue.as_str()), ("mail", "mail"));
    let to = arguments["to"].as_str().unwrap();
    let why = failure.as_ref().map(|failure| failure.kind.clone());
    write(ctx, format!("{to} {how} at {attempt} {why:?}"));
}

/// What the jobs of one mail wrote, in the order of the alphabet: reports overtake each other.
async fn story(to: &str, lines: usize) -> (Bench, Vec<String>) {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(mail).register(delivered).register(failed);
    let worker = run(worker.register(exhausted));
    mail::send(&bench.broker, to).await.unwrap();
    let mut written = bench.lines(lines).await;
    bench.empty("mail").await;
    bench.empty("reports").await;
    worker.stop().await.unwrap();
    assert_eq!(bench.unread(), [""; 0]);
    written.sort();
    (bench, written)
}

#[tokio::test]
async fn a_job_that_is_done_is_reported_as_that() {
    let (bench, told) = story("ann", 2).await;
    assert_eq!(told, ["ann 1 0", "ann delivered at 1 None"]);
    bench.stop().await;
}

#[tokio::test]
async fn a_job_that_failed_is_tried_again() {
    let (bench, told) = story("bob", 4).await;
    let first = "bob failed at 1 Some(\"MailError\")";
    assert_eq!(told, ["bob 1 0", "bob 2 1", "bob delivered at 2 None", first]);
    bench.stop().await;
}

#[tokio::test]
async fn after_the_last_retry_a_job_is_a_dead_letter() {
    let (bench, told) = story("joe", 7).await;
    assert_eq!(told[..3], ["joe 1 0", "joe 2 1", "joe 3 2"]);
    assert_eq!(told[3], "joe exhausted at 3 Some(\"MailError\")");
    assert!(told[4..].iter().all(|line| line.starts_with("joe failed at")), "{told:?}");
    let letter = bench.messages("mail.dead", 1).await.remove(0).message;
    let info = letter.dead_letter.unwrap();
    assert_eq!((info.reason, info.attempts), (DeadLetterReason::MaxAttempts, 3));
    assert_eq!(info.failure.unwrap().message, "the server is away");
    assert_eq!(&letter.payload[..], br#"{"to":"joe"}"#);
    bench.stop().await;
}

#[tokio::test]
async fn what_no_retry_would_mend_is_a_dead_letter_at_once() {
    let (bench, told) = story("eve", 2).await;
    assert_eq!(told, ["eve 1 0", "eve failed at 1 Some(\"MailError\")"]);
    let info = bench.messages("mail.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!((info.reason, info.attempts), (DeadLetterReason::ByConsumer, 1));
    assert_eq!(info.failure.unwrap().message, "no such mailbox: eve");
    bench.stop().await;
}

#[actor(max_retries = 1, min_backoff = "1ms")]
async fn panics(ctx: Context, deep: bool) {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    assert!(!deep, "it was {deep}");
}

#[actor(max_retries = 1, min_backoff = "1ms")]
fn panics_blocking(ctx: Context) {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    panic!("no floor");
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(panics).register(panics_blocking));
    for (job, told) in [(panics::with(true), "it was true"), (panics_blocking::with(), "no floor")]
    {
        job.send(&bench.broker).await.unwrap();
        assert_eq!(bench.lines(2).await, ["attempt 1", "attempt 2"]);
        let letter = bench.messages("default.dead", 1).await.remove(0).message;
        let failure = letter.dead_letter.unwrap().failure.unwrap();
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("Panic", told));
        bench.client().purge_queue("default.dead", &[]).await.unwrap();
    }
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(retry_when = is_worth_it, max_retries = 9, min_backoff = "1ms")]
async fn picky(ctx: Context) -> Result<(), MailError> {
    write(&ctx, format!("attempt {}", ctx.attempt()));
    Err(MailError::Away)
}

fn is_worth_it(retries: u32, error: &MailError) -> bool {
    matches!(error, MailError::Away) && retries < 2
}

#[tokio::test]
async fn an_actor_may_decide_for_each_error_whether_to_retry() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(picky));
    picky::send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(3).await, ["attempt 1", "attempt 2", "attempt 3"]);
    let info = bench.messages("default.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!((info.reason, info.attempts), (DeadLetterReason::ByConsumer, 3));
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(min_backoff = "1h")]
async fn says_when(ctx: Context, how: String) -> Result<(), BoxError> {
    write(&ctx, format!("{how} {}", ctx.attempt()));
    match (how.as_str(), ctx.attempt()) {
        ("later", 1) => Err(Retry::after(Duration::from_millis(300)).because("busy").into()),
        ("never", _) => Err(GiveUp::because(MailError::Away).into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn an_error_may_say_when_it_is_tried_again_or_that_it_is_not() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(says_when));
    says_when::send(&bench.broker, "never").await.unwrap();
    assert_eq!(bench.line().await, "never 1");
    let info = bench.messages("default.dead", 1).await.remove(0).message.dead_letter.unwrap();
    assert_eq!(info.failure.unwrap().kind, "MailError");

    says_when::send(&bench.broker, "later").await.unwrap();
    assert_eq!(bench.line().await, "later 1");
    let seen = Instant::now();
    assert_eq!(bench.line().await, "later 2");
    // The job ran a little before this test saw it.
    assert!(Duration::from_millis(200) < seen.elapsed(), "{:?}", seen.elapsed());
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor]
async fn hands_back(ctx: Context, times: std::num::NonZeroU8) -> Result<(), Release> {
    let before = ctx.state::<std::sync::atomic::AtomicU8>();
    let before = before.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    write(&ctx, format!("attempt {}", ctx.attempt()));
    if before < times.get() { Err(Release::now()) } else { Ok(()) }
}

#[tokio::test]
async fn handing_back_counts_nothing() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(hands_back).state(std::sync::atomic::AtomicU8::new(0));
    let worker = run(worker);
    hands_back::send(&bench.broker, 2.try_into().unwrap()).await.unwrap();
    assert_eq!(bench.lines(3).await, ["attempt 1", "attempt 1", "attempt 1"]);
    bench.empty("default").await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn the_limit_of_a_message_holds_and_else_the_actors() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(panics));
    panics::with(true).max_retries(0).send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "attempt 1");
    bench.messages("default.dead", 1).await;
    // Nobody gave this one a limit: the actor's is one retry, the queue's twenty attempts.
    let message = OutgoingMessage::new(r#"{"deep":true}"#).message_type("panics");
    bench.publish("default", message).await;
    assert_eq!(bench.lines(2).await, ["attempt 1", "attempt 2"]);
    let letters = bench.messages("default.dead", 2).await;
    for letter in letters {
        assert_eq!(letter.message.dead_letter.unwrap().reason, DeadLetterReason::MaxAttempts);
    }
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "orders", max_retries = 1, min_backoff = "1ms", on_success = unheard)]
async fn order(ctx: Context) {
    write(&ctx, format!("attempt {}", ctx.attempt()));
}

#[actor(queue = "shut")]
async fn unheard(report: JobReport) {
    drop(report);
}

#[tokio::test]
async fn a_job_whose_callback_cannot_be_sent_is_not_forgotten() {
    let mut bench = Bench::start().await;
    bench.client().create_queue(qbroker_client::QueueSpec::new("shut")).await.unwrap();
    bench.client().pause_queue("shut", true).await.unwrap();
    let broker = bench.broker.clone().send_timeout(Duration::ZERO);
    let worker = run(bench.worker_of(broker).register(order));
    order::send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(2).await, ["attempt 1", "attempt 2"]);
    let letter = bench.messages("orders.dead", 1).await.remove(0).message;
    let failure = letter.dead_letter.unwrap().failure.unwrap();
    assert_eq!(failure.kind, "CallbackNotSent");
    assert!(failure.message.contains("QUEUE_PAUSED"), "{}", failure.message);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "orders", max_retries = 0, on_failure = unheard)]
async fn bad_order() -> Result<(), MailError> {
    Err(MailError::Away)
}

#[tokio::test]
async fn who_waits_for_a_job_hears_of_its_failure_though_its_callback_cannot_be_sent() {
    let bench = Bench::start().await;
    bench.client().create_queue(qbroker_client::QueueSpec::new("shut")).await.unwrap();
    bench.client().pause_queue("shut", true).await.unwrap();
    let broker = bench.broker.clone().send_timeout(Duration::ZERO);
    let worker = run(bench.worker_of(broker).register(bad_order));
    let group = Group::new([bad_order::with()]).store_results(Duration::from_secs(60));
    let sent = group.send(&bench.broker).await.unwrap();
    let barrier = sent.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!((barrier.state, barrier.failed), (BarrierState::Complete, 1));
    let result = sent.results::<()>(&bench.broker, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(result.unwrap().unwrap_err().message, "the server is away");
    bench.messages("orders.dead", 1).await;
    worker.stop().await.unwrap();
    bench.stop().await;
}
