//! Consumers and waiting pulls: who takes messages, and how much room they have.
//!
//! All of it belongs to this start: after a restart the sessions are known, and their streams come
//! back by themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::Core;
use super::connect::OpenConsumer;
use super::ids::{ConsumerId, QueueId, SessionId};
use super::index::Index;
use super::pull::{Pull, PullId};
use super::pulled::RequestKey;
use super::shares::{Selector, Shares};

/// How much may be out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub messages: u32,
    /// One message is delivered when nothing is out, however large it is.
    pub bytes: u64,
}

/// A connected stream.
#[derive(Debug)]
pub struct Consumer {
    pub session: SessionId,
    /// Each once, by name.
    pub queues: Vec<Arc<str>>,
    pub window: Window,
    pub lease_duration_ms: Option<u64>,
    pub timed: bool,
    pub reports_started: bool,
    pub extension_ms_max: u64,
    pub outstanding_messages: u32,
    pub outstanding_bytes: u64,
    draining: bool,
    /// Its queues that it is not lined up at, for lack of room.
    blocked: Vec<Arc<str>>,
    /// How its room is shared among its queues, where it said so; otherwise they take turns.
    shares: Option<Box<Shares>>,
}

impl Consumer {
    /// A consumer that has nothing yet.
    pub(super) fn new(session: SessionId, open: &OpenConsumer) -> Self {
        let selectors: BTreeMap<&str, &Selector> =
            open.queues.iter().rev().map(|selector| (selector.queue.as_str(), selector)).collect();
        Self {
            session,
            queues: selectors.keys().map(|name| Arc::from(*name)).collect(),
            shares: Shares::new(selectors.values().copied()).map(Box::new),
            window: open.window,
            lease_duration_ms: open.lease_duration_ms,
            timed: open.manual_extend,
            reports_started: open.reports_started,
            extension_ms_max: open.extension_ms_max,
            outstanding_messages: 0,
            outstanding_bytes: 0,
            draining: false,
            blocked: Vec::new(),
        }
    }

    /// How its room is shared among its queues, where it said so.
    pub(super) fn shares(&self) -> Option<&Shares> {
        self.shares.as_deref()
    }

    /// Whether it takes nothing more.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Where one of its queues is in [`Self::queues`].
    pub(super) fn place_of(&self, queue: &str) -> Option<usize> {
        self.queues.binary_search_by(|other| (**other).cmp(queue)).ok()
    }

    /// Its shares, and where one of its queues is in them.
    fn share_mut(&mut self, queue: &str) -> Option<(&mut Shares, usize)> {
        let place = self.place_of(queue)?;
        Some((self.shares.as_deref_mut()?, place))
    }

    /// A lease of one of its queues was its own before it came.
    pub(super) fn hold(&mut self, queue: &str) {
        if let Some((shares, place)) = self.share_mut(queue) {
            shares.holds(place);
        }
    }

    /// How its room is shared from now on.
    pub(super) fn set_shares(&mut self, shares: Option<Shares>) {
        self.shares = shares.map(Box::new);
    }

    /// A lease takes room.
    pub(super) fn take(&mut self, bytes: u32) {
        self.outstanding_messages += 1;
        self.outstanding_bytes += u64::from(bytes);
    }

    /// Messages it may still take; zero where it must wait.
    pub(super) fn room(&self) -> u32 {
        let full = self.window.bytes <= self.outstanding_bytes && 0 < self.outstanding_messages;
        if self.draining || full {
            return 0;
        }
        self.window.messages.saturating_sub(self.outstanding_messages)
    }

    /// Bytes it may still take, unless nothing is out.
    pub(super) fn bytes_room(&self) -> u64 {
        self.window.bytes.saturating_sub(self.outstanding_bytes)
    }
}

/// Somebody who takes messages from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    Consumer(ConsumerId),
    Pull(PullId),
}

#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) pull: Pull,
    pub(super) session: SessionId,
}

impl WaitingPull {
    /// Its name, where it has one.
    fn key(&self) -> Option<RequestKey> {
        let request = &self.pull.request_id;
        (!request.is_empty()).then(|| (self.session, request.clone()))
    }
}

/// Most leases in one grant. Consumers of a queue take turns at most this coarse.
const GRANT_MAX: u64 = 256;

/// Consumers that left a queue's line because its first message was too large for them.
#[derive(Debug, Default)]
struct Stuck {
    /// That message, where it is known which one is first.
    first: Option<Lsn>,
    consumers: BTreeSet<ConsumerId>,
}

