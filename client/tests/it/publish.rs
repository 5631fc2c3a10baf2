//! Publishing: every message is stored once, and everybody learns what became of theirs.

use qbroker_client::{Error, OutgoingMessage, PendingReceipt, Publisher, Reason};
use qbroker_proto::v1::{BatchDuplicates, BatchRefused, BatchesConfirmed, ItemError, PublishBatch};
use tonic::{Code, Status};

use crate::broker::{Broker, PublishTalk, refusal, soon, stored};

#[tokio::test]
async fn a_message_and_a_batch_get_their_places_in_the_log() {
    let (_broker, publisher, mut talk) = open().await;

    let one = publisher.offer(message("a")).await.unwrap();
    let batch = talk.hear_batch().await;
    assert_eq!(batch.batch_id, 1);
    assert_eq!(batch.request.as_ref().unwrap().queue, "mails");
    assert_eq!(payloads(&batch), ["a"]);
    talk.say_confirmed(stored(1, &[40]));
    let receipt = soon(one).await.unwrap();
    assert_eq!((receipt.message_id.as_str(), receipt.sequence), ("q.40", Some(40)));

    let many = publisher.offer_batch(vec![message("b"), message("c"), message("d")]).await.unwrap();
    let batch = talk.hear_batch().await;
    assert_eq!((batch.batch_id, batch.confirmed_through_batch_id), (2, 1));
    talk.say_confirmed(BatchesConfirmed {
        duplicates: vec![BatchDuplicates { batch_id: 2, indexes: vec![1] }],
        ..stored(2, &[41])
    });
    let receipt = soon(many).await.unwrap();
    let places: Vec<_> = (0..3).map(|position| receipt.sequence(position)).collect();
    assert_eq!(places, [Some(41), None, Some(42)]);
}

#[tokio::test]
async fn messages_offered_while_the_stream_is_busy_share_a_batch() {
    let (_broker, publisher, mut talk) = open().await;

    let mut pending = Vec::new();
    for number in 0..4 {
        pending.push(publisher.offer(message(number)).await.unwrap());
        assert_eq!(talk.hear_batch().await.batch_id, number + 1);
    }
    for number in 4..60 {
        pending.push(publisher.offer(message(number)).await.unwrap());
    }
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    let batch = talk.hear_batch().await;
    assert_eq!(batch.batch_id, 5);
    assert_eq!(payloads(&batch).len(), 56);
    talk.say_confirmed(stored(5, &[5]));

    for (number, receipt) in pending.into_iter().enumerate() {
        assert_eq!(soon(receipt).await.unwrap().sequence, Some(number as u64 + 1));
    }
}

#[tokio::test]
async fn after_a_break_only_what_the_broker_does_not_have_is_sent_again() {
    let (mut broker, publisher, mut talk) = open().await;
    let mut pending = three_batches(&publisher, &mut talk).await.into_iter();

    talk.say_confirmed(stored(1, &[10]));
    soon(pending.next().unwrap()).await.unwrap();
    talk.fail(Status::unavailable("broken"));

    let mut talk = broker.publish_talk().await;
    let open = talk.hear_open().await;
    assert_eq!((open.epoch, open.confirmed_through_batch_id), (7, 1));
    talk.say_opened(stored(2, &[11]));
    assert_eq!(soon(pending.next().unwrap()).await.unwrap().sequence, Some(11));
    let batch = talk.hear_batch().await;
    assert_eq!((batch.batch_id, payloads(&batch)), (3, vec!["2".to_owned()]));
    talk.say_confirmed(stored(3, &[12]));
    assert_eq!(soon(pending.next().unwrap()).await.unwrap().sequence, Some(12));
}

