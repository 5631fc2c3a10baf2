//! Single messages, by their names: changed in place and deleted, also those in pages.

use std::collections::BTreeSet;

use qbroker_proto::v1::update_messages_request::Schedule;
use qbroker_proto::v1::*;
use tonic::Code::{InvalidArgument, NotFound};

use super::streams::consume;
use super::{Broker, Refusal, ack, answer, message, publish, seconds};

fn named(payload: &str, id: &str) -> OutgoingMessage {
    OutgoingMessage { message_id: id.to_owned(), ..message(payload) }
}

fn later(payload: &str) -> OutgoingMessage {
    let schedule = Some(outgoing_message::Schedule::Delay(seconds(3_600)));
    OutgoingMessage { schedule, ..message(payload) }
}

fn update(queue: &str, ids: &[&str]) -> UpdateMessagesRequest {
    let message_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    UpdateMessagesRequest { queue: queue.to_owned(), message_ids, ..Default::default() }
}

fn now() -> Option<Schedule> {
    Some(Schedule::Delay(seconds(0)))
}

/// Ids and reasons of what was refused.
fn refused(errors: &[MessageError]) -> Vec<(&str, &str)> {
    fn pair(error: &MessageError) -> (&str, &str) {
        (&error.message_id, &error.error.as_ref().expect("it says why").reason)
    }
    errors.iter().map(pair).collect()
}

impl Broker {
    async fn update(&self, request: UpdateMessagesRequest) -> Result<Vec<MessageError>, Refusal> {
        answer(self.wire.admin().update_messages(request).await).map(|response| response.errors)
    }

