//! What is true of a core after every command.

use std::collections::BTreeMap;

use qbroker_storage::Lsn;

use crate::queue::consumer::Taker;
use crate::queue::dispatch::{HeldBack, Room};
use crate::queue::ids::{ConsumerId, QueueId, SessionId};
use crate::queue::index::{Counts, Index, Lane, State};
use crate::queue::time::Now;
use crate::queue::{Core, Queue};

pub(super) fn check_invariants<I: Index>(core: &Core<I>, now: Now) {
    check_counts(core);
    check_ages(core);
    check_leases(core);
    check_lines(core);
    check_nobody_starves(core, now);
}

/// Counts are what a recount gives, and every lease is of a leased message and the other way round.
fn check_counts<I: Index>(core: &Core<I>) {
    let mut counts = BTreeMap::<QueueId, Counts>::new();
    core.index.frozen().for_each(&mut |birth, message| {
        assert!(core.catalog.get(message.queue).is_some(), "{birth} is in no queue");
        let of_queue = counts.entry(message.queue).or_default();
        match message.state {
            State::Ready => of_queue.ready += 1,
            State::Scheduled(_) => of_queue.scheduled += 1,
            State::Leased => of_queue.leased += 1,
            State::Parked => of_queue.parked += 1,
            State::Behind => of_queue.behind += 1,
        }
        of_queue.bytes += u64::from(message.size);
        let is_leased = message.state == State::Leased;
        assert_eq!(is_leased, core.leases.get(birth).is_some(), "message {birth} and its lease");
        let scheduled = matches!(message.state, State::Scheduled(_));
        assert!(scheduled || message.place != Lsn(0), "{birth} has no place");
    });
    for page in core.index.frozen().pages() {
        *counts.entry(page.queue()).or_default() += page.counts();
    }
    for queue in core.catalog.ids() {
        let counted = counts.remove(&queue).unwrap_or_default();
        assert_eq!(core.index.counts(queue), counted, "counts of {queue:?}");
    }
}

/// The oldest ready message is the oldest of the first ones of each priority and lane, and of all in
/// pages.
fn check_ages<I: Index>(core: &Core<I>) {
    let frozen = core.index.frozen();
    let mut firsts = BTreeMap::<(QueueId, Lane, u8), (Lsn, Lsn, u64)>::new();
    frozen.for_each(&mut |birth, message| {
        if message.state == State::Ready {
            let first = (message.place, birth, message.since_ms);
            let known = firsts.entry((message.queue, message.lane(), message.priority));
            known.and_modify(|known| *known = first.min(*known)).or_insert(first);
        }
    });
    let firsts = firsts.into_iter().map(|((queue, ..), (.., since_ms))| (queue, since_ms));
    let of_pages = frozen.pages().iter().filter(|page| 0 < page.counts().ready);
    let of_pages = of_pages.map(|page| (page.queue(), page.oldest_since_ms));
    let mut oldest = BTreeMap::<QueueId, u64>::new();
    for (queue, since_ms) in firsts.chain(of_pages) {
        oldest.entry(queue).and_modify(|it| *it = since_ms.min(*it)).or_insert(since_ms);
    }
    for queue in core.catalog.ids() {
        let told = core.index.oldest_ready(queue);
        assert_eq!(told, oldest.remove(&queue), "the oldest ready message of {queue:?}");
    }
}

/// Sessions and consumers know their leases, and no others.
fn check_leases<I: Index>(core: &Core<I>) {
    let mut by_session = BTreeMap::<SessionId, Vec<Lsn>>::new();
    let mut by_consumer = BTreeMap::<ConsumerId, (u32, u64)>::new();
    let mut leases = Vec::new();
    core.leases.frozen().for_each(&mut |birth, lease| leases.push((birth, *lease)));
    for (birth, lease) in leases {
        by_session.entry(lease.session).or_default().push(birth);
        let (messages, bytes) = by_consumer.entry(lease.consumer).or_default();
        *messages += 1;
        *bytes += u64::from(lease.size);
    }
    for (id, session) in core.sessions.iter() {
        let leases: Vec<_> = session.leases.iter().copied().collect();
        assert_eq!(leases, by_session.remove(&id).unwrap_or_default(), "leases of {id:?}");
    }
    for (id, consumer) in core.consumers.iter() {
        let outstanding = (consumer.outstanding_messages, consumer.outstanding_bytes);
        assert_eq!(outstanding, by_consumer.remove(&id).unwrap_or_default(), "window of {id}");
    }
    by_session.remove(&SessionId::NONE);
    assert!(by_session.is_empty(), "leases of sessions that are gone: {by_session:?}");
}

