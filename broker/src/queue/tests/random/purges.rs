//! Random purges: done at once, or a step after each of the commands that come meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::{Asked, Play, QUEUES};
use crate::queue::body::StoredDeadLetter;
use crate::queue::filter::{Filter, Is};
use crate::queue::index::StateSet;
use crate::queue::record::Record;
use crate::queue::tests::model::{Message, What};
use crate::queue::tests::stage::StageIndex;
use crate::queue::{LetterRecord, LettersPurge, Lost, Purge, SomeLetters};

/// A purge that is under way.
pub(super) struct Purging {
    kind: Kind,
    /// Where the messages are that it deletes.
    queue: u32,
    states: StateSet,
    /// What was there when it began, and waits as it did then.
    meant: BTreeMap<u64, Message>,
    /// Those whom it has made ready, and who stay as long as nobody else does something to them.
    spared: BTreeMap<u64, Message>,
    before: Lsn,
}

enum Kind {
    Messages(Purge),
    Letters(Letters),
}

/// The dead letters that came from a queue.
struct Letters {
    from: &'static str,
    purge: LettersPurge,
    /// What was looked at and is to be deleted, of that what came from the queue.
    next: Option<(SomeLetters, Vec<LetterRecord>)>,
}

impl<I: StageIndex> Play<I> {
    /// A purge of a queue or, of its `letters`, of its dead-letter queue.
    pub(super) fn purge(&mut self, queue: u8, states: StateSet, letters: bool, at_once: bool) {
        let from = QUEUES[usize::from(queue) % QUEUES.len()];
        let id = self.model.queue_named(from).map(|queue| queue.id);
        let core = &self.stage.core;
        let begun = match letters {
            false => core.begin_purge(from, states, Lost::Purged).map(Kind::Messages).map(Some),
            true => core
                .begin_letters_purge(from, states)
                .map(|begun| begun.map(|purge| Kind::Letters(Letters { from, purge, next: None }))),
        };
        assert_eq!(begun.is_ok(), id.is_some());
        let (Some(id), Ok(Some(kind))) = (id, begun) else { return };
        let (queue, filter) = match letters {
            false => (id, Filter::default()),
            true => {
                let letters = self.model.queue_named(&format!("{from}.dead")).expect("it is there");
                (letters.id, Filter::of(Is::Source(from.to_owned())))
            }
        };
        let meant = self.model.meant(queue, &filter).into_iter();
        let meant = meant.map(|birth| (birth, self.model.messages[&birth].clone()));
        let meant = meant.filter(|(_, it)| states.contains(it.state_bit())).collect();
        let before = self.stage.core.last_lsn().next();
        let mut purging = Purging { kind, queue, states, meant, spared: BTreeMap::new(), before };
        if !at_once {
            // One that is under way has lost whoever asked for it.
            self.purging = Some(purging);
            return;
        }
        let meant: BTreeSet<u64> = purging.meant.keys().copied().collect();
        while !self.step_purge(&mut purging, &meant) {}
        // What a consumer took between two steps is in another state.
        let stays = meant.iter().filter_map(|birth| self.model.messages.get(birth));
        stays.for_each(|it| assert!(!states.contains(it.state_bit()), "{it:?} stays"));
    }

    /// The next step of a purge that is under way. What came meanwhile stays, and so does who waited for
    /// what it deletes, where that is not named; what nobody has touched since it began is gone when it is
    /// done.
    pub(super) fn go_on_purging(&mut self) {
        let Some(mut purging) = self.purging.take() else { return };
        let messages = &self.model.messages;
        purging.spared.retain(|birth, was| messages.get(birth) == Some(was));
        purging.keep_meant(messages);
        let letters = self.stage.log.range(purging.before..).filter_map(|(_, (record, _))| {
            if let Record::DeadLettered(letter) = record { Some(letter.birth) } else { None }
        });
        let came: BTreeSet<u64> = letters.collect();
        let may_go = messages.iter().filter(|(birth, message)| {
            let is_taken = message.lease().is_some_and(|it| purging.before <= it.token.grant);
            let stays = is_taken && !purging.states.contains(StateSet::READY);
            let came = purging.before.0 <= **birth || came.contains(birth);
            !came && !stays && !purging.spared.contains_key(birth)
        });
        let may_go = may_go.map(|(birth, _)| *birth).collect();
        let behind = self.behind(&purging);
        let is_last = self.step_purge(&mut purging, &may_go);
        let messages = &self.model.messages;
        let made_ready =
            behind.into_iter().filter_map(|birth| Some((birth, messages.get(&birth)?)));
        let made_ready = made_ready.filter(|(_, it)| it.what != What::Behind);
        purging.spared.extend(made_ready.map(|(birth, it)| (birth, it.clone())));
        purging.keep_meant(messages);
        if is_last {
            assert!(purging.meant.is_empty(), "{:?} are still there", purging.meant);
        } else {
            self.purging = Some(purging);
        }
    }

    /// Those behind others, where a purge is not to delete them.
    fn behind(&self, purging: &Purging) -> Vec<u64> {
        if purging.states.contains(StateSet::BEHIND) {
            return Vec::new();
        }
        let behind = self.model.messages.iter();
        let behind = behind.filter(|(_, it)| it.queue == purging.queue && it.what == What::Behind);
        behind.map(|(birth, _)| *birth).collect()
    }

    /// Whether it was the last one.
    fn step_purge(&mut self, purging: &mut Purging, may_go: &BTreeSet<u64>) -> bool {
        let heard = match &mut purging.kind {
            Kind::Messages(purge) => self.stage.turn(|core, _, out| core.purge(purge, out)),
            Kind::Letters(letters) => {
                let Some((looked_at, from_queue)) = letters.next.take() else {
                    letters.next = Some(self.next_letters(letters));
                    return false;
                };
                let purge = &mut letters.purge;
                self.stage
                    .turn(|core, _, out| core.purge_letters(purge, &looked_at, &from_queue, out))
            }
        };
        let (purge, meant) = (Some((purging.queue, purging.states)), Some(may_go.clone()));
        self.heard(&heard, Asked { purge, meant, ..Asked::default() });
        let deleted = heard.logged.iter().map(|(_, record, _)| match record {
            Record::Deleted(deleted) => deleted.births.len() as u64,
            _ => 0,
        });
        let step = heard.answer.expect("a purge is not refused");
        assert_eq!(step.deleted, deleted.sum::<u64>());
        step.is_last
    }

    fn next_letters(&mut self, letters: &Letters) -> (SomeLetters, Vec<LetterRecord>) {
        let looked_at = loop {
            match self.stage.core.next_letters(&letters.purge) {
                Ok(looked_at) => break looked_at,
                Err(missing) => self.stage.load(missing),
            }
        };
        let mut from_queue = looked_at.letters.clone();
        from_queue.retain(|letter| {
            let (_, body) = &self.stage.log[&letter.record];
            StoredDeadLetter::source_queue(body).expect("a body can be read") == letters.from
        });
        (looked_at, from_queue)
    }
}

impl Purging {
    /// Forgets whom somebody has touched. Whose time came is where it was to go.
    fn keep_meant(&mut self, messages: &BTreeMap<u64, Message>) {
        let states = self.states;
        self.meant.retain(|birth, was| {
            let Some(is) = messages.get(birth) else { return false };
            let came_due =
                matches!((&was.what, &is.what), (What::Scheduled(_), What::Ready | What::Behind));
            if came_due {
                (was.what, was.place, was.leads) = (is.what.clone(), is.place, is.leads);
            }
            was == is && states.contains(is.state_bit())
        });
    }
}
