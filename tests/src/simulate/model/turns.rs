//! Fairness keys take turns, in shares of their weights: of two that have had something all the time, none
//! gets ahead.

use std::collections::{BTreeMap, BTreeSet};

use super::{Message, Model, State, Wrong};

/// A fairness key; those without one are one together.
type Key = Option<u64>;

/// How far a message of weight 1 moves its key on; every weight divides it.
const STEP: i64 = 30;

/// How far a message of this key moves it on.
fn step(key: Key, weights: [u32; 4]) -> i64 {
    let at = key.and_then(|key| usize::try_from(key).ok()?.checked_sub(1));
    STEP / at.and_then(|at| weights.get(at)).map_or(1, |weight| i64::from(*weight))
}

/// Who was served last may be ahead by a step, and be so again at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    /// Of each two keys that have had something since, how far the first one is ahead.
    ahead: BTreeMap<(&'static str, Key, Key), i64>,
    /// The largest step of each key since the start: weights change.
    steps: BTreeMap<(&'static str, Key), i64>,
}

impl Turns {
    /// Messages of these keys were delivered; the keys that had some before it, and after it.
    pub(super) fn served(
        &mut self,
        queue: &'static str,
        (before, after): (BTreeSet<Key>, BTreeSet<Key>),
        counts: &BTreeMap<Key, i64>,
        weights: [u32; 4],
    ) -> Result<(), Wrong> {
        for key in before.iter().chain(counts.keys()) {
            let largest = self.steps.entry((queue, *key)).or_default();
            *largest = step(*key, weights).max(*largest);
        }
        let had = |key: &Key| before.contains(key) && after.contains(key);
        self.ahead.retain(|(of, a, b), _| *of != queue || (had(a) && had(b)));
        let all: Vec<Key> = before.intersection(&after).copied().collect();
        for (at, a) in all.iter().enumerate() {
            for b in &all[at + 1..] {
                let moved =
                    |key: &Key| counts.get(key).copied().unwrap_or_default() * step(*key, weights);
                let most = self.steps[&(queue, *a)] + self.steps[&(queue, *b)];
                let ahead = self.ahead.entry((queue, *a, *b)).or_default();
                *ahead += moved(a) - moved(b);
                if most < ahead.abs() {
                    return Err(format!(
                        "{queue}: {a:?} is {ahead} ahead of {b:?}, {most} at most, by {weights:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The queue is gone.
    pub(super) fn forget(&mut self, queue: &str) {
        self.ahead.retain(|(of, ..), _| *of != queue);
        self.steps.retain(|(of, _), _| *of != queue);
    }

    /// Turns begin level.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Model {
    /// The fairness keys of which a message could be delivered now; none where some messages are more
    /// urgent than others, since those come first whoever's they are.
    pub(super) fn waiting_keys(&self, queue: &str) -> BTreeSet<Key> {
        let ready = self.messages.values();
        let ready = ready.filter(|it| it.queue == queue && it.state == State::Ready);
        let priorities: BTreeSet<u8> = ready.clone().map(|it| it.priority).collect();
        if 1 < priorities.len() {
            return BTreeSet::new();
        }
        let keys: BTreeSet<Key> = ready.map(|it| it.fairness).collect();
        keys.into_iter().filter(|key| self.is_key_open(queue, *key, &BTreeMap::new())).collect()
    }

    /// Whether a message of a fairness key may be delivered beside those that are with somebody, and
    /// so many that are about to be.
    pub(super) fn is_key_open(
        &self,
        queue: &str,
        key: Option<u64>,
        given: &BTreeMap<u64, usize>,
    ) -> bool {
        let most = self.policy(queue).max_leased_of_key;
        let (Some(key), Some(most)) = (key, most) else { return true };
        let of_key = |it: &&Message| (it.queue, it.fairness) == (queue, Some(key));
        let leased = self.messages.values().filter(of_key);
        let leased = leased.filter(|it| matches!(it.state, State::Leased(_))).count();
        leased + given.get(&key).copied().unwrap_or_default() < most
    }
}
