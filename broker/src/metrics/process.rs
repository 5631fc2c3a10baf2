//! What the operating system says about this process.

/// Memory, time and files of the process; zero where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ProcessFigures {
    /// Bytes of physical memory.
    pub(super) resident_bytes: u64,
    /// The most of it so far.
    pub(super) resident_bytes_peak: u64,
    /// Processor time used, in user and system mode.
    pub(super) cpu_seconds: f64,
    /// Open files.
    pub(super) open_fds: u64,
    /// Threads.
    pub(super) threads: u64,
}

#[cfg(target_os = "linux")]
impl ProcessFigures {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        Self {
            resident_bytes: field(&status, "VmRSS:") * 1024,
            resident_bytes_peak: field(&status, "VmHWM:") * 1024,
            cpu_seconds: cpu_seconds(&stat),
            // Reading the folder opened one itself.
            open_fds: open_fds.saturating_sub(1),
            threads: field(&status, "Threads:"),
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl ProcessFigures {
    /// Nothing: there is no `/proc` here.
    pub(super) fn read() -> Self {
        Self::default()
    }
}

/// The number after `name` in `/proc/self/status`.
#[cfg(target_os = "linux")]
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// `utime` and `stime` of `/proc/self/stat`, counted from behind the name, which may hold blanks.
#[cfg(target_os = "linux")]
fn cpu_seconds(stat: &str) -> f64 {
    let Some((_, after_name)) = stat.rsplit_once(')') else { return 0.0 };
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let figures = ProcessFigures::read();
        assert!(1 << 20 < figures.resident_bytes, "{figures:?}");
        assert!(figures.resident_bytes <= figures.resident_bytes_peak);
        assert!(0 < figures.threads && 0 < figures.open_fds);
    }

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "1 (a) b) c) S 0 1 1 0 -1 4194560 1 2 3 4 250 150 0 0 20";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), 400.0 / ticks);
    }
}
