//! A worker without anything to do says nothing, whatever others do at its broker.

use std::time::Duration;

use qbroker_client::{Client, OutgoingMessage};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::network::Toward;
use qbroker_tests::patiently;
use qbroker_worker::{Broker, Worker, actor};
use tokio::sync::oneshot;

#[actor(queue = "jobs")]
async fn job() {}

/// Calls of others while the worker is watched.
const CALLS: u32 = 100;

/// The frame of a keepalive, and of its answer: all that an idle connection may say.
const PING_BYTES: u64 = 17;

/// What the worker has said by now.
fn said(front: &Front) -> u64 {
    front.passed(Toward::Broker)
}

/// Others publish to a queue that is not the worker's and look at what is its own, and the broker's time
/// passes by a day.
async fn others_are_busy(broker: &Embedded, others: &Client) {
    for _ in 0..CALLS {
        others.publish("other", vec![OutgoingMessage::new("job")]).await.unwrap();
        others.get_queue("jobs").await.unwrap();
        broker.pass(Duration::from_hours(24) / CALLS);
    }
}

async fn do_one_job(own: &Broker, others: &Client) {
    job::send(own).await.unwrap();
    let empty = async {
        while !others.wait_queue_empty("jobs", Duration::from_secs(20)).await.unwrap().0 {}
    };
    patiently("the end of the job", empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_jobs_asks_for_none() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let others = broker.client().await;
    for prefetch in [0, 8] {
        let front = Front::before(broker.grpc()).await;
        let client = Client::builder(front.url()).connections(1).connect().await.unwrap();
        let own = Broker::new(client);
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = Worker::new(own.clone()).register(job).prefetch(prefetch);
        let worker = tokio::spawn(worker.run_until(async {
            stopped.await.ok();
        }));
        do_one_job(&own, &others).await;
        // The connection may have a last word to say of the job.
        patiently("silence", async {
            loop {
                let before = said(&front);
                others_are_busy(&broker, &others).await;
                if (said(&front) - before).is_multiple_of(PING_BYTES) {
                    return;
                }
            }
        })
        .await;
        let before = said(&front);
        others_are_busy(&broker, &others).await;
        let grown = said(&front) - before;
        assert!(grown.is_multiple_of(PING_BYTES), "{grown} bytes, prefetch {prefetch}");
        // It was there all the time.
        do_one_job(&own, &others).await;
        assert_eq!(front.connections(), 1, "a worker and what it sends share one");
        drop(stop);
        patiently("the worker's end", worker).await.unwrap().unwrap();
    }
    broker.stop().await;
}
