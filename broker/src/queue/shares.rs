//! How a consumer shares its room among its queues: by rank, by weight, within each queue's window.
//!
//! Strictly by rank: while a queue of a better rank has something that the consumer could take, the
//! others wait. Among equal ranks each message moves its queue on by a step that is the shorter the
//! larger its weight, and the queue that is least far comes next (stride scheduling, Waldspurger and
//! Weihl 1995). A queue that had nothing for a while joins where the others are: it gains no claim.

use super::Core;
use super::consumer::Consumer;
use super::index::Index;
use super::time::Now;

/// A queue of a consumer or a pull, and its share of the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub queue: String,
    /// Lower ones are served first.
    pub rank: i32,
    /// 1 to 1,000, among equal ranks.
    pub weight: u32,
    /// Messages of this queue that may be out at once; unset: as many as of all.
    pub window: Option<u32>,
}

impl Selector {
    /// A queue that says nothing of its share.
    pub fn plain(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), rank: 0, weight: 1, window: None }
    }

    /// Whether it says nothing of its share.
    pub fn is_plain(&self) -> bool {
        (self.rank, self.weight, self.window) == (0, 1, None)
    }
}

/// What a consumer may take of a queue in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) messages: u64,
    /// How far the last of the queues is that share the room.
    pub(super) reached: u64,
}

/// What a message moves a queue of weight 1 on by.
const STEP: u64 = 1 << 20;

/// The shares of a consumer's queues, in the order of [`Consumer::queues`].
#[derive(Debug)]
pub(super) struct Shares {
    shares: Vec<Claim>,
    /// How far the last of those was that were served last: none that joins is less far.
    reached: u64,
}

#[derive(Debug)]
struct Claim {
    rank: i32,
    weight: u64,
    window: Option<u32>,
    outstanding: u32,
    /// How far its messages have moved it on.
    moved: u64,
    /// The consumer stands in the queue's line.
    standing: bool,
}

impl Claim {
    fn room(&self) -> u64 {
        let room = |window: u32| u64::from(window.saturating_sub(self.outstanding));
        self.window.map_or(u64::MAX, room)
    }
}

impl Shares {
    /// The shares of these queues; `None` where they say nothing of it.
    pub(super) fn new<'a>(selectors: impl Iterator<Item = &'a Selector> + Clone) -> Option<Self> {
        if selectors.clone().all(Selector::is_plain) {
            return None;
        }
        let claim = |selector: &Selector| Claim {
            rank: selector.rank,
            weight: u64::from(selector.weight.max(1)),
            window: selector.window,
            outstanding: 0,
            moved: 0,
            standing: true,
        };
        Some(Self { shares: selectors.map(claim).collect(), reached: 0 })
    }

    /// What the queue at `place` may give in its turn, of the consumer's `room`; `None` where another
    /// one comes first. `gives` says which of them have something to give.
    ///
    /// Of the queues that could be served one always may give.
    fn turn(&self, place: usize, room: u64, gives: impl Fn(usize) -> bool) -> Option<Share> {
        let own = &self.shares[place];
        let most = own.room().min(room);
        if most == 0 {
            return Some(Share { messages: 0, reached: self.reached });
        }
        let (mut weights, mut sum, mut reached) = (0, 0, u64::MAX);
        for (at, claim) in self.shares.iter().enumerate() {
            let may_come = claim.standing && claim.rank <= own.rank && 0 < claim.room();
            if at != place && !(may_come && gives(at)) {
                continue;
            }
            if claim.rank < own.rank {
                return None;
            }
            let moved = self.moved(claim);
            weights += u128::from(claim.weight);
            sum += u128::from(claim.weight) * u128::from(moved);
            reached = reached.min(moved);
        }
        // As far as all of them would be with all of the room given away.
        let level = (u128::from(room) * u128::from(STEP) + sum) / weights;
        let left = u64::try_from(level).unwrap_or(u64::MAX).checked_sub(self.moved(own))?;
        // To the nearest: steps that are no whole parts leave a little behind.
        let messages = u128::from(left) * u128::from(own.weight) + u128::from(STEP / 2);
        let messages = u64::try_from(messages / u128::from(STEP)).unwrap_or(u64::MAX);
        (0 < left).then(|| Share { messages: messages.clamp(1, most), reached })
    }

    fn moved(&self, claim: &Claim) -> u64 {
        claim.moved.max(self.reached)
    }

    /// The queue at `place` gave so many messages of its share; where none, the consumer has left its
    /// line.
    pub(super) fn gave(&mut self, place: usize, messages: u32, reached: u64) {
        let claim = &mut self.shares[place];
        claim.outstanding += messages;
        claim.standing = 0 < messages;
        if 0 < messages {
            let before = claim.moved.max(self.reached);
            claim.moved = before + u64::from(messages) * STEP / claim.weight;
            self.reached = self.reached.max(reached);
        }
    }

    /// A message of the queue at `place` that was delivered before is out.
    pub(super) fn holds(&mut self, place: usize) {
        self.shares[place].outstanding += 1;
    }

    /// A message of the queue at `place` is out no more.
    pub(super) fn gave_back(&mut self, place: usize) {
        self.shares[place].outstanding -= 1;
    }

    /// The consumer stands in the line of the queue at `place` again.
    pub(super) fn stand_at(&mut self, place: usize) {
        self.shares[place].standing = true;
    }

    /// The consumer stands in all lines again.
    pub(super) fn stand(&mut self) {
        self.shares.iter_mut().for_each(|share| share.standing = true);
    }
}

