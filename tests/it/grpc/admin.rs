//! Administration: policies, pages, etags, and what is in the way of a deletion.

use std::collections::HashMap;

use prost_types::FieldMask;
use qbroker_proto::v1::*;
use tonic::Code::{Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};

use super::{Broker, answer, message, publish, refusal, seconds};

fn queue(name: &str) -> Queue {
    Queue { name: name.to_owned(), ..Queue::default() }
}

fn create(queue: Queue) -> CreateQueueRequest {
    CreateQueueRequest { queue: Some(queue), ..CreateQueueRequest::default() }
}

fn with_policy(name: &str, policy: QueuePolicy) -> CreateQueueRequest {
    create(Queue { policy: Some(policy), ..queue(name) })
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_values_out_of_bounds_are_refused_with_their_field() {
    let broker = Broker::start(&[]).await;
    type Set = fn(&mut QueuePolicy);
    let bad: &[(&str, Set)] = &[
        ("lease_duration", |p| p.lease_duration = Some(seconds(0))),
        ("lease_duration", |p| p.lease_duration = Some(seconds(12 * 60 * 60 + 1))),
        ("lease_duration", |p| p.lease_duration = Some(seconds(-5))),
        ("max_attempts", |p| p.max_attempts = Some(0)),
        ("max_attempts", |p| p.max_attempts = Some(-2)),
        ("max_attempts", |p| p.max_attempts = Some(1_000_001)),
        ("max_crashes", |p| p.max_crashes = Some(0)),
        ("retention", |p| p.retention = Some(seconds(3_650 * 24 * 60 * 60 + 1))),
        ("dedup_window", |p| p.dedup_window = Some(seconds(24 * 60 * 60 + 1))),
        ("max_payload_bytes", |p| p.max_payload_bytes = Some(0)),
        ("max_payload_bytes", |p| p.max_payload_bytes = Some((512 << 10) + 1)),
        ("message_ttl", |p| p.message_ttl = Some(seconds(3_650 * 24 * 60 * 60 + 1))),
        ("priority_levels", |p| p.priority_levels = Some(0)),
        ("priority_levels", |p| p.priority_levels = Some(11)),
        ("retry.multiplier", |p| set_retry(p).multiplier = Some(0.5)),
        ("retry.multiplier", |p| set_retry(p).multiplier = Some(f64::NAN)),
        ("retry.jitter", |p| set_retry(p).jitter = Some(1.5)),
        ("retry.initial_backoff", |p| set_retry(p).initial_backoff = Some(seconds(366 * 86_400))),
        ("retry.max_backoff", |p| set_retry(p).max_backoff = Some(seconds(1))),
        ("max_messages", |p| p.max_messages = Some(0)),
        ("max_messages", |p| p.max_messages = Some(-1)),
        ("max_bytes", |p| p.max_bytes = Some(0)),
        ("overflow", |p| p.overflow = 4),
        ("retention_bytes", |p| p.retention_bytes = Some(0)),
    ];
    for (field, set) in bad {
        let mut policy = QueuePolicy::default();
        set(&mut policy);
        let refused = refusal(broker.wire.admin().create_queue(with_policy("q", policy)).await);
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], format!("policy.{field}"), "{}", refused.message);
    }
    let at_the_bounds = QueuePolicy {
        lease_duration: Some(seconds(12 * 60 * 60)),
        max_attempts: Some(1_000_000),
        max_crashes: Some(-1),
        retention: Some(seconds(3_650 * 24 * 60 * 60)),
        dedup_window: Some(seconds(24 * 60 * 60)),
        max_payload_bytes: Some(512 << 10),
        priority_levels: Some(10),
        message_ttl: Some(seconds(3_650 * 24 * 60 * 60)),
        max_messages: Some(i64::MAX),
        max_bytes: Some(1),
        retention_bytes: Some(1),
        outcome_retention: Some(seconds(365 * 24 * 60 * 60)),
        retry: Some(RetryPolicy {
            initial_backoff: Some(seconds(0)),
            max_backoff: Some(seconds(365 * 24 * 60 * 60)),
            multiplier: Some(100.0),
            jitter: Some(1.0),
        }),
        ..QueuePolicy::default()
    };
    let request = with_policy("q", at_the_bounds.clone());
    let made = broker.wire.admin().create_queue(request).await.unwrap().into_inner().queue.unwrap();
    let shown = made.policy.unwrap();
    let filled = QueuePolicy {
        dead_letter_queue: Some("q.dead".to_owned()),
        discard_dead_letters: Some(false),
        overflow: OverflowPolicy::RejectPublish.into(),
        ..at_the_bounds
    };
    assert_eq!(shown, filled, "shown as it was set, the rest filled in");
}

