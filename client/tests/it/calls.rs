//! Single calls: repeated where that is safe, refused with reasons, over TLS and with a token.

use std::time::{Duration, SystemTime};

use qbroker_client::{
    Client, Error, Limit, Outcome, OutgoingMessage, QueuePolicy, QueueSpec, QueueUpdate, Reason,
};
use qbroker_proto::v1::*;
use tonic::Code;
use tonic::transport::{Identity, ServerTlsConfig};

use crate::broker::{Answer, Asked, Broker, Call, delivery, refusal, settled, soon};

#[tokio::test]
async fn a_publish_whose_answer_was_lost_is_repeated_with_the_same_id() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let publishing =
        tokio::spawn(async move { client.publish("mails", vec![OutgoingMessage::new("a")]).await });
    let first = broker.call().await;
    let Asked::Publish(lost) = &first.request else { panic!() };
    let id = lost.messages[0].message_id.clone();
    assert_eq!((lost.queue.as_str(), id.len()), ("mails", 32));
    drop(first);

    let second = broker.call().await;
    let Asked::Publish(again) = &second.request else { panic!() };
    assert_eq!(again.messages[0].message_id, id);
    let receipt = PublishReceipt { message_id: id.clone(), sequence: 5, duplicate: true };
    second.answer(Answer::Publish(PublishResponse {
        results: vec![PublishResult { outcome: Some(publish_result::Outcome::Receipt(receipt)) }],
    }));
    let receipts = soon(publishing).await.unwrap().unwrap();
    assert_eq!((&receipts[0].message_id, receipts[0].sequence), (&id, Some(5)));
    assert!(receipts[0].duplicate);
}

#[tokio::test]
async fn what_could_happen_twice_is_not_repeated() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    // Done, it would have changed the etag.
    let update = QueueUpdate::new("mails").description("to people").etag("1-0");
    let updating = tokio::spawn(async move { client.update_queue(update).await });
    drop(broker.call().await);
    let error = soon(updating).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected(_)), "{error:?}");
    assert!(broker.is_quiet());
}

#[tokio::test]
async fn what_has_an_id_is_repeated_under_it() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let working = tokio::spawn(async move {
        client.create_queue(QueueSpec::new("mails")).await?;
        client.pull(["mails"], 10, Duration::from_secs(1), None).await
    });
    let id = |call: &Call| match &call.request {
        Asked::CreateQueue(create) => create.request_id.clone(),
        Asked::Pull(pull) => pull.request_id.clone(),
        other => panic!("{other:?}"),
    };
    let lost = broker.call().await;
    let created = id(&lost);
    assert!(!created.is_empty());
    drop(lost);
    let call = broker.call().await;
    assert_eq!(id(&call), created);
    let queue = Some(Queue { name: "mails".to_owned(), ..Queue::default() });
    call.answer(Answer::CreateQueue(CreateQueueResponse { queue }));
    let lost = broker.call().await;
    let pulled = id(&lost);
    assert!(!pulled.is_empty() && pulled != created);
    drop(lost);
    let call = broker.call().await;
    assert_eq!(id(&call), pulled);
    let batch = DeliveryBatch { deliveries: vec![delivery("a")], ..DeliveryBatch::default() };
    call.answer(Answer::Pull(PullResponse { batch: Some(batch) }));
    assert_eq!(soon(working).await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_not_done_is_repeated_and_what_was_refused_is_not() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let creating = tokio::spawn(async move { client.create_queue(QueueSpec::new("mails")).await });
    broker.call().await.fail(refusal(Code::Unavailable, "STARTING"));
    let call = broker.call().await;
    let Asked::CreateQueue(request) = &call.request else { panic!() };
    let queue = request.queue.clone();
    call.answer(Answer::CreateQueue(CreateQueueResponse { queue }));
    assert_eq!(soon(creating).await.unwrap().unwrap().name, "mails");

    let client = broker.client().await;
    let asking = tokio::spawn(async move { client.get_queue("mails").await });
    broker.call().await.fail(refusal(Code::NotFound, "QUEUE_NOT_FOUND"));
    let error = soon(asking).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::QueueNotFound));
    assert!(broker.is_quiet());
}