/// A round of turns at a queue.
#[derive(Debug, Default)]
struct Round {
    turns_left: usize,
    share: u64,
}

/// Invariant: a consumer stands, for each of its queues, either in the queue's line or in its own
/// `blocked`; a pull stands in the line of each of its queues until it is answered.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    consumers: BTreeMap<ConsumerId, Consumer>,
    pulls: BTreeMap<PullId, WaitingPull>,
    /// Those of them that have a name.
    named_pulls: BTreeMap<RequestKey, PullId>,
    /// Who is served next, by queue name: queues come and go, their consumers stay.
    lines: HashMap<Arc<str>, VecDeque<Taker>, FxBuildHasher>,
    /// How many consumers each queue has that has any, by its name.
    counts: HashMap<Arc<str>, usize, FxBuildHasher>,
    /// Queues that may have something for somebody.
    hot: VecDeque<QueueId>,
    /// Of the first hot queue.
    round: Round,
    is_hot: BTreeSet<QueueId>,
    /// Consumers that had room, but not for the first message of a queue.
    stuck: BTreeMap<QueueId, Stuck>,
    /// Consumers that have room again.
    freed: BTreeSet<ConsumerId>,
    all_hot: bool,
    last_consumer: u32,
    last_pull: u64,
}

impl Consumers {
    pub(super) fn is_connected(&self, consumer: ConsumerId) -> bool {
        self.consumers.contains_key(&consumer)
    }

    pub(super) fn get(&self, consumer: ConsumerId) -> Option<&Consumer> {
        self.consumers.get(&consumer)
    }

    pub(super) fn pull(&self, pull: PullId) -> Option<&WaitingPull> {
        self.pulls.get(&pull)
    }

    /// The pull that waits under this name.
    pub(super) fn pull_named(&self, session: SessionId, request: &str) -> Option<PullId> {
        // Most have none, and nothing is asked for them.
        let key = (!request.is_empty()).then(|| (session, request.to_owned()))?;
        self.named_pulls.get(&key).copied()
    }

    /// Messages that all streams together hold.
    pub(super) fn outstanding(&self) -> u64 {
        self.consumers.values().map(|consumer| u64::from(consumer.outstanding_messages)).sum()
    }

    /// How many streams consume from a queue.
    pub(super) fn count_of(&self, queue: &str) -> usize {
        self.counts.get(queue).copied().unwrap_or_default()
    }

    /// Those after this one.
    pub(super) fn after(&self, id: ConsumerId) -> impl Iterator<Item = (ConsumerId, &Consumer)> {
        let range = (Bound::Excluded(id), Bound::Unbounded);
        self.consumers.range(range).map(|(&id, consumer)| (id, consumer))
    }

    /// Number of the consumer that comes next.
    pub(super) fn next_number(&self) -> u32 {
        self.last_consumer + 1
    }

    pub(super) fn streams_of(&self, session: SessionId) -> Vec<ConsumerId> {
        let of_session = self.consumers.iter().filter(|(_, consumer)| consumer.session == session);
        of_session.map(|(&id, _)| id).collect()
    }

    pub(super) fn pulls_of(&self, session: SessionId) -> Vec<PullId> {
        let of_session = self.pulls.iter().filter(|(_, waiting)| waiting.session == session);
        of_session.map(|(&id, _)| id).collect()
    }

    /// A queue has something ready that it had not.
    pub(super) fn touch(&mut self, queue: QueueId) {
        if self.is_hot.insert(queue) {
            self.hot.push_back(queue);
        }
    }

    /// There is room for leases again.
    pub(super) fn touch_all(&mut self) {
        self.all_hot = true;
    }

    pub(super) fn take_all_hot(&mut self) -> bool {
        std::mem::take(&mut self.all_hot)
    }

    /// Whether a queue's turn is still to come.
    pub(super) fn is_hot(&self, queue: QueueId) -> bool {
        self.is_hot.contains(&queue)
    }

    /// The queues whose turns are still to come.
    pub(super) fn all_hot(&self) -> impl Iterator<Item = QueueId> {
        self.hot.iter().copied()
    }

    pub(super) fn next_hot(&self) -> Option<QueueId> {
        self.hot.front().copied()
    }

    /// Nobody can be served at the first hot queue any more.
    pub(super) fn cool(&mut self) {
        self.round = Round::default();
        if let Some(queue) = self.hot.pop_front() {
            self.is_hot.remove(&queue);
        }
    }

