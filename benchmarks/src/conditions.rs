//! What the machine was like while it was measured: how long its disk took, and who else was busy.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::ticks;
use crate::process_tree::processor_time;
use crate::samples::{Latency, histogram};
use crate::system::Fallible;

/// A message and what is kept around it.
const SYNC_BYTES: usize = 1024;

/// Enough for a median, and over in a moment.
const SYNCS: usize = 300;

/// What is watched beside the rounds.
#[derive(Debug)]
pub(crate) struct Watch {
    file: File,
    syncs: Histogram<u64>,
    start: Busy,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Conditions {
    /// Microseconds of a write of 1 KiB and its `fdatasync`, alone, between the rounds.
    pub(crate) fdatasync_us: Latency,
    /// Share of the machine's processor time that went to anybody else, from 0 to 1.
    pub(crate) others_share: f64,
}

/// Processor time since the start of the machine.
#[derive(Debug, Clone, Copy)]
struct Busy {
    at: Instant,
    /// Of everybody, and what a hypervisor gave to other machines.
    all: Duration,
    /// Of the benchmark and its servers.
    own: Duration,
}

impl Watch {
    /// Watches the disk below `folder`, and whoever is neither this process nor started by it.
    pub(crate) fn start(folder: &Path) -> Fallible<Self> {
        let file = tempfile::tempfile_in(folder).context("cannot make a file to time the disk")?;
        zero_fill(&file)?;
        let start = Busy::now()?;
        Ok(Self { file, syncs: histogram(), start })
    }

    /// Times the disk, which is to be idle: writes to a zero-filled file, as both logs are.
    pub(crate) fn time_disk(&mut self) -> Fallible<()> {
        for write in 0..SYNCS {
            let begin = Instant::now();
            self.file.write_all_at(&[7; SYNC_BYTES], (write * SYNC_BYTES) as u64)?;
            self.file.sync_data()?;
            self.syncs.record(u64::try_from(begin.elapsed().as_nanos())?)?;
        }
        Ok(())
    }

    /// What was seen since the start.
    pub(crate) fn end(self) -> Fallible<Conditions> {
        let end = Busy::now()?;
        Ok(Conditions {
            fdatasync_us: Latency::of(&self.syncs),
            others_share: others_share(
                self.start,
                end,
                std::thread::available_parallelism()?.get(),
            ),
        })
    }
}

impl Busy {
    fn now() -> Fallible<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let all = busy_ticks(&stat).context("cannot understand /proc/stat")?;
        // Servers that have ended are in it as well.
        let own = processor_time(std::process::id())?;
        Ok(Self { at: Instant::now(), all: ticks(all)?, own })
    }
}

fn zero_fill(mut file: &File) -> std::io::Result<()> {
    file.write_all(&[0; SYNCS * SYNC_BYTES])?;
    file.sync_all()
}

/// All of the first line but the fourth and fifth figure, idle and waiting for a disk, and the last
/// two, which are in the first two as well.
fn busy_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let figures: Option<Vec<u64>> =
        all.split_ascii_whitespace().map(|figure| figure.parse().ok()).collect();
    let figures = figures.filter(|figures| 8 <= figures.len())?;
    Some(figures[..3].iter().chain(&figures[5..8]).sum())
}

fn others_share(start: Busy, end: Busy, cores: usize) -> f64 {
    let all = (end.all - start.all).as_secs_f64();
    let own = end.own.saturating_sub(start.own).as_secs_f64();
    let machine = (end.at - start.at).as_secs_f64() * cores as f64;
    // The two are counted in ticks, at slightly different times.
    ((all - own) / machine).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let stat = "cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(10 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
    }

    #[test]
    fn others_have_what_the_benchmark_did_not_use() {
        let at = Instant::now();
        let busy = |seconds, all, own| Busy {
            at: at + Duration::from_secs(seconds),
            all: Duration::from_secs(all),
            own: Duration::from_secs(own),
        };
        let share = others_share(busy(0, 100, 10), busy(10, 120, 25), 2);
        assert!((share - 0.25).abs() < 1e-9, "{share}");
    }

    #[test]
    fn the_disk_is_timed() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::start(folder.path()).unwrap();
        watch.time_disk().unwrap();
        let conditions = watch.end().unwrap();
        let latency = conditions.fdatasync_us;
        assert!(0.0 < latency.p50 && latency.p50 <= latency.p99, "{conditions:?}");
    }
}
