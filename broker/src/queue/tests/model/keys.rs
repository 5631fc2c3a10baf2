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