/// A consumer stands once for each of its queues, in the line or blocked; a pull in every line.
fn check_lines<I: Index>(core: &Core<I>) {
    let mut standing = BTreeMap::<(String, String), u32>::new();
    let mut stand = |queue: &str, taker: String| {
        *standing.entry((queue.to_owned(), taker)).or_default() += 1;
    };
    for (queue, line) in core.consumers.lines() {
        for taker in line {
            stand(queue, format!("{taker:?}"));
        }
    }
    for (id, consumer) in core.consumers.iter() {
        for queue in consumer.blocked() {
            stand(queue, format!("{:?}", Taker::Consumer(id)));
        }
    }
    let mut expected = BTreeMap::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    for (id, consumer) in core.consumers.iter() {
        for queue in &consumer.queues {
            *counts.entry(&**queue).or_default() += 1;
            expected.insert((queue.to_string(), format!("{:?}", Taker::Consumer(id))), 1);
        }
    }
    for (id, waiting) in core.consumers.pulls() {
        for queue in &waiting.pull.queues {
            expected.insert((queue.queue.clone(), format!("{:?}", Taker::Pull(id))), 1);
        }
    }
    assert_eq!(standing, expected, "who stands where");
    assert_eq!(core.consumers.counts(), counts, "how many consume from each queue");
}

/// A queue that is held back by its policy alone has a time at which it goes on, or leases.
fn check_comes_back<I: Index>(core: &Core<I>, queue: &Queue, now: Now) {
    let counts = core.index.counts(queue.id());
    let waits = core.consumers.lines().any(|(name, line)| *name == queue.name && !line.is_empty());
    if counts.ready == 0 || !waits || queue.definition.paused || core.frozen {
        return;
    }
    let is_full =
        queue.definition.policy.max_leased.is_some_and(|max| u64::from(max) <= counts.leased);
    let is_full = is_full || core.fairness.is_full(queue.id());
    let deadlines = core.deadlines();
    let has_time = deadlines.boot_ms.is_some() || deadlines.is_over(now);
    assert!(is_full || has_time, "{} never goes on", queue.name);
}

/// Nobody with room waits at a queue that has something ready, unless its first message is to be given
/// up and a step of that is left.
fn check_nobody_starves<I: Index>(core: &Core<I>, now: Now) {
    if core.frozen || core.limits.leases_max <= core.leases.len() {
        return;
    }
    for queue in core.queues_after("") {
        let chosen = core.choose(queue.id(), Room::of_pull(1, None), now);
        let is_stopped = chosen.map_or(true, |it| it.held_back == Some(HeldBack::Outlived));
        if core.index.counts(queue.id()).ready == 0 || is_stopped || !core.is_open(queue, now) {
            check_comes_back(core, queue, now);
            continue;
        }
        for (_, line) in core.consumers.lines().filter(|(name, _)| **name == queue.name) {
            assert!(line.is_empty(), "{} has messages, and takers: {line:?}", queue.name);
        }
        let first = core.first_known(queue.id()).ok().flatten();
        let size = first.and_then(|first| Some(core.index.message(first).ok()??.size));
        for (id, consumer) in core.consumers.iter() {
            let waits = consumer.blocked().contains(&queue.name);
            // One with shares may have what it may have of this queue.
            let fits = size.is_some_and(|size| u64::from(size) <= consumer.bytes_room());
            let fits = fits && consumer.shares().is_none();
            let has_room = 0 < consumer.room() && (consumer.outstanding_messages == 0 || fits);
            assert!(!waits || !has_room, "{id} has room, and gets nothing of {}", queue.name);
        }
    }
}