#[tokio::test]
async fn a_publisher_survives_a_crash_of_the_broker() {
    let (mut broker, publisher, mut talk) = open().await;
    let pending = three_batches(&publisher, &mut talk).await;

    broker.crash();
    let meanwhile = publisher.offer(message("meanwhile")).await.unwrap();
    broker.restart();

    let mut talk = broker.publish_talk().await;
    assert_eq!(talk.hear_open().await.epoch, 7);
    talk.say_opened(stored(0, &[]));
    for number in 1..=4 {
        assert_eq!(talk.hear_batch().await.batch_id, number);
    }
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    for receipt in pending.into_iter().chain([meanwhile]) {
        soon(receipt).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_comes_with_the_reopening_is_not_taken_twice() {
    let (mut broker, publisher, mut talk) = open().await;
    let pending = three_batches(&publisher, &mut talk).await;
    talk.fail(Status::unavailable("broken"));

    let mut talk = broker.publish_talk().await;
    talk.hear_open().await;
    talk.say_opened(BatchesConfirmed {
        refused: vec![refused(2, 0, "DISK_FULL")],
        ..stored(3, &[5, 0, 6])
    });

    let mut outcomes = Vec::new();
    for receipt in pending {
        outcomes.push(soon(receipt).await.map(|receipt| receipt.sequence.unwrap()));
    }
    assert_eq!(outcomes[0], Ok(5));
    assert_eq!(outcomes[1].as_ref().unwrap_err().reason(), Some(&Reason::DiskFull));
    assert_eq!(outcomes[2], Ok(6));
    let next = publisher.offer(message("next")).await.unwrap();
    assert_eq!(talk.hear_batch().await.batch_id, 4);
    talk.say_confirmed(stored(4, &[7]));
    soon(next).await.unwrap();
}

#[tokio::test]
async fn a_bad_message_does_not_take_its_neighbours_with_it() {
    let (_broker, publisher, mut talk) = open().await;
    let busy = keep_busy(&publisher, &mut talk).await;
    let good = publisher.offer(message("good")).await.unwrap();
    let bad = publisher.offer(message("bad").queue("no such")).await.unwrap();
    let fine = publisher.offer(message("fine")).await.unwrap();
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    assert_eq!(payloads(&talk.hear_batch().await), ["good", "bad", "fine"]);

    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(5, 1, "QUEUE_NOT_FOUND")],
        ..stored(5, &[0])
    });

    assert_eq!(soon(bad).await.unwrap_err().reason(), Some(&Reason::QueueNotFound));
    let again = talk.hear_batch().await;
    assert_eq!((again.batch_id, payloads(&again)), (6, vec!["good".into(), "fine".into()]));
    talk.say_confirmed(stored(6, &[8]));
    assert_eq!(soon(good).await.unwrap().sequence, Some(8));
    assert_eq!(soon(fine).await.unwrap().sequence, Some(9));
    drop(busy);
}

#[tokio::test]
async fn what_follows_for_a_queue_that_was_full_is_not_tried_before_it() {
    let (_broker, publisher, mut talk) = open().await;
    let busy = keep_busy(&publisher, &mut talk).await;
    let mut pending = Vec::new();
    for (payload, queue) in [("a", "full"), ("b", "full"), ("c", "other"), ("d", "full")] {
        pending.push(publisher.offer(message(payload).queue(queue)).await.unwrap());
    }
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    assert_eq!(payloads(&talk.hear_batch().await), ["a", "b", "c", "d"]);
    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(5, 1, "QUEUE_FULL")],
        ..stored(5, &[0])
    });
    assert_eq!(payloads(&talk.hear_batch().await), ["a", "c"]);
    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(6, 1, "BATCH_TOO_LARGE")],
        ..stored(6, &[0])
    });
    assert_eq!(payloads(&talk.hear_batch().await), ["a"]);
    talk.say_confirmed(stored(7, &[8]));
    let mut outcomes = Vec::new();
    for receipt in pending {
        outcomes.push(soon(receipt).await.map_err(|error| error.reason().cloned()));
    }
    let full = Some(Reason::QueueFull);
    let refused = |at: usize| outcomes[at].as_ref().unwrap_err();
    assert_eq!([refused(1), refused(2), refused(3)], [&full; 3]);
    assert_eq!(outcomes[0].as_ref().unwrap().sequence, Some(8));
    drop(busy);
}

/// One publisher is everybody's: what it has for a paused queue refused single messages for the others.
#[tokio::test]
async fn a_paused_queue_refuses_its_own_messages_alone() {
    let (_broker, publisher, mut talk) = open().await;
    let busy = keep_busy(&publisher, &mut talk).await;
    let mut pending = Vec::new();
    for (payload, queue) in [("a", "mails"), ("b", "paused"), ("c", "mails"), ("d", "paused")] {
        pending.push(publisher.offer(message(payload).queue(queue)).await.unwrap());
    }
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    assert_eq!(payloads(&talk.hear_batch().await), ["a", "b", "c", "d"]);
    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(5, 1, "QUEUE_PAUSED")],
        ..stored(5, &[0])
    });
    assert_eq!(payloads(&talk.hear_batch().await), ["a", "c"]);
    talk.say_confirmed(stored(6, &[8]));
    let mut stored = Vec::new();
    for receipt in pending {
        stored.push(soon(receipt).await.map(|receipt| receipt.sequence).ok().flatten());
    }
    assert_eq!(stored, [Some(8), None, Some(9), None]);
    drop(busy);
}

