//! The two streams: what comes out of turn, who is fenced off, and what one bad batch does not end.

use consume_request::Kind as Consume;
use consume_response::Kind as Consumed;
use publish_stream_request::Kind as Offer;
use publish_stream_response::Kind as Offered;
use qbroker_proto::v1::*;
use qbroker_tests::wire::Refusal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code::{Aborted, FailedPrecondition, InvalidArgument, NotFound};
use tonic::{Status, Streaming};

use super::{Broker, ack, message, publish, seconds, selectors};

/// A stream in both directions.
pub(super) struct Talk<Q, A> {
    requests: Option<mpsc::UnboundedSender<Q>>,
    answers: Result<Streaming<A>, Status>,
}

impl<Q, A> Talk<Q, A> {
    pub(super) fn say(&self, request: Q) {
        // A stream that has ended hears nothing more.
        drop(self.requests.as_ref().expect("it is not half-closed").send(request));
    }

    pub(super) fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer; `None` at a good end.
    pub(super) async fn hear(&mut self) -> Result<Option<A>, Refusal> {
        let answers = self.answers.as_mut().map_err(|status| Refusal::of(status))?;
        answers.message().await.map_err(|status| Refusal::of(&status))
    }

    /// How the stream fails; what comes before does not matter.
    pub(super) async fn failure(&mut self) -> Refusal {
        loop {
            match self.hear().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(refused) => return refused,
            }
        }
    }
}

pub(super) type Publishing = Talk<PublishStreamRequest, PublishStreamResponse>;
pub(super) type Consuming = Talk<ConsumeRequest, ConsumeResponse>;

impl Broker {
    /// Opens a publishing stream with this as its first message.
    pub(super) async fn publishing(&self, first: Option<Offer>) -> Publishing {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(PublishStreamRequest { kind: first }).unwrap();
        let stream = UnboundedReceiverStream::new(receiver);
        let answers = self.wire.publisher().publish_stream(stream).await;
        Talk { requests: Some(sender), answers: answers.map(tonic::Response::into_inner) }
    }

    /// Opens a consuming stream with this as its first message.
    pub(super) async fn consuming(&self, first: Option<Consume>) -> Consuming {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(ConsumeRequest { kind: first }).unwrap();
        let stream = UnboundedReceiverStream::new(receiver);
        let answers = self.wire.consumer().consume(stream).await;
        Talk { requests: Some(sender), answers: answers.map(tonic::Response::into_inner) }
    }
}

pub(super) fn open(producer: &str, epoch: i64) -> Option<Offer> {
    let producer_id = producer.to_owned();
    Some(Offer::Open(PublishOpen { producer_id, epoch, confirmed_through_batch_id: 0 }))
}

pub(super) fn batch(number: i64, request: PublishRequest) -> PublishStreamRequest {
    let batch =
        PublishBatch { batch_id: number, request: Some(request), confirmed_through_batch_id: 0 };
    PublishStreamRequest { kind: Some(Offer::Batch(batch)) }
}

/// A batch whose client claims to know the outcomes up to this one.
fn knowing(through: i64, mut request: PublishStreamRequest) -> PublishStreamRequest {
    if let Some(Offer::Batch(batch)) = &mut request.kind {
        batch.confirmed_through_batch_id = through;
    }
    request
}

fn good() -> PublishRequest {
    publish("q", vec![message("m")])
}

impl Publishing {
    pub(super) async fn opened(&mut self) -> PublishOpened {
        match self.hear().await.unwrap().and_then(|answer| answer.kind) {
            Some(Offered::Opened(opened)) => opened,
            other => panic!("not opened: {other:?}"),
        }
    }

