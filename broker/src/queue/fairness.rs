//! Fairness keys: the tenants of a queue share it, however much one of them has sent.
//!
//! A queue's ready messages are in lanes, by the hash of their keys; those without a key have a lane
//! of their own. Each delivery moves its lane on by a step that is the shorter the larger its key's
//! weight, and the lane that is least far comes next (stride scheduling, Waldspurger and Weihl 1995,
//! over the hashed lanes of stochastic fairness queueing, McKenney 1990). A lane that had nothing for
//! a while joins where the others are. Urgent messages come first in whichever lane. How far the
//! lanes are belongs to this start.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::Core;
use super::dispatch::{Chosen, HeldBack, Room};
use super::ids::QueueId;
use super::index::{Index, Lane, Lookup, Message};
use super::policy::Policy;
use super::time::Now;

/// What a message of weight 1 moves its lane on by.
const STEP: u64 = 1 << 20;

/// How far the lanes of a queue are.
#[derive(Debug, Default)]
struct Turns {
    moved: BTreeMap<Lane, u64>,
    /// How far the last lane was that was served: none that joins is less far.
    reached: u64,
}

impl Turns {
    fn of(&self, lane: Lane) -> u64 {
        self.moved.get(&lane).copied().unwrap_or_default().max(self.reached)
    }
}

/// How the tenants of queues are served.
#[derive(Debug, Default)]
pub(super) struct Fairness {
    turns: HashMap<QueueId, Turns, FxBuildHasher>,
    /// Leases by queue and hash of the key.
    leased: HashMap<(QueueId, u32), u32, FxBuildHasher>,
    /// Queues in which all that is ready waits for leases of its keys to end.
    full: BTreeSet<QueueId>,
}

impl Fairness {
    /// A message of this key is with somebody.
    pub(super) fn lease_begins(&mut self, queue: QueueId, key: u32) {
        *self.leased.entry((queue, key)).or_default() += 1;
    }

    /// It is with nobody any more; whether the queue has waited for that.
    pub(super) fn lease_ends(&mut self, queue: QueueId, key: u32) -> bool {
        if let Some(leased) = self.leased.get_mut(&(queue, key)) {
            *leased -= 1;
            if *leased == 0 {
                self.leased.remove(&(queue, key));
            }
        }
        self.full.remove(&queue)
    }

    /// Whether all that is ready in a queue waits for leases of its keys.
    pub(super) fn is_full(&self, queue: QueueId) -> bool {
        self.full.contains(&queue)
    }

    pub(super) fn wait_for_leases(&mut self, queue: QueueId) {
        self.full.insert(queue);
    }

    /// Something else may be ready in a queue, or its policy has changed.
    pub(super) fn look_again(&mut self, queue: QueueId) {
        self.full.remove(&queue);
    }

    /// [`Self::look_again`] at all of these.
    pub(super) fn look_again_at(&mut self, queues: impl Iterator<Item = QueueId>) {
        if !self.full.is_empty() {
            queues.for_each(|queue| self.look_again(queue));
        }
    }

    /// A queue is gone.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.turns.remove(&queue);
        self.full.remove(&queue);
    }

    fn leased(&self, queue: QueueId, key: u32) -> u32 {
        self.leased.get(&(queue, key)).copied().unwrap_or_default()
    }
}

/// A lane while messages are chosen.
struct Front {
    lane: Lane,
    rank: u8,
    moved: u64,
    /// Messages that come next, the next one last.
    next: Vec<(Lsn, Message)>,
    taken: usize,
}

/// A choice under way.
struct Choice<'a, I> {
    core: &'a Core<I>,
    queue: QueueId,
    policy: &'a Policy,
    fronts: Vec<Front>,
    /// Leases that it gives, by key.
    given: BTreeMap<u32, u32>,
    /// A lane was passed over for its key's leases.
    is_held_back: bool,
}

