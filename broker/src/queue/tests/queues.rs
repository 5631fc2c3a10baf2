//! The commands of scripts that are about queues as such.

use std::collections::BTreeMap;

use qbroker_storage::Lsn;

use super::args::{Args, number};
use super::commands::{hash_of, key_hash};
use super::script::Script;
use super::show;
use super::stage::{StageIndex, WALL_MS};
use crate::queue::body::StoredDeadLetter;
use crate::queue::index::{Counts, State, StateSet, fairness_hash};
use crate::queue::policy::{FairnessWeight, Overflow, Policy, Retry};
use crate::queue::{
    CreateQueue, DeleteQueue, Expected, Lost, MessageName, NamedBy, NewDue, PauseQueue,
    UpdateMessages, UpdateQueue,
};

/// `create mail lease=30s attempts=3 dead-letter-queue=x label.team=a request=1 existing-ok`
pub(super) fn create<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let allow_existing = args.flag("existing-ok");
    let create = CreateQueue {
        policy: policy(args),
        name: name(args),
        description: args.key("description").unwrap_or_default().to_owned(),
        labels: labels(args),
        request_id: args.key("request").unwrap_or_default().to_owned(),
        allow_existing,
    };
    let outcome = script.stage.turn(|core, now, out| core.create_queue(&create, now, out));
    script.tell(outcome, |()| Vec::new());
}

/// As `create`, with `etag=` or `absent`.
pub(super) fn update<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let expected = match args.key("etag") {
        _ if args.flag("absent") => Expected::Absent,
        None => Expected::Any,
        Some(etag) => Expected::Etag(etag.to_owned()),
    };
    let update = UpdateQueue {
        policy: policy(args),
        name: name(args),
        description: args.key("description").unwrap_or_default().to_owned(),
        labels: labels(args),
        expected,
    };
    let outcome = script.stage.turn(|core, now, out| core.update_queue(&update, now, out));
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn delete<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (force, allow_missing) = (args.flag("force"), args.flag("missing-ok"));
    let delete = DeleteQueue { name: name(args), force, allow_missing };
    let outcome = script.stage.turn(|core, _, out| core.delete_queue(&delete, out));
    script.tell(outcome, |()| Vec::new());
}

/// `purge mail states=ready,leased`, `purge mail letters` for those of its dead letters.
pub(super) fn purge<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let states = args.key("states").map_or(StateSet::ALL, |states| {
        states.split(',').map(state).fold(StateSet(0), StateSet::with)
    });
    let of_letters = args.flag("letters");
    let name = name(args);
    if of_letters {
        return purge_letters(script, &name, states);
    }
    let outcome = script.stage.turn(|core, _, out| {
        let mut purge = core.begin_purge(&name, states, Lost::Purged)?;
        core.purge(&mut purge, out)
    });
    script.tell(outcome, |step| {
        assert!(step.is_last, "so few are one step");
        vec![format!("{} purged", step.deleted)]
    });
}

fn purge_letters<I: StageIndex>(script: &mut Script<I>, name: &str, states: StateSet) {
    let begun = script.stage.core.begin_letters_purge(name, states).expect("the queue is there");
    let mut purge = begun.expect("it has a dead-letter queue");
    loop {
        let looked_at = loop {
            match script.stage.core.next_letters(&purge) {
                Ok(letters) => break letters,
                Err(missing) => script.stage.load(missing),
            }
        };
        let mut from_queue = looked_at.letters.clone();
        from_queue.retain(|letter| {
            let (_, body) = &script.stage.log[&letter.record];
            StoredDeadLetter::source_queue(body).expect("a body can be read") == name
        });
        let outcome = script
            .stage
            .turn(|core, _, out| core.purge_letters(&mut purge, &looked_at, &from_queue, out));
        let mut is_last = false;
        script.tell(outcome, |step| {
            is_last = step.is_last;
            vec![format!("{} purged", step.deleted)]
        });
        if is_last {
            return;
        }
    }
}

/// `change mail a id:x 17 priority=5 after=10s at=1h`: by name, by the publisher's id, by birth.
pub(super) fn change<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let after = args.time("after").map(NewDue::After);
    let at = args.time("at").map(|ms| NewDue::At(WALL_MS + ms));
    let (priority, due) = (args.number("priority"), after.or(at));
    let queue = name(args);
    let names: Vec<_> = args.rest().into_iter().map(|text| message_name(script, text)).collect();
    let update = UpdateMessages { queue, priority, due };
    let outcome =
        script.stage.turn(|core, now, out| core.update_messages(&update, &names, now, out));
    script.tell(outcome, |refused| {
        refused.iter().map(|(at, why)| format!("{at}: {}", show::refused(why))).collect()
    });
}

/// `remove mail a id:x 17`
pub(super) fn remove<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let queue = name(args);
    let messages: Vec<_> = args.rest().into_iter().map(|text| message_name(script, text)).collect();
    let outcome =
        script.stage.turn(|core, now, out| core.delete_messages(&queue, &messages, now, out));
    script.tell(outcome, |refused| {
        refused.iter().map(|(at, why)| format!("{at}: {}", show::refused(why))).collect()
    });
}

fn message_name<I>(script: &Script<I>, text: &str) -> MessageName {
    let by = match text.strip_prefix("id:") {
        Some(id) => NamedBy::Hash(hash_of(id)),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => NamedBy::Birth(Lsn(number(text))),
        None => NamedBy::Birth(script.names[text]),
    };
    MessageName { id: text.to_owned(), by }
}

