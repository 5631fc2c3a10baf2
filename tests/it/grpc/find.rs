//! Messages by a name: found wherever they are, and found again whatever happens to the index.

use std::path::{Path, PathBuf};

use qbroker_proto::v1::find_messages_request::Key;
use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::trace_message_request::Key as TraceKey;
use qbroker_proto::v1::*;
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::server::Server;
use qbroker_tests::wire::Wire;
use tonic::Code::{InvalidArgument, Unimplemented};

use super::{Broker, Refusal, answer, message, publish, seconds, settlement};

/// The flag with which there is an index.
const ON: [&str; 1] = ["--search-index=true"];

fn by_id(id: &str) -> Option<Key> {
    Some(Key::MessageId(id.to_owned()))
}

fn by_order(id: &str) -> Option<Key> {
    Some(Key::CorrelationId(id.to_owned()))
}

fn by_type(name: &str) -> Option<Key> {
    Some(Key::MessageType(name.to_owned()))
}

fn named(id: &str, order: &str, name: &str, delay: i64) -> OutgoingMessage {
    let delay = (0 < delay).then(|| outgoing_message::Schedule::Delay(seconds(delay)));
    OutgoingMessage {
        message_id: id.to_owned(),
        correlation_id: order.to_owned(),
        message_type: name.to_owned(),
        schedule: delay,
        ..message("x")
    }
}

/// What was found, in short: its id, and where it is or how it ended.
fn told(found: &FindMessagesResponse) -> Vec<String> {
    let one = |it: &FoundMessage| match (&it.message, &it.end) {
        (Some(info), None) => {
            let message = info.message.as_ref().unwrap();
            format!("{} in {} {:?}", message.message_id, message.queue, info.state())
        }
        (None, Some(end)) => format!("{} {:?} in {}", end.message_id, end.kind(), end.queue),
        other => panic!("one of them is set: {other:?}"),
    };
    found.messages.iter().map(one).collect()
}

impl Broker {
    async fn find(&self, request: FindMessagesRequest) -> Result<FindMessagesResponse, Refusal> {
        answer(self.wire.admin().find_messages(request).await)
    }

    /// Asks until the index knows what there is up to this sequence, and all before it.
    async fn found(&self, key: Option<Key>, sequence: i64) -> Vec<String> {
        let asking = async {
            loop {
                let request = FindMessagesRequest { key: key.clone(), ..Default::default() };
                match self.find(request).await {
                    Ok(found) if found.complete && sequence <= found.indexed_sequence => {
                        return told(&found);
                    }
                    Ok(_) => {}
                    Err(refused) => assert_eq!(refused.reason, "SEARCH_NOT_READY"),
                }
                tokio::task::yield_now().await;
            }
        };
        patiently("the search index", asking).await
    }

    async fn done_with(&self, queue: &str, outcome: Outcome) {
        let token = self.pull(queue, 1).await.remove(0).lease_token;
        assert_eq!(self.settle(vec![settlement(&token, outcome)]).await.unwrap(), []);
    }

    /// A sequence behind everything that was done.
    async fn now(&self) -> i64 {
        self.publish(publish("clock", vec![message("x")])).await.unwrap()[0].sequence
    }

    /// Everybody is found, and everybody else goes on as ever.
    async fn check_all(&self, now: i64, what: &str) {
        for id in ["m-0-0", "m-5-25", "m-9-49"] {
            let found = self.found(by_id(id), now).await;
            assert_eq!(found, [format!("{id} in q Scheduled")], "{what}");
        }
        assert_eq!(self.stats("q").await.scheduled, 500, "{what}");
    }

    async fn restart_after(self, damage: impl FnOnce(&Path)) -> Self {
        let Self { server, folder, .. } = self;
        server.stop().await;
        damage(&folder.data().join("search"));
        let server = Server::start(&folder, &ON).await;
        let wire = Wire::connect(&server.url()).await;
        Self { wire, server, folder }
    }
}

