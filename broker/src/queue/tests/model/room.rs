//! Who has room for what, in the plainest words.

use std::time::Duration;

use qbroker_storage::Lsn;

use super::{Asked, Model};
use crate::queue::Selector;
use crate::queue::record::Granted;
use crate::queue::time::Now;

/// Bytes of the largest message that is published.
const SIZE_MAX: u64 = 60;

impl Model {
    pub(super) fn check_window(&self, it: &Granted, queue: &str, sizes: &[u64], now: Now) {
        let consumer = &self.consumers[&it.consumer];
        assert_eq!(consumer.session, it.session);
        let Some(selector) = consumer.queues.get(queue) else {
            panic!("{} does not take {queue}", it.consumer);
        };
        assert!(!consumer.draining, "{} drains", it.consumer);
        let of_it = self
            .messages
            .values()
            .filter(|message| message.lease().is_some_and(|lease| lease.consumer == it.consumer));
        let before: Vec<u64> = of_it.clone().map(|message| message.size).collect();
        let messages = before.len() + sizes.len();
        assert!(messages <= consumer.window.messages as usize, "window of {}", it.consumer);
        let bytes: u64 = before.iter().chain(sizes).sum();
        assert!(bytes <= consumer.window.bytes || messages == 1, "bytes of {}", it.consumer);
        let held = |queue: &str| {
            of_it.clone().filter(|message| self.queues[&message.queue].name == queue).count()
        };
        let fits = |selector: &Selector, more: usize| {
            let window = selector.window.map_or(usize::MAX, |window| window as usize);
            held(&selector.queue) + more <= window
        };
        assert!(fits(selector, sizes.len()), "{} of the window of {queue}", it.consumer);
        let before: u64 = before.iter().sum();
        for better in consumer.queues.values().filter(|other| other.rank < selector.rank) {
            if self.first_size(&better.queue, now).is_none() {
                continue;
            }
            // It gives way for lack of bytes until there are more, whatever comes first meanwhile.
            let too_large = 0 < before && consumer.window.bytes < before + SIZE_MAX;
            assert!(too_large || !fits(better, 1), "{} comes before {queue}", better.queue);
        }
    }

    /// A queue delivers no more at a time, and no faster, than its policy says.
    pub(super) fn check_flow(&mut self, queue: u32, messages: usize, now: Now) {
        let policy = &self.queues[&queue].policy;
        let of_queue = self.messages.values().filter(|message| message.queue == queue);
        let leased = of_queue.filter(|message| message.lease().is_some()).count() + messages;
        assert!(policy.max_leased.is_none_or(|max| leased <= max as usize), "{leased} of {queue}");
        if let Some(rate) = policy.max_delivery_rate {
            // Slow as it is, the bucket holds one.
            let gap = Duration::from_secs_f64(1.0 / rate);
            let delivered = self.delivered.entry(queue).or_default();
            delivered.extend(std::iter::repeat_n(now.boot_ms, messages));
            let last = delivered.iter().rev().take(2).collect::<Vec<_>>();
            if let [last, before] = last[..] {
                let passed = Duration::from_millis(last - before);
                assert!(gap <= passed, "{queue} delivers again after {passed:?}");
            }
            assert_eq!(messages, 1);
        }
    }

    /// Whether a queue may deliver nothing, by its policy.
    fn is_held_back(&self, queue: u32) -> bool {
        let policy = &self.queues[&queue].policy;
        let by_key = policy.max_leased_per_fairness_key.is_some();
        by_key || policy.max_leased.is_some() || policy.max_delivery_rate.is_some()
    }

    /// Bytes of the first message that a queue could give. One that has outlived its time holds its queue
    /// back until it is given up.
    fn first_size(&self, queue: &str, now: Now) -> Option<u64> {
        let queue = self.queue_named(queue).filter(|queue| !queue.paused)?;
        if self.is_held_back(queue.id) {
            return None;
        }
        let first = self.ready(queue.id).first().map(|birth| &self.messages[birth])?;
        let has_outlived = first.ttl_end.is_some_and(|end| end.is_over(now));
        (!has_outlived).then_some(first.size)
    }

    pub(super) fn check_pull(
        &mut self,
        lsn: Lsn,
        it: &Granted,
        queue: &str,
        asked: &mut Asked,
        now: Now,
    ) {
        let pulling = match asked.answered.get(&lsn.0) {
            Some(pull) => {
                let pulling = self.pulls.remove(pull).expect("only a waiting pull is answered");
                self.disconnect_session(pulling.session, now);
                pulling
            }
            None => {
                let pulling = asked.pull.as_mut().expect("somebody pulls");
                let granted = u32::try_from(it.births.len()).unwrap();
                let before = pulling.clone();
                pulling.messages_max -= granted;
                before
            }
        };
        let selector = &pulling.queues[queue];
        let most = pulling.messages_max.min(selector.window.unwrap_or(u32::MAX));
        assert!(it.births.len() <= most as usize, "more than was asked for");
        let better = pulling.queues.values().filter(|other| other.rank < selector.rank);
        for better in better.filter(|better| better.window.is_none()) {
            assert_eq!(self.first_size(&better.queue, now), None, "{} comes before", better.queue);
        }
    }
}
