//! Which queues a random consumer or pull wants, and how they share its room.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::QUEUES;
use crate::queue::Selector;

/// Queues as bits, and how they share the room, by place.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    queues: u8,
    shares: Option<[(i32, u32, Option<u32>); QUEUES.len()]>,
}

pub(super) fn wanted() -> impl Strategy<Value = Wanted> {
    let share = || (0..3_i32, 1..4_u32, prop::option::of(1..3_u32));
    let shares = prop::option::of([share(), share(), share(), share(), share()]);
    (any::<u8>(), shares).prop_map(|(queues, shares)| Wanted { queues, shares })
}

pub(super) fn selectors(wanted: &Wanted) -> Vec<Selector> {
    let shares = wanted.shares.unwrap_or([(0, 1, None); QUEUES.len()]);
    let place = |name: &str| QUEUES.iter().position(|queue| *queue == name);
    let selector = |queue: String| {
        let (rank, weight, window) = shares[place(&queue).expect("it is one of them")];
        Selector { queue, rank, weight, window }
    };
    names(wanted.queues).into_iter().map(selector).collect()
}

/// At least one of the queues.
fn names(mask: u8) -> Vec<String> {
    let named = (0..QUEUES.len()).filter(|place| mask & 1 << place != 0);
    let mut names: Vec<_> = named.map(|place| QUEUES[place].to_owned()).collect();
    if names.is_empty() {
        names.push(QUEUES[usize::from(mask >> 4) % QUEUES.len()].to_owned());
    }
    names
}

pub(super) fn by_name(selectors: &[Selector]) -> BTreeMap<String, Selector> {
    selectors.iter().map(|selector| (selector.queue.clone(), selector.clone())).collect()
}
