//! Deliveries and acks over a connection that is cut: each job is handed out once and done once.

use std::collections::BTreeSet;
use std::time::Duration;

use qbroker_client::{Client, Consumer, Error, OutgoingMessage};
use qbroker_tests::embedded::{self, Embedded};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::network::{Strike, Toward, Trouble};
use qbroker_tests::{PATIENCE, patiently, seed};

use super::{Stage, connect, options, strikes};

const JOBS: usize = 8;
/// The longest that a pull may wait.
const MINUTE: Duration = Duration::from_secs(60);

async fn publish_jobs(direct: &Client, queue: &str) {
    let jobs = (0..JOBS).map(|job| OutgoingMessage::new(format!("{job} {}", "x".repeat(job * 30))));
    direct.publish(queue, jobs.collect()).await.unwrap();
}

/// A window of some jobs, so that settling makes room for the next ones.
async fn open(client: &Client, queue: &str) -> Consumer {
    client.consumer([queue]).window(3).session_grace(PATIENCE).open().await.unwrap()
}

/// Does every job there is; half of the acks are waited for before the next job is taken.
async fn work(consumer: &Consumer, how: &str) {
    let (mut seen, mut acks) = (BTreeSet::new(), Vec::new());
    for number in 0..JOBS {
        let job = consumer.next().await.unwrap().expect("it is not drained");
        assert!(seen.insert(job.message.payload.clone()), "{how}: {job:?} comes again");
        assert_eq!((job.attempt, job.failures, job.crashes), (1, 0, 0), "{how}");
        let ack = job.ack();
        match number % 2 {
            0 => ack.await.unwrap_or_else(|error| panic!("{how}: {error}")),
            _ => acks.push(ack),
        }
    }
    for ack in acks {
        ack.await.unwrap_or_else(|error| panic!("{how}: {error}"));
    }
    consumer.close().await.unwrap();
}

async fn check_done(direct: &Client, queue: &str, how: &str) {
    let stats = direct.get_queue(queue).await.unwrap().stats;
    assert_eq!((stats.ready, stats.leased, stats.scheduled), (0, 0, 0), "{how}");
    assert_eq!((stats.acked_total, stats.retried_total), (JOBS as u64, 0), "{how}");
    assert_eq!(stats.expired_leases_total, 0, "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_once_at_whichever_byte_the_connection_is_cut() {
    let mut rng = seed::rng("network consume");
    let stage = Stage::new().await;
    let client = stage.client().await;
    let consumer = open(&client, "whole").await;
    let whole = Box::pin(async {
        publish_jobs(&stage.direct, "whole").await;
        work(&consumer, "nothing was cut").await;
    });
    let bytes = stage.bytes_of(whole).await;
    let mut cut = 0;
    for (number, strike) in strikes(bytes, 40, &mut rng).into_iter().enumerate() {
        let (queue, how) = (format!("cut-{number}"), format!("{strike:?}"));
        let consumer = open(&client, &queue).await;
        stage.front.strike(strike);
        publish_jobs(&stage.direct, &queue).await;
        patiently(&how, work(&consumer, &how)).await;
        check_done(&stage.direct, &queue, &how).await;
        cut += u32::from(!stage.front.is_to_strike());
    }
    eprintln!("network consume: {bytes:?} bytes, cut {cut} times");
    assert!(10 < cut, "{cut}");
}

/// Once a stream was delivered messages together with the answer to its opening: lost with that, they were
/// held by nobody for the session's grace, and counted as crashes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_opening_was_lost_had_nothing_to_lose() {
    let (folder, clock) = (Folder::new(), embedded::clock());
    let broker = Embedded::start(&folder, &clock).await;
    let direct = broker.client().await;
    direct.publish("q", vec![OutgoingMessage::new("job")]).await.unwrap();
    let front = Front::before(broker.grpc()).await;
    let client = connect(options(&front)).await;
    // Behind the headers of the answer, which leave with the first of it: nothing of it is read.
    front.strike(Strike { toward: Toward::Client, after: 60, trouble: Trouble::Reset });
    let consumer = patiently("the opening", client.consumer(["q"]).open()).await.unwrap();
    assert!(!front.is_to_strike());
    // The broker's clock stands still: no grace is over.
    let job = patiently("the job", consumer.next()).await.unwrap().expect("it is not drained");
    assert_eq!((job.attempt, job.failures, job.crashes), (1, 0, 0));
    job.ack().await.unwrap();
    let stats = direct.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.leased, stats.ready), (1, 0, 0));
    assert_eq!((stats.delivered_total, stats.expired_leases_total), (1, 0));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_that_its_connection_is_gone_cannot_settle_what_another_one_has() {
    let stage = Stage::new().await;
    stage.direct.publish("q", vec![OutgoingMessage::new("job")]).await.unwrap();
    let client = connect(options(&stage.front)).await;
    let grace = Duration::from_secs(1);
    let consumer = client.consumer(["q"]).session_grace(grace).open().await.unwrap();
    let held = patiently("the job", consumer.next()).await.unwrap().unwrap();
    let strike = Strike { toward: Toward::Client, after: 0, trouble: Trouble::HalfOpen };
    stage.front.strike(strike);

    // The session ends, as a crash; the first client has not heard of it.
    let pull = stage.direct.pull(["q"], 1, MINUTE, None);
    let again = patiently("the job again", pull).await.unwrap().remove(0);
    assert_eq!((again.attempt, again.crashes), (2, 1));
    assert!(!held.is_lost(), "nobody has told it");
    let late = held.ack();
    stage.front.cut();
    let refused = patiently("the answer", late).await.unwrap_err();
    assert!(matches!(refused, Error::LeaseLost(_)), "{refused}");
    let ack = vec![(again.lease_token.clone(), qbroker_client::Outcome::Ack)];
    assert_eq!(stage.direct.settle(ack).await.unwrap(), [Ok(())]);
    let stats = stage.direct.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total, stats.ready), (1, 1, 0));
    stage.server.stop().await;
}
