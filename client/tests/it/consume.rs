//! Consuming: what runs goes on over breaks, is settled once, and is stopped when it is lost.

use std::time::Duration;

use bytes::Bytes;
use qbroker_client::{
    Consumer, ConsumerBuilder, Delivery, Error, Failure, Limit, LostReason, Outcome, Reason,
    Settlement,
};
use qbroker_proto::v1::{
    ConsumeOpen, ExtendLeasesResponse, GoingAway, ItemError, LeaseLostReason, LeasesLost,
    SettleRequest, Subscribed, consume_request, consume_response, settlement,
};
use tonic::{Code, Status};

use crate::broker::{Broker, ConsumeTalk, refusal, settled, soon, tokens};

#[tokio::test]
async fn deliveries_are_acked_together_and_the_answers_reach_everybody() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b", "c"]);
    let batch = take(&consumer, 3).await;
    assert_eq!(batch[0].message.payload, "a");

    let answers = consumer.ack_all(batch);
    let settle = talk.hear_settle().await;
    assert_eq!((settle.call_id, settle.answered_through_call_id), (1, 0));
    assert_eq!(acked(&settle), tokens(&["a", "b", "c"]));
    talk.say_settled(1, &[("b", "LEASE_LOST")]);
    let refused = soon(answers).await;
    assert_eq!(refused.len(), 1);
    assert!(matches!(refused[0], (1, Error::LeaseLost(_))), "{refused:?}");

    talk.deliver(&["d"]);
    let ack = take(&consumer, 1).await.pop().unwrap().ack();
    let settle = talk.hear_settle().await;
    assert_eq!((settle.call_id, settle.answered_through_call_id), (2, 1));
    talk.say_settled(2, &[]);
    soon(ack).await.unwrap();
}

#[tokio::test]
async fn every_outcome_says_what_it_means() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b", "c", "d"]);
    let mut batch = take(&consumer, 4).await.into_iter();
    let mut next = || batch.next().unwrap();

    drop(next().nack(Failure::new("Oops", "broke").details("trace")));
    match outcome(&talk.hear_settle().await) {
        settlement::Outcome::Nack(nack) => {
            let failure = nack.failure.unwrap();
            assert_eq!((failure.r#type.as_str(), failure.details.as_str()), ("Oops", "trace"));
            assert_eq!((nack.delay, nack.max_attempts), (None, None));
        }
        other => panic!("{other:?}"),
    }
    let delay = Some(Duration::from_secs(3));
    let nack = Settlement::from(Outcome::Nack { delay, failure: None });
    drop(next().settle(nack.max_attempts(Limit::AtMost(7))));
    match outcome(&talk.hear_settle().await) {
        settlement::Outcome::Nack(nack) => {
            assert_eq!((nack.delay.unwrap().seconds, nack.max_attempts), (3, Some(7)));
        }
        other => panic!("{other:?}"),
    }
    drop(next().release());
    let release = outcome(&talk.hear_settle().await);
    assert!(matches!(release, settlement::Outcome::Release(_)), "{release:?}");
    drop(next().dead_letter(Failure::new("Bad", "input")));
    let dead = outcome(&talk.hear_settle().await);
    assert!(matches!(dead, settlement::Outcome::DeadLetter(_)), "{dead:?}");
}

#[tokio::test]
async fn settlements_gather_while_earlier_ones_are_on_their_way() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b", "c", "d", "e", "f"]);
    let mut acks = Vec::new();
    for (number, delivery) in take(&consumer, 6).await.into_iter().enumerate() {
        acks.push(delivery.ack());
        if number < 4 {
            assert_eq!(talk.hear_settle().await.call_id, number as i64 + 1);
        }
    }
    // One answer for four requests.
    talk.say_settled(4, &[]);
    let settle = talk.hear_settle().await;
    assert_eq!((settle.call_id, settle.answered_through_call_id), (5, 4));
    assert_eq!(acked(&settle), tokens(&["e", "f"]));
    talk.say_settled(5, &[]);
    for ack in acks {
        soon(ack).await.unwrap();
    }
}

