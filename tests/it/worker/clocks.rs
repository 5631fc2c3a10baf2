//! A broker whose clock is years away from its workers': its own counts, and theirs changes nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qbroker::queue::time::Now;
use qbroker_client::{Client, DeadLetterReason, MessageQuery, OutgoingMessage};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::{PATIENCE, patiently};
use qbroker_worker::limit::BucketLimit;
use qbroker_worker::{BoxError, Broker, Context, ResultError, Worker, actor};
use tokio::sync::{mpsc, oneshot};

const HOUR: Duration = Duration::from_hours(1);

/// Its age is limited where nobody has said so in the message, too.
#[actor(queue = "jobs", max_age = "2h", min_backoff = "1h", max_backoff = "1h", max_retries = 1)]
async fn job(ctx: Context, name: String) -> Result<(), BoxError> {
    tell(&ctx, &format!("{name} {}", ctx.attempt()));
    if name == "fails once" && ctx.attempt() == 1 { Err("not yet".into()) } else { Ok(()) }
}

/// One in each hour of the broker's.
#[actor(queue = "jobs", store_results, result_ttl = "1h")]
async fn scarce(ctx: Context, name: String) -> Result<String, BoxError> {
    BucketLimit::new("scarce", 1, HOUR).acquire(&ctx).await?;
    tell(&ctx, &name);
    Ok(name)
}

#[actor(queue = "jobs", schedule = "0 * * * *")]
async fn hourly(ctx: Context) {
    let tick: u64 = ctx.message().headers["schedule-tick-ms"].parse().unwrap();
    let late = ctx.broker_time().duration_since(UNIX_EPOCH + Duration::from_millis(tick));
    // The clock stands still but for the way here, and the test passes whole hours.
    assert!(late.unwrap() < HOUR, "it is the broker's time");
    tell(&ctx, "hourly");
}

fn tell(ctx: &Context, line: &str) {
    ctx.state::<mpsc::UnboundedSender<String>>().send(line.to_owned()).unwrap();
}

struct Stage {
    embedded: Embedded,
    client: Client,
    told: mpsc::UnboundedSender<String>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Stage {
    fn broker(&self) -> Broker {
        Broker::new(self.client.clone())
    }

    async fn line(&mut self) -> String {
        patiently("a line", self.lines.recv()).await.unwrap()
    }

    /// Waits until so many messages wait for a time.
    async fn scheduled(&self, count: u64) {
        let scheduled = async {
            while self.client.get_queue("jobs").await.unwrap().stats.scheduled != count {}
        };
        patiently("a message that waits", scheduled).await;
    }

    async fn publish(&self, kind: &str, name: &str) {
        let payload = format!(r#"{{"name":"{name}"}}"#);
        let message = OutgoingMessage::new(payload).message_type(kind);
        self.client.publish("jobs", vec![message]).await.unwrap();
    }
}

async fn check(wall: SystemTime) {
    let (folder, clock) = (Folder::new(), clock());
    let wall_ms = wall.duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap();
    clock.set(Now { wall_ms, boot_ms: 1_000_000, begun: false });
    let embedded = Embedded::start(&folder, &clock).await;
    let (told, lines) = mpsc::unbounded_channel();
    let mut stage = Stage { client: embedded.client().await, embedded, told, lines };

    // What somebody else has sent, who knows no limits, is too old when it is that for the broker.
    stage.publish("job", "old").await;
    stage.embedded.pass(2 * HOUR);
    let worker = Worker::new(stage.broker()).register(job).register(scarce).register(hourly);
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = tokio::spawn(worker.state(stage.told.clone()).run_until(async {
        stopped.await.ok();
    }));
    let letter = async {
        loop {
            let letters = stage.client.list_messages("jobs.dead", MessageQuery::default()).await;
            if let Ok(mut page) = letters
                && let Some(letter) = page.items.pop()
            {
                return letter.message.dead_letter.unwrap();
            }
        }
    };
    let letter = patiently("a dead letter", letter).await;
    assert_eq!(letter.reason, DeadLetterReason::ByConsumer);
    assert_eq!(letter.failure.unwrap().kind, "AgeLimitExceeded");
    stage.publish("job", "young").await;
    assert_eq!(stage.line().await, "young 1");

    // Delays and backoffs are over when they are for the broker.
    job::with("delayed").delay(HOUR).send(&stage.broker()).await.unwrap();
    job::send(&stage.broker(), "fails once").await.unwrap();
    assert_eq!(stage.line().await, "fails once 1");
    stage.scheduled(2).await;
    stage.embedded.pass(HOUR);
    let mut due = [stage.line().await, stage.line().await, stage.line().await];
    due.sort();
    assert_eq!(due, ["delayed 1", "fails once 2", "hourly"]);

    // A limit begins anew with the broker's hour, and a result ends with it.
    let first = scarce::send(&stage.broker(), "first").await.unwrap().message_id;
    assert_eq!(stage.line().await, "first");
    assert_eq!(stage.broker().result::<String>(&first, PATIENCE).await.unwrap(), "first");
    scarce::send(&stage.broker(), "second").await.unwrap();
    stage.scheduled(1).await;
    stage.embedded.pass(HOUR);
    let mut due = [stage.line().await, stage.line().await];
    due.sort();
    assert_eq!(due, ["hourly", "second"]);
    let gone = stage.broker().result::<String>(&first, Duration::ZERO).await;
    assert!(matches!(gone, Err(ResultError::Missing(_))), "{gone:?}");

    drop(stop);
    patiently("the worker's end", worker).await.unwrap().unwrap();
    stage.embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_clock_is_behind_goes_by_its_own() {
    check(UNIX_EPOCH + Duration::from_hours(24 * 365 * 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_clock_is_ahead_goes_by_its_own() {
    check(UNIX_EPOCH + Duration::from_hours(24 * 365 * 200)).await;
}
