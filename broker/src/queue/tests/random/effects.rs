//! Settlements with all that is done together with them.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use qbroker_storage::{Body, Lsn};

use super::messages::outcome;
use super::{Command, Play, QUEUES};
use crate::queue::record::{Published, Record};
use crate::queue::refused::Refused;
use crate::queue::tests::model::Asked;
use crate::queue::tests::stage::StageIndex;
use crate::queue::{Effects, NewMessage, Outcome, Patch, Settle, Settlement};

pub(super) fn settle_with() -> impl Strategy<Value = Command> {
    let patch = prop::option::of((2..90_u16, prop::option::of(0..10_u8)));
    let publish = prop::option::of(any::<u8>());
    (any::<u8>(), any::<u8>(), publish, patch).prop_map(|(lease, kind, publish, patch)| {
        Command::SettleWith { lease, kind, publish, patch }
    })
}

impl<I: StageIndex> Play<I> {
    /// All of it is done, or nothing.
    pub(super) fn settle_with(
        &mut self,
        (lease, kind): (u8, u8),
        publish: Option<u8>,
        patch: Option<(u16, Option<u8>)>,
    ) {
        let Some(token) = self.picked(&[lease]).pop() else { return };
        let outcome = outcome(kind);
        let gives_back = matches!(outcome, Outcome::Nack { .. } | Outcome::DeadLetter { .. });
        let patch = patch.filter(|_| gives_back);
        let queue = publish.map(|queue| QUEUES[usize::from(queue) % QUEUES.len()]);
        let bytes = |size: u16| Body::new(Bytes::from(vec![0; usize::from(size)]), Bytes::new());
        let message = |queue: &str| NewMessage {
            queue: queue.into(),
            body: bytes(7),
            ..NewMessage::default()
        };
        let effects = Effects {
            patch: patch.map(|(size, priority)| Patch {
                published: self.published(token.birth),
                priority,
                payload_bytes: size.into(),
                body: bytes(size),
            }),
            publish: queue.map(message).into_iter().collect(),
            changes: Vec::new(),
        };
        let settlement = Settlement { token, outcome, effects: Some(Box::new(effects)) };
        let now = self.stage.now;
        let mut allowed = self.model.expected(&settlement, &mut BTreeSet::new(), now);
        let mut asked = Asked::default();
        if allowed == [Ok(true)] {
            let birth = token.birth.0;
            let leaving = self.model.leaves_queue(birth, &settlement.outcome).then_some(birth);
            let refused = match queue {
                _ if self.disk_full => Some(Refused::DiskFull),
                Some(queue) => self.refuses(queue, message(queue).body.len(), leaving),
                None => None,
            };
            if let Some(refused) = refused {
                allowed = vec![Err(refused)];
            } else {
                asked.publish = queue.is_some();
                asked.settle.insert(birth, settlement.outcome.clone());
                asked.patch = patch.map(|(size, priority)| (birth, u64::from(size), priority));
            }
        }
        let settle = Settle { settlements: vec![settlement], ..Settle::default() };
        let heard = self.stage.turn(|core, now, out| core.settle(&settle, now, out));
        let published = asked.publish;
        self.heard(&heard, asked);
        let failures = heard.answer.expect("a call of settlements is never refused");
        let told = failures.into_iter().next().map(|(_, refused)| refused);
        let is_allowed = |answer: &Result<bool, Refused>| match (answer, &told) {
            (Err(Refused::QueueFull { .. }), Some(Refused::QueueFull { .. })) => true,
            (answer, told) => answer.as_ref().err() == told.as_ref(),
        };
        assert!(allowed.iter().any(is_allowed), "{told:?}, where {allowed:?} is allowed");
        let logged = heard.logged.iter().map(|(_, record, _)| record);
        let births = logged.filter(|it| matches!(it, Record::Published(_)));
        assert_eq!(births.count(), usize::from(published));
    }

    /// What the head of a birth said.
    fn published(&self, birth: Lsn) -> Published {
        match &self.stage.log[&birth].0 {
            Record::Published(published) => published.clone(),
            other => panic!("{birth} is {other:?}"),
        }
    }
}
