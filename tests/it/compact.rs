//! SIGKILL in each step of a compaction: what lives on is there once, byte for byte.

use std::time::Duration;

use qbroker_client::{Client, OutgoingMessage};
use qbroker_tests::changes::{Change, Changes, How};
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;

use crate::start::{client, data};

/// Some five segments of the tests' brokers.
const MESSAGES: usize = 3_200;
const PAYLOAD_BYTES: usize = 6_000;
/// Of so many messages one lives on, so that every segment is sparse and none is empty.
const LIVES_ON: usize = 16;

fn payload(number: usize) -> String {
    format!("{number:0>PAYLOAD_BYTES$}")
}

/// Publishes as many messages again, and purges nearly all of them.
async fn make_sparse(client: &Client, round: usize) {
    for first in (0..MESSAGES).step_by(LIVES_ON) {
        let numbers = (first..first + LIVES_ON).map(|number| round * MESSAGES + number);
        let message = |number: usize| {
            let queue = if number.is_multiple_of(LIVES_ON) { "kept" } else { "purged" };
            OutgoingMessage::new(payload(number)).queue(queue)
        };
        client.publish("kept", numbers.map(message).collect()).await.unwrap();
    }
    let purged = client.purge_queue("purged", &[]).await.unwrap();
    assert_eq!(purged, (MESSAGES - MESSAGES / LIVES_ON) as u64);
}

/// What a compaction does to files, in its order.
const STEPS: [&str; 3] = ["a cold segment begins", "it has its name", "a segment of before goes"];

/// Starts a broker and kills it in a step of its compaction, or a moment later.
async fn kill_in(step: usize, folder: &Folder, rng: &mut Rng) {
    let before = folder.files("log");
    let is_there = |name: &str| before.iter().any(|path| path.ends_with(name));
    let mut changes = Changes::of(folder);
    let server = Server::start(folder, &[]).await;
    for (earlier, what) in STEPS.into_iter().enumerate().take(step + 1) {
        let is_cold = |name: &str, end: &str| name.starts_with("cold-") && name.ends_with(end);
        let reached = changes.next_where(|Change { dir, name, how }| match earlier {
            0 => *how == How::Comes && is_cold(name, ".tmp"),
            1 => *how == How::Comes && is_cold(name, ".qlog"),
            _ => *how != How::Comes && *dir == "log" && is_there(name),
        });
        patiently(what, reached).await;
    }
    tokio::time::sleep(Duration::from_micros(rng.below(3_000) as u64)).await;
    server.kill().await;
    let verified = data(folder, &["verify"]);
    assert_eq!(verified.code, 0, "{}: {}", STEPS[step], verified.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_of_a_compaction_it_is_killed_in_what_lives_on_is_there_once() {
    let mut rng = seed::rng("compact");
    let folder = Folder::new();
    let rounds = seed::rounds(STEPS.len(), 30 * STEPS.len());
    for round in 0..rounds {
        let server = Server::start(&folder, &[]).await;
        make_sparse(&client(&server).await, round).await;
        // Two checkpoints absorb it, and it may be compacted.
        server.stop().await;
        Server::start(&folder, &[]).await.stop().await;
        kill_in(round % STEPS.len(), &folder, &mut rng).await;
    }
    let server = Server::start(&folder, &[]).await;
    let client = client(&server).await;
    let mut numbers = (0..rounds * MESSAGES).step_by(LIVES_ON);
    loop {
        let batch = client.pull(["kept"], 100, Duration::ZERO, None).await.unwrap();
        if batch.is_empty() {
            break;
        }
        for leased in &batch {
            let number = numbers.next().expect("no message is there twice");
            assert_eq!(leased.message.payload, payload(number));
        }
    }
    assert_eq!(numbers.next(), None, "no message is lost");
    assert_eq!(server.stop().await.errors(), "");
}