#[tokio::test]
async fn queues_are_changed_over_a_break_and_stay_as_they_were_where_that_is_refused() {
    let (mut broker, consumer, mut talk) = open().await;
    let subscribe = tokio::spawn(async move {
        let changed = consumer.subscribe(["other"]).await;
        (consumer, changed)
    });
    assert_eq!(hear_subscribe(&mut talk).await, ["other"]);
    // The answer is lost: the new stream begins as the old one was, and asks again.
    broker.crash();
    broker.restart();
    let mut talk = broker.consume_talk().await;
    assert_eq!(talk.hear_open().await.queues[0].queue, "mails");
    talk.say_opened("c2", true, &[]);
    assert_eq!(hear_subscribe(&mut talk).await, ["other"]);
    talk.say_kind(consume_response::Kind::Subscribed(Subscribed { error: None }));
    let (consumer, changed) = soon(subscribe).await.unwrap();
    changed.unwrap();

    let subscribe = tokio::spawn(async move {
        let changed = consumer.subscribe(["none"]).await;
        (consumer, changed)
    });
    assert_eq!(hear_subscribe(&mut talk).await, ["none"]);
    let error = Some(ItemError { reason: "QUEUE_NOT_FOUND".to_owned(), ..ItemError::default() });
    talk.say_kind(consume_response::Kind::Subscribed(Subscribed { error }));
    let (_consumer, changed) = soon(subscribe).await.unwrap();
    assert_eq!(changed.unwrap_err().reason(), Some(&Reason::QueueNotFound));
    broker.crash();
    broker.restart();
    let mut talk = broker.consume_talk().await;
    assert_eq!(talk.hear_open().await.queues[0].queue, "other");
}

async fn hear_subscribe(talk: &mut ConsumeTalk) -> Vec<String> {
    match talk.hear_kind().await {
        consume_request::Kind::Subscribe(it) => it.queues.into_iter().map(|it| it.queue).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_running_job_is_settled_after_a_crash_of_the_broker() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["running", "unanswered", "buffered", "done"]);
    let mut batch = take(&consumer, 4).await.into_iter();
    let (running, unanswered) = (batch.next().unwrap(), batch.next().unwrap());
    let buffered = batch.next().unwrap();
    let done = batch.next().unwrap().ack();
    talk.hear_settle().await;
    talk.say_settled(1, &[]);
    soon(done).await.unwrap();
    let unanswered = unanswered.ack();
    let first = talk.hear_settle().await;

    broker.crash();
    broker.restart();
    let mut talk = broker.consume_talk().await;
    let open = talk.hear_open().await;
    assert_eq!(open.previous_consumer_id, "c1");
    assert_eq!(held(&open), ["buffered", "running", "unanswered"]);
    talk.say_opened("c2", true, &[]);

    let again = talk.hear_settle().await;
    assert_eq!(again, first, "the request whose answer was lost is sent again as it was");
    talk.say_settled(2, &[]);
    soon(unanswered).await.unwrap();
    let ack = running.ack();
    assert_eq!(acked(&talk.hear_settle().await), tokens(&["running"]));
    talk.say_settled(3, &[]);
    soon(ack).await.unwrap();
    assert!(!buffered.is_lost());
    drop(buffered);
}

#[tokio::test]
async fn what_waits_in_the_client_is_held_and_handed_out_once() {
    let (mut broker, consumer, talk) = open().await;
    talk.deliver(&["a", "b", "c"]);
    let first = take(&consumer, 1).await.pop().unwrap();
    talk.fail(Status::unavailable("broken"));

    let mut talk = broker.consume_talk().await;
    assert_eq!(held(&talk.hear_open().await), ["a", "b", "c"]);
    talk.say_opened("c2", true, &["b"]);
    talk.deliver(&["d"]);

    let rest = take(&consumer, 2).await;
    let names: Vec<_> = rest.iter().map(|delivery| delivery.message.payload.clone()).collect();
    assert_eq!(names, ["c", "d"], "b was lost before anybody had it");
    drop((first, rest));
}

#[tokio::test]
async fn a_client_that_comes_back_too_late_has_lost_everything() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["running", "settled", "buffered"]);
    let mut batch = take(&consumer, 2).await;
    let settled = batch.pop().unwrap().ack();
    let running = batch.pop().unwrap();
    talk.hear_settle().await;
    talk.fail(Status::unavailable("broken"));

    let mut talk = broker.consume_talk().await;
    talk.hear_open().await;
    talk.say_opened("c2", false, &[]);

    assert_eq!(soon(running.lost()).await, LostReason::SessionLost);
    assert!(matches!(soon(running.ack()).await, Err(Error::LeaseLost(_))));
    // The settlement may have been stored before: the broker knows.
    assert_eq!(talk.hear_settle().await.call_id, 1);
    talk.say_settled(1, &[]);
    soon(settled).await.unwrap();
    talk.deliver(&["fresh"]);
    assert_eq!(take(&consumer, 1).await[0].message.payload, "fresh");
}

