//! A broker that stands still for longer than leases last.

use std::time::Duration;

use qbroker_client::{Client, Outcome, OutgoingMessage, Reason};
use qbroker_tests::{PATIENCE, patiently};
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
