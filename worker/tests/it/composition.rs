//! Pipelines and groups: no step is lost, and none is sent twice.

use std::time::Duration;

use qbroker_worker::{
    BarrierState, BoxError, Context, GiveUp, Group, JobBarrier, JobError, ReportedFailure,
    ResultError, SendError, Worker, actor,
};

use crate::harness::{Bench, PATIENCE, run, write};

#[actor(queue = "one", max_retries = 1, min_backoff = "1ms")]
async fn double(number: u64) -> Result<u64, BoxError> {
    number.checked_mul(2).ok_or_else(|| GiveUp::because("too large").into())
}

#[actor(queue = "two")]
fn add(sum: u64, more: u64) -> Result<u64, BoxError> {
    Ok(sum + more)
}

#[actor(queue = "three")]
async fn tell(ctx: Context, what: String) -> Result<(), BoxError> {
    write(&ctx, what);
    Ok(())
}

#[actor(queue = "three")]
async fn show(ctx: Context, what: u64) {
    let id = &ctx.message().message_id;
    write(&ctx, format!("{what} as {}", id.rsplit('-').next().unwrap()));
}

#[actor(queue = "one")]
async fn needless() -> Result<u64, JobError> {
    Err(JobError::skip("not today"))
}

/// Nobody has registered it.
#[actor(queue = "one")]
async fn stranger(number: u64) -> Result<u64, BoxError> {
    Ok(number)
}

/// A later version, whose arguments are others.
#[actor(queue = "one", name = "double")]
async fn double_by_name(name: String) -> Result<u64, BoxError> {
    Ok(name.len() as u64)
}

#[actor(queue = "three")]
async fn sum_up(ctx: Context, parts: Vec<Result<Option<u64>, ReportedFailure>>, title: String) {
    // What is skipped returns nothing.
    let whole: u64 = parts.iter().flatten().flatten().sum();
    let failed: Vec<&str> =
        parts.iter().filter_map(|part| Some(&*part.as_ref().err()?.message)).collect();
    write(&ctx, format!("{title}: {} parts, {whole}, {failed:?}", parts.len()));
}

