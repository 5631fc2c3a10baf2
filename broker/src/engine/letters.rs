//! Says in the log that dead letters arrive, without flooding it.

use std::collections::BTreeMap;

use tracing::warn;

use crate::queue::time::Now;

/// A queue is warned of at most once in this time.
const QUIET_MS: u64 = 10_000;

/// When each queue was last warned of, and what came since.
#[derive(Debug, Default)]
pub(super) struct Letters {
    queues: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    warned_ms: Option<u64>,
    count: u64,
}

impl Letters {
    pub(super) fn arrived(&mut self, queue: String, count: u64, now: Now) {
        let seen = self.queues.entry(queue.clone()).or_default();
        seen.count += count;
        if seen.warned_ms.is_none_or(|warned_ms| warned_ms + QUIET_MS <= now.boot_ms) {
            let count = std::mem::take(&mut seen.count);
            seen.warned_ms = Some(now.boot_ms);
            warn!(
                queue,
                count, "messages were dead-lettered; look at them with `qbroker message peek`"
            );
        }
    }
}