#[tokio::test]
async fn a_queue_is_described_as_it_is() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let asking = tokio::spawn(async move { client.get_queue("mails").await });
    let call = broker.call().await;
    let Asked::GetQueue(request) = &call.request else { panic!() };
    assert_eq!(request.name, "mails");
    call.answer(Answer::GetQueue(GetQueueResponse {
        queue: Some(Queue {
            name: "mails".to_owned(),
            stats: Some(QueueStats { ready: 3, dead: 1, ..QueueStats::default() }),
            create_time: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..Queue::default()
        }),
    }));
    let queue = soon(asking).await.unwrap().unwrap();
    assert_eq!((queue.stats.ready, queue.stats.dead), (3, 1));
    assert_eq!(queue.create_time, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
}

#[tokio::test]
async fn leases_are_extended_one_by_one() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let tokens = vec!["a".into(), "b".into()];
    let minute = Some(Duration::from_secs(60));
    let extending = tokio::spawn(async move { client.extend_leases(tokens, minute).await });
    let call = broker.call().await;
    let Asked::Extend(request) = &call.request else { panic!() };
    assert_eq!(request.lease_duration.unwrap().seconds, 60);
    let failures = settled(0, &[("a", "LEASE_LOST")]).failures;
    call.answer(Answer::Extend(ExtendLeasesResponse {
        failures,
        ..ExtendLeasesResponse::default()
    }));
    let results = soon(extending).await.unwrap().unwrap();
    assert!(matches!(results[..], [Err(Error::LeaseLost(_)), Ok(())]), "{results:?}");
}

#[tokio::test]
async fn a_call_that_gets_no_answer_ends_in_time() {
    let mut broker = Broker::start();
    let timeout = Duration::from_millis(50);
    let client = broker.client_options().request_timeout(timeout).connect().await.unwrap();
    let asking = tokio::spawn(async move { client.get_queue("mails").await });
    let call = broker.call().await;
    assert_eq!(soon(asking).await.unwrap(), Err(Error::TimedOut(timeout)));
    drop(call);
}

/// Whether so long a wait is good is the broker's to say.
#[tokio::test]
async fn the_longest_wait_is_no_panic() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let pulling =
        tokio::spawn(async move { client.pull(["mails"], 10, Duration::MAX, None).await });
    broker.call().await.answer(Answer::Pull(PullResponse { batch: None }));
    assert!(soon(pulling).await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn pulled_messages_are_settled_one_by_one() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let session = client.session_id().to_owned();
    let working = tokio::spawn(async move {
        let pulled = client.pull(["mails"], 10, Duration::from_secs(1), None).await?;
        let settlements = pulled.iter().map(|leased| (leased.lease_token.clone(), Outcome::Ack));
        client.settle(settlements.collect()).await
    });
    let call = broker.call().await;
    let Asked::Pull(pull) = &call.request else { panic!() };
    assert_eq!((pull.max_messages, &pull.session_id), (10, &session));
    let batch = DeliveryBatch {
        deliveries: vec![delivery("a"), delivery("b")],
        ..DeliveryBatch::default()
    };
    call.answer(Answer::Pull(PullResponse { batch: Some(batch) }));
    // The answer is lost once; settling again is safe.
    drop(broker.call().await);
    let call = broker.call().await;
    let Asked::Settle(settle) = &call.request else { panic!() };
    assert_eq!(settle.settlements.len(), 2);
    call.answer(Answer::Settle(settled(0, &[("b", "ALREADY_SETTLED")])));

    let results = soon(working).await.unwrap().unwrap();
    assert_eq!(results[0], Ok(()));
    assert_eq!(results[1].as_ref().unwrap_err().reason(), Some(&Reason::AlreadySettled));
}

