//! Damaged pages of the index: what waits long is all there, in its queue, and is delivered once.

use std::collections::BTreeSet;
use std::time::Duration;

use qbroker_client::{Client, Failure, Leased, MessageState, Outcome, OutgoingMessage};
use qbroker_tests::folder::Folder;
use qbroker_tests::server::Server;
use serde_json::Value;

use crate::start::{client, data};

/// Some times what the tests' brokers keep in memory.
const BACKLOG: usize = 4_000;
const LATER: usize = 1_000;
const DEAD: usize = 600;
/// Messages that a page of the tests' brokers holds at least.
const PAGE_MESSAGES: usize = 16;

async fn publish(client: &Client, queue: &str, count: usize, bytes: usize, delay: Duration) {
    for first in (0..count).step_by(500) {
        let text = |number: usize| format!("{number} {}", "x".repeat(bytes));
        let message = |number| OutgoingMessage::new(text(number)).delay(delay);
        let messages = (first..count.min(first + 500)).map(message);
        client.publish(queue, messages.collect()).await.unwrap();
    }
}

fn number(leased: &Leased) -> usize {
    let payload = std::str::from_utf8(&leased.message.payload).unwrap();
    payload.split(' ').next().unwrap().parse().unwrap()
}

/// Takes up to `max` messages of a queue and settles each of them so.
async fn take(client: &Client, queue: &str, max: usize, outcome: &Outcome) -> Vec<Leased> {
    let mut taken = Vec::new();
    while taken.len() < max {
        let wanted = u32::try_from(max - taken.len()).unwrap_or(u32::MAX).min(500);
        let batch = client.pull([queue], wanted, Duration::ZERO, None).await.unwrap();
        if batch.is_empty() {
            break;
        }
        let settle = batch.iter().map(|leased| (leased.lease_token.clone(), outcome.clone()));
        let settled = client.settle(settle.collect()).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
        taken.extend(batch);
    }
    taken
}

/// Where the bodies of pages are in a segment: many small messages of the same kind in a row.
fn pages_in(bytes: &[u8]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 3 < bytes.len() {
        let (mut end, mut count) = (at, 0);
        while end + 3 < bytes.len() && bytes[end] == 0x0a && bytes[end + 2] == 0x08 {
            end += 2 + usize::from(bytes[end + 1]);
            count += 1;
        }
        if PAGE_MESSAGES <= count {
            found.push(at);
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Two stops later a start is from a checkpoint in a newer segment, and reads nothing before it.
async fn settle_down(folder: &Folder, server: Server) {
    server.stop().await;
    Server::start(folder, &[]).await.stop().await;
}

/// What a broker's log says of pages that were made anew.
fn told_of(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of = |line: &Value| line["message"].as_str().unwrap_or_default().contains("made anew");
    lines.filter(of).collect()
}

fn pages_rebuilt(server: &Server) -> u64 {
    server.figure("qbroker_index_pages_rebuilt_total")
}

/// A bug: a broker that met one damaged page ended with 74 whenever it needed it, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_made_anew_and_everything_in_them_is_delivered_as_it_was() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let first = client(&server).await;
    publish(&first, "fails", DEAD, 20, Duration::ZERO).await;
    let failure = Failure { kind: "E".into(), message: "no".into(), details: String::new() };
    let dead = take(&first, "fails", DEAD, &Outcome::DeadLetter { failure: Some(failure) }).await;
    assert_eq!(dead.len(), DEAD);
    publish(&first, "later", LATER, 20, Duration::from_secs(3_600)).await;
    publish(&first, "work", BACKLOG, 20, Duration::ZERO).await;
    assert_eq!(take(&first, "work", 300, &Outcome::Ack).await.len(), 300);
    settle_down(&folder, server).await;

    let mut damaged = 0;
    for path in folder.files("log") {
        let mut bytes = std::fs::read(&path).unwrap();
        for at in pages_in(&bytes) {
            bytes[at + 40] ^= 0x20;
            damaged += 1;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(10 < damaged, "{damaged} pages");
    assert_eq!(data(&folder, &["verify"]).code, 74);

    let server = Server::start(&folder, &[]).await;
    let second = client(&server).await;
    let letters = take(&second, "fails.dead", DEAD + 1, &Outcome::Ack).await;
    assert_eq!(letters.iter().map(number).collect::<Vec<_>>(), Vec::from_iter(0..DEAD));
    for letter in &letters {
        let told = letter.message.dead_letter.as_ref().expect("why it is here is known");
        assert_eq!(told.source_queue, "fails");
    }
    assert_eq!(second.get_queue("fails").await.unwrap().stats.ready, 0);
    let work = take(&second, "work", BACKLOG, &Outcome::Ack).await;
    assert_eq!(work.iter().map(number).collect::<Vec<_>>(), Vec::from_iter(300..BACKLOG));
    assert_eq!(second.get_queue("later").await.unwrap().stats.scheduled, LATER as u64);
    assert_eq!(take(&second, "later", 1, &Outcome::Ack).await.len(), 0, "none is early");
    let scheduled = [MessageState::Scheduled];
    assert_eq!(second.purge_queue("later", &scheduled).await.unwrap(), LATER as u64);
    let told = told_of(&server);
    assert!(10 < told.len() && told.iter().all(|line| line["level"] == "ERROR"), "{told:?}");
    assert_eq!(pages_rebuilt(&server), told.len() as u64);
    server.kill().await;

    // What was acked stays so, whatever of the pages is replayed.
    let server = Server::start(&folder, &[]).await;
    let third = client(&server).await;
    for queue in ["work", "later", "fails", "fails.dead"] {
        let stats = third.get_queue(queue).await.unwrap().stats;
        assert_eq!((stats.ready, stats.scheduled, stats.parked), (0, 0, 0), "{queue}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_segment_that_held_pages_everything_else_is_delivered_once() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, "work", BACKLOG * 2, 1_000, Duration::ZERO).await;
    settle_down(&folder, server).await;
    let holds_pages =
        |path: &std::path::PathBuf| !pages_in(&std::fs::read(path).unwrap()).is_empty();
    let held: Vec<_> = folder.files("log").into_iter().filter(holds_pages).collect();
    assert!(1 < held.len(), "{held:?}");
    std::fs::remove_file(&held[0]).unwrap();
    assert_eq!(data(&folder, &["repair", "--yes"]).code, 0);

    let server = Server::start(&folder, &[]).await;
    let after = client(&server).await;
    let all = BACKLOG * 2;
    let taken = take(&after, "work", all, &Outcome::Ack).await;
    let numbers: BTreeSet<_> = taken.iter().map(number).collect();
    assert_eq!(numbers.len(), taken.len(), "each comes once");
    // Those whose payloads were in the segment are parked, for somebody to see.
    let stats = after.get_queue("work").await.unwrap().stats;
    assert_eq!((stats.ready, stats.leased), (0, 0));
    assert_eq!(taken.len() + usize::try_from(stats.parked).unwrap(), all);
    assert!(all / 4 < taken.len() && 0 < stats.parked, "{} delivered", taken.len());
    assert!(!told_of(&server).is_empty());
    server.stop().await;
    Server::start(&folder, &[]).await.stop().await;
}
