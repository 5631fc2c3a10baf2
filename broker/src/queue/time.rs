//! Time as the core is told it.

/// A moment, on both clocks, read once per turn by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, UTC; may jump.
    pub wall_ms: u64,
    /// Milliseconds since the machine started, sleep included; never jumps.
    pub boot_ms: u64,
    /// A part of the next millisecond has gone by, as on any clock that nobody moves by hand.
    pub begun: bool,
}

impl Now {
    /// When a relative delay that begins now will be over: counted from the end of a millisecond
    /// that has begun, or it would be early by what has gone by of it.
    pub fn after(self, delay_ms: u64) -> Due {
        // No delay is none, whatever has gone by.
        let delay_ms = delay_ms.saturating_add(u64::from(self.begun).min(delay_ms));
        Due {
            wall_ms: self.wall_ms.saturating_add(delay_ms),
            boot_ms: Some(self.boot_ms.saturating_add(delay_ms)),
        }
    }
}

/// The end of a delay.
///
/// A relative delay runs on the clock that never jumps, for as long as the machine stays up; over a
/// reboot that clock begins anew, and the wall clock is believed. An absolute time is the wall
/// clock's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due {
    /// When the wall clock will show it.
    pub wall_ms: u64,
    /// When the boot clock will show it; `None` for an absolute time, or after a reboot.
    pub boot_ms: Option<u64>,
}

impl Due {
    /// An absolute time.
    pub fn at(wall_ms: u64) -> Self {
        Self { wall_ms, boot_ms: None }
    }

    /// Whether the delay is over.
    pub fn is_over(self, now: Now) -> bool {
        match self.boot_ms {
            Some(boot_ms) => boot_ms <= now.boot_ms,
            None => self.wall_ms <= now.wall_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_not_early_by_the_part_of_a_millisecond_that_had_gone_by() {
        let at = |boot_ms| Now { wall_ms: 0, boot_ms, begun: true };
        // It began after 100 ms and a bit, and may not end before 150 ms and that bit.
        let due = at(100).after(50);
        assert!(!due.is_over(at(150)));
        assert!(due.is_over(at(151)));
        let whole = Now { begun: false, ..at(100) };
        assert!(whole.after(50).is_over(at(150)));
        assert_eq!(at(100).after(u64::MAX).boot_ms, Some(u64::MAX));
        assert!(at(100).after(0).is_over(at(100)), "none is none");
    }
}