fn set_retry(policy: &mut QueuePolicy) -> &mut RetryPolicy {
    policy.retry.get_or_insert_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_created_once_or_found_equal() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    admin.create_queue(create(queue("q"))).await.unwrap();
    let refused = refusal(admin.create_queue(create(queue("q"))).await);
    assert_eq!(refused.is(), (AlreadyExists, "QUEUE_EXISTS"));
    let equal = CreateQueueRequest { allow_existing: true, ..create(queue("q")) };
    admin.create_queue(equal).await.unwrap();
    let policy = QueuePolicy { max_attempts: Some(3), ..QueuePolicy::default() };
    let other = CreateQueueRequest { allow_existing: true, ..with_policy("q", policy) };
    assert_eq!(refusal(admin.create_queue(other).await).reason, "QUEUE_EXISTS");
    let long = Queue { description: "d".repeat(1_025), ..queue("r") };
    assert_eq!(refusal(admin.create_queue(create(long)).await).metadata["field"], "description");
    let labels = |key: &str| Queue {
        labels: HashMap::from([(key.to_owned(), "v".to_owned())]),
        ..queue("r")
    };
    for key in ["", "Upper", &"k".repeat(64)] {
        let refused = refusal(admin.create_queue(create(labels(key))).await);
        assert_eq!(refused.metadata["field"], "labels", "{key:?}");
    }
    let nothing = CreateQueueRequest::default();
    assert_eq!(refusal(admin.create_queue(nothing).await).reason, "INVALID_QUEUE_NAME");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_queues_do_not_lead_in_a_circle() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    let to = |name: &str, dead: &str| {
        let dead_letter_queue = Some(dead.to_owned());
        with_policy(name, QueuePolicy { dead_letter_queue, ..QueuePolicy::default() })
    };
    admin.create_queue(to("a", "b")).await.unwrap();
    for (name, dead) in [("self", "self"), ("c", "a"), ("b2.dead", "x")] {
        let refused = refusal(admin.create_queue(to(name, dead)).await);
        assert_eq!(refused.is(), (FailedPrecondition, "DEAD_LETTER_QUEUE_INVALID"), "{name}");
    }
    let policy = QueuePolicy { dead_letter_queue: Some("a".to_owned()), ..QueuePolicy::default() };
    let update = UpdateQueueRequest {
        queue: Some(Queue { policy: Some(policy), ..queue("b") }),
        update_mask: Some(mask(&["policy.dead_letter_queue"])),
        allow_missing: true,
    };
    let refused = refusal(admin.update_queue(update).await);
    assert_eq!(refused.is(), (FailedPrecondition, "DEAD_LETTER_QUEUE_INVALID"));
}

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names_and_refuses_a_lost_one() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    let policy = QueuePolicy { max_attempts: Some(3), ..QueuePolicy::default() };
    let made = admin.create_queue(with_policy("q", policy)).await.unwrap().into_inner();
    let seen = made.queue.unwrap().etag;
    let update = |etag: &str, paths: &[&str], description: &str| UpdateQueueRequest {
        queue: Some(Queue {
            etag: etag.to_owned(),
            description: description.to_owned(),
            ..queue("q")
        }),
        update_mask: Some(mask(paths)),
        allow_missing: false,
    };
    let changed = admin.update_queue(update(&seen, &["description"], "d")).await.unwrap();
    let changed = changed.into_inner().queue.unwrap();
    assert_eq!(changed.description, "d");
    assert_eq!(changed.policy.unwrap().max_attempts, Some(3), "it was not named");
    let refused = refusal(admin.update_queue(update(&seen, &["description"], "e")).await);
    assert_eq!(refused.is(), (Aborted, "ETAG_MISMATCH"));
    for paths in [&[][..], &["name"], &["policy.nonsense"], &["stats"]] {
        let refused = refusal(admin.update_queue(update("", paths, "e")).await);
        assert_eq!(refused.metadata["field"], "update_mask", "{paths:?}");
    }
    // Named and unset: the default again.
    let reset = admin.update_queue(update("", &["policy.max_attempts"], "")).await.unwrap();
    let reset = reset.into_inner().queue.unwrap();
    assert_eq!((reset.policy.unwrap().max_attempts, reset.description.as_str()), (Some(20), "d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_queues_are_told_and_full_ones_are_not_deleted_by_accident() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    let name = || "nobody".to_owned();
    let refusals = [
        refusal(admin.get_queue(GetQueueRequest { name: name() }).await),
        refusal(admin.purge_queue(PurgeQueueRequest { name: name(), ..Default::default() }).await),
        refusal(
            admin.delete_queue(DeleteQueueRequest { name: name(), ..Default::default() }).await,
        ),
        refusal(
            admin.list_messages(ListMessagesRequest { queue: name(), ..Default::default() }).await,
        ),
        refusal(
            admin
                .wait_queue_empty(WaitQueueEmptyRequest { name: name(), wait_timeout: None })
                .await,
        ),
    ];
    for refused in refusals {
        assert_eq!(refused.is(), (NotFound, "QUEUE_NOT_FOUND"), "{}", refused.message);
        assert_eq!(refused.metadata["queue"], "nobody");
    }
    broker.publish(publish("q", vec![message("m")])).await.unwrap();
    let delete = |force| DeleteQueueRequest { name: "q".to_owned(), force, allow_missing: false };
    let refused = refusal(admin.delete_queue(delete(false)).await);
    assert_eq!(refused.is(), (FailedPrecondition, "QUEUE_NOT_EMPTY"));
    admin.delete_queue(delete(true)).await.unwrap();
    assert_eq!(refusal(admin.delete_queue(delete(true)).await).reason, "QUEUE_NOT_FOUND");
    let missing = DeleteQueueRequest { allow_missing: true, ..delete(false) };
    admin.delete_queue(missing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_together_and_their_tokens_belong_to_their_question() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    for number in 0..7 {
        admin.create_queue(create(queue(&format!("q{number}")))).await.unwrap();
    }
    broker.publish(publish("q0", vec![message("m"); 7])).await.unwrap();
    let queues = |size, token: &str| ListQueuesRequest {
        page_size: size,
        page_token: token.to_owned(),
        name_contains: "q".to_owned(),
        ..ListQueuesRequest::default()
    };
    let messages = |size, token: &str| ListMessagesRequest {
        queue: "q0".to_owned(),
        page_size: size,
        page_token: token.to_owned(),
        ..ListMessagesRequest::default()
    };
    let (mut names, mut ids, mut token) = (Vec::new(), Vec::new(), String::new());
    let first_token = loop {
        let page = admin.list_queues(queues(3, &token)).await.unwrap().into_inner();
        assert_eq!(page.total_size, 7);
        names.extend(page.queues.into_iter().map(|queue| queue.name));
        if page.next_page_token.is_empty() {
            break token;
        }
        token = page.next_page_token;
    };
    assert_eq!(names, ["q0", "q1", "q2", "q3", "q4", "q5", "q6"]);
    let mut token = String::new();
    let message_token = loop {
        let page = admin.list_messages(messages(3, &token)).await.unwrap().into_inner();
        ids.extend(page.messages.into_iter().map(|listed| listed.message.unwrap().sequence));
        if page.next_page_token.is_empty() {
            break token;
        }
        token = page.next_page_token;
    };
    assert!(ids.len() == 7 && ids.is_sorted(), "{ids:?}");

    let other = ListQueuesRequest { name_contains: "x".to_owned(), ..queues(3, &first_token) };
    let elsewhere = ListMessagesRequest { queue: "q1".to_owned(), ..messages(3, &message_token) };
    let refusals = [
        ("page_token", refusal(admin.list_queues(other).await)),
        ("page_token", refusal(admin.list_queues(queues(3, "nonsense")).await)),
        ("page_token", refusal(admin.list_queues(queues(3, &message_token)).await)),
        ("page_size", refusal(admin.list_queues(queues(-1, "")).await)),
        ("page_token", refusal(admin.list_messages(elsewhere).await)),
        ("page_token", refusal(admin.list_messages(messages(3, "0.")).await)),
        ("page_size", refusal(admin.list_messages(messages(-1, "")).await)),
    ];
    for (field, refused) in refusals {
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
    // More than there may be is brought down to it.
    let all = admin.list_messages(messages(i32::MAX, "")).await.unwrap().into_inner();
    assert_eq!((all.messages.len(), all.next_page_token.as_str()), (7, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_and_an_order_must_be_ones_that_there_are() {
    let broker = Broker::start(&[]).await;
    let mut admin = broker.wire.admin();
    admin.create_queue(create(queue("q"))).await.unwrap();
    let bad_order = ListQueuesRequest { order_by: "size".to_owned(), ..Default::default() };
    let bad_state = ListQueuesRequest { states: vec![0], ..Default::default() };
    let strange = ListQueuesRequest { states: vec![1, 99], ..Default::default() };
    let name = "q".to_owned();
    let no_state = PurgeQueueRequest { name: name.clone(), states: vec![0], ..Default::default() };
    let unknown =
        PurgeQueueRequest { name: name.clone(), states: vec![1, 99], ..Default::default() };
    let empty_filter = ListMessagesRequest {
        queue: name,
        filter: Some(MessageFilter::default()),
        ..ListMessagesRequest::default()
    };
    let refusals = [
        ("order_by", refusal(admin.list_queues(bad_order).await)),
        ("states", refusal(admin.list_queues(bad_state).await)),
        ("states", refusal(admin.list_queues(strange).await)),
        ("states", refusal(admin.purge_queue(no_state).await)),
        ("states", refusal(admin.purge_queue(unknown).await)),
        ("filter", refusal(admin.list_messages(empty_filter).await)),
    ];
    for (field, refused) in refusals {
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{field}");
        assert_eq!(refused.metadata["field"], field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_its_limits_and_which_features_it_has() {
    let broker = Broker::start(&["--max-batch-messages", "77"]).await;
    let info = answer(broker.wire.admin().get_server_info(GetServerInfoRequest {}).await).unwrap();
    assert_eq!((info.protocol, info.durability.as_str()), (1, "fsync"));
    for feature in ["pause", "priority", "ttl", "get_message", "update_messages"] {
        assert!(info.features.iter().any(|has| has == feature), "{feature}");
    }
    assert_eq!(info.limits["max_batch_messages"], 77);
    assert_eq!(info.limits["max_payload_bytes"], 512 << 10);
}
