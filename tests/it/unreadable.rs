//! A message that the disk has damaged is in nobody's way: it is parked and told of, and all others
//! are delivered.

use std::time::Duration;

use qbroker_client::{Client, MessageQuery, MessageState, Outcome, Reason};
use qbroker_tests::folder::Folder;
use qbroker_tests::server::Server;
use qbroker_tests::{patiently, program};
use serde_json::Value;

use crate::start::{client, data, find_in_log, flip, publish};

/// Takes what comes on a stream, until it is this.
async fn consumed_up_to(client: &Client, last: &str) -> Vec<String> {
    let consumer = client.consumer(["work"]).open().await.unwrap();
    let mut payloads = Vec::new();
    while payloads.last().is_none_or(|payload| payload != last) {
        let batch = patiently("a delivery", consumer.next_batch(100)).await.unwrap();
        payloads.extend(batch.iter().map(|it| text(&it.message.payload)));
        assert!(consumer.ack_all(batch).await.is_empty());
    }
    consumer.close().await.unwrap();
    payloads
}

/// What a broker's log says of messages that it does not deliver.
fn told_of(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let parked = "a message is not delivered: it is parked";
    lines.filter(|line: &Value| line["message"] == parked).collect()
}

fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).unwrap()
}

/// A folder whose first message of three cannot be read; a repair has given it up or not. And what
/// is to be said of it.
async fn damaged(repair: bool) -> (Folder, String) {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, &["message-one", "message-two", "message-three"]).await;
    // Two stops later a start is from a checkpoint in a newer segment, and reads no message.
    server.stop().await;
    Server::start(&folder, &[]).await.stop().await;
    let (path, at) = find_in_log(&folder, "message-one");
    flip(&path, at + 3);
    if repair {
        assert_eq!(data(&folder, &["repair", "--yes"]).code, 0);
        return (folder, "given up by a repair".to_owned());
    }
    (folder, path.file_name().unwrap().to_str().unwrap().to_owned())
}

/// It is parked, counted, listed with its error, and told of once.
async fn check_parked(server: &Server, why: &str) {
    let client = client(server).await;
    let left = client.get_queue("work").await.unwrap().stats;
    assert_eq!((left.ready, left.leased, left.parked), (0, 0, 1));
    let listed = client.list_messages("work", MessageQuery::default()).await.unwrap().items;
    let [lost] = &listed[..] else { panic!("{listed:?}") };
    let error = lost.error.as_ref().expect("it cannot be read");
    assert_eq!((lost.state, &error.reason), (MessageState::Parked, &Reason::DataDamaged));
    assert!(error.message.contains(why), "{error}");
    let told = told_of(server);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&told["level"], &told["queue"]), (&"ERROR".into(), &"work".into()), "{told}");
    assert_eq!(told["lsn"], lost.message.sequence.to_string(), "{told}");
    assert!(told["problem"].as_str().unwrap().contains(why), "{told}");
    let url = server.url();
    let peeked = program::run(&["message", "peek", "work", "--url", &url, "-o", "table"]);
    assert!(peeked.out.contains("<cannot be read>"), "{}{}", peeked.out, peeked.err);
    let peeked = program::run(&["message", "peek", "work", "--url", &url, "-o", "json"]);
    let peeked: Value = serde_json::from_str(&peeked.out).unwrap();
    let peeked = peeked.get(0).unwrap_or(&peeked);
    assert!(peeked["error"].as_str().unwrap().contains(why), "{peeked}");
    assert_eq!(peeked.get("payload"), None, "{peeked}");
}

/// A bug: one message that could not be read ended every stream, and nothing of its queue was
/// delivered any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_is_parked_and_told_and_the_others_are_delivered() {
    for (repair, pull) in [(false, false), (false, true), (true, false), (true, true)] {
        let (folder, why) = damaged(repair).await;
        let server = Server::start(&folder, &[]).await;
        let client = client(&server).await;
        if pull {
            // The one that cannot be read is the first; it is not taken for the end of the queue.
            for expected in ["message-two", "message-three"] {
                let pulled = client.pull(["work"], 1, Duration::ZERO, None).await.unwrap();
                assert_eq!(pulled[0].message.payload, expected);
                let ack = vec![(pulled[0].lease_token.clone(), Outcome::Ack)];
                assert_eq!(client.settle(ack).await.unwrap(), [Ok(())]);
            }
        } else {
            let consumed = consumed_up_to(&client, "message-three").await;
            assert_eq!(consumed, ["message-two", "message-three"]);
        }
        check_parked(&server, &why).await;
        server.kill().await;
        assert_eq!(data(&folder, &["verify"]).code, if repair { 0 } else { 74 });
        check_it_can_go(&folder).await;
    }
}

/// It stays parked over a crash, without being told of again, until somebody purges it.
async fn check_it_can_go(folder: &Folder) {
    let server = Server::start(folder, &[]).await;
    let client = client(&server).await;
    publish(&client, &["message-four"]).await;
    assert_eq!(consumed_up_to(&client, "message-four").await, ["message-four"]);
    assert_eq!(told_of(&server), Vec::<Value>::new());
    assert_eq!(client.purge_queue("work", &[MessageState::Parked]).await.unwrap(), 1);
    assert_eq!(client.get_queue("work").await.unwrap().stats.parked, 0);
    server.stop().await;
    Server::start(folder, &[]).await.stop().await;
}
