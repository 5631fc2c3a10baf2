//! What happens to messages, told from the log: all of it, in order, and to whom it concerns.

use qbroker_proto::v1::settlement::Outcome;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::{InvalidArgument, OutOfRange};
use tonic::Streaming;

use super::{Broker, Refusal, ack, answer, message, publish, seconds, settlement};

struct Watch(Streaming<WatchEventsResponse>);

impl Watch {
    /// The next so many events.
    async fn events(&mut self, count: usize) -> Vec<MessageEvent> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = patiently("an event", self.0.message()).await.unwrap().unwrap();
            events.extend(response.events);
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    /// The events of the next answer.
    async fn events_some(&mut self) -> Vec<MessageEvent> {
        patiently("an event", self.0.message()).await.unwrap().unwrap().events
    }
}

impl Broker {
    async fn watch(&self, request: WatchEventsRequest) -> Result<Watch, Refusal> {
        answer(self.wire.admin().watch_events(request).await).map(Watch)
    }

    /// Takes the one message there is and settles it so.
    async fn settle_next(&self, queue: &str, outcome: Outcome) {
        let token = self.pull(queue, 1).await.remove(0).lease_token;
        assert_eq!(self.settle(vec![settlement(&token, outcome)]).await.unwrap(), []);
    }
}