    /// Who is served next at the first hot queue, and how many of the ready messages are its share:
    /// as many as everybody's who stands in line when a round begins.
    pub(super) fn next_taker(&mut self, queue: &str, ready: u64) -> Option<(Taker, u64)> {
        let line = self.lines.get(queue).filter(|line| !line.is_empty())?;
        if self.round.turns_left == 0 {
            let share = ready.div_ceil(line.len() as u64).clamp(1, GRANT_MAX);
            self.round = Round { turns_left: line.len(), share };
        }
        Some((line[0], self.round.share))
    }

    /// The first in line had its turn; who got nothing has no room and leaves the line.
    pub(super) fn served(&mut self, id: ConsumerId, queue: &Arc<str>, got: usize, reached: u64) {
        self.round.turns_left -= 1;
        let line = self.lines.get_mut(queue).expect("the consumer stands in it");
        line.pop_front();
        if 0 < got {
            line.push_back(Taker::Consumer(id));
        }
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        if got == 0 {
            consumer.blocked.push(queue.clone());
        }
        if let Some((shares, place)) = consumer.share_mut(queue) {
            shares.gave(place, u32::try_from(got).unwrap_or(u32::MAX), reached);
        }
    }

    /// The first in line gives its turn to others: another queue of its own comes first.
    pub(super) fn let_pass(&mut self, queue: &str) {
        self.round.turns_left -= 1;
        self.lines.get_mut(queue).expect("somebody stands in it").rotate_left(1);
    }

    /// How many stand in a queue's line.
    pub(super) fn line_len(&self, queue: &str) -> usize {
        self.lines.get(queue).map_or(0, VecDeque::len)
    }

    /// Everybody at the first hot queue waits for another one, which is hot too.
    pub(super) fn postpone(&mut self) {
        self.round = Round::default();
        self.hot.rotate_left(1);
    }

    /// The pull that is first in line is answered.
    pub(super) fn answered(&mut self, id: PullId) -> WaitingPull {
        self.round.turns_left -= 1;
        self.stop_waiting(id).expect("who stands in line waits")
    }

