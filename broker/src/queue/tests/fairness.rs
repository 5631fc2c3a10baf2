//! Tenants that always have something waiting are served in the shares of their weights, at every moment.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::Config;
use qbroker_storage::Body;

use super::random::cases;
use super::stage::{Stage, StageIndex};
use crate::queue::index::fairness_hash;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::policy::{FairnessWeight, Policy};
use crate::queue::{CreateQueue, Limits, NewMessage, Publish, Pull, Pulled, Selector, UpdateQueue};

/// Messages of each tenant: more than are taken.
const MESSAGES: usize = 24;

fn policy(weights: &[u32]) -> Policy {
    let weight = |(key, &weight): (u64, &u32)| {
        let hash = fairness_hash(key);
        FairnessWeight { key: key.to_string(), hash, weight }
    };
    let fairness_weights = (1..).zip(weights).map(weight).collect();
    Policy { fairness_weights, ..Policy::default() }
}

fn publish<I: StageIndex>(stage: &mut Stage<I>, tenants: usize) {
    let message = |key: u64| NewMessage {
        queue: "q".into(),
        fairness_hash: Some(key),
        payload_bytes: 1,
        body: Body::new(Bytes::from_static(b"x"), Bytes::new()),
        ..NewMessage::default()
    };
    let tenants = (1..).take(tenants);
    let messages = tenants.flat_map(|key| vec![message(key); MESSAGES]).collect();
    let publish = Publish { messages };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
}

/// Takes a message; whose it was.
fn take<I: StageIndex>(stage: &mut Stage<I>, first: u64) -> usize {
    let pull = Pull {
        queues: vec![Selector::plain("q")],
        messages_max: 1,
        lease_duration_ms: None,
        session: String::new(),
        request_id: String::new(),
    };
    let pulled = stage.turn(|core, now, out| core.pull(&pull, now, out)).answer.unwrap();
    let Pulled::Now(deliveries) = pulled else { panic!("something is there") };
    let place = deliveries[0].token.birth.0 - first;
    usize::try_from(place).expect("a few") / MESSAGES
}

/// Nobody is ahead of another one by more than a message of its own.
fn check_shares(taken: &[u32], weights: &[u32]) {
    for (a, of_a) in taken.iter().zip(weights) {
        for (b, of_b) in taken.iter().zip(weights) {
            let (ahead, behind) = (a.saturating_sub(1) * of_b, b * of_a);
            // Steps are whole numbers, a millionth of a message each.
            assert!(ahead <= behind, "{taken:?} by {weights:?}");
        }
    }
}

fn shares<I: StageIndex>(weights: &[u32], later: &[u32], takes: usize) {
    let (mut stage, _) = Stage::<I>::new(Limits::default());
    let (name, policy_before) = ("q".to_owned(), policy(weights));
    let create = CreateQueue { name, policy: policy_before, ..CreateQueue::default() };
    stage.turn(|core, now, out| core.create_queue(&create, now, out)).answer.unwrap();
    let first = stage.core.next_lsn().0;
    publish(&mut stage, weights.len());
    let mut taken = vec![0; weights.len()];
    for _ in 0..takes {
        taken[take(&mut stage, first)] += 1;
        check_shares(&taken, weights);
    }
    // Turns begin level with a start, and other weights count from then on.
    let (name, policy) = ("q".to_owned(), policy(later));
    let update = UpdateQueue { name, policy, ..UpdateQueue::default() };
    stage.turn(|core, now, out| core.update_queue(&update, now, out)).answer.unwrap();
    stage.restart().answer.unwrap();
    let mut taken = vec![0; later.len()];
    for _ in 0..takes {
        taken[take(&mut stage, first)] += 1;
        check_shares(&taken, later);
    }
}

/// As many weights before and after a change.
fn weights() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    (2..4_usize).prop_flat_map(|tenants| {
        let weights = || prop::collection::vec(1..7_u32, tenants);
        (weights(), weights())
    })
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(cases()) })]

    #[test]
    fn tenants_are_served_by_their_weights((before, after) in weights(), takes in 1..12_usize) {
        shares::<MemoryIndex>(&before, &after, takes);
    }

    #[test]
    fn tenants_whose_messages_are_in_pages_are_served_by_their_weights(
        (before, after) in weights(),
        takes in 1..12_usize
    ) {
        shares::<PagedIndex>(&before, &after, takes);
    }
}