fn all(worker: Worker) -> Worker {
    let worker = worker.register(double).register(add).register(tell).register(show);
    worker.register(needless).register(sum_up)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn steps_get_what_the_one_before_returned() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()));
    let steps = double::with(4).then(add::after(1)).then(double::after()).then(show::after());
    let sent = steps.store_results(MINUTE).send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "18 as 3");
    sent.result::<()>(&bench.broker, PATIENCE).await.unwrap();
    let results = sent.results::<serde_json::Value>(&bench.broker, PATIENCE).await.unwrap();
    let values: Vec<_> = results.into_iter().map(|result| result.unwrap().unwrap()).collect();
    assert_eq!(values, [8.into(), 9.into(), 18.into(), serde_json::Value::Null]);

    // One that is not filled has arguments of its own.
    double::with(1).then(tell::with("and then")).send(&bench.broker).await.unwrap();
    assert_eq!(bench.line().await, "and then");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn options_of_a_step_are_its_own() {
    let bench = Bench::start().await;
    let worker = run(all(bench.worker()).queues(["one"]));
    let next = add::after(1).queue("elsewhere").delay(Duration::from_hours(1)).priority(7);
    let next = next.header("tenant", "acme").max_retries(3).max_age(Duration::from_hours(9));
    double::with(2).then(next).id("mine").send(&bench.broker).await.unwrap();
    let waiting = bench.messages("elsewhere", 1).await.remove(0);
    assert_eq!(waiting.state, qbroker_client::MessageState::Scheduled);
    let message = waiting.message;
    assert_eq!(&message.payload[..], br#"{"sum":4,"more":1}"#);
    assert_eq!((message.message_id.as_str(), message.priority), ("mine-1", 7));
    assert_eq!(message.max_attempts, Some(qbroker_client::Limit::AtMost(4)));
    assert_eq!(message.headers["tenant"], "acme");
    assert!(message.headers.contains_key("traceparent") && message.expire_time.is_some());
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_step_that_fails_for_good_ends_its_pipeline_and_redriven_goes_on() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()));
    let steps = double::with(u64::MAX).then(show::after()).store_results(MINUTE);
    let sent = steps.send(&bench.broker).await.unwrap();
    let result = sent.result::<()>(&bench.broker, PATIENCE).await;
    assert!(
        matches!(&result, Err(ResultError::Failed(why)) if why.message == "too large"),
        "{result:?}"
    );
    bench.messages("one.dead", 1).await;
    assert_eq!(bench.unread(), [""; 0]);

    needless::with().then(tell::with("never")).send(&bench.broker).await.unwrap();
    bench.empty("one").await;
    bench.empty("three").await;
    assert_eq!(bench.unread(), [""; 0], "after what is skipped nothing comes");

    let unfilled = show::after().send(&bench.broker).await;
    assert!(matches!(unfilled, Err(SendError::Encode { .. })), "{unfilled:?}");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn steps_have_as_much_room_as_headers_have() {
    let bench = Bench::start().await;
    let steps = |bytes: usize| double::with(1).then(tell::with("a".repeat(bytes)));
    let id = "i".repeat(32);
    steps(15 << 10).id(&id).send(&bench.broker).await.unwrap();
    let refused = steps(17 << 10).id(&id).send(&bench.broker).await;
    assert!(matches!(&refused, Err(SendError::Broker(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("MESSAGE_TOO_LARGE"));
    bench.messages("one", 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_group_is_complete_when_all_its_members_have_ended() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()));
    let members = [
        double::with(1).into(),
        double::with(u64::MAX).into(),
        double::with(3).then(add::after(1)).then(double::after()),
        needless::with().then(double::after()),
    ];
    let group = Group::new(members).store_results(MINUTE);
    let group = group.on_complete(sum_up::after("in all")).on_complete(tell::with("done"));
    let sent = group.send(&bench.broker).await.unwrap();
    let mut lines = bench.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["done", "in all: 4 parts, 16, [\"too large\"]"]);
    let barrier = sent.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!((barrier.state, barrier.arrived, barrier.failed), (BarrierState::Complete, 4, 1));
    let results = sent.results::<Option<u64>>(&bench.broker, Duration::ZERO).await.unwrap();
    assert_eq!(results[0], Some(Ok(Some(2))));
    assert_eq!(results[1].as_ref().unwrap().as_ref().unwrap_err().message, "too large");
    assert_eq!(results[2], Some(Ok(Some(14))));
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// It would wait for a job that arrives nowhere, until its time is over.
#[tokio::test]
async fn a_group_of_which_another_job_has_a_members_key_says_so() {
    let bench = Bench::start().await;
    double::with(1).unique_key("mine").send(&bench.broker).await.unwrap();
    let group = |members| Group::new(members).id("again");
    let members = || [double::with(1), double::with(2).unique_key("mine")];
    let refused = Group::new(members()).send(&bench.broker).await;
    let Err(SendError::DuplicateMember { actor, position }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((actor.as_str(), position), ("double", 1));
    // Under its own name it may be sent again.
    for _ in 0..2 {
        group([double::with(1), double::with(2)]).send(&bench.broker).await.unwrap();
    }
    bench.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_job_that_no_worker_can_do_is_told_of_its_failure() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()));
    let unknown = "no actor \"stranger\" is registered with this worker";
    let members = [
        stranger::with(1).into(),
        double::with(1).then(stranger::after()),
        double_by_name::with("one").into(),
        double::with(u64::MAX).header("job-then", "no list").into(),
    ];
    let group = Group::new(members).store_results(MINUTE).on_complete(sum_up::after("in all"));
    let sent = group.send(&bench.broker).await.unwrap();
    let told = bench.line().await;
    assert!(told.starts_with("in all: 4 parts, 0, "), "{told}");
    let barrier = sent.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!((barrier.state, barrier.failed), (BarrierState::Complete, 4));
    let results = sent.results::<u64>(&bench.broker, Duration::ZERO).await.unwrap();
    let failures: Vec<_> = results.into_iter().map(|it| it.unwrap().unwrap_err()).collect();
    let kinds: Vec<_> = failures.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["UnknownActor", "UnknownActor", "Undecodable", "Error"]);
    assert_eq!(failures[0].message, unknown);

    let steps = stranger::with(1).then(show::after()).store_results(MINUTE);
    let sent = steps.send(&bench.broker).await.unwrap();
    let result = sent.result::<()>(&bench.broker, PATIENCE).await;
    assert!(
        matches!(&result, Err(ResultError::Failed(why)) if why.message == unknown),
        "{result:?}"
    );
    bench.messages("one.dead", 5).await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_completion_may_be_a_pipeline_and_gets_results_in_the_order_of_the_members() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()));
    let group = Group::new((0..40).map(double::with))
        .on_complete(sum_up::after("sum").then(tell::with("end")));
    group.id("forty").send(&bench.broker).await.unwrap();
    assert_eq!(bench.lines(2).await, ["sum: 40 parts, 1560, []", "end"]);

    // Sent again under its name, it is the same one.
    let again = Group::new((0..40).map(double::with)).on_complete(sum_up::after("again"));
    let again = again.id("forty").send(&bench.broker).await.unwrap();
    let barrier = again.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!(barrier.state, BarrierState::Complete);
    bench.empty("three").await;
    assert_eq!(bench.unread(), [""; 0]);
    let stats = bench.client().get_queue("one").await.unwrap().stats;
    assert_eq!(stats.published_total, 40);

    let empty = Group::new(Vec::<qbroker_worker::Pipeline>::new()).send(&bench.broker).await;
    assert!(matches!(empty, Err(SendError::EmptyGroup)), "{empty:?}");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_group_whose_member_never_ends_says_so_when_its_time_is_over() {
    let mut bench = Bench::start().await;
    let group = Group::new([double::with(1), double::with(2).delay(Duration::from_hours(1))]);
    let group = group.on_complete(tell::with("complete")).on_expire(tell::with("too late"));
    let sent = group.ttl(Duration::from_secs(1)).send(&bench.broker).await.unwrap();
    let worker = run(all(bench.worker()));
    assert_eq!(bench.line().await, "too late");
    let barrier = sent.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!((barrier.state, barrier.arrived), (BarrierState::Expired, 1));
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_group_within_a_group_is_its_members_or_its_completion() {
    let mut bench = Bench::start().await;
    let worker = run(all(bench.worker()).register(count_up));
    let plain = Group::new([double::with(1), double::with(u64::MAX)]);
    let counted = Group::new([double::with(10), double::with(20)]);
    let counted = counted.on_complete(count_up::after().then(double::after()));
    let group = Group::new([double::with(5)]).nest(plain).nest(counted).store_results(MINUTE);
    let sent = group.on_complete(sum_up::after("in all")).send(&bench.broker).await.unwrap();
    // 5 and 1, doubled, what failed, and twice the two that were counted.
    assert_eq!(bench.line().await, "in all: 4 parts, 16, [\"too large\"]");
    let barrier = sent.wait(&bench.broker, PATIENCE).await.unwrap().unwrap();
    assert_eq!((barrier.parties, barrier.arrived, barrier.failed), (4, 4, 1));
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "two")]
async fn count_up(parts: Vec<Result<u64, ReportedFailure>>) -> Result<u64, BoxError> {
    assert_eq!(parts, [Ok(20), Ok(40)]);
    Ok(parts.len() as u64)
}

