//! Who stands in line at which queue: all consumers and waiting pulls, and the queues that may have
//! something for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::Core;
use super::consumer::{Consumer, Taker, WaitingPull, Window};
use super::ids::{ConsumerId, QueueId, SessionId};
use super::index::Index;
use super::pull::PullId;
use super::pulled::RequestKey;
use super::shares::Selector;

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
    /// Consumers with room, and at how many of their queues they are still to be lined up.
    lining_up: BTreeMap<ConsumerId, usize>,
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

    /// Whether any queue's turn is still to come.
    pub(super) fn is_any_hot(&self) -> bool {
        !self.hot.is_empty()
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
        consumer.had_turn(queue, got, reached);
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
        if 0 < consumer.waits_at() {
            self.freed.insert(id);
        }
        consumer.shares().is_some()
    }

    /// A lease of this queue gives its room in the queue's share back.
    pub(super) fn gave_back_of(&mut self, id: ConsumerId, queue: &str) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.gave_back_of(queue);
        }
    }

    /// Lines the consumers with new room up again, each at the next one of its queues; returns the
    /// names of these.
    pub(super) fn line_up_freed(&mut self) -> Vec<Arc<str>> {
        let freed = std::mem::take(&mut self.freed);
        self.line_up(freed.into_iter().map(|id| (id, usize::MAX)))
    }

    /// Lines those that have room still up at one more of their queues each. Mostly the first one has
    /// enough for the room, and of a thousand others nobody has to hear.
    pub(super) fn line_up_further(&mut self) -> Vec<Arc<str>> {
        let lining_up = std::mem::take(&mut self.lining_up);
        self.line_up(lining_up.into_iter())
    }

    fn line_up(&mut self, consumers: impl Iterator<Item = (ConsumerId, usize)>) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for (id, left) in consumers {
            let Some(consumer) = self.consumers.get_mut(&id) else { continue };
            if consumer.room() == 0 {
                continue;
            }
            let left = left.min(consumer.waits_at());
            let standing = consumer.stand_at_next(left);
            let count = standing.len();
            for name in standing {
                self.lines.entry(name.clone()).or_default().push_back(Taker::Consumer(id));
                names.push(name);
            }
            if count < left {
                self.lining_up.insert(id, left - count);
            }
        }
        names
    }

    /// A consumer with room got nothing of a queue, whose first message is this one. Who got nothing when
    /// another one was first is asked again.
    pub(super) fn stick(
        &mut self,
        id: ConsumerId,
        (queue, name): (QueueId, &Arc<str>),
        first: Option<Lsn>,
    ) {
        if self.consumers.get(&id).is_some_and(|consumer| 0 < consumer.room()) {
            if self.stuck.get(&queue).is_some_and(|stuck| stuck.first != first) {
                self.line_up_stuck(queue, name, first);
            }
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
            if !consumer.stand_at(name) {
                continue;
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
        self.lining_up.remove(&id);
        consumer.wait_nowhere();
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
            // Whose turn it is leaves most often: who was answered.
            match line.front() == Some(&taker) {
                true => drop(line.pop_front()),
                false => line.retain(|other| *other != taker),
            }
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
            consumer.drain();
        }
    }
}

#[cfg(test)]
mod look {
    //! What the tests look at.

    use super::*;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::connect::OpenConsumer;

    const SESSION: SessionId = SessionId(1);
    const CONSUMER: ConsumerId = ConsumerId(1);

    fn full_at(queues: [&str; 3]) -> Consumers {
        let mut consumers = Consumers::default();
        let open = OpenConsumer {
            queues: queues.into_iter().map(Selector::plain).collect(),
            window: Window { messages: 1, bytes: 100 },
            lease_duration_ms: None,
            session: String::new(),
            session_grace_ms: 15_000,
            manual_extend: false,
            reports_started: false,
            extension_ms_max: 0,
            previous: None,
            held: Vec::new(),
            reset_session: false,
        };
        consumers.attach(CONSUMER, Consumer::new(SESSION, &open));
        consumers
    }

    /// The consumer has its turn at a queue, and another one in which it has no room.
    fn give(consumers: &mut Consumers, queue: &str) {
        for got in [1, 0] {
            consumers.next_taker(queue, 10).expect("it stands there");
            consumers.served(CONSUMER, &Arc::from(queue), got, 0);
        }
        consumers.took(CONSUMER, 10);
    }

    #[test]
    fn room_for_one_message_is_offered_to_one_queue_after_the_other() {
        let mut consumers = full_at(["a", "b", "c"]);
        give(&mut consumers, "a");
        for queue in ["b", "c"] {
            consumers.next_taker(queue, 10).expect("it stands there");
            consumers.served(CONSUMER, &Arc::from(queue), 0, 0);
        }
        let mut turns = Vec::new();
        for _ in 0..6 {
            consumers.gave_back(CONSUMER, 10);
            let names = consumers.line_up_freed();
            assert_eq!(names.len(), 1, "{names:?}");
            turns.push(names[0].to_string());
            give(&mut consumers, &names[0]);
            assert!(consumers.line_up_further().is_empty(), "there is no room");
        }
        assert_eq!(turns, ["b", "c", "a", "b", "c", "a"]);
    }

    #[test]
    fn a_queue_that_has_a_message_now_and_then_does_not_pass_who_waits() {
        let mut consumers = full_at(["c", "d", "e"]);
        consumers.next_taker("d", 1).expect("it stands there");
        consumers.served(CONSUMER, &Arc::from("d"), 1, 0);
        consumers.took(CONSUMER, 10);
        // What is ready in one that waits, and then in one that was empty.
        for queue in ["c", "e"] {
            consumers.next_taker(queue, 1).expect("it stands there");
            consumers.served(CONSUMER, &Arc::from(queue), 0, 0);
        }
        consumers.gave_back(CONSUMER, 10);
        assert_eq!(consumers.line_up_freed(), [Arc::from("c")]);
    }

    #[test]
    fn room_that_a_queue_leaves_is_offered_to_all_others_once() {
        let mut consumers = full_at(["a", "b", "c"]);
        for queue in ["a", "b", "c"] {
            consumers.next_taker(queue, 10).expect("it stands there");
            consumers.served(CONSUMER, &Arc::from(queue), 0, 0);
        }
        consumers.took(CONSUMER, 10);
        consumers.gave_back(CONSUMER, 10);
        let mut offered = consumers.line_up_freed();
        while let [name] = &consumers.line_up_further()[..] {
            // The message there is too large for it.
            consumers.next_taker(name, 10).expect("it stands there");
            consumers.served(CONSUMER, name, 0, 0);
            offered.push(name.clone());
        }
        offered.sort();
        assert_eq!(offered.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
