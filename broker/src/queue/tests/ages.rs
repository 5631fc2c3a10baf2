//! How old the oldest ready message is, whatever is delivered first.

use bytes::Bytes;
use qbroker_storage::Body;

use super::stage::{Stage, StageIndex, WALL_MS};
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::{Limits, NewMessage, Publish, Pull, Pulled, Selector};

fn message(priority: u8, fairness_hash: Option<u64>) -> NewMessage {
    NewMessage {
        queue: "mail".into(),
        priority,
        fairness_hash,
        payload_bytes: 1,
        body: Body::new(Bytes::from_static(b"x"), Bytes::new()),
        ..NewMessage::default()
    }
}

fn publish<I: StageIndex>(stage: &mut Stage<I>, seconds: u64, messages: Vec<NewMessage>) {
    stage.now.wall_ms = WALL_MS + 1_000 * seconds;
    let publish = Publish { messages };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
}

/// Takes the first `count` messages that the queue delivers.
fn take<I: StageIndex>(stage: &mut Stage<I>, count: u32) {
    let pull = Pull {
        queues: vec![Selector::plain("mail")],
        messages_max: count,
        lease_duration_ms: None,
        session: String::new(),
        request_id: String::new(),
    };
    let pulled = stage.turn(|core, now, out| core.pull(&pull, now, out)).answer.unwrap();
    assert!(matches!(pulled, Pulled::Now(them) if them.len() == count as usize));
}

/// When the oldest ready message came, in seconds.
fn oldest<I: StageIndex>(stage: &Stage<I>) -> Option<u64> {
    let queue = stage.core.queue("mail").unwrap().id();
    stage.core.index().oldest_ready(queue).map(|since_ms| (since_ms - WALL_MS) / 1_000)
}

fn an_urgent_message_does_not_hide_an_old_one<I: StageIndex>() {
    let (mut stage, _) = Stage::<I>::new(Limits::default());
    publish(&mut stage, 1, vec![message(0, None)]);
    for seconds in 2..22 {
        let priority = u8::try_from(seconds % 10).expect("one digit");
        publish(&mut stage, seconds, vec![message(priority, None), message(9, None)]);
    }
    assert_eq!(oldest(&stage), Some(1));
    stage.restart().answer.unwrap();
    assert_eq!(oldest(&stage), Some(1));
    // All but the least urgent: those of 10 and 20 s have its priority.
    take(&mut stage, 38);
    assert_eq!(oldest(&stage), Some(1));
    take(&mut stage, 1);
    assert_eq!(oldest(&stage), Some(10));
    take(&mut stage, 2);
    assert_eq!(oldest(&stage), None);
}

fn nor_does_a_tenant_with_a_turn<I: StageIndex>() {
    let (mut stage, _) = Stage::<I>::new(Limits::default());
    publish(&mut stage, 1, vec![message(0, Some(1)); 2]);
    for seconds in 2..12 {
        publish(&mut stage, seconds, vec![message(0, Some(seconds)), message(5, None)]);
    }
    assert_eq!(oldest(&stage), Some(1));
    // The urgent ones, and one of each tenant.
    take(&mut stage, 21);
    assert_eq!(oldest(&stage), Some(1), "of the first one another waits");
    take(&mut stage, 1);
    assert_eq!(oldest(&stage), None);
}

#[test]
fn an_urgent_message_does_not_hide_an_old_one_in_memory_and_in_pages() {
    an_urgent_message_does_not_hide_an_old_one::<MemoryIndex>();
    an_urgent_message_does_not_hide_an_old_one::<PagedIndex>();
}

#[test]
fn nor_does_a_tenant_with_a_turn_in_memory_and_in_pages() {
    nor_does_a_tenant_with_a_turn::<MemoryIndex>();
    nor_does_a_tenant_with_a_turn::<PagedIndex>();
}
