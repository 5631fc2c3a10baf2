//! A partition: nothing passes any more and nobody is told. Keepalives find it out; what was on its
//! way goes on over another connection.

use std::time::Duration;

use qbroker_client::{Client, Consumer, OutgoingMessage};
use qbroker_tests::front::Front;
use qbroker_tests::network::{Strike, Toward, Trouble};
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::{PATIENCE, patiently};

use super::{Stage, connect, options};

const MESSAGES: usize = 40;

/// A client over a front of its own.
async fn client(stage: &Stage) -> (Front, Client) {
    let front = Front::before(stage.server.grpc()).await;
    let client = connect(options(&front).keepalive_interval(Duration::from_secs(1))).await;
    (front, client)
}

/// Its connection falls silent after a while.
fn strike(front: &Front, rng: &mut Rng) {
    let toward = if rng.below(2) == 0 { Toward::Broker } else { Toward::Client };
    let after = 1 + rng.below(2_000) as u64;
    front.strike(Strike { toward, after, trouble: Trouble::Silence });
}

/// One message at a time, so that the silence comes somewhere between them.
async fn publish(client: Client, queue: String) {
    let publisher = client.publisher(queue).open().await.unwrap();
    for number in 0..MESSAGES {
        publisher.publish(OutgoingMessage::new(number.to_string())).await.unwrap();
    }
    publisher.close().await.unwrap();
}

async fn consume(consumer: Consumer) {
    for number in 0..MESSAGES {
        let job = consumer.next().await.unwrap().unwrap();
        assert_eq!((&job.message.payload[..], job.attempt), (number.to_string().as_bytes(), 1));
        job.ack().await.unwrap();
    }
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_found_out_and_loses_and_doubles_nothing() {
    let mut rng = seed::rng("network silence");
    let stage = Stage::new().await;
    let mut fronts = Vec::new();
    let mut working = tokio::task::JoinSet::new();
    let pairs = seed::rounds(6, 60);
    for number in 0..pairs {
        let queue = format!("q-{number}");
        let (front, publisher) = client(&stage).await;
        strike(&front, &mut rng);
        let (behind, client) = client(&stage).await;
        let consumer = client.consumer([&*queue]).window(4).session_grace(PATIENCE).open();
        let consumer = patiently("the opening", consumer).await.unwrap();
        strike(&behind, &mut rng);
        fronts.extend([front, behind]);
        working.spawn(async move {
            tokio::join!(publish(publisher, queue), consume(consumer));
        });
    }
    patiently("the end of the work", working.join_all()).await;
    for number in 0..pairs {
        let stats = stage.direct.get_queue(&format!("q-{number}")).await.unwrap().stats;
        let done = (stats.published_total, stats.acked_total, stats.expired_leases_total);
        assert_eq!(done, (MESSAGES as u64, MESSAGES as u64, 0), "q-{number}");
    }
    let fell_silent = fronts.iter().filter(|front| 1 < front.connections()).count();
    eprintln!("network silence: {fell_silent} of {} connections", fronts.len());
    assert!(0 < fell_silent);
}
