//! Time enters: leases that end, sessions that are lost, delays that are over.

use std::sync::Arc;
use std::time::Duration;

use qbroker_storage::Lsn;

use super::{Engine, State, Stopped};
use crate::queue::Deadlines;
use crate::queue::time::Now;

/// The clocks are looked at this often while anything waits: the wall clock may jump, the machine may
/// sleep, which no timeout counts, and a full disk may get room.
const LOOK_MS: u64 = 1_000;
/// Steps that may be on their way to the disk at once. Time alone would fill the memory with what it
/// does while the disk stands still.
const STEPS_UNSYNCED: usize = 16;

/// What time does after a step.
enum Next {
    /// Another step at once; the log holds the last one up to this LSN.
    Step(Lsn),
    /// Nothing before so long.
    Sleep(Duration),
}

impl State {
    /// When the deadlines have to be looked at next, on the boot clock.
    pub(super) fn next_look(&self, now: Now) -> u64 {
        let Deadlines { boot_ms, wall_ms } = self.core.deadlines();
        let soon = now.boot_ms + LOOK_MS;
        let wall =
            wall_ms.map(|wall_ms| now.boot_ms.saturating_add(wall_ms.saturating_sub(now.wall_ms)));
        let room = self.core.waits_for_room().then_some(soon);
        let next = [boot_ms, wall, room, self.letters.flush_ms()].into_iter().flatten().min();
        next.map_or(u64::MAX, |next_ms| next_ms.min(soon))
    }
}

impl Engine {
    /// Does everything that is due by now.
    pub fn tick(&self) -> Result<(), Stopped> {
        while let Next::Step(_) = self.step()? {}
        Ok(())
    }

    /// Does what is due whenever something is, until the log stops; whoever runs it ends it when the
    /// broker closes.
    pub async fn run_timer(self: Arc<Self>) {
        let mut steps = 0;
        while let Ok(next) = self.step() {
            match next {
                Next::Step(lsn) => {
                    steps += 1;
                    if steps % STEPS_UNSYNCED == 0 && self.durable(lsn).await.is_err() {
                        return;
                    }
                }
                Next::Sleep(left) => {
                    let woken = tokio::time::timeout(left, self.timer.notified());
                    // Whether a deadline or an earlier one woke it: look again.
                    drop(woken.await);
                }
            }
        }
    }

    /// Does a step of what is due.
    fn step(&self) -> Result<Next, Stopped> {
        let now = self.clock.now();
        let (lsn, ticked) = self.turn(|core, now, out| core.tick(now, out))?;
        ticked.expect("time is not refused");
        let mut state = self.state.lock();
        state.letters.flush(now);
        if state.core.deadlines().is_over(now) {
            return Ok(Next::Step(lsn));
        }
        state.armed_ms = state.next_look(now);
        let left_ms = state.armed_ms.saturating_sub(now.boot_ms);
        // A deadline is never early: the clock is read in whole milliseconds.
        Ok(Next::Sleep(Duration::from_millis(left_ms.saturating_add(1))))
    }
}