/// `pause mail publishing`
pub(super) fn pause<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let publishing = args.flag("publishing");
    let pause = PauseQueue { name: name(args), publishing };
    let outcome = script.stage.turn(|core, _, out| core.pause_queue(&pause, out));
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn resume<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let name = name(args);
    let outcome = script.stage.turn(|core, _, out| core.resume_queue(&name, out));
    script.tell(outcome, |()| Vec::new());
}

/// Says how many messages are in which state, and what has happened.
pub(super) fn show<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let core = &script.stage.core;
    let queue = match core.queue(args.word()) {
        Ok(queue) => queue,
        Err(refused) => return script.said.push(format!("= {}", show::refused(&refused))),
    };
    let counts = core.index().counts(queue.id());
    let Counts { ready, scheduled, leased, parked, behind, bytes } = counts;
    let behind = if behind == 0 { String::new() } else { format!(", behind {behind}") };
    let it = queue.totals;
    let lines = [
        format!(
            "ready {ready}, scheduled {scheduled}, leased {leased}, parked {parked}{behind}: {bytes} B"
        ),
        format!(
            "published {}, delivered {}, acked {}, retried {}, dead {}, leases expired {}{}",
            it.published,
            it.delivered,
            it.acked,
            it.retried,
            it.dead_lettered,
            it.expired_leases,
            if it.deleted == 0 { String::new() } else { format!(", deleted {}", it.deleted) },
        ),
        format!("etag {}", queue.etag()),
    ];
    script.said.extend(lines.iter().map(|line| format!("= {line}")));
    if it.dropped != 0 {
        script.said.push(format!("= dropped {}", it.dropped));
    }
}

/// Every message of a queue, in the order of listings, page by page of two.
pub(super) fn list<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let queue = script.stage.core.queue(args.word()).expect("the queue is there").id();
    let mut cursor = None;
    loop {
        let mut page = Vec::new();
        while let Err(missing) =
            script.stage.core.index().list(queue, StateSet::ALL, cursor, 2, &mut page)
        {
            script.stage.load(missing);
        }
        for at in &page {
            let message = script.stage.core.index().message(at.birth).expect("it was just listed");
            let message = message.expect("what is listed is there");
            let state = match message.state {
                State::Ready => "ready".to_owned(),
                State::Scheduled(due) => format!("due {}", show::moment(due.wall_ms)),
                State::Leased => "leased".to_owned(),
                State::Parked => "parked".to_owned(),
                State::Behind => "behind".to_owned(),
            };
            let (birth, place) = (at.birth, message.place);
            script
                .said
                .push(format!("= {birth} at {place}: {state}, attempt {}", message.attempt()));
        }
        cursor = page.last().copied();
        if cursor.is_none() {
            return;
        }
    }
}

/// `-` stands for the empty name.
fn name(args: &mut Args<'_>) -> String {
    match args.word() {
        "-" => String::new(),
        name => name.to_owned(),
    }
}

fn labels(args: &mut Args<'_>) -> BTreeMap<String, String> {
    let labels = args.keys_with("label.");
    labels.into_iter().map(|(key, value)| (key[6..].to_owned(), value.to_owned())).collect()
}

fn policy(args: &mut Args<'_>) -> Policy {
    let retry = Retry {
        initial_ms: args.time("backoff"),
        max_ms: args.time("backoff-max"),
        multiplier: args.number("multiplier"),
        jitter: args.number("jitter"),
    };
    Policy {
        lease_duration_ms: args.time("lease"),
        max_attempts: args.number("attempts"),
        max_crashes: args.number("crashes"),
        retry: (retry != Retry::default()).then_some(retry),
        dead_letter_queue: args.key("dead-letter-queue").map(str::to_owned),
        discard_dead_letters: args.flag("discard").then_some(true),
        retention_ms: args.time("retention"),
        dedup_window_ms: args.time("dedup"),
        max_payload_bytes: args.number("payload"),
        priority_levels: args.number("priorities"),
        message_ttl_ms: args.time("ttl"),
        outcome_retention_ms: args.time("outcomes"),
        max_leased: args.number("max-leased"),
        max_delivery_rate: args.number("rate"),
        max_leased_per_fairness_key: args.number("per-tenant"),
        fairness_weights: weights(args),
        retention_bytes: args.number("retention-bytes"),
        max_messages: args.number("max-messages"),
        max_bytes: args.number("max-bytes"),
        overflow: args.key("overflow").map(|word| overflow(word).into()),
    }
}

fn overflow(word: &str) -> Overflow {
    match word {
        "reject" => Overflow::RejectPublish,
        "drop" => Overflow::DropOldest,
        "dead-letter" => Overflow::DeadLetterOldest,
        word => panic!("{word} is no way to overflow"),
    }
}

/// `weight.tenant=3`
fn weights(args: &mut Args<'_>) -> Vec<FairnessWeight> {
    let weights = args.keys_with("weight.").into_iter().map(|(key, weight)| FairnessWeight {
        key: key[7..].to_owned(),
        hash: fairness_hash(key_hash(&key[7..])),
        weight: number(weight),
    });
    let mut weights: Vec<_> = weights.collect();
    weights.sort_by_key(|it| it.hash);
    weights
}

pub(super) fn state(name: &str) -> StateSet {
    match name {
        "ready" => StateSet::READY,
        "scheduled" => StateSet::SCHEDULED,
        "leased" => StateSet::LEASED,
        "parked" => StateSet::PARKED,
        "behind" => StateSet::BEHIND,
        name => panic!("{name} is no state"),
    }
}
