//! The one reader of the clocks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

/// The machine's clock tells a time for which HTTP has no date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine's clock is before 1970 or after 9999; set it, then start the broker again")]
pub struct ClockUnset;

/// Seconds from 1970 to the year 10000.
const DATES_END: Duration = Duration::from_secs(253_402_300_800);

/// Whether the machine's clock tells a time that HTTP can write: each answer has its date, and what
/// writes it panics otherwise.
///
/// # Errors
/// Where it is none.
pub fn check_wall_clock(time: SystemTime) -> Result<(), ClockUnset> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < DATES_END => Ok(()),
        _ => Err(ClockUnset),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_without_a_date_is_refused() {
        let epoch = SystemTime::UNIX_EPOCH;
        let second = Duration::from_secs(1);
        assert_eq!(check_wall_clock(SystemTime::now()), Ok(()));
        assert_eq!(check_wall_clock(epoch), Ok(()));
        assert_eq!(check_wall_clock(epoch - second), Err(ClockUnset));
        assert_eq!(check_wall_clock(epoch + DATES_END - second), Ok(()));
        assert_eq!(check_wall_clock(epoch + DATES_END), Err(ClockUnset));
    }
}
