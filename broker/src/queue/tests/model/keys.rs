//! Messages in the order of delivery, and by their keys, in the model.

use super::{Message, Model, What};

impl Model {
    /// The unfinished messages of a queue that have a unique key.
    pub(in crate::queue::tests) fn key_holders(&self, queue: u32, key: u64) -> Vec<u64> {
        let has_it = |message: &Message| {
            (message.queue, message.unique) == (queue, Some(key)) && message.what != What::Parked
        };
        let holders = self.messages.iter().filter(|(_, message)| has_it(message));
        holders.map(|(birth, _)| *birth).collect()
    }

    /// A message that is ready joins its line, where it has one: nobody passes those before it.
    pub(in crate::queue::tests) fn join_line(&mut self, birth: u64) {
        let message = self.messages[&birth].clone();
        if message.ordering.is_none() || message.what != What::Ready {
            return;
        }
        let others = self.messages.iter().filter(|(other, it)| {
            let same = (it.queue, it.ordering) == (message.queue, message.ordering);
            same && **other != birth
        });
        let is_taken = others.clone().any(|(_, it)| it.leads || it.what == What::Behind);
        let it = self.messages.get_mut(&birth).expect("it is there");
        it.leads |= !is_taken;
        it.what = if it.leads { What::Ready } else { What::Behind };
    }

    /// The first of those that wait in a line, once nobody leads it.
    pub(in crate::queue::tests) fn check_advanced(&mut self, birth: u64) {
        let message = self.messages[&birth].clone();
        assert_eq!(message.what, What::Behind, "{birth} does not wait in a line");
        for (other, it) in &self.messages {
            if (it.queue, it.ordering) == (message.queue, message.ordering) {
                assert!(!it.leads, "{other} leads the line");
                let stands_before = (it.place, *other) < (message.place, birth);
                assert!(it.what != What::Behind || !stands_before, "{other} comes first");
            }
        }
        let it = self.messages.get_mut(&birth).expect("it is there");
        (it.what, it.leads) = (What::Ready, true);
    }

    /// Nobody waits in a line that nobody leads.
    pub(in crate::queue::tests) fn check_lines(&self) {
        for (birth, message) in self.messages.iter().filter(|(_, it)| it.what == What::Behind) {
            let leads = |it: &Message| {
                it.leads && (it.queue, it.ordering) == (message.queue, message.ordering)
            };
            assert!(self.messages.values().any(leads), "{birth} waits for nobody");
        }
    }

    /// Messages are granted in the order of their queue, or of their lanes where they have fairness
    /// keys: then, too, the most urgent first, but for keys that have all the leases they may.
    pub(in crate::queue::tests) fn check_order(&self, queue: u32, births: &[u64]) {
        let ready = self.ready(queue);
        let key_of = |birth: &u64| self.messages[birth].fairness;
        if ready.iter().all(|birth| key_of(birth).is_none()) {
            return assert_eq!(births, &ready[..births.len()], "out of order");
        }
        let max = self.queues[&queue].policy.max_leased_per_fairness_key;
        let last = births.iter().map(|birth| self.messages[birth].priority).min();
        for key in [None, Some(1), Some(2), Some(3)] {
            let of_key = |births: &[u64]| -> Vec<u64> {
                births.iter().filter(|birth| key_of(birth) == key).copied().collect()
            };
            let (granted, ready) = (of_key(births), of_key(&ready));
            assert_eq!(granted, ready[..granted.len()], "out of order in a lane");
            let held = self
                .messages
                .values()
                .filter(|it| (it.queue, it.fairness) == (queue, key) && it.lease().is_some());
            let leased = held.count() + granted.len();
            let most = max.filter(|_| key.is_some()).map_or(usize::MAX, |max| max as usize);
            // A limit that was lowered takes no lease back.
            assert!(granted.is_empty() || leased <= most, "{leased} of one key");
            let next = ready.get(granted.len()).map(|birth| self.messages[birth].priority);
            assert!(next <= last || most <= leased, "{next:?} waits, {last:?} is granted");
        }
    }

    /// The ready messages of a queue, the most urgent first, and those of one priority in order.
    pub(in crate::queue::tests) fn ready(&self, queue: u32) -> Vec<u64> {
        let ready = self.messages.iter().filter(|(_, message)| message.queue == queue);
        let ready = ready.filter(|(_, message)| message.what == What::Ready);
        let stand = |(&birth, message): (&u64, &Message)| {
            (std::cmp::Reverse(message.priority), message.place, birth)
        };
        let mut ready: Vec<_> = ready.map(stand).collect();
        ready.sort_unstable();
        ready.into_iter().map(|(.., birth)| birth).collect()
    }
}
