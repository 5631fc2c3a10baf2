//! In which order a queue delivers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Model, Sequence, State, Wrong};

/// Where a ready message stands in its queue.
pub(super) type Order = (u8, u64, Sequence);

impl Model {
    /// Checks that these are the ready messages of a queue, those that wait for each other alone by
    /// themselves and in an order in which they may be delivered.
    pub(crate) fn check_ready(&self, queue: &str, lines: &[Vec<Sequence>]) -> Result<(), Wrong> {
        let expected = self.ready_orders(queue);
        let mut found = Vec::new();
        for line in lines {
            let orders: Vec<_> =
                line.iter().filter_map(|it| self.order_of_ready(queue, *it)).collect();
            if orders.len() != line.len() || !orders.is_sorted() {
                return Err(format!(
                    "{queue} has {line:?} ready, expected an order like {expected:?}"
                ));
            }
            found.extend(orders);
        }
        found.sort_unstable();
        let once: BTreeSet<_> = lines.iter().flatten().collect();
        if once.len() == found.len() && found == expected {
            return Ok(());
        }
        Err(format!("{queue} has {lines:?} ready, expected an order like {expected:?}"))
    }

    /// Those that may be delivered now stand in this order: the more urgent ones first, then by place.
    /// Those that became ready in one moment stand by their sequence; what was given up in one moment,
    /// in any order.
    fn ready_orders(&self, queue: &str) -> Vec<Order> {
        let ready = self.messages.iter();
        let ready = ready.filter(|(_, it)| it.queue == queue && it.state == State::Ready);
        let mut orders: Vec<_> = ready.map(|(&sequence, _)| self.order(sequence)).collect();
        orders.sort_unstable();
        orders
    }

    fn order_of_ready(&self, queue: &str, sequence: Sequence) -> Option<Order> {
        let message = self.messages.get(&sequence)?;
        let is_ready = message.queue == queue && message.state == State::Ready;
        is_ready.then(|| self.order(sequence))
    }

    pub(super) fn order(&self, sequence: Sequence) -> Order {
        let message = &self.messages[&sequence];
        let of_equals = if message.letter.is_some() { 0 } else { sequence };
        (u8::MAX - message.priority, message.place, of_equals)
    }

    /// Checks that these may be delivered of a queue together: of each fairness key the next ones, none
    /// less urgent than one that stays, and no more of a key than it may have. Whether there are others
    /// that might be, too.
    pub(super) fn check_next(&self, queue: &str, got: &[Sequence]) -> Result<bool, Wrong> {
        let ready = self.messages.iter();
        let ready = ready.filter(|(_, it)| it.queue == queue && it.state == State::Ready);
        let mut left: Vec<_> =
            ready.map(|(sequence, it)| (self.order(*sequence), it.fairness, *sequence)).collect();
        left.sort_unstable();
        let all = left.clone();
        let wrong = || format!("{queue} delivers {got:?}, expected an order like {all:?}");
        let is_ready = |it: &Sequence| left.iter().any(|(.., ready)| ready == it);
        let once: BTreeSet<_> = got.iter().filter(|it| is_ready(it)).collect();
        if once.len() < got.len() || !self.is_in_order(got) {
            return Err(wrong());
        }
        let mut given = BTreeMap::<u64, usize>::new();
        let next = got.iter().map(|it| (self.order(*it), self.messages[it].fairness));
        let mut next: Vec<_> = next.collect();
        next.sort_unstable();
        for (order, key) in next {
            let first = left.iter().find(|(_, it, _)| self.is_key_open(queue, *it, &given));
            let of_key = left.iter().position(|(_, it, _)| *it == key);
            let at = of_key.filter(|at| left[*at].0 == order);
            let is_urgent = first.is_some_and(|(first, ..)| first.0 == order.0);
            let (Some(at), true) = (at, is_urgent && self.is_key_open(queue, key, &given)) else {
                return Err(wrong());
            };
            left.remove(at);
            *given.entry(key.unwrap_or_default()).or_default() += 1;
        }
        Ok(left.iter().any(|(_, key, _)| self.is_key_open(queue, *key, &given)))
    }

    /// Whether nothing is told before something more urgent, or before what comes first of its key.
    fn is_in_order(&self, got: &[Sequence]) -> bool {
        let mut last = BTreeMap::new();
        let mut urgency = 0;
        got.iter().all(|&sequence| {
            let order = self.order(sequence);
            let before = last.insert(self.messages[&sequence].fairness, order);
            let is_urgent = urgency <= order.0;
            urgency = order.0;
            is_urgent && before.is_none_or(|before| before <= order)
        })
    }
}
