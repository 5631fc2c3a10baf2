//! Much at once is done in steps and in several records, so that no turn outgrows a frame.

use bytes::Bytes;
use qbroker_storage::{Body, Lsn};

use super::stage::Stage;
use crate::queue::ids::ConsumerId;
use crate::queue::index::Index;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::names::{MessageName, NamedBy};
use crate::queue::policy::{Overflow, Policy};
use crate::queue::record::{BIRTHS_MAX, Record};
use crate::queue::{
    CreateQueue, Expected, Limits, NewMessage, OpenConsumer, Outcome, Publish, Selector, Settle,
    Settlement, UpdateQueue, Window,
};

/// More than two steps.
pub(super) const MESSAGES: u32 = 2_500;

pub(super) fn message(queue: &str) -> NewMessage {
    NewMessage {
        queue: queue.into(),
        payload_bytes: 1,
        body: Body::new(Bytes::from_static(b"x"), Bytes::new()),
        ..NewMessage::default()
    }
}

pub(super) fn open(session: &str, queue: &str, messages: u32, reset_session: bool) -> OpenConsumer {
    OpenConsumer {
        queues: vec![Selector::plain(queue)],
        window: Window { messages, bytes: 1 << 20 },
        lease_duration_ms: None,
        session: session.to_owned(),
        session_grace_ms: 10_000,
        manual_extend: false,
        reports_started: false,
        extension_ms_max: 0,
        previous: None,
        held: Vec::new(),
        reset_session,
    }
}

/// A stream of session `host` that holds `messages`.
pub(super) fn holding(messages: u32) -> (Stage<MemoryIndex>, ConsumerId) {
    let (mut stage, _) = Stage::new(Limits::default());
    let publish = Publish { messages: vec![message("mail"); messages as usize] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "mail", messages, false);
    let opened = stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    assert_eq!(stage.core.lease_count(), messages as usize);
    (stage, opened.consumer)
}

#[test]
fn a_session_with_many_leases_is_lost_in_steps() {
    let (mut stage, consumer) = holding(MESSAGES);
    stage.turn(|core, now, _| {
        core.disconnect(consumer, now);
        Ok(())
    });
    stage.now.boot_ms += 10_000;
    for left in [1_500, 500, 0] {
        let now = stage.now;
        assert!(stage.core.deadlines().is_over(now));
        stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
        assert_eq!(stage.core.lease_count(), left);
    }
    assert!(!stage.core.deadlines().is_over(stage.now));
    assert!(stage.core.sessions.named("host").is_none());
}

#[test]
fn a_session_begun_anew_leaves_its_name_at_once_and_its_leases_in_steps() {
    let (mut stage, _) = holding(MESSAGES);
    let again = open("host", "quiet", 1, true);
    stage.turn(|core, now, out| core.open_consumer(&again, now, out)).answer.unwrap();
    assert_eq!(stage.core.lease_count(), 1_500);
    assert_eq!(stage.core.sessions.len(), 2, "the new session, and what is left of the old one");
    assert!(stage.core.deadlines().is_over(stage.now), "nobody may come back for the rest");
    stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
    assert_eq!(stage.core.lease_count(), 500);
    stage.restart().answer.unwrap();
    assert!(stage.core.deadlines().is_over(stage.now), "nor after a restart");
    stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
    assert_eq!((stage.core.lease_count(), stage.core.sessions.len()), (0, 1));
    let queue = stage.core.queue("mail").unwrap().id();
    assert_eq!(stage.core.index().counts(queue).ready, u64::from(MESSAGES));
}

#[test]
fn a_call_that_names_very_many_messages_takes_several_records() {
    let messages = 2 * u32::try_from(BIRTHS_MAX).unwrap() + 1;
    let (mut stage, consumer) = holding(messages);
    let tokens = stage.tokens.values().map(|tokens| tokens[0]);
    let settlements = tokens.map(|token| Settlement::plain(token, Outcome::Ack)).collect();
    let settle = Settle { consumer, number: 1, answered_through: 0, settlements };
    let outcome = stage.turn(|core, now, out| core.settle(&settle, now, out));
    assert!(outcome.answer.unwrap().is_empty());
    assert_eq!(outcome.logged.len(), 3);
    assert_eq!(stage.core.lease_count(), 0);
}

#[test]
fn what_has_outlived_its_time_is_not_delivered_while_steps_are_left() {
    let (mut stage, _) = Stage::<MemoryIndex>::new(Limits::default());
    let old = NewMessage { ttl_ms: Some(1_000), ..message("mail") };
    let mut messages = vec![old; MESSAGES as usize];
    messages.push(message("mail"));
    let publish = Publish { messages };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    stage.now.boot_ms += 1_000;
    let open = open("host", "mail", MESSAGES, false);
    let heard = stage.turn(|core, now, out| core.open_consumer(&open, now, out));
    heard.answer.unwrap();
    for (ready, leases) in [(1_501, 0), (0, 1)] {
        let queue = stage.core.queue("mail").unwrap();
        let counts = stage.core.index().counts(queue.id());
        assert_eq!((counts.ready, stage.core.lease_count()), (ready, leases));
        stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
    }
    let letters = stage.core.queue("mail.dead").unwrap().id();
    assert_eq!(stage.core.index().counts(letters).ready, u64::from(MESSAGES));
    assert!(!stage.core.deadlines().is_over(stage.now));
}

fn bounded(max_messages: u64, max_bytes: u64) -> UpdateQueue {
    let policy = Policy {
        max_messages: Some(max_messages),
        max_bytes: Some(max_bytes),
        overflow: Some(Overflow::DropOldest.into()),
        ..Policy::default()
    };
    UpdateQueue { name: "mail".to_owned(), policy, ..UpdateQueue::default() }
}

