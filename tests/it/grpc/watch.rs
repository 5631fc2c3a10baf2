//! Statistics that are pushed, again and again.

use std::time::Duration;

use qbroker_client::Client;
use qbroker_proto::v1::*;
use qbroker_tests::wire::Refusal;
use rustix::process::Signal;
use tonic::Code::{InvalidArgument, NotFound, Unavailable};
use tonic::Streaming;

use super::{Broker, message, publish, refusal};

fn every(nanos: i32, queues: &[&str]) -> WatchStatsRequest {
    let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    WatchStatsRequest { queues, interval: Some(prost_types::Duration { seconds: 0, nanos }) }
}

fn a_minute_and(nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: 60, nanos }
}

async fn next(watch: &mut Streaming<WatchStatsResponse>) -> WatchStatsResponse {
    watch.message().await.unwrap().expect("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_pushed_until_the_broker_stops() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("a", vec![message("m"); 2])).await.unwrap();
    broker.publish(publish("b", vec![message("m")])).await.unwrap();
    let watching = broker.wire.admin().watch_stats(every(100_000_000, &[])).await;
    let mut watch = watching.unwrap().into_inner();
    let first = next(&mut watch).await;
    assert!(first.round_complete);
    let told: Vec<_> = first.queues.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(told, [("a", QueueState::Active), ("b", QueueState::Active)]);
    assert_eq!((&first.queues[0].policy, first.queues[0].etag.as_str()), (&None, ""));
    assert_eq!(first.queues[0].stats.as_ref().unwrap().ready, 2);
    broker.publish(publish("c", vec![message("m")])).await.unwrap();
    let pause = PauseQueueRequest { name: "b".to_owned(), pause_publishing: true };
    broker.wire.admin().pause_queue(pause).await.unwrap();
    let later = loop {
        let later = next(&mut watch).await;
        if later.queues.len() == 3 {
            break later;
        }
    };
    assert_eq!(
        (later.queues[1].state(), later.queues[1].publishing_paused),
        (QueueState::Paused, true)
    );
    let passed = |time: Option<prost_types::Timestamp>| {
        Duration::try_from(
            time.map(|it| prost_types::Duration { seconds: it.seconds, nanos: it.nanos }).unwrap(),
        )
    };
    let passed = passed(later.time).unwrap() - passed(first.time).unwrap();
    assert!(Duration::from_millis(90) <= passed, "{passed:?}");
    let Broker { server, folder: _folder, .. } = broker;
    let _server = server.signal(Signal::TERM);
    let end = loop {
        match watch.message().await {
            Ok(round) => assert!(round.is_some(), "it ended well"),
            Err(status) => break Refusal::of(&status),
        }
    };
    assert_eq!(end.is(), (Unavailable, "SHUTTING_DOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn named_queues_are_watched_alone_and_must_be_there_at_first() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("a", vec![message("m")])).await.unwrap();
    broker.publish(publish("b", vec![message("m")])).await.unwrap();
    let client = Client::connect(broker.server.url()).await.unwrap();
    let mut watch = client.watch_stats(["b", "b"], Duration::from_millis(100)).await.unwrap();
    let round = watch.next().await.unwrap();
    assert_eq!((round.queues.len(), round.queues[0].name.as_str()), (1, "b"));
    assert_eq!(round.queues[0].stats.ready, 1);
    client.delete_queue("b", true).await.unwrap();
    while !watch.next().await.unwrap().queues.is_empty() {}

    let names: Vec<String> = (0..1_001).map(|n| format!("q{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (request, code, reason) in [
        (every(99_000_000, &[]), InvalidArgument, "INVALID_ARGUMENT"),
        (
            WatchStatsRequest { interval: Some(a_minute_and(1_000_000)), ..every(0, &[]) },
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (every(100_000_000, &["a/b"]), InvalidArgument, "INVALID_QUEUE_NAME"),
        (every(100_000_000, &["a", "b"]), NotFound, "QUEUE_NOT_FOUND"),
        (every(100_000_000, &names), InvalidArgument, "BATCH_TOO_LARGE"),
        (every(100_000_000, &names[1..]), NotFound, "QUEUE_NOT_FOUND"),
    ] {
        let refused = refusal(broker.wire.admin().watch_stats(request).await);
        assert_eq!(refused.is(), (code, reason));
    }
    let slowest = WatchStatsRequest { interval: Some(a_minute_and(0)), ..every(0, &[]) };
    broker.wire.admin().watch_stats(slowest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_queues_than_one_answer_holds_come_in_parts() {
    let broker = Broker::start(&[]).await;
    for first in [0, 500] {
        let to = |n: i32| OutgoingMessage { queue: format!("q{n:04}"), ..message("m") };
        let messages = (first..first + 501).map(to).collect();
        broker.publish(publish("", messages)).await.unwrap();
    }
    let watching = broker.wire.admin().watch_stats(WatchStatsRequest::default()).await;
    let mut watch = watching.unwrap().into_inner();
    let (one, two) = (next(&mut watch).await, next(&mut watch).await);
    assert_eq!((one.queues.len(), one.round_complete), (1_000, false));
    assert_eq!((two.queues.len(), two.round_complete, one.time), (1, true, two.time));
    assert_eq!(two.queues[0].name, "q1000");
    let client = Client::connect(broker.server.url()).await.unwrap();
    let all: [&str; 0] = [];
    let mut watch = client.watch_stats(all, Duration::from_secs(60)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().queues.len(), 1_001);
}