impl<I: Index> Core<I> {
    /// What a consumer may take of a queue in its turn; `None` where another one of its queues comes
    /// first.
    pub(super) fn share_of(&self, consumer: &Consumer, queue: &str, now: Now) -> Option<Share> {
        let room = u64::from(consumer.room());
        let Some(shares) = consumer.shares() else {
            return Some(Share { messages: room, reached: 0 });
        };
        let place = consumer.place_of(queue).expect("a consumer stands in its queues' lines");
        shares.turn(place, room, |at| self.gives(&consumer.queues[at], now))
    }

    /// Whether a queue has something to give, and its turn is still to come: who waits for one that was
    /// passed over would wait for ever.
    pub(super) fn gives(&self, queue: &str, now: Now) -> bool {
        let queue = self.catalog.named(queue);
        let queue = queue.filter(|queue| self.consumers.is_hot(queue.id()));
        let queue = queue.filter(|queue| self.is_open(queue, now));
        queue.is_some_and(|queue| 0 < self.index.counts(queue.id()).ready)
    }
}

/// The order in which a pull takes from its queues: by rank, and among equal ranks beginning with one
/// after the other, as often as its weight says. `number` is the pull's own.
pub(super) fn order_of_pull(selectors: &[Selector], number: u64) -> Vec<&Selector> {
    let mut order: Vec<&Selector> = selectors.iter().collect();
    if selectors.iter().all(Selector::is_plain) {
        return order;
    }
    order.sort_by_key(|selector| selector.rank);
    for equals in order.chunk_by_mut(|a, b| a.rank == b.rank) {
        let weights: u64 = equals.iter().map(|selector| u64::from(selector.weight)).sum();
        // Multiples of the golden ratio are spread evenly, however few they are.
        let mut left = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) % weights.max(1);
        let first = equals.iter().position(|selector| {
            let weight = u64::from(selector.weight);
            let is_it = left < weight;
            left = left.saturating_sub(weight);
            is_it
        });
        equals.rotate_left(first.unwrap_or_default());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(rank: i32, weight: u32, window: Option<u32>) -> Selector {
        Selector { rank, weight, window, ..Selector::plain("q") }
    }

    fn shares(selectors: &[Selector]) -> Shares {
        Shares::new(selectors.iter()).expect("they say something")
    }

    /// Gives room away, as the lines come round, and says how many each queue gave.
    fn give(shares: &mut Shares, mut room: u64, gives: &[bool]) -> Vec<u64> {
        let mut given = vec![0; gives.len()];
        for place in (0..gives.len()).cycle() {
            if room == 0 {
                return given;
            }
            if !gives[place] {
                continue;
            }
            let turn = shares.turn(place, room, |at| gives[at]);
            let Some(Share { messages, reached }) = turn else { continue };
            shares.gave(place, u32::try_from(messages).unwrap(), reached);
            given[place] += messages;
            room -= messages;
        }
        given
    }

    #[test]
    fn who_says_nothing_has_no_shares() {
        assert!(Shares::new([selector(0, 1, None), selector(0, 1, None)].iter()).is_none());
    }

    #[test]
    fn a_better_rank_is_served_first() {
        let mut shares = shares(&[selector(1, 1, None), selector(0, 1, None)]);
        assert_eq!(give(&mut shares, 10, &[true, true]), [0, 10]);
        assert_eq!(give(&mut shares, 10, &[true, false]), [10, 0]);
    }

    #[test]
    fn equal_ranks_share_by_weight_in_large_and_in_small_rooms() {
        let weights = [selector(0, 6, None), selector(0, 3, None), selector(0, 1, None)];
        let all = [true; 3];
        assert_eq!(give(&mut shares(&weights), 100, &all), [60, 30, 10]);
        let mut one_by_one = shares(&weights);
        let mut given = [0; 3];
        for _ in 0..100 {
            let one = give(&mut one_by_one, 1, &all);
            given.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        let is_near = |(given, due): (u64, u64)| given.abs_diff(due) <= 1;
        assert!(given.into_iter().zip([60, 30, 10]).all(is_near), "{given:?}");
        let mut steps = shares(&[selector(0, 1_000, None), selector(0, 1, None)]);
        assert_eq!(give(&mut steps, 10_010, &[true, true]), [10_000, 10]);
    }

    #[test]
    fn who_had_nothing_for_a_while_has_gained_no_claim() {
        let mut shares = shares(&[selector(0, 2, None), selector(0, 1, None)]);
        give(&mut shares, 600, &[true, false]);
        let given = give(&mut shares, 30, &[true, true]);
        assert!(given[0] + 2 <= 30, "what was taken alone counts for one turn: {given:?}");
        let given = give(&mut shares, 3_000, &[true, true]);
        assert!(1_600 < given[0] && given[0] <= 2_001, "{given:?}");
    }

    #[test]
    fn a_queues_window_bounds_it_and_leaves_the_rest_to_others() {
        let mut shares = shares(&[selector(0, 1, Some(2)), selector(1, 1, None)]);
        let turn = |shares: &Shares, place, room| {
            shares.turn(place, room, |_| true).map(|share| share.messages)
        };
        assert_eq!(turn(&shares, 0, 10), Some(2));
        shares.gave(0, 2, 0);
        assert_eq!(turn(&shares, 0, 8), Some(0), "it leaves the line");
        assert_eq!(turn(&shares, 1, 8), Some(8), "nothing is better that has room");
        shares.gave_back(0);
        assert_eq!(turn(&shares, 1, 8), None);
    }

    #[test]
    fn pulls_begin_with_each_queue_as_often_as_its_weight_says() {
        let named = |queue: &str, rank, weight| Selector {
            queue: queue.to_owned(),
            ..selector(rank, weight, None)
        };
        let selectors = [named("low", 1, 1), named("a", 0, 3), named("b", 0, 1)];
        let mut begins = [0; 2];
        for number in 0..400 {
            let order = order_of_pull(&selectors, number);
            assert_eq!(order[2].queue, "low");
            begins[usize::from(order[0].queue == "b")] += 1;
        }
        assert!((98..=102).contains(&begins[1]), "{begins:?}");
    }
}
