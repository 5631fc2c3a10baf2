//! A backlog many times the memory of the index: it keeps its order, its times and its counts,
//! whatever is in pages, and after any end of the process.

use std::time::Duration;

use futures_util::future::join_all;
use qbroker_client::{Client, Consumer, MessageQuery, Outcome, OutgoingMessage};
use qbroker_tests::embedded::{Embedded, clock};
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::seed::{self, Rng};
use qbroker_tests::server::Server;

/// Ten times what the tests' brokers keep in memory.
const BACKLOG: usize = 10_000;
const BATCH: usize = 500;
const ACKED_AT_ONCE: usize = 125;

async fn client(server: &Server) -> Client {
    Client::connect(server.url()).await.unwrap()
}

/// Publishes to the queues in turn; a message's payload is its number.
async fn publish(client: &Client, queues: &[&str], numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(BATCH) {
        for (at, queue) in queues.iter().enumerate() {
            let of_queue = (first..first + BATCH).filter(|number| number % queues.len() == at);
            let messages = of_queue.map(|number| OutgoingMessage::new(number.to_string()));
            client.publish(queue, messages.collect()).await.unwrap();
        }
    }
}

async fn consumer(client: &Client, queue: &str) -> Consumer {
    client.consumer([queue]).window(200).open().await.unwrap()
}

/// Takes so many messages and acks them; their numbers.
async fn take(consumer: &Consumer, count: usize) -> Vec<usize> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let mut acks = Vec::new();
        for _ in 0..ACKED_AT_ONCE.min(count - taken.len()) {
            let delivery = patiently("a delivery", consumer.next()).await.unwrap().unwrap();
            taken.push(number(&delivery.message.payload));
            acks.push(delivery.ack());
        }
        for acked in join_all(acks).await {
            acked.unwrap();
        }
    }
    taken
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

fn every(step: usize, numbers: std::ops::Range<usize>) -> Vec<usize> {
    numbers.step_by(step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_the_memory_keeps_its_order_after_a_kill_and_a_stop() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, &["even", "odd"], 0..BACKLOG).await;
    server.kill().await;

    let server = Server::start(&folder, &[]).await;
    let broker = client(&server).await;
    let even = consumer(&broker, "even").await;
    assert_eq!(take(&even, 2_000).await, every(2, 0..4_000));
    // What comes later stands behind everything that is in pages.
    publish(&broker, &["even", "odd"], BACKLOG..BACKLOG + BATCH).await;
    even.close().await.unwrap();
    server.stop().await;

    let server = Server::start(&folder, &[]).await;
    let broker = client(&server).await;
    assert_eq!(broker.get_queue("even").await.unwrap().stats.ready, 3_250);
    let even = consumer(&broker, "even").await;
    assert_eq!(take(&even, 3_250).await, every(2, 4_000..BACKLOG + BATCH));
    server.kill().await;

    let server = Server::start(&folder, &[]).await;
    let broker = client(&server).await;
    let odd = consumer(&broker, "odd").await;
    assert_eq!(take(&odd, 5_250).await, every(2, 1..BACKLOG + BATCH));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_pages_is_listed_in_order_and_purged_with_the_rest() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let client = client(&server).await;
    publish(&client, &["q"], 0..BACKLOG).await;
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let query = MessageQuery { page_size: 700, page_token: token, ..MessageQuery::default() };
        let page = client.list_messages("q", query).await.unwrap();
        listed.extend(page.items.iter().map(|item| number(&item.message.payload)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, every(1, 0..BACKLOG));
    assert_eq!(client.purge_queue("q", &[]).await.unwrap(), BACKLOG as u64);
    assert_eq!(client.get_queue("q").await.unwrap().stats.ready, 0);
    server.stop().await;
}

/// Random seconds of a day.
fn due_times(rng: &mut Rng) -> Vec<usize> {
    (0..BACKLOG).map(|_| 1 + rng.below(86_400)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_beyond_the_memory_come_when_they_are_due_also_after_a_restart() {
    let (folder, clock) = (Folder::new(), clock());
    let broker = Embedded::start(&folder, &clock).await;
    let dues = due_times(&mut seed::rng("backlog"));
    let started = broker.client().await;
    for dues in dues.chunks(BATCH) {
        let message = |due: &usize| {
            OutgoingMessage::new(due.to_string()).delay(Duration::from_secs(*due as u64))
        };
        started.publish("q", dues.iter().map(message).collect()).await.unwrap();
    }
    broker.stop().await;

    let broker = Embedded::start(&folder, &clock).await;
    let client = broker.client().await;
    let mut expected = dues.clone();
    expected.sort_unstable();
    for hours in 1..=24 {
        broker.pass(Duration::from_secs(3_600));
        let due = expected.partition_point(|due| *due <= hours * 3_600);
        let came: Vec<usize> = expected.drain(..due).collect();
        assert_eq!(pull_all(&client).await, came, "in hour {hours}");
    }
    assert!(expected.is_empty());
    broker.stop().await;
}

/// Pulls everything that is ready and acks it; the numbers, sorted.
async fn pull_all(client: &Client) -> Vec<usize> {
    let mut pulled = Vec::new();
    loop {
        let batch = client.pull(["q"], 1_000, Duration::ZERO, None).await.unwrap();
        if batch.is_empty() {
            pulled.sort_unstable();
            return pulled;
        }
        pulled.extend(batch.iter().map(|leased| number(&leased.message.payload)));
        let acks = batch.into_iter().map(|leased| (leased.lease_token, Outcome::Ack));
        let settled = client.settle(acks.collect()).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    }
}
