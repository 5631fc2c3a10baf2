//! Streams as operators see them: who consumes, and ending it.

use consume_request::Kind as Consume;
use consume_response::Kind as Consumed;
use qbroker_client::Client;
use qbroker_proto::v1::*;
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::program;
use qbroker_tests::server::Server;
use qbroker_tests::wire::Refusal;
use tonic::Code::{Aborted, InvalidArgument, NotFound};

use super::streams::{Consuming, consume};
use super::{Broker, ack, answer, message, publish, refusal, selectors};

fn named(session: &str, client_id: &str) -> ConsumeOpen {
    let client = ClientInfo {
        client_id: client_id.to_owned(),
        hostname: "host".to_owned(),
        pid: 7,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..ClientInfo::default()
    };
    ConsumeOpen { client: Some(client), ..consume("q", session) }
}

impl Broker {
    async fn consumers(&self, request: ListConsumersRequest) -> ListConsumersResponse {
        self.wire.admin().list_consumers(request).await.unwrap().into_inner()
    }

    async fn disconnect(&self, id: &str, end_session: bool) -> Result<(), Refusal> {
        let request = DisconnectConsumerRequest { consumer_id: id.to_owned(), end_session };
        answer(self.wire.admin().disconnect_consumer(request).await).map(drop)
    }

