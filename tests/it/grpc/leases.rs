//! Pulling, settling and extending by single calls: tokens of every kind, and repeats.

use bytes::Bytes;
use qbroker_proto::v1::*;
use settlement::Outcome;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound};

use super::{Broker, ack, message, publish, refusal, seconds, selectors, settlement};

/// The token and the reason of every failure.
fn reasons(failures: &[SettleFailure]) -> Vec<(&Bytes, &str)> {
    fn pair(failure: &SettleFailure) -> (&Bytes, &str) {
        let error = failure.error.as_ref().expect("a failure says why");
        (&failure.lease_token, &error.reason)
    }
    failures.iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_may_be_repeated_but_not_changed() {
    let broker = Broker::start(&[]).await;
    let outcomes = [
        Outcome::Ack(Ack {}),
        Outcome::Nack(Nack { delay: Some(seconds(3600)), ..Nack::default() }),
        Outcome::Release(Release { delay: Some(seconds(3600)) }),
        Outcome::DeadLetter(DeadLetter::default()),
    ];
    for first in &outcomes {
        let token = broker.lease().await;
        for second in &outcomes {
            let settled = broker.settle(vec![settlement(&token, first.clone())]).await.unwrap();
            assert_eq!(settled, [], "{first:?}, also again");
            let failures = broker.settle(vec![settlement(&token, second.clone())]).await.unwrap();
            let same = std::mem::discriminant(first) == std::mem::discriminant(second);
            let expected = if same { vec![] } else { vec![(&token, "ALREADY_SETTLED")] };
            assert_eq!(reasons(&failures), expected, "{first:?}, then {second:?}");
        }
    }
    let stats = broker.stats("work").await;
    assert_eq!((stats.acked_total, stats.retried_total, stats.dead), (1, 1, 1));
    assert_eq!((stats.scheduled, stats.leased, stats.ready), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_stale_foreign_or_malformed_settle_nothing() {
    let broker = Broker::start(&[]).await;
    let stale = broker.lease().await;
    broker.settle(vec![settlement(&stale, Outcome::Release(Release::default()))]).await.unwrap();
    let held = broker.pull("work", 1).await.remove(0).lease_token;
    assert_ne!(stale, held, "a message that comes again has a new token");
    // A broker with just the same history, on another folder.
    let other = Broker::start(&[]).await;
    let foreign = other.lease().await;
    other.settle(vec![settlement(&foreign, Outcome::Release(Release::default()))]).await.unwrap();
    let foreign = other.pull("work", 1).await.remove(0).lease_token;
    let mut altered = held.to_vec();
    altered[8] ^= 1;
    let altered = Bytes::from(altered);
    let (short, empty, long) = (held.slice(1..), Bytes::new(), Bytes::from(vec![7; 64]));
    let bad = [&foreign, &altered, &short, &empty, &long];

    let failures = broker.settle(bad.iter().map(|token| ack(token)).collect()).await.unwrap();
    let invalid: Vec<_> = bad.iter().map(|token| (*token, "TOKEN_INVALID")).collect();
    assert_eq!(reasons(&failures), invalid);
    let extend = |tokens: &[&Bytes]| ExtendLeasesRequest {
        lease_tokens: tokens.iter().map(|token| (*token).clone()).collect(),
        ..ExtendLeasesRequest::default()
    };
    let extended = broker.wire.consumer().extend_leases(extend(&bad)).await.unwrap().into_inner();
    assert_eq!(reasons(&extended.failures), invalid);
    // The stale one was released: nothing but the same is answered.
    let failures = broker.settle(vec![ack(&stale)]).await.unwrap();
    assert_eq!(reasons(&failures), [(&stale, "ALREADY_SETTLED")]);
    let extended = broker.wire.consumer().extend_leases(extend(&[&stale])).await.unwrap();
    assert_eq!(reasons(&extended.into_inner().failures), [(&stale, "ALREADY_SETTLED")]);
    // What is good in a call is done, whatever stands beside it; the same twice is not.
    let failures = broker.settle(vec![ack(&short), ack(&held), ack(&held)]).await.unwrap();
    let mut told = reasons(&failures);
    told.sort_unstable_by_key(|(_, reason)| *reason);
    assert_eq!(told, [(&held, "DUPLICATE_IN_BATCH"), (&short, "TOKEN_INVALID")]);
    assert_eq!(broker.stats("work").await.acked_total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_is_lost() {
    let broker = Broker::start(&[]).await;
    let purged = broker.lease().await;
    let states = vec![MessageState::Leased.into()];
    let purge = PurgeQueueRequest { name: "work".to_owned(), states, ..Default::default() };
    assert_eq!(broker.wire.admin().purge_queue(purge).await.unwrap().into_inner().purged, 1);
    let deleted = broker.lease().await;
    let delete = DeleteQueueRequest { name: "work".to_owned(), force: true, allow_missing: false };
    broker.wire.admin().delete_queue(delete).await.unwrap();
    let failures = broker.settle(vec![ack(&purged), ack(&deleted)]).await.unwrap();
    assert_eq!(reasons(&failures), [(&purged, "LEASE_LOST"), (&deleted, "LEASE_LOST")]);
    assert!(failures.iter().all(|failure| !failure.error.as_ref().unwrap().retryable));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_bad_form_are_refused_as_a_whole() {
    let broker = Broker::start(&[]).await;
    let token = broker.lease().await;
    let refused = broker.settle(vec![]).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "EMPTY_BATCH"));
    let refused = broker.settle(vec![ack(&token); 10_001]).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "BATCH_TOO_LARGE"));
    assert_eq!(refused.metadata["limit"], "10000");
    let nothing = Settlement { lease_token: token.clone(), outcome: None, effects: Vec::new() };
    let refused = broker.settle(vec![ack(&token), nothing]).await.unwrap_err();
    assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"));
    let year = Some(seconds(365 * 24 * 60 * 60 + 1));
    for outcome in [
        Outcome::Nack(Nack { delay: year, ..Nack::default() }),
        Outcome::Release(Release { delay: Some(seconds(-1)) }),
    ] {
        let refused = broker.settle(vec![settlement(&token, outcome)]).await.unwrap_err();
        assert_eq!(refused.metadata["field"], "delay");
    }
    let refused =
        refusal(broker.wire.consumer().extend_leases(ExtendLeasesRequest::default()).await);
    assert_eq!(refused.is(), (InvalidArgument, "EMPTY_BATCH"));
    for bad in [seconds(0), seconds(12 * 60 * 60 + 1)] {
        let lease_tokens = vec![token.clone()];
        let extend = ExtendLeasesRequest {
            lease_tokens,
            lease_duration: Some(bad),
            ..ExtendLeasesRequest::default()
        };
        let refused = refusal(broker.wire.consumer().extend_leases(extend).await);
        assert_eq!(refused.metadata["field"], "lease_duration");
    }
    let session_id = "nobody".to_owned();
    let extend = ExtendLeasesRequest { session_id, ..ExtendLeasesRequest::default() };
    let refused = refusal(broker.wire.consumer().extend_leases(extend).await);
    assert_eq!(refused.is(), (FailedPrecondition, "SESSION_LOST"));
    // Nothing of all that touched the lease.
    assert_eq!(broker.settle(vec![ack(&token)]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_hold_at_their_limits_and_are_refused_beyond() {
    let broker = Broker::start(&["--auto-create-queues=false"]).await;
    let queue = Queue { name: "q".to_owned(), ..Queue::default() };
    let create = CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() };
    broker.wire.admin().create_queue(create).await.unwrap();
    let good = || PullRequest {
        queues: selectors(&["q"]),
        max_messages: 1_000,
        wait_timeout: Some(seconds(0)),
        lease_duration: Some(seconds(12 * 60 * 60)),
        session_id: "s".repeat(64),
        ..PullRequest::default()
    };
    let answer = broker.wire.consumer().pull(good()).await.unwrap().into_inner();
    assert_eq!(answer.batch.unwrap().deliveries, []);
    type Change = fn(&mut PullRequest);
    let cases: [(Change, tonic::Code, &str); 9] = [
        (|pull| pull.queues.clear(), InvalidArgument, "EMPTY_BATCH"),
        (|pull| pull.queues = selectors(&["nobody"]), NotFound, "QUEUE_NOT_FOUND"),
        (|pull| pull.max_messages = 1_001, InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.max_messages = -1, InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.wait_timeout = Some(seconds(61)), InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.lease_duration = Some(seconds(0)), InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.lease_duration = Some(seconds(43_201)), InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.session_id = "s".repeat(65), InvalidArgument, "INVALID_ARGUMENT"),
        (|pull| pull.queues = selectors(&["q"; 1_001]), InvalidArgument, "BATCH_TOO_LARGE"),
    ];
    for (number, (change, code, reason)) in cases.into_iter().enumerate() {
        let mut pull = good();
        change(&mut pull);
        let refused = refusal(broker.wire.consumer().pull(pull).await);
        assert_eq!(refused.is(), (code, reason), "case {number}: {}", refused.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_cut_rather_than_refused() {
    let broker = Broker::start(&[]).await;
    let token = broker.lease().await;
    let failure = Failure {
        r#type: "T".repeat(300),
        message: "\u{e4}".repeat(3_000),
        details: "d".repeat(100_000),
    };
    let nack = Nack { delay: Some(seconds(0)), failure: Some(failure), ..Nack::default() };
    assert_eq!(broker.settle(vec![settlement(&token, Outcome::Nack(nack))]).await.unwrap(), []);
    let again = broker.pull("work", 1).await.remove(0);
    assert_eq!((again.attempt, again.failures, again.crashes), (2, 1, 0));
    let told = again.last_failure.unwrap();
    assert_eq!(told.r#type, "T".repeat(256));
    assert!(told.message.chars().all(|c| c == '\u{e4}'));
    assert!(told.r#type.len() + told.message.len() + told.details.len() <= 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pull_is_answered_by_the_first_message_and_a_dropped_one_takes_none() {
    let broker = Broker::start(&[]).await;
    let pull = |wait| PullRequest {
        queues: selectors(&["q"]),
        max_messages: 10,
        wait_timeout: Some(seconds(wait)),
        ..PullRequest::default()
    };
    let mut consumer = broker.wire.consumer();
    let dropped = tokio::spawn(async move { consumer.pull(pull(60)).await });
    // It has arrived once the queue that it made is there.
    let name = "q".to_owned();
    while broker.wire.admin().get_queue(GetQueueRequest { name: name.clone() }).await.is_err() {}
    dropped.abort();
    dropped.await.unwrap_err();
    let mut consumer = broker.wire.consumer();
    let waiting = tokio::spawn(async move { consumer.pull(pull(60)).await });
    broker.publish(publish("q", vec![message("one")])).await.unwrap();
    let answer = waiting.await.unwrap().unwrap().into_inner().batch.unwrap();
    assert_eq!(answer.deliveries.len(), 1);
    assert_eq!(answer.deliveries[0].attempt, 1, "the one that went away counted nothing");
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.leased, stats.expired_leases_total), (0, 1, 0));
}
