//! Clients at work: publishers on streams and with single calls, and consumers, all keeping account.

mod puller;

use std::sync::Arc;
use std::time::Duration;

use qbroker_client::{Client, Consumer, Delivery, Failure, Limit, OutgoingMessage};
use qbroker_client::{QueuePolicy, QueueSpec, RetryPolicy};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use puller::Puller;

use crate::ledger::{self, End, Ledger, Verdict};
use crate::seed::Rng;
use crate::{PATIENCE, patiently};

/// The queue that everybody works on; its dead letters go to [`DEAD`].
pub const QUEUE: &str = "work";
/// Where dead letters go.
pub const DEAD: &str = "work.dead";

/// Messages on their way at most, so that a run ends soon after its publishers do.
const UNFINISHED_MAX: usize = 3_000;
/// Bytes of most payloads, at most.
const PAYLOAD_BYTES: usize = 1_000;

/// Publishers and consumers that go on, whatever becomes of the broker, until they are told to stop.
#[derive(Debug)]
pub struct Load {
    ledger: Arc<Ledger>,
    url: String,
    unfinished: Arc<Semaphore>,
    payload_bytes: usize,
    /// What they are to do.
    phase: watch::Sender<Phase>,
    long_jobs: LongJobs,
    publishers: JoinSet<()>,
    consumers: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Publishing,
    Draining,
    Done,
}

/// A client that is patient with a broker that dies all the time.
///
/// # Panics
/// When nobody answers at `url`.
pub async fn client(url: &str) -> Client {
    let backoff = (Duration::from_millis(5), Duration::from_millis(50));
    let options = Client::builder(url).request_timeout(PATIENCE).backoff(backoff.0, backoff.1);
    options.connections(1).connect().await.expect("the broker answers")
}

/// The queue of the load: failures come back at once and without limit, and ids are remembered for
/// longer than the test runs.
///
/// # Panics
/// When the broker refuses it.
pub async fn create_queue(client: &Client) {
    let policy = QueuePolicy {
        max_attempts: Some(Limit::Unlimited),
        retry: RetryPolicy {
            initial_backoff: Some(Duration::ZERO),
            max_backoff: Some(Duration::ZERO),
            ..RetryPolicy::default()
        },
        dedup_window: Some(Duration::from_secs(24 * 60 * 60)),
        ..QueuePolicy::default()
    };
    client.create_queue(QueueSpec::new(QUEUE).policy(policy)).await.expect("a queue is made");
}

impl Load {
    /// Work at `url`, which must stay the broker's over its restarts; nobody works yet.
    pub fn new(url: &str, ledger: Arc<Ledger>) -> Self {
        let (phase, _) = watch::channel(Phase::Publishing);
        let unfinished = Arc::new(Semaphore::new(UNFINISHED_MAX));
        let long_jobs = LongJobs::default();
        let (publishers, consumers) = (JoinSet::new(), JoinSet::new());
        let (url, payload_bytes) = (url.to_owned(), PAYLOAD_BYTES);
        Self { ledger, url, unfinished, payload_bytes, phase, long_jobs, publishers, consumers }
    }

    /// Most payloads have fewer bytes than this: larger ones fill segments sooner.
    #[must_use]
    pub fn with_payloads(self, payload_bytes: usize) -> Self {
        Self { payload_bytes, ..self }
    }

    /// Adds a publisher of batches on a stream: exact by its producer session.
    pub async fn add_stream_publisher(&mut self, name: &'static str, rng: Rng) {
        let (source, client) = (self.source(name, rng), client(&self.url).await);
        self.publishers.spawn(source.publish_on_stream(client));
    }

    /// Adds a publisher of single calls: exact by the ids it chooses.
    pub async fn add_unary_publisher(&mut self, name: &'static str, rng: Rng) {
        let (source, client) = (self.source(name, rng), client(&self.url).await);
        self.publishers.spawn(source.publish_with_ids(client));
    }

    /// Adds a consumer whose verdicts are by `judge`; `None` makes the delivery a long job, which runs
    /// until it is told to end and is acked then.
    ///
    /// # Panics
    /// When the broker refuses it.
    pub async fn add_consumer(&mut self, judge: impl FnMut() -> Option<Verdict> + Send + 'static) {
        let client = client(&self.url).await;
        let open = client.consumer([QUEUE]).window(64).session_grace(PATIENCE).open();
        let worker = Worker {
            ledger: self.ledger.clone(),
            unfinished: self.unfinished.clone(),
            long_jobs: self.long_jobs.clone(),
            consumer: open.await.expect("the broker takes a consumer"),
        };
        self.consumers.spawn(worker.work(judge, self.phase.subscribe()));
    }