    async fn pulled(&self, queue: &str, max: i32) -> Vec<String> {
        let pulled = self.pull(queue, max).await;
        let payload = |it: Delivery| it.message.expect("it has one").payload.to_vec();
        pulled.into_iter().map(|it| String::from_utf8(payload(it)).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_get_another_priority_and_another_time() {
    let broker = Broker::start(&[]).await;
    let batch = vec![message("a"), named("b", "own"), later("c"), message("d")];
    let stored = broker.publish(publish("q", batch)).await.unwrap();
    let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| format!("q.{}", stored[n].sequence));
    let urgent =
        UpdateMessagesRequest { priority: Some(5), ..update("q", &["own", "q.1", "other"]) };
    let errors = broker.update(urgent).await.unwrap();
    assert_eq!(refused(&errors), [("q.1", "MESSAGE_NOT_FOUND"), ("other", "MESSAGE_NOT_FOUND")]);
    // The queue need not be known for the names that the broker gives.
    let at_once = UpdateMessagesRequest { schedule: now(), priority: Some(9), ..update("", &[&c]) };
    assert_eq!(broker.update(at_once).await.unwrap(), []);
    let schedule = Some(Schedule::Delay(seconds(3_600)));
    let deferred = UpdateMessagesRequest { schedule, ..update("q", &[&a]) };
    assert_eq!(broker.update(deferred).await.unwrap(), []);
    let listed = ListMessagesRequest { queue: "q".to_owned(), ..Default::default() };
    let listed = broker.wire.admin().list_messages(listed).await.unwrap().into_inner().messages;
    let told: Vec<_> = listed
        .iter()
        .map(|it| (it.message.as_ref().unwrap(), it.state()))
        .map(|(message, state)| (message.sequence, message.priority, state))
        .collect();
    let expected = [
        (stored[2].sequence, 9, MessageState::Ready),
        (stored[1].sequence, 5, MessageState::Ready),
        (stored[3].sequence, 0, MessageState::Ready),
        (stored[0].sequence, 0, MessageState::Scheduled),
    ];
    assert_eq!(told, expected);
    assert_eq!(broker.pulled("q", 2).await, ["c", "b"]);
    let held = UpdateMessagesRequest { schedule: now(), ..update("q", &[&b, &d]) };
    assert_eq!(refused(&broker.update(held).await.unwrap()), [(b.as_str(), "MESSAGE_LEASED")]);
    assert_eq!(broker.pulled("q", 9).await, ["d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_means_nothing_is_refused() {
    let broker = Broker::start(&[]).await;
    broker.publish(publish("q", vec![named("a", "own")])).await.unwrap();
    let thousand: Vec<String> = (0..1_001).map(|n| format!("q.{n}")).collect();
    let ids = |count: usize| thousand[..count].iter().map(String::as_str).collect::<Vec<_>>();
    let urgent = |queue: &str, ids: &[&str]| UpdateMessagesRequest {
        priority: Some(1),
        ..update(queue, ids)
    };
    let bad = [
        (update("q", &["q.1"]), "INVALID_ARGUMENT", "priority"),
        (urgent("", &["own"]), "INVALID_ARGUMENT", "queue"),
        (urgent("q", &["q.x"]), "INVALID_ARGUMENT", "message_id"),
        (urgent("q", &["a b"]), "INVALID_ARGUMENT", "message_id"),
        (urgent("q", &[""]), "INVALID_ARGUMENT", "message_id"),
        (urgent("q", &[]), "EMPTY_BATCH", ""),
        (urgent("q", &ids(1_001)), "BATCH_TOO_LARGE", ""),
        (
            UpdateMessagesRequest { priority: Some(10), ..update("q", &["q.1"]) },
            "INVALID_ARGUMENT",
            "priority",
        ),
    ];
    for (request, reason, field) in bad {
        let refused = broker.update(request).await.expect_err(field);
        assert_eq!(refused.is(), (InvalidArgument, reason), "{field}");
        if !field.is_empty() {
            assert_eq!(refused.metadata["field"], field, "{}", refused.message);
        }
    }
    let refused = broker.update(urgent("nobody", &["q.1"])).await.unwrap_err();
    assert_eq!(refused.is(), (NotFound, "QUEUE_NOT_FOUND"));
    let most = broker.update(urgent("q", &ids(1_000))).await.unwrap();
    assert_eq!(most.len(), 999, "one of them is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_pages_is_changed_as_well_and_stays_so_over_a_kill() {
    let broker = Broker::start(&[]).await;
    let mut sequences = Vec::new();
    for _ in 0..8 {
        let batch = (0..500).map(|_| later("")).collect();
        let stored = broker.publish(publish("q", batch)).await.unwrap();
        sequences.extend(stored.iter().map(|receipt| receipt.sequence));
    }
    let chosen: BTreeSet<i64> = sequences.iter().copied().step_by(40).collect();
    let ids: Vec<String> = chosen.iter().map(|sequence| format!("q.{sequence}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let at_once = UpdateMessagesRequest { schedule: now(), priority: Some(3), ..update("q", &ids) };
    assert_eq!(broker.update(at_once).await.unwrap(), []);
    let broker = broker.kill_and_start().await;
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.scheduled), (100, 3_900));
    let pulled = broker.pull("q", 1_000).await;
    let told = pulled.into_iter().filter_map(|it| it.message);
    let told: Vec<_> = told.map(|message| (message.priority, message.sequence)).collect();
    let expected: Vec<_> = chosen.into_iter().map(|sequence| (3, sequence)).collect();
    assert_eq!(told, expected, "in the order in which they became ready");
}

impl Broker {
    async fn delete(&self, queue: &str, ids: &[&str]) -> Result<Vec<MessageError>, Refusal> {
        let message_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let request = DeleteMessagesByIdRequest { queue: queue.to_owned(), message_ids };
        answer(self.wire.admin().delete_messages_by_id(request).await).map(|it| it.errors)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_gone_and_who_holds_it_is_told() {
    let broker = Broker::start(&[]).await;
    let batch = vec![named("a", "own"), message("b"), later("c"), message("d"), message("e")];
    let stored = broker.publish(publish("q", batch)).await.unwrap();
    let [b, c, e] = [1, 2, 4].map(|n: usize| format!("q.{}", stored[n].sequence));
    let mut open = consume("q", "worker");
    open.flow = Some(FlowUpdate { max_outstanding_messages: 1, max_outstanding_bytes: 0 });
    let mut stream = broker.consuming(Some(consume_request::Kind::Open(open))).await;
    stream.opened().await;
    let held = stream.deliveries().await.remove(0);
    let pulled = broker.pull("q", 1).await.remove(0);
    assert_eq!(
        (&held.message.unwrap().payload[..], &pulled.message.unwrap().payload[..]),
        (&b"a"[..], &b"b"[..])
    );

    let errors = broker.delete("q", &["own", &b, &c, "q.1"]).await.unwrap();
    assert_eq!(refused(&errors), [("q.1", "MESSAGE_NOT_FOUND")]);
    match stream.hear().await.unwrap().and_then(|answer| answer.kind) {
        Some(consume_response::Kind::LeasesLost(lost)) => {
            assert_eq!(lost.reason(), LeaseLostReason::MessageDeleted);
            assert_eq!(lost.lease_tokens, std::slice::from_ref(&held.lease_token));
        }
        other => panic!("nothing is told of it: {other:?}"),
    }
    let failures = broker.settle(vec![ack(&held.lease_token), ack(&pulled.lease_token)]).await;
    let reasons: Vec<_> =
        failures.unwrap().into_iter().map(|it| it.error.unwrap().reason).collect();
    assert_eq!(reasons, ["LEASE_LOST", "LEASE_LOST"]);
    // Its window has room again.
    assert_eq!(&stream.deliveries().await[0].message.as_ref().unwrap().payload[..], b"d");
    assert_eq!(broker.delete("", &[&e]).await.unwrap(), []);
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.scheduled, stats.leased), (0, 0, 1));
    let broker = broker.kill_and_start().await;
    assert_eq!(refused(&broker.delete("q", &[&b, &e]).await.unwrap()).len(), 2, "gone for good");
    let nothing = broker.delete("q", &[]).await.unwrap_err();
    assert_eq!(nothing.reason, "EMPTY_BATCH");
}
