//! What only a newer client knows: fields are left out of account, values of enums are refused.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use tonic::Code::InvalidArgument;

use super::malformed::{Raw, frame};
use super::{Broker, ack, answer, message, publish, selectors, settlement};

/// Fields of a number that nobody gives: a number, eight bytes, a text, four bytes.
const UNKNOWN: &[u8] = &[
    0x98, 0xfa, 0x01, 0x07, // 4003: 7
    0xa1, 0xfa, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, // 4004
    0xaa, 0xfa, 0x01, 0x02, b'h', b'i', // 4005: "hi"
    0xb5, 0xfa, 0x01, 1, 2, 3, 4, // 4006
];

/// A message with such fields behind its own, and before them.
fn with_unknown(known: &impl prost::Message) -> Vec<u8> {
    [UNKNOWN, &known.encode_to_vec(), UNKNOWN].concat()
}

/// A message as the field of another one.
fn field(tag: u8, message: &[u8]) -> Vec<u8> {
    let mut field = vec![tag << 3 | 2];
    prost::encoding::encode_varint(message.len() as u64, &mut field);
    field.extend_from_slice(message);
    field
}

async fn call(broker: &Broker, path: &str, request: &[u8]) {
    let raw = Raw::connect(broker.server.grpc()).await;
    let told = raw.grpc(path, frame(0, request.len(), request)).await;
    assert_eq!(told.text("grpc-status"), "0", "{path}: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_fields_of_a_newer_version_does_what_the_others_say() {
    let broker = Broker::start(&[]).await;
    let policy = QueuePolicy { max_attempts: Some(3), ..QueuePolicy::default() };
    let known = Queue { name: "q".to_owned(), description: "kept".to_owned(), ..Queue::default() };
    let queue = [with_unknown(&known), field(4, &with_unknown(&policy))].concat();
    let create = [UNKNOWN, &field(1, &queue)].concat();
    call(&broker, "/qbroker.v1.AdminService/CreateQueue", &create).await;
    let get = GetQueueRequest { name: "q".to_owned() };
    let made = answer(broker.wire.admin().get_queue(get).await).unwrap().queue.unwrap();
    assert_eq!(made.description, "kept");
    assert_eq!(made.policy.unwrap().max_attempts, Some(3));

    let mut one = message("one");
    one.headers.insert("tenant".to_owned(), "acme".to_owned());
    let known = PublishRequest { queue: "q".to_owned(), ..PublishRequest::default() };
    let batch = [&with_unknown(&known)[..], &field(2, &with_unknown(&one)), UNKNOWN].concat();
    call(&broker, "/qbroker.v1.PublisherService/Publish", &batch).await;
    let delivered = broker.pull("q", 10).await;
    assert_eq!(delivered.len(), 1);
    let stored = delivered[0].message.as_ref().unwrap();
    assert_eq!((&stored.payload[..], stored.headers["tenant"].as_str()), (&b"one"[..], "acme"));

    let done = with_unknown(&ack(&delivered[0].lease_token));
    let settle = [UNKNOWN, &field(2, &done)].concat();
    call(&broker, "/qbroker.v1.ConsumerService/Settle", &settle).await;
    assert_eq!(broker.stats("q").await.acked_total, 1);
    let pull = PullRequest { queues: selectors(&["q"]), max_messages: 1, ..PullRequest::default() };
    call(&broker, "/qbroker.v1.ConsumerService/Pull", &with_unknown(&pull)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_a_newer_version_is_refused_and_changes_nothing() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("one")])).await.unwrap();
    let mut admin = broker.wire.admin();
    let term = |kind| FilterTerm { kind: Some(kind) };
    let list = |kind| ListMessagesRequest {
        queue: "q".to_owned(),
        filter: Some(MessageFilter { terms: vec![term(kind)], all: false }),
        ..ListMessagesRequest::default()
    };
    let policy = QueuePolicy { overflow: 99, ..QueuePolicy::default() };
    let queue = Queue { name: "new".to_owned(), policy: Some(policy), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    let refusals = [
        super::refusal(admin.create_queue(create).await),
        super::refusal(admin.list_messages(list(filter_term::Kind::State(99))).await),
        super::refusal(admin.list_messages(list(filter_term::Kind::DeadLetterReason(99))).await),
    ];
    for refused in refusals {
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{refused:?}");
        assert!(!refused.metadata["field"].is_empty(), "{refused:?}");
    }
    let token = broker.pull("q", 1).await.remove(0).lease_token;
    // An outcome that only a newer version knows arrives as none.
    let unknown = Settlement { outcome: None, ..settlement(&token, Outcome::Ack(Ack {})) };
    let refused = broker.settle(vec![unknown]).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
    assert_eq!(refused.metadata["field"], "outcome");
    let stats = broker.stats("q").await;
    assert_eq!((stats.leased, stats.acked_total), (1, 0));
    let none = GetQueueRequest { name: "new".to_owned() };
    assert_eq!(super::refusal(admin.get_queue(none).await).reason, "QUEUE_NOT_FOUND");
}