#[tokio::test]
async fn a_batch_is_refused_as_a_whole() {
    let (_broker, publisher, mut talk) = open().await;
    let batch = publisher.offer_batch(vec![message("a"), message("b")]).await.unwrap();
    talk.hear_batch().await;
    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(1, 1, "MESSAGE_TOO_LARGE")],
        ..stored(1, &[0])
    });
    let error = soon(batch).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::MessageTooLarge));
    assert!(!error.is_retryable());
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.metadata["index"], "1", "the message that caused it");

    // What is no message's fault names none.
    let batch = publisher.offer_batch(vec![message("a"), message("b")]).await.unwrap();
    talk.hear_batch().await;
    talk.say_confirmed(BatchesConfirmed {
        refused: vec![refused(2, 0, "DISK_FULL")],
        ..stored(2, &[0])
    });
    let Err(Error::Refused(refusal)) = soon(batch).await else { panic!("it is refused") };
    assert_eq!(refusal.metadata.get("index"), None);
}

#[tokio::test]
async fn an_id_offered_twice_goes_out_in_two_batches() {
    let (_broker, publisher, mut talk) = open().await;
    let busy = keep_busy(&publisher, &mut talk).await;
    let first = publisher.offer(message("a").message_id("x")).await.unwrap();
    let second = publisher.offer(message("b").message_id("x")).await.unwrap();
    talk.say_confirmed(stored(4, &[1, 2, 3, 4]));
    assert_eq!(payloads(&talk.hear_batch().await), ["a"]);
    assert_eq!(payloads(&talk.hear_batch().await), ["b"]);
    talk.say_confirmed(BatchesConfirmed {
        duplicates: vec![BatchDuplicates { batch_id: 6, indexes: vec![0] }],
        ..stored(6, &[5, 0])
    });
    let (first, second) = (soon(first).await.unwrap(), soon(second).await.unwrap());
    assert_eq!((first.message_id.as_str(), first.duplicate), ("x", false));
    assert_eq!((second.message_id.as_str(), second.duplicate), ("x", true));
    drop(busy);
}

#[tokio::test]
async fn a_fenced_publisher_ends() {
    let (_broker, publisher, mut talk) = open().await;
    let pending = publisher.offer(message("a")).await.unwrap();
    talk.hear_batch().await;
    talk.fail(refusal(Code::Aborted, "PRODUCER_FENCED"));

    // Its answer may have been on its way.
    assert!(matches!(soon(pending).await, Err(Error::OutcomeUnknown(_))));
    assert!(matches!(soon(publisher.publish(message("b"))).await, Err(Error::Closed(_))));
    let ended = soon(publisher.close()).await.unwrap_err();
    assert_eq!(ended.reason(), Some(&Reason::ProducerFenced));
}

#[tokio::test]
async fn a_forgotten_producer_does_not_send_twice_and_goes_on_with_the_rest() {
    let (mut broker, publisher, mut talk) = open_with(1).await;
    let sent = publisher.offer(message("sent")).await.unwrap();
    talk.hear_batch().await;
    let unsent = publisher.offer(message("unsent")).await.unwrap();
    talk.fail(Status::unavailable("broken"));
    let mut talk = broker.publish_talk().await;
    let known = talk.hear_open().await;
    talk.fail(refusal(Code::FailedPrecondition, "PRODUCER_UNKNOWN"));

    assert!(matches!(soon(sent).await, Err(Error::OutcomeUnknown(_))));
    let mut talk = broker.publish_talk().await;
    let fresh = talk.hear_open().await;
    assert_eq!((fresh.epoch, fresh.confirmed_through_batch_id), (0, 0));
    assert_ne!(fresh.producer_id, known.producer_id);
    talk.say_opened(stored(0, &[]));
    let batch = talk.hear_batch().await;
    assert_eq!((batch.batch_id, payloads(&batch)), (1, vec!["unsent".to_owned()]));
    talk.say_confirmed(stored(1, &[3]));
    soon(unsent).await.unwrap();
}

#[tokio::test]
async fn no_more_batches_are_unanswered_than_the_broker_allows() {
    let (_broker, publisher, mut talk) = open_with(2).await;
    let mut pending = Vec::new();
    for number in 0..3 {
        pending.push(publisher.offer_batch(vec![message(number)]).await.unwrap());
    }
    assert_eq!(talk.hear_batch().await.batch_id, 1);
    assert_eq!(talk.hear_batch().await.batch_id, 2);
    // The third comes with what the answer to the first told the client.
    talk.say_confirmed(stored(1, &[1]));
    let third = talk.hear_batch().await;
    assert_eq!((third.batch_id, third.confirmed_through_batch_id), (3, 1));
}

