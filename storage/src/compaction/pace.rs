//! How fast compaction goes: not so fast that those who write would notice.

use std::time::{Duration, Instant};

use crate::compaction::Abandoned;
use crate::log::Shared;
use crate::pool::Space;

/// How much faster it goes while nothing is written, or while its result is waited for.
const UNDISTURBED: u64 = 4;

/// Waits as long as reading or writing so many bytes may take. Without threads nobody waits.
pub(crate) fn pace(shared: &Shared, bytes: u64) -> Result<(), Abandoned> {
    let mut signal = shared.compaction.signal.lock();
    if !shared.threaded {
        return Ok(());
    }
    let appended = shared.appended_bytes();
    let idle = signal.appended_bytes == appended;
    signal.appended_bytes = appended;
    let undisturbed = idle || shared.pool.space() != Space::Ample;
    let rate = shared.options.compaction_bytes_per_second;
    let rate = if undisturbed { rate.saturating_mul(UNDISTURBED) } else { rate };
    signal.owed += Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
    // Short waits take longer than they say.
    if signal.owed < Duration::from_millis(5) {
        return if signal.stopping { Err(Abandoned::Stopping) } else { Ok(()) };
    }
    let until = Instant::now() + std::mem::take(&mut signal.owed);
    while !signal.stopping {
        if shared.compaction.changed.wait_until(&mut signal, until).timed_out() {
            return Ok(());
        }
    }
    Err(Abandoned::Stopping)
}