    /// Adds somebody who pulls and settles with single calls; verdicts as for a consumer.
    pub async fn add_puller(&mut self, judge: impl FnMut() -> Option<Verdict> + Send + 'static) {
        let puller = Puller {
            ledger: self.ledger.clone(),
            unfinished: self.unfinished.clone(),
            client: client(&self.url).await,
        };
        self.consumers.spawn(puller.work(judge, self.phase.subscribe()));
    }

    /// Adds everybody who can be at work: three publishers, two consumers and a puller.
    ///
    /// # Panics
    /// When the broker refuses one.
    pub async fn add_everybody<J>(&mut self, rng: &mut Rng, judge: impl Fn(Rng) -> J)
    where
        J: FnMut() -> Option<Verdict> + Send + 'static,
    {
        let mut chance = || Rng::new(rng.next_u64());
        self.add_stream_publisher("s", chance()).await;
        self.add_stream_publisher("t", chance()).await;
        self.add_unary_publisher("u", chance()).await;
        self.add_consumer(judge(chance())).await;
        self.add_consumer(judge(chance())).await;
        self.add_puller(judge(chance())).await;
    }

    /// Waits until at least so many long jobs are running.
    pub async fn wait_for_long_jobs(&self, count: u64) {
        let mut running = self.long_jobs.running.subscribe();
        let enough = running.wait_for(|running| count <= *running);
        drop(patiently("long jobs", enough).await.expect("the sender lives"));
    }

    /// Lets every long job end that is running now.
    pub fn end_long_jobs(&self) {
        self.long_jobs.ends.send_modify(|ends| *ends += 1);
    }

    /// Ends the publishers, waits until everything is worked off, and ends the consumers.
    ///
    /// # Panics
    /// When that takes too long, or a client's task failed.
    pub async fn finish(mut self) {
        self.phase.send_replace(Phase::Draining);
        while let Some(ended) = patiently("the publishers' end", self.publishers.join_next()).await
        {
            ended.expect("a publisher does not panic");
        }
        self.long_jobs.ends.send_replace(NO_MORE);
        let all = u32::try_from(UNFINISHED_MAX).expect("it is small");
        let finished = patiently("the end of the work", self.unfinished.acquire_many(all)).await;
        drop(finished.expect("it is never closed"));
        self.phase.send_replace(Phase::Done);
        while let Some(ended) = patiently("the consumers' end", self.consumers.join_next()).await {
            ended.expect("a consumer does not panic");
        }
    }

    fn source(&self, name: &'static str, rng: Rng) -> Source {
        Source {
            name,
            rng,
            published: 0,
            payload_bytes: self.payload_bytes,
            ledger: self.ledger.clone(),
            unfinished: self.unfinished.clone(),
            phase: self.phase.subscribe(),
        }
    }
}

/// Jobs that run until all of them are told to end.
#[derive(Clone, Debug, Default)]
struct LongJobs {
    running: watch::Sender<u64>,
    ends: watch::Sender<u64>,
}

/// As [`LongJobs::ends`]: jobs end at once.
const NO_MORE: u64 = u64::MAX;

impl LongJobs {
    async fn run(&self) {
        let mut end = self.ends.subscribe();
        let begun = *end.borrow();
        self.running.send_modify(|running| *running += 1);
        drop(end.wait_for(|ends| begun < *ends || *ends == NO_MORE).await);
        self.running.send_modify(|running| *running -= 1);
    }
}

/// Makes messages and hands them in.
struct Source {
    name: &'static str,
    rng: Rng,
    published: u64,
    payload_bytes: usize,
    ledger: Arc<Ledger>,
    unfinished: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
}