    /// Refused batches, once every batch up to this one is answered.
    pub(super) async fn refused_through(&mut self, through: i64) -> Vec<(i64, i32, String)> {
        let mut refused = Vec::new();
        loop {
            match self.hear().await.unwrap().and_then(|answer| answer.kind) {
                Some(Offered::Confirmed(confirmed)) => {
                    let reason = |error: Option<ItemError>| error.expect("it says why").reason;
                    let batches = confirmed.refused.into_iter();
                    refused.extend(batches.map(|b| (b.batch_id, b.index, reason(b.error))));
                    if through <= confirmed.through_batch_id {
                        return refused;
                    }
                }
                other => panic!("not confirmed: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_batch_is_refused_by_its_number_and_the_stream_goes_on() {
    let broker = Broker::start(&[]).await;
    for producer in ["", "producer"] {
        let mut stream = broker.publishing(open(producer, 0)).await;
        let opened = stream.opened().await;
        assert_eq!(opened.epoch == 0, producer.is_empty());
        let bad_id = OutgoingMessage { message_id: "a b".to_owned(), ..message("m") };
        let urgent = OutgoingMessage { priority: 10, ..message("m") };
        stream.say(batch(1, good()));
        stream.say(batch(2, publish("q", vec![message("m"), bad_id])));
        stream.say(batch(3, publish("a/b", vec![message("m")])));
        stream.say(batch(4, publish("q", vec![])));
        stream.say(batch(5, publish("q", vec![urgent])));
        stream.say(batch(6, good()));
        let astray = OutgoingMessage { queue: "a/b".to_owned(), ..message("m") };
        stream.say(batch(7, publish("q", vec![message("m"), message("m"), astray])));
        let refused = stream.refused_through(7).await;
        let refused: Vec<_> = refused.iter().map(|(n, i, why)| (*n, *i, why.as_str())).collect();
        let expected = [
            (2, 1, "INVALID_ARGUMENT"),
            (3, 0, "INVALID_QUEUE_NAME"),
            (4, 0, "EMPTY_BATCH"),
            (5, 0, "INVALID_ARGUMENT"),
            (7, 2, "INVALID_QUEUE_NAME"),
        ];
        assert_eq!(refused, expected, "producer {producer:?}");
        stream.half_close();
        assert!(stream.hear().await.unwrap().is_none(), "it ends well");
    }
    assert_eq!(broker.stats("q").await.ready, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishing_stream_ends_at_what_is_out_of_turn() {
    let broker = Broker::start(&[]).await;
    let first = batch(1, good()).kind;
    let refused = broker.publishing(first).await.failure().await;
    assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
    assert_eq!(broker.publishing(None).await.failure().await.reason, "INVALID_ARGUMENT");
    let bad_name = broker.publishing(open("a b", 0)).await.failure().await;
    assert_eq!(bad_name.metadata["field"], "producer_id");
    let opening = |producer: &str, epoch, confirmed_through_batch_id| {
        let producer_id = producer.to_owned();
        Some(Offer::Open(PublishOpen { producer_id, epoch, confirmed_through_batch_id }))
    };
    let opens = [
        (opening("new", 0, 1), "confirmed_through_batch_id"),
        (opening("", 0, 1), "confirmed_through_batch_id"),
        (opening("new", 0, -1), "confirmed_through_batch_id"),
        (opening("new", -1, 0), "epoch"),
        (opening("", 1, 0), "epoch"),
    ];
    for (open, field) in opens {
        let refused = broker.publishing(open).await.failure().await;
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
        assert_eq!(refused.metadata["field"], field);
    }

    let mut partial = good();
    partial.allow_partial = true;
    let cases = [
        (PublishStreamRequest { kind: open("x", 0) }, "INVALID_ARGUMENT"),
        (PublishStreamRequest { kind: None }, "INVALID_ARGUMENT"),
        (batch(0, good()), "INVALID_ARGUMENT"),
        (batch(2, good()), "BATCH_OUT_OF_ORDER"),
        (batch(1, partial), "INVALID_ARGUMENT"),
        (knowing(1, batch(1, good())), "INVALID_ARGUMENT"),
        (knowing(i64::MAX, batch(1, good())), "INVALID_ARGUMENT"),
        (knowing(-1, batch(1, good())), "INVALID_ARGUMENT"),
    ];
    for producer in ["", "known"] {
        for (number, (request, reason)) in cases.iter().enumerate() {
            let name = if producer.is_empty() { String::new() } else { format!("p{number}") };
            let mut stream = broker.publishing(open(&name, 0)).await;
            stream.opened().await;
            stream.say(request.clone());
            let refused = stream.failure().await;
            assert_eq!(refused.is(), (InvalidArgument, *reason), "case {number}, {producer:?}");
        }
    }
    broker.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_belongs_to_its_latest_stream_and_is_never_begun_anew() {
    let broker = Broker::start(&[]).await;
    let unknown = broker.publishing(open("producer", 77)).await.failure().await;
    assert_eq!(unknown.is(), (FailedPrecondition, "PRODUCER_UNKNOWN"));
    let mut older = broker.publishing(open("producer", 0)).await;
    let epoch = older.opened().await.epoch;
    older.say(batch(1, good()));
    assert_eq!(older.refused_through(1).await, []);
    let mut newer = broker.publishing(open("producer", epoch)).await;
    let opened = newer.opened().await;
    assert_eq!((opened.epoch, opened.missed.unwrap().through_batch_id), (epoch, 1));
    let fenced = older.failure().await;
    assert_eq!(fenced.is(), (Aborted, "PRODUCER_FENCED"));
    assert!(fenced.message.contains("\"producer\""), "{}", fenced.message);
    // Sent again it is answered as it was, and not stored again.
    newer.say(batch(1, good()));
    newer.say(batch(2, good()));
    assert_eq!(newer.refused_through(2).await, []);
    assert_eq!(broker.stats("q").await.ready, 2);
    let forgotten = broker.publishing(open("producer", 0)).await.failure().await;
    assert_eq!(forgotten.reason, "PRODUCER_UNKNOWN");
}

pub(super) fn consume(queue: &str, session: &str) -> ConsumeOpen {
    ConsumeOpen {
        queues: selectors(&[queue]),
        session_id: session.to_owned(),
        ..ConsumeOpen::default()
    }
}

impl Consuming {
    pub(super) async fn opened(&mut self) -> ConsumeOpened {
        match self.hear().await.unwrap().and_then(|answer| answer.kind) {
            Some(Consumed::Opened(opened)) => opened,
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(super) async fn deliveries(&mut self) -> Vec<Delivery> {
        match self.hear().await.unwrap().and_then(|answer| answer.kind) {
            Some(Consumed::Deliveries(batch)) => batch.deliveries,
            other => panic!("no deliveries: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_opened_well_or_not_at_all() {
    let broker = Broker::start(&["--auto-create-queues=false"]).await;
    let queue = Queue { name: "q".to_owned(), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    type Change = fn(&mut ConsumeOpen);
    let cases: [(Change, tonic::Code, &str); 14] = [
        (|open| open.queues.clear(), InvalidArgument, "EMPTY_BATCH"),
        (|open| open.queues = selectors(&["nobody"]), NotFound, "QUEUE_NOT_FOUND"),
        (|open| open.queues = selectors(&["q"; 1_001]), InvalidArgument, "BATCH_TOO_LARGE"),
        (|open| open.session_id = "a b".to_owned(), InvalidArgument, "INVALID_ARGUMENT"),
        (|open| open.session_grace = Some(seconds(0)), InvalidArgument, "INVALID_ARGUMENT"),
        (|open| open.session_grace = Some(seconds(601)), InvalidArgument, "INVALID_ARGUMENT"),
        (|open| open.lease_duration = Some(seconds(0)), InvalidArgument, "INVALID_ARGUMENT"),
        (|open| open.lease_duration = Some(seconds(43_201)), InvalidArgument, "INVALID_ARGUMENT"),
        (|open| open.max_lease_extension = Some(seconds(0)), InvalidArgument, "INVALID_ARGUMENT"),
        (
            |open| {
                open.manual_extend = true;
                open.max_lease_extension = Some(seconds(60));
            },
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            |open| {
                open.flow = Some(FlowUpdate { max_outstanding_messages: -1, ..Default::default() })
            },
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            |open| open.previous_consumer_id = "nonsense".to_owned(),
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            |open| open.held_lease_tokens = vec![vec![1; 28].into()],
            InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            |open| {
                open.previous_consumer_id = "c.1.1".to_owned();
                open.held_lease_tokens = vec![vec![1; 28].into()];
            },
            InvalidArgument,
            "TOKEN_INVALID",
        ),
    ];
    for (number, (change, code, reason)) in cases.into_iter().enumerate() {
        let mut open = consume("q", "worker");
        change(&mut open);
        let refused = broker.consuming(Some(Consume::Open(open))).await.failure().await;
        assert_eq!(refused.is(), (code, reason), "case {number}: {}", refused.message);
    }
    for first in [None, Some(Consume::Drain(Drain {}))] {
        assert_eq!(broker.consuming(first).await.failure().await.reason, "INVALID_ARGUMENT");
    }
    assert_eq!(broker.stats("q").await.consumers, 0);
}

/// The broker's own names of sessions were none that a request could give.
#[tokio::test(flavor = "multi_thread")]
async fn who_chose_no_session_comes_back_to_the_one_it_was_told() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    let mut older = broker.consuming(Some(Consume::Open(consume("q", "")))).await;
    let ConsumeOpened { consumer_id, session_id, .. } = older.opened().await;
    let held: Vec<_> = older.deliveries().await.into_iter().map(|d| d.lease_token).collect();
    let again = ConsumeOpen {
        previous_consumer_id: consumer_id,
        held_lease_tokens: held,
        ..consume("q", &session_id)
    };
    let opened = broker.consuming(Some(Consume::Open(again))).await.opened().await;
    assert_eq!((opened.resumed, opened.lost_lease_tokens.len()), (true, 0));
    assert_eq!(opened.session_id, session_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_replaced_ends_and_its_successor_holds_the_leases() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("a"), message("b")])).await.unwrap();
    let mut older = broker.consuming(Some(Consume::Open(consume("q", "worker")))).await;
    let previous = older.opened().await.consumer_id;
    let held: Vec<_> = older.deliveries().await.into_iter().map(|d| d.lease_token).collect();
    let again = ConsumeOpen {
        previous_consumer_id: previous,
        held_lease_tokens: vec![held[0].clone()],
        ..consume("q", "worker")
    };
    let mut newer = broker.consuming(Some(Consume::Open(again))).await;
    let opened = newer.opened().await;
    assert!(opened.resumed && opened.lost_lease_tokens.is_empty());
    assert_eq!(older.failure().await.is(), (Aborted, "CONSUMER_REPLACED"));
    // What was not named had not arrived: it comes again, uncounted, under another token.
    let comes = newer.deliveries().await;
    assert_eq!((comes.len(), comes[0].attempt), (1, 1));
    assert!(!held.contains(&comes[0].lease_token));
    let failures = broker.settle(vec![ack(&held[0]), ack(&held[1])]).await.unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].lease_token, held[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_on_a_stream_are_answered_in_their_order_and_out_of_turn_ones_end_it() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    let mut stream = broker.consuming(Some(Consume::Open(consume("q", "worker")))).await;
    stream.opened().await;
    let token = stream.deliveries().await.remove(0).lease_token;
    let settle = |call_id, settlements| ConsumeRequest {
        kind: Some(Consume::Settle(SettleRequest {
            call_id,
            settlements,
            answered_through_call_id: 0,
        })),
    };
    stream.say(settle(1, vec![ack(&token)]));
    stream.say(settle(2, vec![ack(&vec![1; 28].into())]));
    let (mut through, mut failures) = (0, Vec::new());
    while through < 2 {
        match stream.hear().await.unwrap().and_then(|answer| answer.kind) {
            Some(Consumed::Settled(settled)) => {
                assert!(through < settled.call_id, "answers come in order");
                through = settled.call_id;
                failures.extend(settled.failures);
            }
            other => panic!("no answer: {other:?}"),
        }
    }
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].error.as_ref().unwrap().reason, "TOKEN_INVALID");
    // What was taken before the end is answered before it, however close they are.
    stream.say(settle(3, vec![ack(&token)]));
    stream.say(settle(0, vec![ack(&token)]));
    let answer = stream.hear().await.unwrap().and_then(|answer| answer.kind);
    assert!(matches!(answer, Some(Consumed::Settled(settled)) if settled.call_id == 3));
    assert_eq!(stream.failure().await.metadata["field"], "call_id");
    // What only a newer version knows arrives as nothing.
    let mut stream = broker.consuming(Some(Consume::Open(consume("q", "worker")))).await;
    stream.opened().await;
    stream.say(ConsumeRequest { kind: None });
    assert_eq!(stream.failure().await.metadata["field"], "kind");
    assert_eq!(broker.consuming(None).await.failure().await.metadata["field"], "kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_stream_is_told_so_and_gets_nothing_more() {
    let broker = Broker::start(&[]).await;
    let mut stream = broker.consuming(Some(Consume::Open(consume("q", "worker")))).await;
    stream.opened().await;
    stream.say(ConsumeRequest { kind: Some(Consume::Drain(Drain {})) });
    let drained = stream.hear().await.unwrap().unwrap().kind;
    assert!(matches!(drained, Some(Consumed::Drained(_))), "{drained:?}");
    broker.publish(publish("q", vec![message("a")])).await.unwrap();
    stream.half_close();
    assert!(stream.hear().await.unwrap().is_none(), "nothing was delivered, and it ended well");
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.leased), (1, 0));
}
