//! The one reader of the clocks.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::queue::time::Now;

/// Tells the time: the machine's, or one that a test moves by hand.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    Manual(ManualClock),
}

/// A clock that stands still until it is told to go.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<Mutex<Now>>,
    /// The uptime, where a test names it; else it is the machine's.
    boot_id: Arc<Mutex<Option<String>>>,
}

impl ManualClock {
    /// Sets both clocks; either may jump.
    pub fn set(&self, now: Now) {
        *self.now.lock() = now;
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, ms: u64) {
        let mut now = self.now.lock();
        now.wall_ms += ms;
        now.boot_ms += ms;
    }

    /// The machine was started again: the boot clock begins anew, in an uptime of this name.
    pub fn reboot(&self, boot_id: &str, now: Now) {
        self.set(now);
        *self.boot_id.lock() = Some(boot_id.to_owned());
    }
}

impl Clock {
    pub fn now(&self) -> Now {
        match self {
            Self::System => Now { wall_ms: wall_ms(), boot_ms: boot_ms(), begun: true },
            Self::Manual(clock) => *clock.now.lock(),
        }
    }

    /// Names the uptime that relative delays run in.
    pub fn boot_id(&self) -> String {
        let named = match self {
            Self::System => None,
            Self::Manual(clock) => clock.boot_id.lock().clone(),
        };
        named.unwrap_or_else(boot_id)
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.map(|since| since.as_millis()).unwrap_or_default();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// Sleep of the machine counts: a delay of an hour is over after an hour.
#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::Monotonic;

fn boot_ms() -> u64 {
    let time = clock_gettime(BOOT_CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000
}

/// Names the machine's uptime, on whose clock relative delays run.
///
/// Where the system does not tell, every start counts as a reboot.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| format!("start-{}-{}", std::process::id(), wall_ms()))
}
