//! Purges in many steps, with everything that may come between two of them.

use super::stage::Stage;
use super::steps::{MESSAGES, holding, message, open};
use crate::queue::body::StoredFailure;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::index::paged::PagedIndex;
use crate::queue::index::{Index, StateSet};
use crate::queue::{
    Limits, Lost, NewDue, NewMessage, Outcome, Publish, Pull, Pulled, Purge, PurgeStep, Selector,
    Settle, Settlement,
};

#[test]
fn a_large_queue_is_purged_in_steps_of_what_was_there_when_it_began() {
    let (mut stage, _) = Stage::<PagedIndex>::new(Limits::default());
    let publish = Publish { messages: vec![message("mail"); MESSAGES as usize] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let pull = Pull {
        queues: vec![Selector::plain("mail")],
        messages_max: 1,
        lease_duration_ms: None,
        session: String::new(),
        request_id: String::new(),
    };
    let pulled = stage.turn(|core, now, out| core.pull(&pull, now, out)).answer.unwrap();
    let Pulled::Now(deliveries) = pulled else { panic!("it waits") };
    let mut purge = stage.core.begin_purge("mail", StateSet::ALL, Lost::Purged).unwrap();
    let mut step = |stage: &mut Stage<PagedIndex>| {
        stage.turn(|core, _, out| core.purge(&mut purge, out)).answer.unwrap()
    };
    assert_eq!(step(&mut stage), PurgeStep { deleted: 1_000, is_last: false });
    // Where the purge has been, a message comes back; where it is going, others arrive.
    let tokens = deliveries.iter().map(|delivery| delivery.token);
    stage.turn(|core, _, out| core.undeliver(tokens.clone(), out)).answer.unwrap();
    let publish = Publish { messages: vec![message("mail"); 3] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    assert_eq!(step(&mut stage), PurgeStep { deleted: 1_000, is_last: false });
    assert_eq!(step(&mut stage), PurgeStep { deleted: 499, is_last: false });
    assert_eq!(step(&mut stage), PurgeStep { deleted: 1, is_last: true });
    let queue = stage.core.queue("mail").unwrap().id();
    assert_eq!(stage.core.index().counts(queue).ready, 3);
}

/// Purges a queue to the end; how many went.
fn purge_all(stage: &mut Stage<PagedIndex>, purge: &mut Purge) -> u64 {
    let mut deleted = 0;
    loop {
        let step = stage.turn(|core, _, out| core.purge(purge, out)).answer.unwrap();
        deleted += step.deleted;
        if step.is_last {
            return deleted;
        }
    }
}

#[test]
fn a_purge_of_what_is_ready_leaves_those_behind_however_many_steps_it_takes() {
    let (mut stage, _) = Stage::<PagedIndex>::new(Limits::default());
    let mut messages = vec![NewMessage { ordering_hash: Some(7), ..message("mail") }; 5];
    messages.extend(vec![message("mail"); MESSAGES as usize]);
    let publish = Publish { messages };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail", StateSet::READY, Lost::Purged).unwrap();
    assert_eq!(purge_all(&mut stage, &mut purge), 1 + u64::from(MESSAGES));
    let queue = stage.core.queue("mail").unwrap().id();
    let counts = stage.core.index().counts(queue);
    assert_eq!((counts.ready, counts.behind), (1, 3));
    let all = StateSet::READY.with(StateSet::BEHIND);
    let mut purge = stage.core.begin_purge("mail", all, Lost::Purged).unwrap();
    assert_eq!(purge_all(&mut stage, &mut purge), 4);
}

#[test]
fn a_purge_of_leased_dead_letters_leaves_what_a_consumer_takes_instead() {
    let (mut stage, consumer) = holding(20);
    let dead = || Outcome::DeadLetter { failure: StoredFailure::default() };
    let tokens: Vec<_> = stage.tokens.values().flatten().copied().collect();
    let settlements = tokens.into_iter().map(|token| Settlement::plain(token, dead())).collect();
    let settle = Settle { consumer, number: 1, answered_through: 0, settlements };
    stage.turn(|core, now, out| core.settle(&settle, now, out)).answer.unwrap();
    let open = open("other", "mail.dead", 4, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    let begun = stage.core.begin_letters_purge("mail", StateSet::LEASED).unwrap();
    let (mut purge, mut deleted) = (begun.expect("there are some"), 0);
    loop {
        let looked_at = stage.core.next_letters(&purge).unwrap();
        let all = looked_at.letters.clone();
        let step = stage.turn(|core, _, out| core.purge_letters(&mut purge, &looked_at, &all, out));
        let PurgeStep { deleted: more, is_last } = step.answer.unwrap();
        deleted += more;
        if is_last {
            break;
        }
    }
    let letters = stage.core.queue("mail.dead").unwrap().id();
    let counts = stage.core.index().counts(letters);
    assert_eq!((deleted, counts.leased, counts.ready), (4, 4, 12));
}

/// Those that wait for their time wait for nobody in their line.
#[test]
fn a_purge_of_what_is_scheduled_takes_all_of_a_line() {
    let limits = Limits { step_max: 3, ..Limits::default() };
    let (mut stage, _) = Stage::<PagedIndex>::new(limits);
    let due = Some(NewDue::After(1_000));
    let later = NewMessage { ordering_hash: Some(7), due, ..message("mail") };
    let publish = Publish { messages: vec![later; 5] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail", StateSet::SCHEDULED, Lost::Purged).unwrap();
    assert_eq!(purge_all(&mut stage, &mut purge), 5);
}

#[test]
fn a_purge_of_what_is_leased_leaves_what_a_consumer_takes_instead() {
    let limits = Limits { step_max: 3, ..Limits::default() };
    let (mut stage, _) = Stage::<PagedIndex>::new(limits);
    let publish = Publish { messages: vec![message("mail"); 20] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "mail", 4, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail", StateSet::LEASED, Lost::Purged).unwrap();
    assert_eq!(purge_all(&mut stage, &mut purge), 4);
    let queue = stage.core.queue("mail").unwrap().id();
    let counts = stage.core.index().counts(queue);
    assert_eq!((counts.leased, counts.ready), (4, 12));
}

/// Those behind are not ready in between, and nobody takes them.
#[test]
fn a_purge_of_what_is_leased_or_behind_takes_all_of_a_line() {
    let limits = Limits { step_max: 2, ..Limits::default() };
    let (mut stage, _) = Stage::<PagedIndex>::new(limits);
    let in_line = NewMessage { ordering_hash: Some(7), ..message("mail") };
    let publish = Publish { messages: vec![in_line; 5] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "mail", 4, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    let states = StateSet::LEASED.with(StateSet::BEHIND);
    let mut purge = stage.core.begin_purge("mail", states, Lost::Purged).unwrap();
    assert_eq!(purge_all(&mut stage, &mut purge), 5);
}

#[test]
fn what_dies_while_its_dead_letter_queue_is_purged_stays() {
    let (mut stage, consumer) = holding(1);
    let publish = Publish { messages: vec![message("mail.dead"); MESSAGES as usize] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail.dead", StateSet::ALL, Lost::Purged).unwrap();
    let mut step = |stage: &mut Stage<MemoryIndex>| {
        stage.turn(|core, _, out| core.purge(&mut purge, out)).answer.unwrap()
    };
    assert_eq!(step(&mut stage), PurgeStep { deleted: 1_000, is_last: false });
    let token = *stage.tokens.values().next().expect("one is held").last().expect("by this");
    let dead = Outcome::DeadLetter { failure: StoredFailure::default() };
    let settlements = vec![Settlement::plain(token, dead)];
    let settle = Settle { consumer, number: 1, answered_through: 0, settlements };
    stage.turn(|core, now, out| core.settle(&settle, now, out)).answer.unwrap();
    assert_eq!(step(&mut stage), PurgeStep { deleted: 1_000, is_last: false });
    assert_eq!(step(&mut stage), PurgeStep { deleted: 500, is_last: false });
    assert_eq!(step(&mut stage), PurgeStep { deleted: 0, is_last: true });
    let letters = stage.core.queue("mail.dead").unwrap().id();
    assert_eq!(stage.core.index().counts(letters).ready, 1);
}

/// A queue of these messages, and a purge in steps of two that has done the first one.
fn begun(messages: Vec<NewMessage>, states: StateSet) -> (Stage<PagedIndex>, Purge) {
    let limits = Limits { step_max: 2, ..Limits::default() };
    let (mut stage, _) = Stage::<PagedIndex>::new(limits);
    let publish = Publish { messages };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let open = open("host", "mail", 1, false);
    stage.turn(|core, now, out| core.open_consumer(&open, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail", states, Lost::Purged).unwrap();
    let step = stage.turn(|core, _, out| core.purge(&mut purge, out)).answer.unwrap();
    assert_eq!(step, PurgeStep { deleted: 2, is_last: false });
    (stage, purge)
}

/// In line with others of key 7, ready in a second.
fn later() -> NewMessage {
    NewMessage { due: Some(NewDue::After(1_000)), ..in_line() }
}

fn in_line() -> NewMessage {
    NewMessage { ordering_hash: Some(7), ..message("mail") }
}

fn come_due(stage: &mut Stage<PagedIndex>) {
    stage.now.wall_ms += 1_000;
    stage.now.boot_ms += 1_000;
    stage.turn(|core, now, out| core.tick(now, out)).answer.unwrap();
}

/// It was in a named state all the time.
#[test]
fn a_purge_takes_what_comes_due_behind_another_one_meanwhile() {
    let plain = || message("mail");
    let messages = vec![in_line(), later(), plain(), plain(), plain()];
    let states = StateSet::READY.with(StateSet::SCHEDULED).with(StateSet::BEHIND);
    let (mut stage, mut purge) = begun(messages, states);
    come_due(&mut stage);
    assert_eq!(purge_all(&mut stage, &mut purge), 2);
    let queue = stage.core.queue("mail").unwrap().id();
    assert_eq!(stage.core.index().counts(queue).messages(), 1, "the one that is held");
}

/// It waited for its time, and for nobody.
#[test]
fn a_purge_takes_what_comes_due_where_it_has_taken_the_one_before() {
    let plain = || message("mail");
    let messages = vec![plain(), in_line(), plain(), later(), plain()];
    let (mut stage, mut purge) = begun(messages, StateSet::READY.with(StateSet::SCHEDULED));
    come_due(&mut stage);
    assert_eq!(purge_all(&mut stage, &mut purge), 2);
}

/// Nothing was deleted, and yet something has moved.
#[test]
fn a_purge_looks_once_more_for_what_has_moved() {
    let limits = Limits { step_max: 2, ..Limits::default() };
    let (mut stage, _) = Stage::<PagedIndex>::new(limits);
    let first = NewMessage { priority: 9, ..later() };
    let publish = Publish { messages: vec![first] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let mut purge = stage.core.begin_purge("mail", StateSet::ALL, Lost::Purged).unwrap();
    let publish = Publish { messages: vec![message("mail"); 3] };
    stage.turn(|core, now, out| core.publish(&publish, now, out)).answer.unwrap();
    let step = stage.turn(|core, _, out| core.purge(&mut purge, out)).answer.unwrap();
    assert_eq!(step, PurgeStep { deleted: 0, is_last: false });
    come_due(&mut stage);
    assert_eq!(purge_all(&mut stage, &mut purge), 1);
}
