//! Time as the core is told it.

/// A moment, on both clocks, read once per turn by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, UTC; may jump.
    pub wall_ms: u64,
    /// Milliseconds since the machine started, sleep included; never jumps.
    pub boot_ms: u64,
}

impl Now {
    /// When a relative delay that begins now will be over.
    pub fn after(self, delay_ms: u64) -> Due {
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
