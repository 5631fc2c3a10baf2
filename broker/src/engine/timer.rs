//! Time enters: leases that end, sessions that are lost, delays that are over.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, State, Stopped};
use crate::queue::Deadlines;
use crate::queue::time::Now;

/// The wall clock may jump, so it is looked at this often while anything waits for it.
const WALL_LOOK_MS: u64 = 1_000;

impl State {
    /// When the deadlines have to be looked at next, on the boot clock.
    pub(super) fn next_look(&self, now: Now) -> u64 {
        let Deadlines { boot_ms, wall_ms } = self.core.deadlines();
        let wall = wall_ms
            .map(|wall_ms| now.boot_ms + wall_ms.saturating_sub(now.wall_ms).min(WALL_LOOK_MS));
        [boot_ms, wall, self.letters.flush_ms()].into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

impl Engine {
    /// Does everything that is due by now; returns how long nothing will be.
    pub fn tick(&self) -> Result<Duration, Stopped> {
        loop {
            let now = self.clock.now();
            let (_, ticked) = self.turn(|core, now, out| core.tick(now, out))?;
            ticked.expect("time is not refused");
            let mut state = self.state.lock();
            state.letters.flush(now);
            if !state.core.deadlines().is_over(now) {
                state.armed_ms = state.next_look(now);
                let left_ms = state.armed_ms.saturating_sub(now.boot_ms);
                // A deadline is never early: the clock is read in whole milliseconds.
                return Ok(Duration::from_millis(left_ms.saturating_add(1)));
            }
        }
    }

    /// Runs [`Self::tick`] whenever something is due, until the log stops; whoever runs it ends it
    /// when the broker closes.
    pub async fn run_timer(self: Arc<Self>) {
        while let Ok(left) = self.tick() {
            let woken = tokio::time::timeout(left, self.timer.notified());
            // Whether a deadline or an earlier one woke it: look again.
            drop(woken.await);
        }
    }
}
