//! Says in the log that dead letters arrive, without flooding it.

use std::collections::BTreeMap;

use tracing::warn;

use crate::queue::time::Now;

/// A queue is warned of at most once in this time.
const QUIET_MS: u64 = 10_000;

/// The queues that were warned of lately, and what came since.
#[derive(Debug, Default)]
pub(super) struct Letters {
    queues: BTreeMap<String, Seen>,
    /// When the first of them may be warned of again, on the boot clock.
    flush_ms: Option<u64>,
}

#[derive(Debug)]
struct Seen {
    warned_ms: u64,
    /// Dead letters that nobody was told of.
    count: u64,
}

impl Letters {
    /// Dead letters of a queue arrived: the first ones are told of at once.
    pub(super) fn arrived(&mut self, queue: String, count: u64, now: Now) {
        if let Some(seen) = self.queues.get_mut(&queue) {
            seen.count += count;
            return;
        }
        tell(&queue, count);
        self.queues.insert(queue, Seen { warned_ms: now.boot_ms, count: 0 });
        self.flush_ms.get_or_insert(now.boot_ms + QUIET_MS);
    }

    /// When [`Self::flush`] has something to do, on the boot clock.
    pub(super) fn flush_ms(&self) -> Option<u64> {
        self.flush_ms
    }

    /// Tells what came since, of the queues whose time has come, and forgets those that are quiet.
    pub(super) fn flush(&mut self, now: Now) {
        if self.flush_ms.is_none_or(|flush_ms| now.boot_ms < flush_ms) {
            return;
        }
        self.queues.retain(|queue, seen| {
            let is_over = seen.warned_ms + QUIET_MS <= now.boot_ms;
            if is_over && 0 < seen.count {
                tell(queue, std::mem::take(&mut seen.count));
                seen.warned_ms = now.boot_ms;
                return true;
            }
            !is_over
        });
        self.flush_ms = self.queues.values().map(|seen| seen.warned_ms + QUIET_MS).min();
    }
}

fn tell(queue: &str, count: u64) {
    warn!(queue, count, "messages were dead-lettered; see `qbroker dead list {queue}`");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64) -> Now {
        Now { wall_ms: 0, boot_ms, begun: false }
    }

    #[test]
    fn a_burst_is_told_at_its_end_and_a_quiet_queue_is_forgotten() {
        let mut letters = Letters::default();
        letters.arrived("a".to_owned(), 1, at(0));
        letters.arrived("b".to_owned(), 1, at(4_000));
        letters.arrived("a".to_owned(), 5, at(5_000));
        assert_eq!(letters.queues["a"].count, 5, "not told yet");
        letters.flush(at(9_999));
        assert_eq!((letters.queues["a"].count, letters.flush_ms()), (5, Some(10_000)));
        letters.flush(at(10_000));
        assert_eq!((letters.queues["a"].count, letters.flush_ms()), (0, Some(14_000)));
        letters.flush(at(14_000));
        assert_eq!(letters.queues.keys().collect::<Vec<_>>(), ["a"]);
        letters.flush(at(20_000));
        assert_eq!((letters.queues.len(), letters.flush_ms()), (0, None));
    }
}
