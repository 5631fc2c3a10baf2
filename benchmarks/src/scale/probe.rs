//! The disk beside the broker: a file of its own, written and synced all the while.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use hdrhistogram::Histogram;

use crate::samples::histogram;
use crate::system::Fallible;

/// Writes and syncs until it is ended.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Fallible<Seen>>,
}

/// What the probe saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Nanoseconds of each write with its sync.
    pub(crate) syncs: Histogram<u64>,
    /// Begin and end of those that took long.
    stalls: Vec<(Instant, Instant)>,
}

/// Often enough to see every stall; rarely enough to cause none.
const INTERVAL: Duration = Duration::from_millis(5);

/// A sync that takes so long is remembered with its time.
const STALL: Duration = Duration::from_millis(10);

const WRITE_BYTES: usize = 1024;

/// A file of so many writes is written round and round.
const WRITES: u64 = 1024;

impl Probe {
    /// Begins on a new file in `folder`.
    pub(crate) fn start(folder: &Path) -> Fallible<Self> {
        let mut file = tempfile::tempfile_in(folder).context("cannot make the probe's file")?;
        file.write_all(&vec![0; WRITE_BYTES * usize::try_from(WRITES)?])?;
        file.sync_all()?;
        let (stop, stopped) = mpsc::channel();
        Ok(Self { stop, thread: std::thread::spawn(move || run(&file, &stopped)) })
    }

    /// Ends it; what it saw.
    pub(crate) fn end(self) -> Fallible<Seen> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

fn run(file: &File, stopped: &mpsc::Receiver<()>) -> Fallible<Seen> {
    let mut seen = Seen { syncs: histogram(), stalls: Vec::new() };
    for write in 0_u64.. {
        let begin = Instant::now();
        file.write_all_at(&[7; WRITE_BYTES], write % WRITES * WRITE_BYTES as u64)?;
        file.sync_data()?;
        let end = Instant::now();
        seen.syncs.record(u64::try_from((end - begin).as_nanos())?)?;
        if STALL <= end - begin {
            seen.stalls.push((begin, end));
        }
        if stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(seen)
}

impl Seen {
    /// Whether the disk stalled for anybody between these times.
    pub(crate) fn stalled_between(&self, begin: Instant, end: Instant) -> bool {
        self.stalls.iter().any(|stall| stall.0 < end && begin < stall.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_sees_the_disk_and_remembers_stalls_by_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let probe = Probe::start(folder.path()).unwrap();
        let mut seen = probe.end().unwrap();
        assert!(!seen.syncs.is_empty());
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        seen.stalls = vec![(after(10), after(30))];
        assert!(seen.stalled_between(after(0), after(11)));
        assert!(seen.stalled_between(after(29), after(50)));
        assert!(!seen.stalled_between(after(30), after(50)));
    }
}