#[tokio::test]
async fn a_lost_lease_reaches_the_one_who_works_on_it() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b"]);
    let mut batch = take(&consumer, 2).await;
    let (b, a) = (batch.pop().unwrap(), batch.pop().unwrap());
    let worker = tokio::spawn(async move { (a.lost().await, a) });
    talk.say_kind(consume_response::Kind::LeasesLost(LeasesLost {
        lease_tokens: tokens(&["a"]),
        reason: LeaseLostReason::QueuePurged.into(),
    }));
    let (reason, a) = soon(worker).await.unwrap();
    assert_eq!(reason, LostReason::QueuePurged);
    assert!(a.is_lost() && !b.is_lost());
    assert_eq!(soon(a.ack()).await.unwrap_err().reason(), Some(&Reason::LeaseLost));
    // Nothing was sent for a.
    drop(b.ack());
    assert_eq!(acked(&talk.hear_settle().await), tokens(&["b"]));
}

#[tokio::test]
async fn a_dropped_delivery_is_nacked() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    drop(take(&consumer, 1).await);
    let nack = outcome(&talk.hear_settle().await);
    assert!(matches!(nack, settlement::Outcome::Nack(_)), "{nack:?}");
}

#[tokio::test]
async fn draining_hands_back_what_nobody_took_and_closing_ends_the_stream() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["running", "waiting"]);
    let running = take(&consumer, 1).await.pop().unwrap();
    let script = async {
        let first = talk.hear_kind().await;
        assert!(matches!(first, consume_request::Kind::Drain(_)), "{first:?}");
        let release = talk.hear_settle().await;
        assert_eq!(release.settlements[0].lease_token, "waiting");
        // On its way when the broker heard of the drain.
        talk.deliver(&["late"]);
        let release = talk.hear_settle().await;
        assert_eq!(release.settlements[0].lease_token, "late");
        talk.say_kind(consume_response::Kind::Drained(qbroker_proto::v1::Drained {}));
        talk.say_settled(2, &[]);
    };
    let (drained, ()) = soon(async { tokio::join!(consumer.drain(), script) }).await;
    drained.unwrap();
    assert!(soon(consumer.next()).await.unwrap().is_none());

    drop(running.ack());
    assert_eq!(acked(&talk.hear_settle().await), tokens(&["running"]));
    let script = async {
        talk.say_settled(3, &[]);
        assert!(talk.hear().await.is_none());
        drop(talk);
    };
    let (closed, ()) = soon(async { tokio::join!(consumer.close(), script) }).await;
    closed.unwrap();
}

