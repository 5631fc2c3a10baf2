//! Random settlements, extensions, deletions and updates of single messages.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::{Play, pick_of};
use crate::queue::body::StoredFailure;
use crate::queue::ids::LeaseToken;
use crate::queue::tests::model::Asked;
use crate::queue::tests::stage::StageIndex;
use crate::queue::{
    Effect, Extend, Lost, MessageName, NamedBy, NewDue, Outcome, Settle, Settlement, UpdateMessages,
};

impl<I: StageIndex> Play<I> {
    pub(super) fn settle(&mut self, picks: &[(u8, u8)]) {
        let tokens = self.picked(&picks.iter().map(|(pick, _)| *pick).collect::<Vec<_>>());
        let settlements: Vec<_> = tokens
            .into_iter()
            .zip(picks)
            .map(|(token, (_, kind))| Settlement::plain(token, outcome(*kind)))
            .collect();
        let (mut asked, mut seen) = (Asked::default(), BTreeSet::new());
        let mut expected = Vec::new();
        for settlement in &settlements {
            let allowed = self.model.expected(settlement, &mut seen, self.stage.now);
            if allowed == [Ok(true)] {
                asked.settle.insert(settlement.token.birth.0, settlement.outcome.clone());
            }
            expected.push((settlement.token, allowed));
        }
        let settle = Settle { settlements, ..Settle::default() };
        let heard = self.stage.turn(|core, now, out| core.settle(&settle, now, out));
        self.heard(&heard, asked);
        let mut failures =
            heard.answer.expect("a call of settlements is never refused").into_iter();
        let mut next = failures.next();
        for (token, allowed) in expected {
            match next
                .take_if(|(failed, why)| *failed == token && allowed.contains(&Err(why.clone())))
            {
                Some(_) => next = failures.next(),
                None => assert!(allowed.iter().any(Result::is_ok), "{token:?}: {allowed:?}"),
            }
        }
        assert_eq!(next, None, "refused, and should not be");
    }

    pub(super) fn extend(&mut self, picks: &[u8], session: Option<u8>) {
        let session = session.map(|session| format!("s{session}"));
        let known = session.as_ref().map(|name| self.model.session_named(name));
        if let Some(Some(session)) = known {
            self.model.keep(session, self.stage.now);
        }
        let tokens = self.picked(picks);
        let extend = Extend { tokens, session, duration_ms: Some(6_000) };
        let heard = self.stage.turn(|core, now, out| core.extend(&extend, now, out));
        self.heard(&heard, Asked::default());
        assert_eq!(heard.answer.is_err(), known == Some(None));
    }

    pub(super) fn remove(&mut self, picks: &[u8]) {
        let there: Vec<u64> = self.model.messages.keys().copied().collect();
        let births: BTreeSet<u64> =
            picks.iter().filter_map(|it| pick_of(&there, *it).copied()).collect();
        let mut lost: BTreeSet<LeaseToken> =
            births.iter().filter_map(|it| Some(self.model.messages[it].lease()?.token)).collect();
        let name = |birth| MessageName { id: String::new(), by: NamedBy::Birth(Lsn(birth)) };
        let names: Vec<_> = births.iter().copied().chain([u64::MAX >> 8]).map(name).collect();
        lost.retain(|token| {
            let lease = self.model.messages[&token.birth.0].lease().expect("it is held");
            self.model.consumers.contains_key(&lease.consumer)
        });
        let heard = self.stage.turn(|core, now, out| core.delete_messages("", &names, now, out));
        let asked = self.heard(&heard, Asked { remove: births, ..Asked::default() });
        assert!(asked.remove.is_empty(), "deleted, and not in the log: {:?}", asked.remove);
        for effect in &heard.effects {
            if let Effect::LeasesLost { leases, why: Lost::MessageDeleted, .. } = effect {
                leases.iter().for_each(|token| assert!(lost.remove(token), "{token:?}"));
            }
        }
        assert!(lost.is_empty(), "nobody was told of {lost:?}");
        assert_eq!(heard.answer.expect("a full disk allows it").len(), 1, "one is not there");
    }

    pub(super) fn update(&mut self, picks: &[u8], priority: Option<u8>, due: Option<NewDue>) {
        let there: Vec<u64> = self.model.messages.keys().copied().collect();
        let births: Vec<u64> =
            picks.iter().filter_map(|it| pick_of(&there, *it).copied()).collect();
        let held = |birth: &u64| due.is_some() && self.model.messages[birth].lease().is_some();
        let (refused, changed): (Vec<u64>, Vec<u64>) = births.iter().copied().partition(held);
        let name = |birth| MessageName { id: String::new(), by: NamedBy::Birth(Lsn(birth)) };
        let names: Vec<_> = births.iter().copied().chain([u64::MAX >> 8]).map(name).collect();
        let update = UpdateMessages { queue: String::new(), priority, due };
        let heard =
            self.stage.turn(|core, now, out| core.update_messages(&update, &names, now, out));
        let is_asked = !self.disk_full && !changed.is_empty();
        let due = due.map(|due| due.from(self.stage.now));
        let asked = is_asked.then(|| (changed.into_iter().collect(), priority, due));
        let asked = self.heard(&heard, Asked { update: asked, ..Asked::default() });
        assert!(asked.update.is_none(), "asked for, and not in the log");
        assert_eq!(heard.answer.is_err(), self.disk_full);
        let count = heard.answer.map_or(refused.len() + 1, |refused| refused.len());
        assert_eq!(count, refused.len() + 1, "one is not there");
    }
}

/// A nack in four names a limit of its own.
fn limit(kind: u8) -> Option<i32> {
    match kind >> 4 {
        0 => Some(-1),
        4 => Some(1),
        8 => Some(2),
        12 => Some(9),
        _ => None,
    }
}

pub(super) fn outcome(kind: u8) -> Outcome {
    let message = if kind & 8 == 0 { String::new() } else { "it failed".to_owned() };
    let failure = StoredFailure { message, ..StoredFailure::default() };
    let chance = f64::from(kind >> 4) / 16.0;
    match kind % 6 {
        0 | 1 => Outcome::Ack,
        2 => Outcome::Nack { delay_ms: None, failure, chance, max_attempts: limit(kind) },
        3 => {
            let delay_ms = Some(u64::from(kind >> 6) * 900);
            Outcome::Nack { delay_ms, failure, chance, max_attempts: limit(kind) }
        }
        4 => Outcome::Release { delay_ms: u64::from(kind >> 6) * 700 },
        _ => Outcome::DeadLetter { failure },
    }
}
