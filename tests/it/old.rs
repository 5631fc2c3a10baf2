//! Data folders that earlier versions wrote, killed at work, are opened: nothing in them is lost, and
//! it is what it was. `tests/fixtures/make.sh` tells what was done in them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use qbroker_client::{
    CatchUp, Client, DeadLetterReason, ListedMessage, MessageQuery, ScheduleQuery,
};
use qbroker_tests::folder::Folder;
use qbroker_tests::program;
use qbroker_tests::server::Server;

/// A folder as the archive of this name has it.
fn unpack(archive: &str) -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.data()).unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(archive);
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(folder.data());
    assert!(tar.status().expect("tar runs").success());
    folder
}

async fn serve(folder: &Folder) -> (Server, Client) {
    let server = Server::start(folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    (server, client)
}

async fn list(client: &Client, queue: &str) -> Vec<ListedMessage> {
    client.list_messages(queue, MessageQuery::default()).await.unwrap().items
}

fn text(listed: &ListedMessage) -> &str {
    std::str::from_utf8(&listed.message.payload).unwrap()
}

/// What `make.sh` leaves in every folder.
async fn check(client: &Client) {
    let work = client.get_queue("work").await.unwrap();
    assert_eq!(work.policy.lease_duration, Some(Duration::from_secs(3600)));
    assert_eq!((work.description.as_str(), work.labels["team"].as_str()), ("jobs", "a"));
    assert_eq!((work.stats.ready, work.stats.scheduled, work.stats.leased), (4, 1, 0));
    assert_eq!((work.stats.published_total, work.stats.acked_total), (5, 0));

    let listed = list(client, "work").await;
    let texts: Vec<&str> = listed.iter().map(text).collect();
    assert_eq!(texts, ["first", "second", "done", "third", "later"]);
    let first = &listed[0].message;
    assert_eq!(first.message_id, "id-1");
    assert_eq!((first.message_type.as_str(), first.correlation_id.as_str()), ("greet", "c-1"));
    assert_eq!(first.headers["tenant"], "acme");
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    assert_eq!(listed[4].message.deliver_time, Some(later));

    let dead = &list(client, "once.dead").await[0];
    assert_eq!((text(dead), dead.message.message_type.as_str()), ("hopeless", "fail"));
    let letter = dead.message.dead_letter.as_ref().unwrap();
    assert_eq!((letter.source_queue.as_str(), letter.attempts), ("once", 1));
    assert_eq!(letter.reason, DeadLetterReason::MaxAttempts);
    assert!(letter.failure.as_ref().unwrap().details.contains("no such thing"), "{letter:?}");

    // With whoever had it, or back from there.
    assert_eq!(list(client, "held").await.iter().map(text).collect::<Vec<_>>(), ["mine"]);
}

/// Takes and acks so many messages of `many`, which are numbered on from `next`.
async fn take(client: &Client, mut next: u64, count: usize) {
    let consumer = client.consumer(["many"]).open().await.unwrap();
    for _ in 0..count {
        let delivery = consumer.next().await.unwrap().unwrap();
        let line = std::str::from_utf8(&delivery.message.payload).unwrap();
        let number: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert_eq!(number, next);
        next += 1;
        delivery.ack().await.unwrap();
    }
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_folder_of_the_first_format_is_what_it_was() {
    let folder = unpack("data-a.tar.gz");
    let verified = program::run(&["data", "verify", "--data-dir", folder.data_text()]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    for _ in 0..2 {
        let (server, client) = serve(&folder).await;
        check(&client).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_folder_with_pages_and_cold_segments_is_what_it_was() {
    let folder = unpack("data-b.tar.gz");
    let verified = program::run(&["data", "verify", "--data-dir", folder.data_text()]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
    let (server, client) = serve(&folder).await;
    check(&client).await;
    assert_eq!(client.get_queue("many").await.unwrap().stats.ready, 2_000);
    take(&client, 4_001, 700).await;
    server.kill().await;
    let (server, client) = serve(&folder).await;
    check(&client).await;
    take(&client, 4_701, 1_300).await;
    assert_eq!(client.get_queue("many").await.unwrap().stats.ready, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_with_schedules_and_state_is_what_it_was() {
    let folder = unpack("data-c.tar.gz");
    for _ in 0..2 {
        let (server, client) = serve(&folder).await;
        check(&client).await;
        let names = client.list_schedules(ScheduleQuery::default()).await.unwrap().items;
        let names: Vec<String> = names.into_iter().map(|schedule| schedule.name).collect();
        assert_eq!(names, ["late", "stands", "yearly"]);
        let yearly = client.get_schedule("yearly").await.unwrap();
        assert_eq!((&*yearly.cron, &*yearly.time_zone), ("30 3 1 1 *", "Europe/Berlin"));
        assert_eq!((yearly.catch_up, yearly.jitter), (CatchUp::Skip, Duration::from_secs(300)));
        assert!(yearly.skip_if_unfinished && !yearly.paused);
        assert_eq!((&*yearly.queue, &*yearly.message_type), ("reports", "build_report"));
        assert_eq!(&yearly.payload[..], br#"{"days": 365}"#);
        assert_eq!((yearly.published_total, yearly.next_publish_times.len()), (0, 5));
        // As it was changed behind the checkpoint.
        let stands = client.get_schedule("stands").await.unwrap();
        assert_eq!((&*stands.cron, stands.paused), ("@every 2h", true));
        assert!(client.get_schedule("late").await.unwrap().paused);
        let state = client.state();
        assert_eq!(state.get("answer").await.unwrap().as_deref(), Some(&b"42"[..]));
        assert_eq!(state.counter("seen").await.unwrap(), Some(7));
        // It is there and can be used: "run" publishes what it would.
        client.trigger_schedule("yearly").await.unwrap();
        let report = &list(&client, "reports").await[0].message;
        assert_eq!((report.headers["tenant"].as_str(), report.priority), ("acme", 3));
        assert_eq!(report.headers["schedule"], "yearly");
        client.purge_queue("reports", &[]).await.unwrap();
        server.stop().await;
    }
}