#[actor(queue = "one")]
async fn import_part(ctx: Context, day: String, region: String) {
    ctx.when_done(|then| {
        let rows = region.len().to_string();
        then.arrive(format!("import/{day}"), region, rows);
    });
}

#[actor(queue = "three")]
async fn close_day(ctx: Context, rows: Vec<usize>, day: String) {
    write(&ctx, format!("{day}: {} rows", rows.iter().sum::<usize>()));
}

#[tokio::test]
async fn a_barrier_sends_jobs_with_what_its_parties_brought() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(import_part).register(close_day).register(tell));
    let barrier = |day: &'static str| {
        let barrier = JobBarrier::new(format!("import/{day}"), 3).ttl(MINUTE);
        barrier.on_complete(close_day::after(day)).on_complete(tell::with("closed"))
    };
    assert!(barrier("monday").create(&bench.broker).await.unwrap());
    assert!(!barrier("monday").create(&bench.broker).await.unwrap(), "it is there");
    // Each counts once.
    for region in ["north", "south", "north", "north"] {
        import_part::send(&bench.broker, "monday", region).await.unwrap();
    }
    bench.empty("one").await;
    assert_eq!(bench.unread(), [""; 0]);
    // Somebody else is a party, too.
    let state = bench.client().state();
    state.arrive("import/monday", "east", b"100".to_vec(), false).await.unwrap();
    let mut lines = bench.lines(2).await;
    lines.sort();
    assert_eq!(lines, ["closed", "monday: 110 rows"]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn pipelines_and_groups_can_wait_before_they_begin() {
    let bench = Bench::start().await;
    let hour = Duration::from_hours(1);
    let pipeline = double::with(1).then(show::after()).delay(hour);
    pipeline.send(&bench.broker).await.unwrap();
    let group = Group::new([double::with(2)]).nest(Group::new([double::with(3)])).delay(hour);
    group.send(&bench.broker).await.unwrap();
    for waiting in bench.messages("one", 3).await {
        assert_eq!(waiting.state, qbroker_client::MessageState::Scheduled);
    }
    bench.stop().await;
}