/// A bug: a consumer that held nothing was opened again and again, only to be closed.
#[tokio::test]
async fn leaving_a_broker_that_is_gone_does_not_wait_for_another_one() {
    for crash_first in [true, false] {
        let mut broker = Broker::start();
        // Nobody waits so long for a second try.
        let hour = Duration::from_secs(3600);
        let client = broker.client_options().backoff(hour, hour).connect().await.unwrap();
        let opening = client.consumer(["work"]).open();
        let (consumer, mut talk) = tokio::join!(opening, next_talk(&mut broker));
        let consumer = consumer.unwrap();
        hear_window(&mut talk).await;
        talk.deliver(&["a"]);
        let ack = take(&consumer, 1).await.pop().unwrap().ack();
        talk.hear_settle().await;
        talk.say_settled(1, &[]);
        soon(ack).await.unwrap();
        if crash_first {
            broker.crash();
            soon(consumer.close()).await.unwrap();
        } else {
            let script = async {
                assert!(matches!(talk.hear_kind().await, consume_request::Kind::Drain(_)));
                broker.crash();
            };
            let (closed, ()) = soon(async { tokio::join!(consumer.close(), script) }).await;
            closed.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_not_answered_when_the_broker_goes_is_told_to_the_next_one_before_closing() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    let ack = take(&consumer, 1).await.pop().unwrap().ack();
    talk.hear_settle().await;
    broker.crash();
    let script = async {
        broker.restart();
        let mut talk = next_talk(&mut broker).await;
        assert!(matches!(talk.hear_kind().await, consume_request::Kind::Drain(_)));
        assert_eq!(acked(&talk.hear_settle().await), tokens(&["a"]));
        talk.say_settled(1, &[]);
        talk.say_kind(consume_response::Kind::Drained(qbroker_proto::v1::Drained {}));
        assert!(talk.hear().await.is_none());
        drop(talk);
    };
    let (closed, ()) = soon(async { tokio::join!(consumer.close(), script) }).await;
    closed.unwrap();
    soon(ack).await.unwrap();
}

#[tokio::test]
async fn what_is_in_hand_when_the_consumer_closes_is_lost() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    let in_hand = take(&consumer, 1).await.pop().unwrap();
    let script = async {
        talk.hear_kind().await;
        talk.say_kind(consume_response::Kind::Drained(qbroker_proto::v1::Drained {}));
        assert!(talk.hear().await.is_none());
        drop(talk);
    };
    let (closed, ()) = soon(async { tokio::join!(consumer.close(), script) }).await;
    closed.unwrap();
    assert_eq!(soon(in_hand.lost()).await, LostReason::SessionLost);
    assert!(matches!(soon(in_hand.ack()).await, Err(Error::Closed(_))));
}

#[tokio::test]
async fn a_drained_consumer_says_so_on_every_stream_before_it_closes() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    let in_hand = take(&consumer, 1).await.pop().unwrap();
    let drained = || consume_response::Kind::Drained(qbroker_proto::v1::Drained {});
    let script = async {
        let drain = talk.hear_kind().await;
        assert!(matches!(drain, consume_request::Kind::Drain(_)), "{drain:?}");
        talk.say_kind(drained());
    };
    let (done, ()) = soon(async { tokio::join!(consumer.drain(), script) }).await;
    done.unwrap();
    talk.fail(Status::unavailable("broken"));

    let mut talk = broker.consume_talk().await;
    assert_eq!(held(&talk.hear_open().await), ["a"]);
    talk.say_opened("c2", true, &[]);
    let script = async {
        // Without it, what is in hand would count as crashed.
        let drain = talk.hear().await.map(|request| request.kind.unwrap());
        assert!(matches!(drain, Some(consume_request::Kind::Drain(_))), "{drain:?}");
        talk.say_kind(drained());
        assert!(talk.hear().await.is_none());
        drop(talk);
    };
    let (closed, ()) = soon(async { tokio::join!(consumer.close(), script) }).await;
    closed.unwrap();
    drop(in_hand);
}

#[tokio::test]
async fn a_dropped_consumer_waits_for_what_is_in_hand() {
    let (_broker, consumer, mut talk) = open().await;
    talk.deliver(&["a", "b"]);
    let in_hand = take(&consumer, 1).await.pop().unwrap();
    drop(consumer);
    let drain = talk.hear_kind().await;
    assert!(matches!(drain, consume_request::Kind::Drain(_)), "{drain:?}");
    assert_eq!(talk.hear_settle().await.settlements[0].lease_token, "b");
    let ack = in_hand.ack();
    assert_eq!(acked(&talk.hear_settle().await), tokens(&["a"]));
    talk.say_settled(2, &[]);
    soon(ack).await.unwrap();
    assert!(talk.hear().await.is_none());
}

#[tokio::test]
async fn a_lease_is_extended_or_it_says_that_it_is_lost() {
    let (mut broker, consumer, mut talk) = open().await;
    talk.deliver(&["a"]);
    let delivery = take(&consumer, 1).await.pop().unwrap();
    let minute = Some(Duration::from_secs(60));
    let script = async {
        let consume_request::Kind::Extend(extend) = talk.hear_kind().await else { panic!() };
        assert_eq!(extend.lease_tokens, tokens(&["a"]));
        assert_eq!(extend.lease_duration.unwrap().seconds, 60);
        // The answer is lost: it is asked again.
        talk.fail(Status::unavailable("broken"));
        let mut talk = broker.consume_talk().await;
        talk.hear_open().await;
        talk.say_opened("c2", true, &[]);
        let consume_request::Kind::Extend(again) = talk.hear_kind().await else { panic!() };
        assert_eq!(again, extend);
        talk.say_kind(consume_response::Kind::Extended(ExtendLeasesResponse {
            call_id: again.call_id,
            ..ExtendLeasesResponse::default()
        }));
        talk
    };
    let (extended, mut talk) = soon(async { tokio::join!(delivery.extend(minute), script) }).await;
    extended.unwrap();

    let script = async {
        let consume_request::Kind::Extend(extend) = talk.hear_kind().await else { panic!() };
        talk.say_kind(consume_response::Kind::Extended(ExtendLeasesResponse {
            call_id: extend.call_id,
            failures: settled(0, &[("a", "LEASE_LOST")]).failures,
            ..ExtendLeasesResponse::default()
        }));
    };
    let (extended, ()) = soon(async { tokio::join!(delivery.extend(None), script) }).await;
    assert!(matches!(extended, Err(Error::LeaseLost(_))), "{extended:?}");
}

