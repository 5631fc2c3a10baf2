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
