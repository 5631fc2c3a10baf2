//! What scripts do together with a settlement.

use qbroker_storage::Lsn;

use super::args::{Args, number};
use super::commands::message;
use super::script::Script;
use super::stage::StageIndex;
use super::state;
use crate::queue::ids::LeaseToken;
use crate::queue::record::{Published, Record};
use crate::queue::state::{AddToCounter, StateChange, StoreValue};
use crate::queue::{Effects, NewMessage, Patch};

/// `patch=PAYLOAD patch-priority=5 then=QUEUE/a:id=x then=QUEUE/b store=KEY/VALUE add=KEY/5/MAXIMUM
/// arrive=BARRIER/MEMBER`
pub(super) struct With {
    patch: Option<NewMessage>,
    priority: Option<u8>,
    publish: Vec<NewMessage>,
    changes: Vec<StateChange>,
}

impl With {
    pub(super) fn of(args: &mut Args<'_>) -> Self {
        let priority = args.key("patch-priority").map(number);
        let patch = args.key("patch").map(|payload| message("", payload));
        let publish = |(_, text): (&str, &str)| {
            let (queue, text) = text.split_once('/').expect("a queue and a message");
            message(queue, text)
        };
        let publish = args.keys_with("then").into_iter().map(publish).collect();
        let mut changes = Vec::new();
        for kind in ["store", "add", "arrive"] {
            changes.extend(args.keys_with(kind).into_iter().map(|(_, text)| change(kind, text)));
        }
        Self { patch, priority, publish, changes }
    }

    pub(super) fn effects<I: StageIndex>(
        &self,
        script: &Script<I>,
        token: LeaseToken,
    ) -> Option<Effects> {
        let patch = self.patch.as_ref().map(|new| Patch {
            published: published(script, token.birth),
            priority: self.priority,
            payload_bytes: new.payload_bytes,
            body: new.body.clone(),
        });
        let is_any = patch.is_some() || !self.publish.is_empty() || !self.changes.is_empty();
        let (publish, changes) = (self.publish.clone(), self.changes.clone());
        is_any.then_some(Effects { patch, publish, changes })
    }
}

fn change(kind: &str, text: &str) -> StateChange {
    let mut parts = text.split('/');
    let key = parts.next().expect("a key").into();
    match kind {
        "store" => {
            let value = state::value(parts.next().expect("a value"));
            StateChange::Store(StoreValue { key, value, ttl_ms: None, if_absent: false })
        }
        "add" => StateChange::Add(AddToCounter {
            key,
            amount: number(parts.next().expect("an amount")),
            maximum: parts.next().map(number),
            ..AddToCounter::default()
        }),
        _ => StateChange::Arrive(state::member(key, parts.next().expect("a member"), "", false)),
    }
}

/// The head of a message's content, of one that is gone that of its birth.
fn published<I: StageIndex>(script: &Script<I>, birth: Lsn) -> Published {
    let message = script.stage.messages().get(&birth).copied();
    let content = message.map_or(birth, |message| message.content(birth));
    match &script.stage.log[&content].0 {
        Record::Published(published) => published.clone(),
        Record::Patched(patched) => patched.published.clone(),
        other => panic!("{other:?} is no content"),
    }
}
