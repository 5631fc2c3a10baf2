//! Jobs are sent, found, decoded and done.

use std::time::Duration;

use qbroker_client::{DeadLetterReason, Limit, MessageState, OutgoingMessage};
use qbroker_worker::{
    Actor, ActorOptions, BoxError, Broker, Context, Encoding, Json, OutgoingJob, QueueShare,
    SendError, Work, Worker, WorkerError, actor,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::harness::{Bench, PATIENCE, patiently, run, write};

#[actor(queue = "mail")]
async fn welcome(ctx: Context, user_id: u64, email: String, copies: Option<u8>) {
    write(&ctx, format!("welcome {user_id} {email} {copies:?}"));
}

#[actor(queue = "mail", name = "weigh-parcel")]
fn weigh(ctx: Context, #[serde(default)] grams: u32) -> Result<(), BoxError> {
    let current = Context::current().map(|current| current.message().message_id.clone());
    assert_eq!(current.as_ref(), Some(&ctx.message().message_id), "a thread knows its job");
    write(&ctx, format!("{grams} g on {:?}", std::thread::current().name().is_some()));
    Ok(())
}

#[tokio::test]
async fn a_job_is_done_by_the_actor_of_its_name_with_its_arguments() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(welcome).register(weigh));

    welcome::send(&bench.broker, 7, "ann@example.org", Some(2)).await.unwrap();
    assert_eq!(bench.line().await, "welcome 7 ann@example.org Some(2)");
    weigh::send(&bench.broker, 250).await.unwrap();
    assert_eq!(bench.line().await, "250 g on true");

    bench.empty("mail").await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn any_program_can_send_a_job_as_json() {
    let mut bench = Bench::start().await;
    let worker = run(bench.worker().register(welcome).register(weigh));
    let message = OutgoingMessage::new(r#"{"user_id": 1, "email": "bob", "later": true}"#);
    bench.publish("mail", message.message_type("welcome")).await;
    assert_eq!(bench.line().await, "welcome 1 bob None");
    bench.publish("mail", OutgoingMessage::new("{}").message_type("weigh-parcel")).await;
    assert_eq!(bench.line().await, "0 g on true");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn what_nobody_can_do_is_dead_lettered_with_the_reason() {
    let bench = Bench::start().await;
    let worker = run(bench.worker().register(welcome));
    let of = |kind: &str, payload: &'static str| OutgoingMessage::new(payload).message_type(kind);
    let unknown = of("sing", "{}");
    let unnamed = of("", "{}");
    let broken = of("welcome", "{");
    let other = of("welcome", "{}").content_type("application/cbor");
    for message in [unknown, unnamed, broken, other] {
        bench.publish("mail", message).await;
    }
    let mut told: Vec<String> = Vec::new();
    for message in bench.messages("mail.dead", 4).await {
        let info = message.message.dead_letter.unwrap();
        assert_eq!(info.reason, DeadLetterReason::ByConsumer);
        let failure = info.failure.unwrap();
        told.push(format!("{}: {}", failure.kind, failure.message));
    }
    told.sort();
    assert!(
        told[0].starts_with("Undecodable: no arguments of welcome: EOF while parsing"),
        "{told:?}"
    );
    assert_eq!(told[1], "Undecodable: welcome reads application/json, not application/cbor");
    assert_eq!(told[2], "UnknownActor: no actor \"sing\" is registered with this worker");
    assert_eq!(told[3], "UnknownActor: the message names no actor in its message_type");
    worker.stop().await.unwrap();
    bench.stop().await;
}

/// By hand, with state of its own.
struct Resize {
    pixels_max: u32,
}

impl Actor for Resize {
    const NAME: &'static str = "resize";
    type Args = (String, u32);
    type Encoding = Json;

    fn options(&self) -> ActorOptions {
        let mut options = ActorOptions::default();
        options.queue = "images".into();
        options
    }

    fn work(&self, context: Context, (path, pixels): Self::Args) -> Work {
        let pixels = pixels.min(self.pixels_max);
        Work::blocking(move || write(&context, format!("{path} to {pixels}")))
    }
}

#[tokio::test]
async fn an_actor_can_be_written_by_hand() {
    let mut bench = Bench::start().await;
    let resize = Resize { pixels_max: 800 };
    let job = OutgoingJob::new(&resize, &("a.png".to_owned(), 4_000));
    job.send(&bench.broker).await.unwrap();
    let worker = run(bench.worker().register(resize));
    assert_eq!(bench.line().await, "a.png to 800");
    bench.empty("images").await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

struct Backwards;

impl Encoding for Backwards {
    const CONTENT_TYPE: &'static str = "application/x-nosj";

    fn encode<T: Serialize>(arguments: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(arguments)?.into_iter().rev().collect())
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BoxError> {
        let forwards: Vec<u8> = payload.iter().rev().copied().collect();
        Ok(serde_json::from_slice(&forwards)?)
    }
}

#[actor(encoding = Backwards)]
async fn mirror(ctx: Context, text: String) {
    write(&ctx, text);
}

#[tokio::test]
async fn arguments_can_be_encoded_otherwise() {
    let mut bench = Bench::start().await;
    mirror::send(&bench.broker, "looking glass").await.unwrap();
    let waiting = bench.messages("default", 1).await;
    assert_eq!(&waiting[0].message.payload[..], b"}\"ssalg gnikool\":\"txet\"{");
    assert_eq!(waiting[0].message.content_type, "application/x-nosj");
    let worker = run(bench.worker().register(mirror));
    assert_eq!(bench.line().await, "looking glass");
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "mail", priority = 2, max_retries = 3, max_age = "1h")]
async fn urgent() {}

#[tokio::test]
async fn options_of_actor_and_job_are_in_the_message() {
    let bench = Bench::start().await;
    urgent::send(&bench.broker).await.unwrap();
    let own = &bench.messages("mail", 1).await[0];
    assert_eq!((own.message.priority, own.state), (2, MessageState::Ready));
    assert_eq!(own.message.max_attempts, Some(Limit::AtMost(4)));
    let lives = own.message.expire_time.unwrap().duration_since(own.message.publish_time.unwrap());
    assert!(lives.unwrap().abs_diff(Duration::from_hours(1)) < Duration::from_secs(1), "{own:?}");

    let job = urgent::with().queue("later").delay(Duration::from_hours(2)).priority(9);
    let job = job.max_retries(None).time_limit(Duration::from_secs(5)).correlation_id("order-7");
    job.header("tenant", "acme").message_id("reminder-7").send(&bench.broker).await.unwrap();
    let other = &bench.messages("later", 1).await[0];
    assert_eq!((other.message.priority, other.state), (9, MessageState::Scheduled));
    assert_eq!(other.message.max_attempts, Some(Limit::Unlimited));
    assert_eq!(other.message.message_id, "reminder-7");
    assert_eq!(other.message.correlation_id, "order-7");
    assert_eq!(other.message.headers["tenant"], "acme");
    assert_eq!(other.message.headers["job-time-limit-ms"], "5000");
    bench.stop().await;
}

#[tokio::test]
async fn a_job_of_the_same_id_is_sent_once() {
    let bench = Bench::start().await;
    let send = || urgent::with().message_id("once").send(&bench.broker);
    assert!(!send().await.unwrap().duplicate);
    assert!(send().await.unwrap().duplicate);
    bench.messages("mail", 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn keys_of_a_job_are_those_of_its_message() {
    let bench = Bench::start().await;
    let keyed = || urgent::with().ordering_key("ann").fairness_key("acme").unique_key("one");
    let first = keyed().send(&bench.broker).await.unwrap();
    let second = keyed().send(&bench.broker).await.unwrap();
    assert!(second.duplicate && !first.duplicate);
    let message = bench.messages("mail", 1).await.remove(0).message;
    assert_eq!((&*message.ordering_key, &*message.fairness_key), ("ann", "acme"));
    assert_eq!(message.unique_key, "one");
    bench.stop().await;
}

#[tokio::test]
async fn many_jobs_are_sent_together_or_not_at_all() {
    let mut bench = Bench::start().await;
    let greet = |user_id| welcome::with(user_id, "all", None);
    let bad = greet(3).queue("no queue");
    let refused = bench.broker.send_all([greet(1), greet(2), bad]).await;
    assert!(matches!(refused, Err(SendError::Broker(_))), "{refused:?}");
    let receipt = bench.broker.send_all((0..100).map(greet).chain([weigh::with(1)])).await.unwrap();
    assert_eq!(receipt.len(), 101);
    let worker = run(bench.worker().register(welcome).register(weigh));
    assert_eq!(bench.lines(101).await.len(), 101);
    bench.empty("mail").await;
    assert_eq!(bench.unread(), [""; 0]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "low")]
async fn slow_lane(ctx: Context, number: u32) {
    write(&ctx, format!("low {number}"));
}

#[actor(queue = "high")]
async fn fast_lane(ctx: Context, number: u32) {
    write(&ctx, format!("high {number}"));
}

#[tokio::test]
async fn queues_are_served_by_rank() {
    let mut bench = Bench::start().await;
    for number in 0..3 {
        slow_lane::send(&bench.broker, number).await.unwrap();
        fast_lane::send(&bench.broker, number).await.unwrap();
    }
    let worker = bench.worker().register(slow_lane).register(fast_lane).concurrency(1);
    let queues = [QueueShare::new("low").rank(1), QueueShare::new("high").rank(0)];
    let worker = run(worker.queues(queues));
    let lines = bench.lines(6).await;
    assert_eq!(lines, ["high 0", "high 1", "high 2", "low 0", "low 1", "low 2"]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor]
async fn meet(ctx: Context) {
    ctx.state::<tokio::sync::Barrier>().wait().await;
    write(&ctx, "met");
}

#[tokio::test]
async fn as_many_jobs_run_at_a_time_as_there_are_slots() {
    let mut bench = Bench::start().await;
    let worker = bench.worker().register(meet).concurrency(3).state(tokio::sync::Barrier::new(3));
    let worker = run(worker);
    bench.broker.send_all((0..6).map(|_| meet::with())).await.unwrap();
    bench.lines(6).await;
    meet::send(&bench.broker).await.unwrap();
    meet::send(&bench.broker).await.unwrap();
    bench.messages("default", 2).await;
    assert_eq!(bench.unread(), [""; 0], "two do not make three");
    meet::send(&bench.broker).await.unwrap();
    bench.lines(3).await;
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[actor(queue = "mail")]
fn chain(ctx: Context, left: u32) -> Result<(), SendError> {
    if 0 < left {
        ctx.block_on(chain::send(ctx.broker(), left - 1))?;
    }
    write(&ctx, left.to_string());
    Ok(())
}

#[tokio::test]
async fn a_blocking_job_can_send_jobs() {
    let mut bench = Bench::start().await;
    chain::send(&bench.broker, 2).await.unwrap();
    let worker = run(bench.worker().register(chain).concurrency(1));
    assert_eq!(bench.lines(3).await, ["2", "1", "0"]);
    worker.stop().await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_be_right_does_not_begin() {
    let bench = Bench::start().await;
    let nothing = Worker::new(bench.broker.clone()).run_until(async {}).await;
    assert!(matches!(nothing, Err(WorkerError::NothingToDo)), "{nothing:?}");
    let twice = bench.worker().register(welcome).register(welcome).run_until(async {}).await;
    assert!(matches!(twice, Err(WorkerError::DuplicateActor("welcome"))), "{twice:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_late_is_waited_for() {
    // Nobody listens at port 1; with a patience of nothing that is said at once.
    let late = Broker::wait_for("http://127.0.0.1:1", Duration::ZERO).await;
    assert!(matches!(late, Err(qbroker_client::Error::Disconnected(_))), "{late:?}");
    let bad = Broker::wait_for("no url", Duration::MAX).await;
    assert!(matches!(bad, Err(qbroker_client::Error::Option(_))), "{bad:?}");

    // A port that nobody listens at, until the front is open.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let waiting = tokio::spawn(Broker::wait_for(format!("http://{address}"), PATIENCE));
    let bench = Bench::start().await;
    assert!(!waiting.is_finished());
    let front = tokio::net::TcpListener::bind(address).await.unwrap();
    let server = bench.url().strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = front.accept().await {
            let mut to = tokio::net::TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut from, &mut to).await.ok();
            });
        }
    });
    let broker = patiently("the broker", waiting).await.unwrap().unwrap();
    welcome::send(&broker, 1, "late", None).await.unwrap();
    bench.messages("mail", 1).await;
    bench.stop().await;
}