#[test]
fn what_is_beyond_a_lowered_limit_goes_in_steps_and_a_publish_makes_up_for_itself_alone() {
    let (mut stage, _) = Stage::<PagedIndex>::new(Limits::default());
    let publish = Publish { messages: vec![message("mail"); MESSAGES as usize] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let update = bounded(100, u64::MAX);
    stage.turn(|core, now, out| core.update_queue(&update, now, out)).answer.unwrap();
    for left in [1_500, 500, 100] {
        assert!(stage.core.deadlines().is_over(stage.now));
        let publish = Publish { messages: vec![message("mail"); 3] };
        let heard = stage.turn(|core, now, out| core.publish(&publish, now, out));
        assert_eq!(heard.answer.unwrap().len(), 3);
        stage.restart().answer.unwrap();
        stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
        let queue = stage.core.queue("mail").unwrap();
        assert_eq!(stage.core.index().counts(queue.id()).ready, left);
    }
    assert!(!stage.core.deadlines().is_over(stage.now));
}

#[test]
fn one_large_message_makes_very_many_small_ones_go_in_several_records() {
    let count = BIRTHS_MAX + 1;
    let (mut stage, _) = Stage::<MemoryIndex>::new(Limits::default());
    let update = UpdateQueue { expected: Expected::Absent, ..bounded(u64::MAX, count as u64) };
    stage.turn(|core, now, out| core.update_queue(&update, now, out)).answer.unwrap();
    let publish = Publish { messages: vec![message("mail"); count] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let body = Body::new(Bytes::from(vec![0; count]), Bytes::new());
    let publish = Publish { messages: vec![NewMessage { body, ..message("mail") }] };
    let heard = stage.turn(|core, now, out| core.publish(&publish, now, out));
    heard.answer.unwrap();
    assert_eq!(heard.logged.len(), 3, "the message, and what goes for it");
    assert_eq!(heard.retired.len(), count);
}

#[test]
fn the_longest_list_of_messages_stays_below_64_kib() {
    // What an LSN can be: a log of one record per nanosecond reaches it after two years.
    let births = vec![Lsn(1 << 56).0; BIRTHS_MAX];
    let mut head = Vec::new();
    let granted = crate::queue::record::Granted { births, ..Default::default() };
    Record::Granted(granted).encode_head(&mut head);
    assert!(head.len() < 64 << 10, "{} bytes", head.len());
}

#[test]
fn many_times_to_live_of_another_queue_keep_nothing_from_who_waits() {
    let (mut stage, _) = Stage::<MemoryIndex>::new(Limits::default());
    let short = NewMessage { ttl_ms: Some(1_000), ..message("short") };
    let publish = Publish { messages: vec![short; 2 * MESSAGES as usize] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "fair", 1, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    stage.now.boot_ms += 1_000;
    stage.now.wall_ms += 1_000;
    let tenants = NewMessage { fairness_hash: Some(7), ..message("fair") };
    let publish = Publish { messages: vec![tenants] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    assert!(stage.core.deadlines().is_over(stage.now), "steps are left");
    assert_eq!(stage.core.lease_count(), 1, "they are none of its queue's");
}

/// Both choose: from lanes, and from a queue without fairness keys.
#[test]
fn what_is_older_than_its_retention_is_not_delivered_while_steps_are_left() {
    for key in [None, Some(7)] {
        let (mut stage, _) = Stage::<MemoryIndex>::new(Limits::default());
        let policy = Policy { retention_ms: Some(1_000), ..Policy::default() };
        let create = CreateQueue { name: "mail".to_owned(), policy, ..CreateQueue::default() };
        stage.turn(|core, now, out| core.create_queue(&create, now, out)).answer.unwrap();
        let one = NewMessage { fairness_hash: key, ..message("mail") };
        let publish = Publish { messages: vec![one.clone(); 2 * MESSAGES as usize] };
        stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
        stage.now.wall_ms += 1_000;
        let publish = Publish { messages: vec![one] };
        stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
        let open = open("host", "mail", MESSAGES, false);
        stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
        let queue = stage.core.queue("mail").unwrap().id();
        assert!(1 < stage.core.index().counts(queue).ready, "steps are left");
        while 0 < stage.core.index().counts(queue).ready {
            assert_eq!(stage.core.lease_count(), 0);
            stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
        }
        assert_eq!(stage.core.lease_count(), 1);
    }
}

/// Others have more that is outlived, before it.
#[test]
fn who_waits_behind_an_outlived_message_is_served_when_that_is_deleted() {
    let (mut stage, _) = Stage::<MemoryIndex>::new(Limits::default());
    for (queue, retention_ms) in [("old", 1_000), ("mail", 1_001)] {
        let policy = Policy { retention_ms: Some(retention_ms), ..Policy::default() };
        let create = CreateQueue { name: queue.to_owned(), policy, ..CreateQueue::default() };
        stage.turn(|core, now, out| core.create_queue(&create, now, out)).answer.unwrap();
    }
    let messages = vec![message("old"); 4 * MESSAGES as usize];
    let publish = Publish { messages: [messages, vec![message("mail")]].concat() };
    let receipts = stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    stage.now.wall_ms += 1_001;
    let publish = Publish { messages: vec![message("mail")] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "mail", 1, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    assert_eq!(stage.core.lease_count(), 0);
    let by = NamedBy::Birth(receipts.last().unwrap().birth);
    let first = [MessageName { id: String::new(), by }];
    stage.turn(|core, now, out| core.delete_messages("mail", &first, now, out)).answer.unwrap();
    assert!(stage.core.deadlines().is_over(stage.now), "the others are not all gone");
    assert_eq!(stage.core.lease_count(), 1);
}