    pub(super) fn took(&mut self, consumer: ConsumerId, bytes: u32) {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.take(bytes);
        }
    }

    /// A lease gives its room back; whether its queue's share must be told, too.
    pub(super) fn gave_back(&mut self, id: ConsumerId, bytes: u32) -> bool {
        let Some(consumer) = self.consumers.get_mut(&id) else { return false };
        consumer.outstanding_messages -= 1;
        consumer.outstanding_bytes -= u64::from(bytes);
        if !consumer.blocked.is_empty() {
            self.freed.insert(id);
        }
        consumer.shares.is_some()
    }

    /// A lease of this queue gives its room in the queue's share back.
    pub(super) fn gave_back_of(&mut self, id: ConsumerId, queue: &str) {
        let consumer = self.consumers.get_mut(&id);
        if let Some((shares, place)) = consumer.and_then(|consumer| consumer.share_mut(queue)) {
            shares.gave_back(place);
        }
    }

    /// Lines the consumers with new room up again; returns the names of their queues.
    pub(super) fn line_up_freed(&mut self) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for id in std::mem::take(&mut self.freed) {
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            if consumer.room() == 0 {
                continue;
            }
            if let Some(shares) = &mut consumer.shares {
                shares.stand();
            }
            // Who was first last time is last now: else its other queues would never come.
            let turn = usize::from(1 < consumer.blocked.len());
            consumer.blocked.rotate_left(turn);
            for name in std::mem::take(&mut consumer.blocked) {
                self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
                names.push(name);
            }
        }
        names
    }

    /// A consumer with room got nothing of a queue, whose first message is this one.
    pub(super) fn stick(&mut self, id: ConsumerId, queue: QueueId, first: Option<Lsn>) {
        if self.consumers.get(&id).is_some_and(|consumer| 0 < consumer.room()) {
            let stuck = self.stuck.entry(queue).or_default();
            stuck.first = first;
            stuck.consumers.insert(id);
        }
    }

    /// Whether consumers wait for another message to be first in a queue.
    pub(super) fn has_stuck(&self, queue: QueueId) -> bool {
        self.stuck.contains_key(&queue)
    }

    /// Lines up again who waited for another message to be first, where this one is.
    pub(super) fn line_up_stuck(&mut self, queue: QueueId, name: &Arc<str>, first: Option<Lsn>) {
        let is_same = |stuck: &Stuck| first.is_some() && stuck.first == first;
        let Some(stuck) = self.stuck.remove(&queue) else { return };
        if is_same(&stuck) {
            self.stuck.insert(queue, stuck);
            return;
        }
        for id in stuck.consumers {
            // It may have been lined up since, with what it was given back.
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            let Some(at) = consumer.blocked.iter().position(|other| other == name) else {
                continue;
            };
            consumer.blocked.remove(at);
            if let Some((shares, place)) = consumer.share_mut(name) {
                shares.stand_at(place);
            }
            self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
        }
    }

    /// A queue is gone.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.stuck.remove(&queue);
    }

    pub(super) fn attach(&mut self, id: ConsumerId, consumer: Consumer) {
        self.last_consumer += 1;
        self.put_back(id, consumer);
    }

    /// A consumer stands at the end of the line of each of its queues.
    pub(super) fn put_back(&mut self, id: ConsumerId, consumer: Consumer) {
        for name in &consumer.queues {
            self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
            *self.counts.entry(name.clone()).or_default() += 1;
        }
        self.consumers.insert(id, consumer);
    }

    pub(super) fn detach(&mut self, id: ConsumerId) -> Option<Consumer> {
        let mut consumer = self.consumers.remove(&id)?;
        self.freed.remove(&id);
        consumer.blocked.clear();
        for name in &consumer.queues {
            self.leave(name, Taker::Consumer(id));
            self.count_less(name);
        }
        Some(consumer)
    }

    fn count_less(&mut self, queue: &str) {
        let count = self.counts.get_mut(queue).expect("its consumer was counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(queue);
        }
    }

    pub(super) fn wait(&mut self, waiting: WaitingPull) -> PullId {
        self.last_pull += 1;
        let id = PullId(self.last_pull);
        for Selector { queue: name, .. } in &waiting.pull.queues {
            self.lines.entry(Arc::from(name.as_str())).or_default().push_back(Taker::Pull(id));
        }
        self.named_pulls.extend(waiting.key().map(|key| (key, id)));
        self.pulls.insert(id, waiting);
        id
    }

    pub(super) fn stop_waiting(&mut self, id: PullId) -> Option<WaitingPull> {
        let waiting = self.pulls.remove(&id)?;
        if let Some(key) = waiting.key() {
            self.named_pulls.remove(&key);
        }
        for Selector { queue: name, .. } in &waiting.pull.queues {
            self.leave(name, Taker::Pull(id));
        }
        Some(waiting)
    }

    fn leave(&mut self, queue: &str, taker: Taker) {
        if let Some(line) = self.lines.get_mut(queue) {
            line.retain(|other| *other != taker);
            if line.is_empty() {
                self.lines.remove(queue);
            }
        }
    }
}

impl<I: Index> Core<I> {
    /// Changes a consumer's window; what is out already stays.
    pub fn set_window(&mut self, id: ConsumerId, window: Window) {
        if let Some(consumer) = self.consumers.consumers.get_mut(&id) {
            consumer.window = window;
            self.consumers.freed.insert(id);
        }
    }

    /// Ends deliveries to a consumer; what it holds can still be settled.
    pub fn drain(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.consumers.get_mut(&id) {
            consumer.draining = true;
        }
    }
}

#[cfg(test)]
mod look {
    //! What the tests look at.

    use super::*;

    impl Consumer {
        pub(in crate::queue) fn blocked(&self) -> &[Arc<str>] {
            &self.blocked
        }
    }

    impl Consumers {
        pub(in crate::queue) fn iter(&self) -> impl Iterator<Item = (ConsumerId, &Consumer)> {
            self.consumers.iter().map(|(&id, consumer)| (id, consumer))
        }

        pub(in crate::queue) fn counts(&self) -> BTreeMap<&str, usize> {
            self.counts.iter().map(|(name, &count)| (&**name, count)).collect()
        }

        pub(in crate::queue) fn pulls(&self) -> impl Iterator<Item = (PullId, &WaitingPull)> {
            self.pulls.iter().map(|(&id, waiting)| (id, waiting))
        }

        pub(in crate::queue) fn lines(
            &self,
        ) -> impl Iterator<Item = (&Arc<str>, &VecDeque<Taker>)> {
            self.lines.iter()
        }
    }
}