impl<I: Index> Core<I> {
    /// [`Self::choose`] from the lanes of a queue, each in its turn.
    pub(super) fn choose_fairly(&self, queue: QueueId, room: Room, now: Now) -> Lookup<Chosen> {
        let Some(of) = self.catalog.get(queue) else { return Ok(Chosen::default()) };
        let turns = self.fairness.turns.get(&queue);
        let mut fronts = Vec::new();
        self.index.fronts(queue, &mut |lane, rank| {
            let moved = turns.map_or(0, |turns| turns.of(lane));
            fronts.push(Front { lane, rank, moved, next: Vec::new(), taken: 0 });
        });
        let policy = &of.definition.policy;
        let given = BTreeMap::new();
        let mut choice = Choice { core: self, queue, policy, fronts, given, is_held_back: false };
        let max = usize::try_from(self.leases_room(room.messages)).unwrap_or(usize::MAX);
        let is_outlived = self.outlived(queue, now);
        let mut chosen = Chosen::default();
        while chosen.messages.len() < max {
            let Some((birth, message)) = choice.next()? else { break };
            if !chosen.take(birth, message, room, is_outlived(&message)) {
                break;
            }
            choice.take(&message);
        }
        if chosen.messages.is_empty() && choice.is_held_back && choice.fronts.is_empty() {
            chosen.held_back = Some(HeldBack::Keys);
        }
        Ok(chosen)
    }

    /// Messages of a queue were leased, in their turn.
    pub(super) fn count_turns(&mut self, queue: QueueId, chosen: &[(Lsn, Message)]) {
        if !self.index.has_lanes(queue) {
            return;
        }
        let Some(of) = self.catalog.get(queue) else { return };
        let turns = self.fairness.turns.entry(queue).or_default();
        for (_, message) in chosen {
            let lane = message.lane();
            let before = turns.of(lane);
            turns.reached = turns.reached.max(before);
            turns.moved.insert(lane, before + step(&of.definition.policy, message));
        }
    }
}

fn step(policy: &Policy, message: &Message) -> u64 {
    STEP / u64::from(policy.fairness_weight(message.keys.fairness).max(1))
}

impl<I: Index> Choice<'_, I> {
    /// The message that comes next, of the lane that is first; it stays there.
    fn next(&mut self) -> Lookup<Option<(Lsn, Message)>> {
        loop {
            let first = (0..self.fronts.len()).min_by_key(|&at| {
                let front = &self.fronts[at];
                (front.rank, front.moved, front.lane)
            });
            let Some(at) = first else { return Ok(None) };
            if !self.look_ahead(at)? {
                self.fronts.swap_remove(at);
                continue;
            }
            let &(birth, message) = self.fronts[at].next.last().expect("it was looked up just now");
            if self.is_key_full(message.keys.fairness) {
                self.is_held_back = true;
                self.fronts.swap_remove(at);
                continue;
            }
            // What was looked up may be less urgent than what came before it in its lane.
            let rank = message.rank();
            if self.fronts[at].rank != rank {
                self.fronts[at].rank = rank;
                continue;
            }
            return Ok(Some((birth, message)));
        }
    }

    /// The message that [`Self::next`] told is chosen.
    fn take(&mut self, message: &Message) {
        let lane = message.lane();
        let step = step(self.policy, message);
        let front = self.fronts.iter_mut().find(|front| front.lane == lane);
        let front = front.expect("it was told of this lane");
        front.next.pop();
        front.taken += 1;
        front.moved += step;
        if message.keys.fairness != 0 {
            *self.given.entry(message.keys.fairness).or_default() += 1;
        }
    }

    /// Looks up what comes next in a lane: more each time; whether there is something.
    fn look_ahead(&mut self, at: usize) -> Lookup<bool> {
        let front = &mut self.fronts[at];
        if !front.next.is_empty() {
            return Ok(true);
        }
        let mut births = Vec::new();
        self.core.index.ready(self.queue, front.lane, 2 * front.taken + 1, &mut births)?;
        for &birth in births.iter().skip(front.taken).rev() {
            let message = self.core.index.message(birth)?.expect("a ready message is there");
            front.next.push((birth, message));
        }
        Ok(!front.next.is_empty())
    }

    fn is_key_full(&self, key: u32) -> bool {
        let Some(max) = self.policy.max_leased_per_fairness_key.filter(|_| key != 0) else {
            return false;
        };
        let given = self.given.get(&key).copied().unwrap_or_default();
        max <= self.core.fairness.leased(self.queue, key) + given
    }
}