fn told(events: &[MessageEvent]) -> Vec<(MessageEventKind, &str)> {
    events.iter().map(|it| (it.kind(), it.queue.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_s_life_is_told_from_its_publish_to_its_end_and_again_after_a_kill() {
    use MessageEventKind::{Acked, DeadLettered, Deleted, Failed, Leased, Published, Updated};
    let broker = Broker::start(&[]).await;
    let mut live = broker.watch(WatchEventsRequest::default()).await.unwrap();
    let begun = live.0.message().await.unwrap().unwrap();
    assert!(begun.events.is_empty(), "it says at once where it begins: {begun:?}");
    let job = OutgoingMessage {
        message_id: "own".to_owned(),
        message_type: "mail".to_owned(),
        correlation_id: "order-7".to_owned(),
        ..message("job")
    };
    let stored = broker.publish(publish("q", vec![job, message("other")])).await.unwrap();
    let failure =
        Failure { r#type: "E".to_owned(), message: "no".to_owned(), ..Failure::default() };
    let nack = Nack { failure: Some(failure.clone()), delay: Some(seconds(0)), ..Nack::default() };
    broker.settle_next("q", Outcome::Nack(nack)).await;
    let letter = DeadLetter { failure: Some(failure.clone()), patch: None };
    broker.settle_next("q", Outcome::DeadLetter(letter)).await;
    broker.settle_next("q.dead", Outcome::Ack(Ack {})).await;
    let other = format!("q.{}", stored[1].sequence);
    let update = UpdateMessagesRequest {
        message_ids: vec![other.clone()],
        priority: Some(3),
        ..Default::default()
    };
    broker.wire.admin().update_messages(update).await.unwrap();
    let delete =
        DeleteMessagesByIdRequest { message_ids: vec![other.clone()], ..Default::default() };
    broker.wire.admin().delete_messages_by_id(delete).await.unwrap();

    let expected = [
        (Published, "q"),
        (Published, "q"),
        (Leased, "q"),
        (Failed, "q"),
        (Leased, "q"),
        (DeadLettered, "q"),
        (Leased, "q.dead"),
        (Acked, "q.dead"),
        (Updated, "q"),
        (Deleted, "q"),
    ];
    let events = live.events(expected.len()).await;
    assert_eq!(told(&events), expected);
    assert!(events.is_sorted_by_key(|event| event.sequence), "{events:?}");
    for event in &events {
        let names = (&*event.message_id, &*event.message_type, &*event.correlation_id);
        match event.message_sequence == stored[0].sequence {
            true => assert_eq!(names, ("own", "mail", "order-7")),
            false => assert_eq!(names, (other.as_str(), "", "")),
        }
        assert!(event.time.is_some(), "{event:?}");
    }
    assert_eq!((events[3].attempt, events[3].failure.as_ref()), (1, Some(&failure)));
    let letter = &events[5];
    assert_eq!((letter.attempt, letter.failure.as_ref()), (2, Some(&failure)));
    assert_eq!(letter.destination_queue, "q.dead");
    assert_eq!(letter.dead_letter_reason(), DeadLetterReason::ByConsumer);

    // From disk it is told as it was told live.
    let broker = broker.kill_and_start().await;
    let from_sequence = stored[0].sequence;
    let again = WatchEventsRequest { from_sequence, ..Default::default() };
    let mut again = broker.watch(again).await.unwrap();
    assert_eq!(again.events(expected.len()).await, events);
    let dead = WatchEventsRequest {
        from_sequence,
        queues: vec!["q.dead".to_owned()],
        ..Default::default()
    };
    let mut dead = broker.watch(dead).await.unwrap();
    assert_eq!(told(&dead.events(2).await), [(Leased, "q.dead"), (Acked, "q.dead")]);
    for (message_id, correlation_id, count) in
        [("own", "", 7), (&*other, "", 3), ("", "order-7", 7)]
    {
        let (message_id, correlation_id) = (message_id.to_owned(), correlation_id.to_owned());
        let one =
            WatchEventsRequest { from_sequence, message_id, correlation_id, ..Default::default() };
        broker.watch(one).await.unwrap().events(count).await;
    }
    // A watch goes on where another one was.
    let rest = WatchEventsRequest { from_sequence: events[8].sequence, ..Default::default() };
    let rest = broker.watch(rest).await.unwrap().events(2).await;
    assert_eq!(told(&rest), [(Updated, "q"), (Deleted, "q")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_messages_from_several_queues_say_which_is_where() {
    let broker = Broker::start(&[]).await;
    let mut live = broker.watch(WatchEventsRequest::default()).await.unwrap();
    for queue in ["a", "b"] {
        broker.publish(publish(queue, vec![message("x"), message("y")])).await.unwrap();
    }
    let mut tokens = Vec::new();
    for queue in ["a", "b"] {
        tokens.extend(broker.pull(queue, 2).await.into_iter().map(|it| it.lease_token));
    }
    tokens.swap(1, 2);
    broker.settle(tokens.iter().map(ack).collect()).await.unwrap();
    let events = live.events(12).await;
    let acked = events.iter().filter(|it| it.kind() == MessageEventKind::Acked);
    let queues: Vec<&str> = acked.map(|it| it.queue.as_str()).collect();
    assert_eq!(queues, ["a", "b", "a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_cannot_be_is_refused() {
    let broker = Broker::start(&[]).await;
    let queues = |count: usize| (0..count).map(|n| format!("q{n}")).collect::<Vec<_>>();
    let refused = |reason, request| (reason, request);
    for (reason, request) in [
        refused("INVALID_ARGUMENT", WatchEventsRequest { from_sequence: -1, ..Default::default() }),
        refused(
            "INVALID_ARGUMENT",
            WatchEventsRequest { from_sequence: 1_000_000, ..Default::default() },
        ),
        refused(
            "BATCH_TOO_LARGE",
            WatchEventsRequest { queues: queues(1_001), ..Default::default() },
        ),
        refused(
            "INVALID_QUEUE_NAME",
            WatchEventsRequest { queues: vec!["a/b".to_owned()], ..Default::default() },
        ),
        refused(
            "MESSAGE_TOO_LARGE",
            WatchEventsRequest { correlation_id: "x".repeat(257), ..Default::default() },
        ),
    ] {
        let refused = broker.watch(request).await.err().expect(reason);
        assert_eq!(refused.is(), (InvalidArgument, reason));
    }
    broker.watch(WatchEventsRequest { queues: queues(1_000), ..Default::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_the_log_has_let_go_is_told_where_it_begins() {
    let mut broker = Broker::start(&[]).await;
    // More than two segments, and nobody needs any of it.
    for _ in 0..20 {
        let large = OutgoingMessage { payload: vec![b'x'; 500 << 10].into(), ..message("") };
        broker.publish(publish("q", vec![large])).await.unwrap();
    }
    let purge = PurgeQueueRequest { name: "q".to_owned(), ..Default::default() };
    broker.wire.admin().purge_queue(purge).await.unwrap();
    let from = |from_sequence| WatchEventsRequest { from_sequence, ..Default::default() };
    // Each stop writes a checkpoint; what two of them have absorbed goes.
    let mut stops = 0;
    let refused = loop {
        broker = broker.stop_and_start().await;
        let last = broker.publish(publish("q", vec![message("x")])).await.unwrap();
        match broker.watch(from(1)).await {
            Err(refused) => break refused,
            Ok(_) => assert!(stops < 4, "nothing goes though {last:?} is far behind"),
        }
        stops += 1;
    };
    assert_eq!(refused.is(), (OutOfRange, "EVENTS_GONE"));
    let oldest: i64 = refused.metadata["oldest_sequence"].parse().unwrap();
    assert!(1 < oldest, "{refused:?}");
    // One before it is gone, too; from there on everything is told.
    let before = broker.watch(from(oldest - 1)).await.err().expect("it is gone");
    assert_eq!(before.is(), (OutOfRange, "EVENTS_GONE"));
    let mut watch = broker.watch(from(oldest)).await.unwrap();
    let last = broker.publish(publish("q", vec![message("last")])).await.unwrap()[0].sequence;
    while watch.events_some().await.iter().all(|event| event.sequence != last) {}
}
