//! A job that outlives its lease is fenced: what it does counts no more, and somebody else's does.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use qbroker_client::{Client, ConsumerQuery, LostReason};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::{PATIENCE, load, patiently};
use qbroker_worker::middleware::{Middleware, Settlement};
use qbroker_worker::{BoxError, Broker, CancelReason, Context, Worker, WorkerError, actor};
use tokio::sync::mpsc;

/// Which worker this is, and what its jobs tell.
struct Name {
    name: &'static str,
    told: mpsc::UnboundedSender<String>,
    /// Lets its job end.
    gate: Mutex<std::sync::mpsc::Receiver<()>>,
}

/// Nothing ends its thread but the test, or that it hears that it should.
#[actor(queue = "jobs", store_results, time_limit = "none", max_retries = 0)]
fn long(ctx: Context, deaf: bool) -> Result<String, BoxError> {
    let Name { name, told, gate } = &**ctx.state::<Arc<Name>>();
    told.send(format!("{name} has begun, attempt {}, crashes {}", ctx.attempt(), ctx.crashes()))?;
    ctx.when_done(|then| {
        then.store("who", *name, None).send(after::with(*name));
    });
    if deaf {
        gate.lock().recv()?;
    } else if *name == "a" {
        let reason = ctx.block_on(ctx.canceled());
        assert_eq!(reason, CancelReason::LeaseLost(LostReason::SessionLost));
    }
    told.send(format!("{name} has ended"))?;
    Ok((*name).to_owned())
}

#[actor(queue = "after")]
async fn after(ctx: Context, of: String) -> Result<(), BoxError> {
    Ok(ctx.state::<Arc<Name>>().told.send(format!("after {of}"))?)
}

/// Tells of settlements that the broker refuses.
struct Refusals(mpsc::UnboundedSender<String>);

impl Middleware for Refusals {
    fn after_settle(
        &self,
        _context: &Context,
        settlement: Settlement,
        settled: Result<(), &qbroker_client::Error>,
    ) {
        if let Err(error) = settled {
            assert!(matches!(error, qbroker_client::Error::LeaseLost(_)), "{error}");
            self.0.send(format!("refused {settlement:?}")).unwrap();
        }
    }
}

struct Stage {
    broker: Embedded,
    client: Client,
    front: Front,
    told: mpsc::UnboundedSender<String>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Stage {
    async fn set(folder: &Folder) -> Self {
        let broker = Embedded::start(folder, &clock()).await;
        let front = Front::open().await;
        front.lead_to(broker.grpc());
        let (told, lines) = mpsc::unbounded_channel();
        Self { client: broker.client().await, broker, front, told, lines }
    }

    async fn line(&mut self) -> String {
        patiently("a line", self.lines.recv()).await.unwrap()
    }

    /// A worker over this client, and what lets its deaf jobs end.
    fn worker(
        &self,
        name: &'static str,
        client: Client,
    ) -> (tokio::task::JoinHandle<Result<(), WorkerError>>, std::sync::mpsc::Sender<()>, Stop) {
        let (open, gate) = std::sync::mpsc::channel();
        let name = Arc::new(Name { name, told: self.told.clone(), gate: Mutex::new(gate) });
        let broker = Broker::new(client).middleware(Refusals(self.told.clone()));
        let worker = Worker::new(broker).register(long).register(after).state(name);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(worker.run_until(async {
            stopped.await.ok();
        }));
        (task, open, stop)
    }

    /// The network is down until the session's grace is over.
    async fn lose_session(&self) {
        self.front.lead_nowhere();
        self.front.cut();
        let gone = async {
            let query = ConsumerQuery { queue: "jobs".to_owned(), ..ConsumerQuery::default() };
            while !self.client.list_consumers(query.clone()).await.unwrap().items.is_empty() {}
        };
        patiently("the end of the stream", gone).await;
        self.broker.pass(Duration::from_secs(15));
    }
}

type Stop = tokio::sync::oneshot::Sender<()>;

/// The job was `b`'s: its result, its value, its next step, and nobody else's.
async fn was_done_by_b(stage: &mut Stage, message_id: &str) {
    let broker = Broker::new(stage.client.clone());
    assert_eq!(broker.result::<String>(message_id, PATIENCE).await.unwrap(), "b");
    let empty = async {
        while !stage.client.wait_queue_empty("after", Duration::from_secs(20)).await.unwrap().0 {}
    };
    patiently("the end of what follows", empty).await;
    assert_eq!(stage.client.state().get("who").await.unwrap().as_deref(), Some(&b"b"[..]));
    let stats = stage.client.get_queue("jobs").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total, stats.dead), (1, 1, 0));
    assert_eq!(stage.client.get_queue("after").await.unwrap().stats.published_total, 1);
    let mut rest: Vec<String> = std::iter::from_fn(|| stage.lines.try_recv().ok()).collect();
    rest.retain(|line| line != "after b");
    assert_eq!(rest, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_after_its_lease_changes_nothing() {
    let folder = Folder::new();
    let mut stage = Stage::set(&folder).await;
    let (a, end_a, stop_a) = stage.worker("a", load::client(&stage.front.url()).await);
    let job = long::send(&Broker::new(stage.client.clone()), true).await.unwrap();
    assert_eq!(stage.line().await, "a has begun, attempt 1, crashes 0");
    stage.lose_session().await;
    let (b, end_b, stop_b) = stage.worker("b", stage.client.clone());
    assert_eq!(stage.line().await, "b has begun, attempt 2, crashes 1");
    // It believes that the job is its own, and nobody can tell it otherwise.
    end_a.send(()).unwrap();
    assert_eq!(stage.line().await, "a has ended");
    stage.front.lead_to(stage.broker.grpc());
    assert_eq!(stage.line().await, "refused Ack");
    end_b.send(()).unwrap();
    assert_eq!(stage.line().await, "b has ended");
    was_done_by_b(&mut stage, &job.message_id).await;
    drop((stop_a, stop_b));
    patiently("its end", a).await.unwrap().unwrap();
    patiently("its end", b).await.unwrap().unwrap();
    stage.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_when_its_lease_is_over_is_told_to_stop() {
    let folder = Folder::new();
    let mut stage = Stage::set(&folder).await;
    let (a, _, stop_a) = stage.worker("a", load::client(&stage.front.url()).await);
    let job = long::send(&Broker::new(stage.client.clone()), false).await.unwrap();
    assert_eq!(stage.line().await, "a has begun, attempt 1, crashes 0");
    stage.lose_session().await;
    let (b, _, stop_b) = stage.worker("b", stage.client.clone());
    assert_eq!(stage.line().await, "b has begun, attempt 2, crashes 1");
    assert_eq!(stage.line().await, "b has ended");
    let followed = stage.line().await;
    assert_eq!(followed, "after b");
    stage.front.lead_to(stage.broker.grpc());
    assert_eq!(stage.line().await, "a has ended");
    was_done_by_b(&mut stage, &job.message_id).await;
    drop((stop_a, stop_b));
    patiently("its end", a).await.unwrap().unwrap();
    patiently("its end", b).await.unwrap().unwrap();
    stage.broker.stop().await;
}
