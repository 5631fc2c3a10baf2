//! A broker, and a worker, that stand still for longer than leases last.

use std::time::Duration;

use qbroker_client::{Client, Outcome, OutgoingMessage, Reason};
use qbroker_tests::folder::Folder;
use qbroker_tests::front::Front;
use qbroker_tests::network::{Strike, Toward, Trouble};
use qbroker_tests::shell::Shell;
use qbroker_tests::{PATIENCE, patiently, seed};
use rustix::process::{Signal, kill_process};

use super::Stage;

const LEASE: Duration = Duration::from_secs(1);
/// The longest that a pull may wait.
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_end_while_the_broker_stands_still_are_lost_and_those_of_streams_are_not() {
    let stage = Stage::new(&[]).await;
    let jobs = ["pulled", "consumed"].map(OutgoingMessage::new).to_vec();
    stage.client.publish("q", jobs).await.unwrap();
    let pulled = stage.client.pull(["q"], 1, Duration::ZERO, Some(LEASE)).await.unwrap().remove(0);
    let client = Client::connect(stage.server.url()).await.unwrap();
    let consumer = client.consumer(["q"]).session_grace(PATIENCE).window(1).open().await.unwrap();
    let consumed = patiently("the job", consumer.next()).await.unwrap().unwrap();
    assert_eq!(&consumed.message.payload[..], b"consumed");

    kill_process(stage.server.pid(), Signal::STOP).unwrap();
    // The one thing here that takes its time: the lease must be over, by any clock.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    kill_process(stage.server.pid(), Signal::CONT).unwrap();

    let other = Client::connect(stage.server.url()).await.unwrap();
    let again = patiently("the job again", other.pull(["q"], 1, MINUTE, None)).await;
    let again = again.unwrap().remove(0);
    assert_eq!((&again.message.payload[..], again.attempt, again.crashes), (&b"pulled"[..], 2, 1));
    let late = stage.client.settle(vec![(pulled.lease_token, Outcome::Ack)]).await.unwrap();
    let refused = late[0].as_ref().unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::LeaseLost));
    let settled = other.settle(vec![(again.lease_token, Outcome::Ack)]).await.unwrap();
    assert_eq!(settled, [Ok(())]);
    patiently("the ack", consumed.ack()).await.unwrap();
    let stats = other.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total), (2, 1));
    assert_eq!((stats.ready, stats.leased), (0, 0));
}

/// Waits for as long as a session has by default, 15 s: under `QBROKER_SLOW=1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_loses_its_job_and_cannot_end_it_afterwards() {
    if !seed::rounds(false, true) {
        return;
    }
    let stage = Stage::new(&[]).await;
    stage.client.publish("q", vec![OutgoingMessage::new("job")]).await.unwrap();
    let front = Front::before(stage.server.grpc()).await;
    let scratch = Folder::new();
    let gate = scratch.beside("gate");
    let job = format!("echo begun; until [ -e {} ]; do sleep 0.02; done", gate.display());
    let consume = ["message", "consume", "q", "--count", "1", "--exec", &job];
    let mut worker = Shell::at(&front.url()).start(&consume);
    assert_eq!(worker.line().await.as_deref(), Some("begun"));

    worker.signal(Signal::STOP);
    front.strike(Strike { toward: Toward::Client, after: 0, trouble: Trouble::HalfOpen });
    let pull = stage.client.pull(["q"], 1, MINUTE, None);
    let again = patiently("the job again", pull).await.unwrap().remove(0);
    assert_eq!((again.attempt, again.crashes), (2, 1));
    // Its job is done before it has heard that it is another one's.
    std::fs::write(gate, "").unwrap();
    front.cut();
    worker.signal(Signal::CONT);
    let ended = worker.end().await;
    assert!(ended.err.contains("0 done, 0 failed, 0 released, 1 lost"), "{}", ended.err);
    let settled = stage.client.settle(vec![(again.lease_token, Outcome::Ack)]).await.unwrap();
    assert_eq!(settled, [Ok(())]);
    let stats = stage.client.get_queue("q").await.unwrap().stats;
    assert_eq!((stats.acked_total, stats.expired_leases_total, stats.ready), (1, 1, 0));
}
