//! What is remembered of messages that are done.

use super::Model;
use crate::queue::record::{OutcomeWritten, OutcomesForgotten};
use crate::queue::time::Now;

impl Model {
    pub(super) fn check_outcome(&mut self, it: &OutcomeWritten) {
        assert!(!self.messages.contains_key(&it.birth), "{} is not done", it.birth);
        let asks = self.queues.get(&it.queue).and_then(|it| it.policy.outcomes_ms());
        assert!(asks.is_some(), "nobody asks what became of {}", it.birth);
        let known = self.outcomes.values().flatten().any(|(birth, _)| *birth == it.birth);
        assert!(!known, "{} has two outcomes", it.birth);
        self.outcomes.entry(it.queue).or_default().push((it.birth, it.wall_ms));
    }

    pub(super) fn check_forgotten(&mut self, it: &OutcomesForgotten, now: Now) {
        let asks = self.queues.get(&it.queue).and_then(|it| it.policy.outcomes_ms());
        let is_over = |wall_ms: u64| asks.is_none_or(|ms| wall_ms + ms <= now.wall_ms);
        let outcomes = self.outcomes.entry(it.queue).or_default();
        let count = usize::try_from(it.count).unwrap();
        assert!(outcomes.drain(..count).all(|(_, wall_ms)| is_over(wall_ms)), "{it:?}");
    }
}