#[tokio::test]
async fn an_update_names_what_it_changes() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let policy = QueuePolicy { max_attempts: Some(Limit::Unlimited), ..QueuePolicy::default() };
    let update = QueueUpdate::new("mails").policy(policy).reset("policy.retention").etag("e1");
    let updating = tokio::spawn(async move { client.update_queue(update).await });
    let call = broker.call().await;
    let Asked::UpdateQueue(request) = &call.request else { panic!() };
    let mask = &request.update_mask.as_ref().unwrap().paths;
    assert_eq!(*mask, ["policy.max_attempts", "policy.retention"]);
    let queue = request.queue.clone().unwrap();
    assert_eq!(queue.policy.as_ref().unwrap().max_attempts, Some(-1));
    call.answer(Answer::UpdateQueue(UpdateQueueResponse { queue: Some(queue) }));
    let queue = soon(updating).await.unwrap().unwrap();
    assert_eq!(queue.policy.max_attempts, Some(Limit::Unlimited));
}

#[tokio::test]
async fn the_token_goes_with_calls_and_streams() {
    let mut broker = Broker::start();
    let client = broker.client_options().token("qbt_secret").connect().await.unwrap();
    assert!(!format!("{client:?}").contains("secret"));
    let opening = tokio::spawn(client.publisher("mails").open());
    let talk = broker.publish_talk().await;
    assert_eq!(talk.metadata.get("authorization").unwrap(), "Bearer qbt_secret");
    opening.abort();
    let asking = tokio::spawn(async move { client.server_info().await });
    let call = broker.call().await;
    assert_eq!(call.metadata.get("authorization").unwrap(), "Bearer qbt_secret");
    call.answer(Answer::ServerInfo(GetServerInfoResponse {
        version: "1".to_owned(),
        ..GetServerInfoResponse::default()
    }));
    assert_eq!(soon(asking).await.unwrap().unwrap().version, "1");
}

#[tokio::test]
async fn a_broker_with_a_certificate_is_reached_by_those_who_trust_it() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(&certificate, key);
    let mut broker = Broker::start_with(Some(ServerTlsConfig::new().identity(identity)));
    let url = format!("https://localhost:{}", broker.port());

    let client = Client::builder(&url).ca_certificate(certificate).connect().await.unwrap();
    let asking = tokio::spawn(async move { client.server_info().await });
    let call = broker.call().await;
    call.answer(Answer::ServerInfo(GetServerInfoResponse::default()));
    soon(asking).await.unwrap().unwrap();

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = Client::builder(&url).ca_certificate(other.cert.pem()).connect().await;
    assert!(matches!(stranger, Err(Error::Disconnected(_))), "{stranger:?}");
}

#[tokio::test]
async fn what_cannot_work_is_said_before_it_is_tried() {
    for url in ["localhost:7650", "ftp://localhost", "http://", "not a url"] {
        let error = Client::connect(url).await.unwrap_err();
        assert!(matches!(error, Error::Option(_)), "{url}: {error:?}");
    }
    let broker = Broker::start();
    let error = broker.client_options().token("a\nb").connect().await.unwrap_err();
    assert!(matches!(error, Error::Option(_)), "{error:?}");
}

#[tokio::test]
async fn nobody_at_the_address_is_told_at_once() {
    let mut broker = Broker::start();
    broker.crash();
    let error = soon(broker.client_options().connect()).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected(_)), "{error:?}");
    assert!(error.to_string().contains(&broker.url()), "{error}");
}

/// Applications spawn these.
#[test]
fn futures_may_move_between_threads() {
    fn is_send<T: Send>(_: impl FnOnce(Client) -> T) {}
    is_send(|client| async move { client.get_queue("a").await });
    is_send(|client| async move { client.publish("a", Vec::new()).await });
    is_send(|client| async move { client.publisher("a").open().await?.close().await });
    is_send(|client| async move { client.consumer(["a"]).open().await?.next().await });
}