#[tokio::test]
async fn offers_wait_while_too_much_is_unanswered() {
    let (_broker, publisher, mut talk) = open().await;
    let big = || OutgoingMessage::new(vec![0; 10 << 20]);
    let mut pending = Vec::new();
    for _ in 0..3 {
        pending.push(publisher.offer_batch(vec![big()]).await.unwrap());
        talk.hear_batch().await;
    }
    let fourth = publisher.offer_batch(vec![big()]);
    tokio::pin!(fourth);
    assert!(futures_pending(fourth.as_mut()).await);

    talk.say_confirmed(stored(1, &[1]));
    drop(soon(fourth).await.unwrap());
    assert_eq!(talk.hear_batch().await.batch_id, 4);
    let too_much = publisher.offer_batch(vec![big(), big()]).await.unwrap_err();
    assert!(matches!(too_much, Error::Option(_)), "{too_much:?}");
}

#[tokio::test]
async fn closing_waits_for_every_answer_and_half_closes() {
    let (_broker, publisher, mut talk) = open().await;
    let pending = publisher.offer(message("last")).await.unwrap();
    talk.hear_batch().await;
    let closing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.close().await }
    });
    talk.say_confirmed(stored(1, &[9]));
    assert!(talk.hear().await.is_none());
    drop(talk);
    soon(closing).await.unwrap().unwrap();
    soon(pending).await.unwrap();
    assert!(matches!(publisher.offer(message("late")).await, Err(Error::Closed(_))));
}

#[tokio::test]
async fn a_dropped_publisher_still_sends_what_it_took() {
    let (_broker, publisher, mut talk) = open().await;
    let pending = publisher.offer(message("last")).await.unwrap();
    drop(publisher);
    talk.hear_batch().await;
    talk.say_confirmed(stored(1, &[9]));
    soon(pending).await.unwrap();
    assert!(talk.hear().await.is_none());
}

#[tokio::test]
async fn an_answer_that_does_not_fit_ends_the_publisher() {
    let (_broker, publisher, mut talk) = open().await;
    let pending = publisher.offer(message("a")).await.unwrap();
    talk.hear_batch().await;
    talk.say_confirmed(stored(2, &[1, 2]));
    assert!(matches!(soon(pending).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn a_publisher_that_is_not_allowed_does_not_open() {
    let mut broker = Broker::start();
    let opening = tokio::spawn(broker.client().await.publisher("mails").open());
    let mut talk = broker.publish_talk().await;
    talk.hear_open().await;
    talk.fail(Status::permission_denied("read only"));
    let error = soon(opening).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::PermissionDenied));
}

async fn open() -> (Broker, Publisher, PublishTalk) {
    open_with(1000).await
}

async fn open_with(max_unconfirmed_batches: i32) -> (Broker, Publisher, PublishTalk) {
    let mut broker = Broker::start();
    let opening = tokio::spawn(broker.client().await.publisher("mails").open());
    let mut talk = broker.publish_talk().await;
    let open = talk.hear_open().await;
    assert_eq!((open.epoch, open.confirmed_through_batch_id), (0, 0));
    assert_eq!(open.producer_id.len(), 32);
    talk.say_opened_with(stored(0, &[]), max_unconfirmed_batches);
    let publisher = soon(opening).await.unwrap().unwrap();
    (broker, publisher, talk)
}

/// Publishes batches 1 to 3, of one message each, which the broker has received and not answered.
async fn three_batches(publisher: &Publisher, talk: &mut PublishTalk) -> Vec<PendingReceipt> {
    let mut pending = Vec::new();
    for number in 0..3 {
        pending.push(publisher.offer(message(number)).await.unwrap());
        assert_eq!(talk.hear_batch().await.batch_id, number + 1);
    }
    pending
}

/// Publishes batches 1 to 4, so that single messages gather until they are answered.
async fn keep_busy(publisher: &Publisher, talk: &mut PublishTalk) -> Vec<PendingReceipt> {
    let mut pending = three_batches(publisher, talk).await;
    pending.push(publisher.offer(message("fourth")).await.unwrap());
    talk.hear_batch().await;
    pending
}

fn message(payload: impl ToString) -> OutgoingMessage {
    OutgoingMessage::new(payload.to_string())
}

fn payloads(batch: &PublishBatch) -> Vec<String> {
    let messages = &batch.request.as_ref().unwrap().messages;
    messages.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
}

fn refused(batch_id: i64, index: i32, reason: &str) -> BatchRefused {
    let error = ItemError { reason: reason.to_owned(), ..ItemError::default() };
    BatchRefused { batch_id, index, error: Some(error) }
}

/// Whether the future is not ready when it is polled once.
async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}