impl Source {
    /// Names for a batch, entered in the ledger; `None` once publishing is over.
    async fn batch(&mut self, messages_max: usize) -> Option<Vec<String>> {
        let count = 1 + self.rng.below(messages_max);
        let permits = u32::try_from(count).expect("it is small");
        tokio::select! {
            room = self.unfinished.acquire_many(permits) => room.expect("it is never closed").forget(),
            _ = self.phase.wait_for(|phase| *phase != Phase::Publishing) => return None,
        }
        if *self.phase.borrow() != Phase::Publishing {
            self.unfinished.add_permits(count);
            return None;
        }
        let names = (0..count).map(|_| {
            // Mostly small, now and then as large as several frames' worth.
            let large = self.rng.below(200) == 0;
            let bytes = self.rng.below(if large { 150_000 } else { self.payload_bytes });
            self.published += 1;
            ledger::name(self.name, self.published, bytes)
        });
        let names: Vec<String> = names.collect();
        names.iter().for_each(|name| self.ledger.offered(name));
        Some(names)
    }

    async fn publish_on_stream(mut self, client: Client) {
        let publisher = client.publisher(QUEUE).open().await.expect("the broker takes a publisher");
        let mut answers = JoinSet::new();
        while let Some(names) = self.batch(100).await {
            let messages = names.iter().map(|name| OutgoingMessage::new(ledger::payload(name)));
            match publisher.offer_batch(messages.collect()).await {
                Err(error) => return self.ledger.broken(format!("a stream ended: {error}")),
                Ok(pending) => {
                    let ledger = self.ledger.clone();
                    answers.spawn(async move {
                        match pending.await {
                            Ok(receipt) => {
                                for (position, name) in names.iter().enumerate() {
                                    ledger.confirmed(name, receipt.sequence(position));
                                }
                            }
                            Err(error) => {
                                ledger.broken(format!("{} and others: {error}", names[0]));
                            }
                        }
                    });
                }
            }
            while answers.try_join_next().is_some() {}
        }
        answers.join_all().await;
        if let Err(error) = publisher.close().await {
            self.ledger.broken(format!("a publisher did not close: {error}"));
        }
    }

    async fn publish_with_ids(mut self, client: Client) {
        while let Some(names) = self.batch(5).await {
            let messages = names
                .iter()
                .map(|name| OutgoingMessage::new(ledger::payload(name)).message_id(name));
            match client.publish(QUEUE, messages.collect()).await {
                Err(error) => self.ledger.broken(format!("{names:?}: {error}")),
                Ok(receipts) => {
                    for (name, receipt) in names.iter().zip(receipts) {
                        self.ledger.confirmed(name, receipt.sequence);
                    }
                }
            }
        }
    }
}

/// Takes deliveries and settles them.
struct Worker {
    ledger: Arc<Ledger>,
    unfinished: Arc<Semaphore>,
    long_jobs: LongJobs,
    consumer: Consumer,
}

impl Worker {
    async fn work(
        self,
        mut judge: impl FnMut() -> Option<Verdict> + Send,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut answers = JoinSet::new();
        loop {
            let taken = tokio::select! {
                taken = self.consumer.next_batch(16) => taken,
                _ = phase.wait_for(|phase| *phase == Phase::Done) => break,
            };
            match taken {
                Err(error) => {
                    self.ledger.broken(format!("a consumer ended: {error}"));
                    break;
                }
                Ok(deliveries) => {
                    for delivery in deliveries {
                        if let Some(name) = self.ledger.delivered(&delivery) {
                            answers.spawn(self.job(delivery, name, judge()));
                        }
                    }
                }
            }
            while answers.try_join_next().is_some() {}
        }
        answers.join_all().await;
        if let Err(error) = self.consumer.close().await {
            self.ledger.broken(format!("a consumer did not close: {error}"));
        }
    }

    /// Works on one message and settles it.
    fn job(
        &self,
        delivery: Delivery,
        name: String,
        verdict: Option<Verdict>,
    ) -> impl Future<Output = ()> + use<> {
        let (ledger, unfinished) = (self.ledger.clone(), self.unfinished.clone());
        let long_jobs = self.long_jobs.clone();
        async move {
            if verdict.is_none() {
                long_jobs.run().await;
            }
            let verdict = verdict.unwrap_or(Verdict::End(End::Acked));
            ledger.settling(&name, verdict);
            let failure = || Failure::new("Judged", &name);
            let settling = match verdict {
                Verdict::End(End::Acked) => delivery.ack(),
                Verdict::End(End::DeadLettered) => delivery.dead_letter(failure()),
                Verdict::Nack => delivery.nack(failure()),
                Verdict::Release => delivery.release(),
            };
            ledger.settled(&name, verdict, settling.await);
            if matches!(verdict, Verdict::End(_)) {
                unfinished.add_permits(1);
            }
        }
    }
}