#[tokio::test]
async fn the_window_follows_over_a_reconnect() {
    let (mut broker, consumer, mut talk) = open().await;
    consumer.set_window(3);
    assert_eq!(hear_window(&mut talk).await, 3);
    talk.say_kind(consume_response::Kind::GoingAway(GoingAway::default()));
    talk.fail(refusal(Code::Unavailable, "SHUTTING_DOWN"));
    let mut talk = broker.consume_talk().await;
    assert_eq!(talk.hear_open().await.flow.unwrap().max_outstanding_messages, 3);
}

#[tokio::test]
async fn what_cannot_be_mended_ends_the_consumer() {
    let (_broker, consumer, talk) = open().await;
    talk.deliver(&["a"]);
    let delivery = take(&consumer, 1).await.pop().unwrap();
    talk.fail(refusal(Code::Aborted, "CONSUMER_REPLACED"));
    let error = soon(consumer.next()).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::ConsumerReplaced));
    assert!(matches!(soon(delivery.ack()).await, Err(Error::Closed(_))));
    assert!(soon(consumer.drain()).await.is_err());
}

#[tokio::test]
async fn several_tasks_share_one_consumer() {
    let (_broker, consumer, talk) = open().await;
    let consumer = std::sync::Arc::new(consumer);
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let consumer = std::sync::Arc::clone(&consumer);
            tokio::spawn(async move {
                let delivery = consumer.next().await.unwrap().unwrap();
                let payload = delivery.message.payload.clone();
                drop(delivery.ack());
                payload
            })
        })
        .collect();
    talk.deliver(&["a", "b", "c"]);
    let mut payloads = Vec::new();
    for worker in workers {
        payloads.push(soon(worker).await.unwrap());
    }
    payloads.sort();
    assert_eq!(payloads, ["a", "b", "c"]);
}

pub(crate) async fn open() -> (Broker, Consumer, ConsumeTalk) {
    open_with(|consumer| consumer).await
}

/// A consumer of a window of 16 that is made as `with` says.
pub(crate) async fn open_with(
    with: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder,
) -> (Broker, Consumer, ConsumeTalk) {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let session = client.session_id().to_owned();
    let opening = tokio::spawn(with(client.consumer(["mails"]).window(16)).open());
    let mut talk = broker.consume_talk().await;
    let open = talk.hear_open().await;
    assert_eq!(open.queues[0].queue, "mails");
    assert_eq!(open.session_id, session);
    assert_eq!((open.previous_consumer_id.as_str(), open.held_lease_tokens.len()), ("", 0));
    assert_eq!(open.flow.unwrap().max_outstanding_messages, 0);
    talk.say_opened("c1", false, &[]);
    assert_eq!(hear_window(&mut talk).await, 16);
    (broker, soon(opening).await.unwrap().unwrap(), talk)
}

pub(crate) async fn hear_window(talk: &mut ConsumeTalk) -> i32 {
    match talk.hear_kind().await {
        consume_request::Kind::Flow(flow) => flow.max_outstanding_messages,
        other => panic!("{other:?}"),
    }
}

/// The next stream that is opened, taken.
async fn next_talk(broker: &mut Broker) -> ConsumeTalk {
    let mut talk = broker.consume_talk().await;
    talk.hear_open().await;
    talk.say_opened("c1", true, &[]);
    talk
}

/// Takes so many deliveries.
pub(crate) async fn take(consumer: &Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(soon(consumer.next_batch(count - taken.len())).await.unwrap());
    }
    taken
}

pub(crate) fn held(open: &ConsumeOpen) -> Vec<String> {
    let text = |token: &Bytes| String::from_utf8(token.to_vec()).unwrap();
    let mut held: Vec<_> = open.held_lease_tokens.iter().map(text).collect();
    held.sort();
    held
}

/// The tokens of a request that acks all it settles.
pub(crate) fn acked(settle: &SettleRequest) -> Vec<Bytes> {
    let token = |settlement: &qbroker_proto::v1::Settlement| {
        assert!(matches!(settlement.outcome, Some(settlement::Outcome::Ack(_))), "{settlement:?}");
        settlement.lease_token.clone()
    };
    settle.settlements.iter().map(token).collect()
}

/// The outcome in a request of one settlement.
pub(crate) fn outcome(settle: &SettleRequest) -> settlement::Outcome {
    assert_eq!(settle.settlements.len(), 1);
    settle.settlements[0].outcome.clone().unwrap()
}