    async fn open(&self, open: ConsumeOpen) -> (Consuming, String) {
        let mut stream = self.consuming(Some(Consume::Open(open))).await;
        let id = stream.opened().await.consumer_id;
        (stream, id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_consumes_is_listed_with_what_it_holds() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("one")])).await.unwrap();
    let (mut first, id) = broker.open(named("s", "worker")).await;
    first.deliveries().await;
    let other = ConsumeOpen { queues: selectors(&["b", "a"]), ..consume("q", "") };
    let (second, other) = broker.open(other).await;
    let all = broker.consumers(ListConsumersRequest::default()).await;
    let [one, two] = &all.consumers[..] else { panic!("{all:?}") };
    assert_eq!((&one.consumer_id, &two.consumer_id), (&id, &other));
    assert!(one.remote_address.starts_with("127.0.0.1:"), "{}", one.remote_address);
    assert_eq!((one.principal.as_str(), one.session_id.as_str()), ("", "s"));
    assert_eq!((one.outstanding_messages, one.max_outstanding_messages), (1, 1_000));
    assert!(3 <= one.outstanding_bytes && one.connect_time.is_some() && !one.draining);
    let client = one.client.as_ref().unwrap();
    assert_eq!(
        (client.client_id.as_str(), client.pid, &client.labels["zone"]),
        ("worker", 7, &"a".to_owned())
    );
    assert_eq!((two.queues.join(" "), two.outstanding_messages), ("a b".to_owned(), 0));

    let page = ListConsumersRequest { page_size: 1, ..ListConsumersRequest::default() };
    let begin = broker.consumers(page.clone()).await;
    assert_eq!(begin.consumers.len(), 1);
    let rest = ListConsumersRequest { page_token: begin.next_page_token, ..page };
    let rest = broker.consumers(rest).await;
    assert_eq!((&rest.consumers[0].consumer_id, rest.next_page_token.as_str()), (&other, ""));
    let of = |queue: &str| ListConsumersRequest { queue: queue.to_owned(), ..Default::default() };
    assert_eq!(broker.consumers(of("a")).await.consumers.len(), 1);
    assert_eq!(broker.consumers(of("none")).await.consumers.len(), 0);
    let bad = refusal(broker.wire.admin().list_consumers(of("a/b")).await);
    assert_eq!(bad.is(), (InvalidArgument, "INVALID_QUEUE_NAME"));

    first.say(ConsumeRequest { kind: Some(Consume::Drain(Drain {})) });
    assert!(matches!(first.hear().await.unwrap().unwrap().kind, Some(Consumed::Drained(_))));
    assert!(broker.consumers(of("q")).await.consumers[0].draining);
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_an_operator_ends_says_so_and_its_leases_wait() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("one"), message("two")])).await.unwrap();
    let one = Some(FlowUpdate { max_outstanding_messages: 1, max_outstanding_bytes: 0 });
    let (mut stream, id) = broker.open(ConsumeOpen { flow: one, ..consume("q", "s") }).await;
    let held = stream.deliveries().await.remove(0).lease_token;
    broker.disconnect(&id, false).await.unwrap();
    assert_eq!(stream.failure().await.is(), (Aborted, "CONSUMER_DISCONNECTED"));
    assert_eq!(broker.stats("q").await.leased, 1);
    let again = ConsumeOpen {
        previous_consumer_id: id.clone(),
        held_lease_tokens: vec![held.clone()],
        flow: one,
        ..consume("q", "s")
    };
    let (mut stream, again) = broker.open(again).await;
    assert_eq!(broker.settle(vec![ack(&held)]).await.unwrap(), []);
    let held = stream.deliveries().await.remove(0);
    assert_eq!(held.crashes, 0);

    let (mut beside, _) = broker.open(consume("other", "s")).await;
    broker.disconnect(&again, true).await.unwrap();
    match stream.hear().await.unwrap().and_then(|answer| answer.kind) {
        Some(Consumed::LeasesLost(lost)) => {
            assert_eq!(lost.reason(), LeaseLostReason::DisconnectedByAdmin);
            assert_eq!(lost.lease_tokens, std::slice::from_ref(&held.lease_token));
        }
        other => panic!("nothing is told of it: {other:?}"),
    }
    for stream in [&mut stream, &mut beside] {
        assert_eq!(stream.failure().await.is(), (Aborted, "CONSUMER_DISCONNECTED"));
    }
    let failures = broker.settle(vec![ack(&held.lease_token)]).await.unwrap();
    assert_eq!(failures[0].error.as_ref().unwrap().reason, "LEASE_LOST");
    assert_eq!(broker.pull("q", 1).await[0].crashes, 1);
    let gone = broker.disconnect(&again, true).await.unwrap_err();
    assert_eq!(gone.is(), (NotFound, "CONSUMER_NOT_FOUND"));
    assert_eq!(gone.metadata["consumer_id"], again);
    assert_eq!(broker.disconnect("x", false).await.unwrap_err().metadata["field"], "consumer_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_itself_has_limits() {
    let broker = Broker::start(&[]).await;
    type Set = fn(&mut ClientInfo, usize);
    let label = |client: &mut ClientInfo, key: String, bytes: usize| {
        client.labels.insert(key, "x".repeat(bytes));
    };
    let fields: [(&str, usize, Set); 4] = [
        ("client.client_id", 256, |it, bytes| it.client_id = "x".repeat(bytes)),
        ("client.hostname", 256, |it, bytes| it.hostname = "x".repeat(bytes)),
        ("client.sdk", 64, |it, bytes| it.sdk = "x".repeat(bytes)),
        ("client.sdk_version", 64, |it, bytes| it.sdk_version = "x".repeat(bytes)),
    ];
    let mut whole = ClientInfo::default();
    for n in 0..16 {
        label(&mut whole, format!("{n:02}"), 254);
    }
    for (field, most, set) in fields {
        set(&mut whole, most);
        let mut long = ClientInfo::default();
        set(&mut long, most + 1);
        let open = ConsumeOpen { client: Some(long), ..consume("q", "") };
        let refused = broker.consuming(Some(Consume::Open(open))).await.failure().await;
        assert_eq!(refused.is(), (InvalidArgument, "MESSAGE_TOO_LARGE"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
    broker.open(ConsumeOpen { client: Some(whole.clone()), ..consume("q", "") }).await;
    let (mut many, mut large) = (ClientInfo::default(), whole);
    (0..17).for_each(|n| label(&mut many, n.to_string(), 1));
    label(&mut large, "00".to_owned(), 255);
    for (client, reason) in [(many, "INVALID_ARGUMENT"), (large, "MESSAGE_TOO_LARGE")] {
        let open = ConsumeOpen { client: Some(client), ..consume("q", "") };
        let refused = broker.consuming(Some(Consume::Open(open))).await.failure().await;
        assert_eq!((refused.is().1, refused.metadata["field"].as_str()), (reason, "client.labels"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_listed_with_the_name_of_its_token() {
    let folder = Folder::new();
    let file = folder.beside("tokens.toml");
    let path = file.to_str().unwrap();
    let token = program::run(&["token", "create", "--name", "ci", "--file", path]).out;
    let server = Server::start(&folder, &["--auth-tokens", path]).await;
    let client = Client::builder(server.url()).token(token.trim()).connect().await.unwrap();
    let consumer = client.consumer(["q"]).client_id("mailer").open().await.unwrap();
    // A window follows its stream's opening.
    let listed = patiently("its window", async {
        loop {
            let query = qbroker_client::ConsumerQuery::default();
            let listed = client.list_consumers(query).await.unwrap();
            if listed.items[0].window != 0 {
                return listed;
            }
        }
    });
    let listed = listed.await;
    let it = &listed.items[0];
    assert_eq!((it.principal.as_str(), it.client_id.as_str()), ("ci", "mailer"));
    assert_eq!((it.session_id.as_str(), it.window), (client.session_id(), 256));
    // The client does not come back by itself.
    client.disconnect_consumer(&it.consumer_id, true).await.unwrap();
    let error = consumer.next().await.unwrap_err();
    assert_eq!(error.reason(), Some(&qbroker_client::Reason::ConsumerDisconnected));
    let listed = client.list_consumers(qbroker_client::ConsumerQuery::default()).await.unwrap();
    assert_eq!(listed.items, []);
}