fn dead_letter() -> Outcome {
    Outcome::DeadLetter(DeadLetter::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_long_is_found_by_its_names_and_what_is_gone_is_not() {
    let broker = Broker::start(&ON).await;
    let policy = QueuePolicy { outcome_retention: Some(seconds(60)), ..QueuePolicy::default() };
    let queue = Queue { name: "q".to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    broker.publish(publish("q", vec![named("dead", "o-1", "mail", 0)])).await.unwrap();
    broker.done_with("q", dead_letter()).await;
    broker.publish(publish("q", vec![named("done", "o-1", "mail", 0)])).await.unwrap();
    broker.done_with("q", Outcome::Ack(Ack {})).await;
    // Outcomes are written a little later, and have their place by that.
    let done = async {
        while !broker.found(by_id("done"), 0).await.contains(&"done Acked in q".to_owned()) {}
    };
    patiently("the outcome", done).await;
    broker.publish(publish("q", vec![named("soon", "o-2", "mail", 0)])).await.unwrap();
    let later = vec![named("later", "o-1", "bill", 3_600), named("never", "o-3", "bill", 3_600)];
    let later = broker.publish(publish("other", later)).await.unwrap();
    let nack = Nack {
        failure: Some(Failure { message: "no".to_owned(), ..Failure::default() }),
        delay: Some(seconds(3_600)),
        ..Nack::default()
    };
    broker.done_with("q", Outcome::Nack(nack)).await;
    broker.publish(publish("q", vec![named("changed", "o-4", "note", 0)])).await.unwrap();
    let patch = MessagePatch { payload: Some("y".into()), ..MessagePatch::default() };
    let nack = Nack { delay: Some(seconds(3_600)), patch: Some(patch), ..Nack::default() };
    broker.done_with("q", Outcome::Nack(nack)).await;

    let now = broker.now().await;
    let dead = "dead in q.dead Ready";
    assert_eq!(broker.found(by_id("dead"), now).await, [dead]);
    assert_eq!(broker.found(by_id("soon"), now).await, ["soon in q Scheduled"]);
    assert_eq!(broker.found(by_id("dea"), now).await, [""; 0]);
    assert_eq!(broker.found(by_order("o-4"), now).await, ["changed in q Scheduled"]);
    let order = ["dead in q.dead Ready", "done Acked in q", "later in other Scheduled"];
    assert_eq!(broker.found(by_order("o-1"), now).await, order);
    let bills = ["later in other Scheduled", "never in other Scheduled"];
    assert_eq!(broker.found(by_type("bill"), now).await, bills);
    assert_eq!(broker.found(by_type("mail"), now).await.len(), 3);

    let one = FindMessagesRequest { key: by_order("o-1"), page_size: 1, ..Default::default() };
    let mut pages = Vec::new();
    let mut page = broker.find(one.clone()).await.unwrap();
    loop {
        pages.extend(told(&page));
        if page.next_page_token.is_empty() {
            break;
        }
        assert!(page.messages.len() <= 1);
        let next = FindMessagesRequest { page_token: page.next_page_token, ..one.clone() };
        page = broker.find(next).await.unwrap();
    }
    assert_eq!(pages, order);
    let in_queue = FindMessagesRequest { queue: "q".to_owned(), ..one };
    let in_queue = FindMessagesRequest { page_size: 0, ..in_queue };
    assert_eq!(told(&broker.find(in_queue).await.unwrap()), ["done Acked in q"]);

    // An id alone is enough to trace a message, and a correlation id to trace all that have it.
    let trace = |key| TraceMessageRequest { key: Some(key), queue: String::new() };
    let own = trace(TraceKey::MessageId("later".to_owned()));
    let own = broker.wire.admin().trace_message(own).await.unwrap().into_inner();
    assert_eq!(own.message.unwrap().message.unwrap().sequence, later[0].sequence);
    let all = trace(TraceKey::CorrelationId("o-1".to_owned()));
    let all = broker.wire.admin().trace_message(all).await.unwrap().into_inner();
    let published = all.events.iter().filter(|it| it.kind() == MessageEventKind::Published);
    assert_eq!(published.count(), 3);
    assert!(all.events.is_sorted_by_key(|event| event.sequence), "{all:?}");

    // What the index still has, the queues do not.
    let delete = DeleteMessagesByIdRequest {
        message_ids: vec![format!("q.{}", later[0].sequence)],
        ..Default::default()
    };
    broker.wire.admin().delete_messages_by_id(delete).await.unwrap();
    assert_eq!(broker.found(by_type("bill"), now).await, ["never in other Scheduled"]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| self::files(folder)));
    files
}

type DamageFolder = fn(&Path);
/// What it is then; `None`: gone.
type DamageFile = fn(Vec<u8>) -> Option<Vec<u8>>;

/// What may happen to the whole folder while no broker runs.
const WHOLE: &[(&str, DamageFolder)] = &[
    ("nothing", |_| {}),
    ("deleted", |folder| std::fs::remove_dir_all(folder).unwrap()),
    ("emptied", |folder| {
        files(folder).iter().for_each(|path| std::fs::write(path, b"").unwrap());
    }),
    ("files beside", |folder| {
        std::fs::write(folder.join("snap.00000000FFFFFFFF"), b"garbage").unwrap();
        std::fs::write(folder.join("snap.00.generating"), b"").unwrap();
        std::fs::write(folder.join("other"), b"garbage").unwrap();
    }),
    ("a file in its place", |folder| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::write(folder, b"garbage").unwrap();
    }),
];

/// What may happen to any file of it.
const OF_A_FILE: &[(&str, DamageFile)] = &[
    ("truncated", |bytes| Some(bytes[..bytes.len() / 2].to_vec())),
    ("flipped", |mut bytes| {
        (0..bytes.len()).step_by(97).for_each(|at| bytes[at] ^= 0x10);
        Some(bytes)
    }),
    ("garbage", |bytes| Some((0..=250).cycle().take(bytes.len()).collect())),
    ("deleted", |_| None),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_index_everything_is_found_again() {
    let mut broker = Broker::start(&ON).await;
    for batch in 0..10 {
        let message = |n| named(&format!("m-{batch}-{n}"), "order", "mail", 3_600);
        broker.publish(publish("q", (0..50).map(message).collect())).await.unwrap();
    }
    let now = broker.now().await;
    for (what, damage) in WHOLE {
        broker = broker.restart_after(*damage).await;
        broker.check_all(now, what).await;
    }
    for (what, damage) in OF_A_FILE {
        let count = files(&broker.folder.data().join("search")).len();
        assert!(1 < count, "a database has several files");
        for number in 0..count {
            broker = broker
                .restart_after(|folder| {
                    if let Some(path) = files(folder).get(number) {
                        match damage(std::fs::read(path).unwrap()) {
                            Some(bytes) => std::fs::write(path, bytes).unwrap(),
                            None => std::fs::remove_file(path).unwrap(),
                        }
                    }
                })
                .await;
            broker.check_all(now, &format!("{what}: file {number}")).await;
        }
    }
    let Broker { server, folder, .. } = broker;
    server.kill().await;
    let server = Server::start(&folder, &ON).await;
    let broker = Broker { wire: Wire::connect(&server.url()).await, server, folder };
    let found = broker.found(by_id("m-5-25"), now).await;
    assert_eq!(found, ["m-5-25 in q Scheduled"], "also after a kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_cannot_be_is_refused() {
    let broker = Broker::start(&ON).await;
    let _ = broker.found(by_id("any"), 0).await;
    let of = |key| FindMessagesRequest { key, ..Default::default() };
    let long = "x".repeat(257);
    for (request, field) in [
        (of(None), "key"),
        (of(by_id("")), "key"),
        (of(by_type(&long)), "key"),
        (FindMessagesRequest { page_size: -1, ..of(by_id("a")) }, "page_size"),
        (FindMessagesRequest { page_token: "a.1".to_owned(), ..of(by_id("a")) }, "page_token"),
    ] {
        let refused = broker.find(request).await.unwrap_err();
        assert_eq!((refused.code, refused.metadata["field"].as_str()), (InvalidArgument, field));
    }
    broker.find(of(by_type(&long[..256]))).await.unwrap();
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let broker = Broker { wire: Wire::connect(&server.url()).await, server, folder };
    let refused = broker.find(of(by_id("a"))).await.unwrap_err();
    assert_eq!(refused.is(), (Unimplemented, "FEATURE_UNSUPPORTED"));
    assert_eq!(refused.metadata["feature"], "find_messages");
    let info = answer(broker.wire.admin().get_server_info(GetServerInfoRequest {}).await).unwrap();
    assert!(info.features.iter().all(|feature| feature != "find_messages"));
    assert!(!broker.folder.data().join("search").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_correlation_id_the_ten_latest_are_traced() {
    let broker = Broker::start(&ON).await;
    let send = async |number: usize| {
        let later = named(&format!("m{number}"), "many", "", 3_600);
        broker.publish(publish("work", vec![later])).await.unwrap()[0].sequence
    };
    let traced = async |last: i64| -> Vec<String> {
        broker.found(by_order("many"), last).await;
        let key = Some(TraceKey::CorrelationId("many".to_owned()));
        let request = TraceMessageRequest { key, queue: String::new() };
        let trace = broker.wire.admin().trace_message(request).await.unwrap().into_inner();
        trace.events.into_iter().map(|event| event.message_id).collect()
    };
    let ids = |from: usize| (from..from + 10).map(|number| format!("m{number}"));
    let mut last = 0;
    for number in 0..10 {
        last = send(number).await;
    }
    assert!(traced(last).await.into_iter().eq(ids(0)));
    let last = send(10).await;
    assert!(traced(last).await.into_iter().eq(ids(1)), "the first one is not told any more");
}
