//! The machine beside the broker: a file of its own, written and synced all the while, and a sleeper
//! that is to be woken every millisecond. What these two miss, the broker could not have had either.

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

/// Watches until it is ended.
#[derive(Debug)]
pub(crate) struct Probe {
    syncs: Watching,
    naps: Watching,
}

/// What the probe saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Each write with its sync.
    pub(crate) syncs: Times,
    /// By how much each nap was longer than it was meant to be.
    pub(crate) naps: Times,
}

/// What took how long, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) all: Histogram<u64>,
    /// Begin and end of those that took long.
    stalls: Vec<(Instant, Instant)>,
}

/// A thread that times something again and again.
#[derive(Debug)]
struct Watching {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Fallible<Times>>,
}

/// Often enough to see every stall; rarely enough to cause none.
const INTERVAL: Duration = Duration::from_millis(5);

/// A sleeper wakes so often.
const NAP: Duration = Duration::from_millis(1);

/// What takes so long is remembered with its time.
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
        let syncs = Watching::start(move |stopped| time_syncs(&file, stopped));
        Ok(Self { syncs, naps: Watching::start(time_naps) })
    }

    /// Ends it; what it saw.
    pub(crate) fn end(self) -> Fallible<Seen> {
        Ok(Seen { syncs: self.syncs.end()?, naps: self.naps.end()? })
    }
}

impl Watching {
    fn start(time: impl FnOnce(&mpsc::Receiver<()>) -> Fallible<Times> + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel();
        Self { stop, thread: std::thread::spawn(move || time(&stopped)) }
    }

    fn end(self) -> Fallible<Times> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

fn time_syncs(file: &File, stopped: &mpsc::Receiver<()>) -> Fallible<Times> {
    let mut times = Times::none();
    for write in 0_u64.. {
        let begin = Instant::now();
        file.write_all_at(&[7; WRITE_BYTES], write % WRITES * WRITE_BYTES as u64)?;
        file.sync_data()?;
        times.add(begin, Instant::now())?;
        if stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    Ok(times)
}

fn time_naps(stopped: &mpsc::Receiver<()>) -> Fallible<Times> {
    // Before everybody else, so that a late waking is the machine's. Where that is not allowed, it may
    // be the broker's or a client's too.
    rustix::process::setpriority_process(None, -20).ok();
    let mut times = Times::none();
    loop {
        let end = Instant::now() + NAP;
        if stopped.recv_timeout(NAP) == Err(RecvTimeoutError::Disconnected) {
            return Ok(times);
        }
        times.add(end, Instant::now().max(end))?;
    }
}

impl Times {
    fn none() -> Self {
        Self { all: histogram(), stalls: Vec::new() }
    }

    fn add(&mut self, begin: Instant, end: Instant) -> Fallible<()> {
        self.all.record(u64::try_from((end - begin).as_nanos())?)?;
        if STALL <= end - begin {
            self.stalls.push((begin, end));
        }
        Ok(())
    }

    /// Whether one of the long ones was between these times.
    fn stalled_between(&self, begin: Instant, end: Instant) -> bool {
        self.stalls.iter().any(|stall| stall.0 < end && begin < stall.1)
    }
}

impl Seen {
    /// Whether the disk or the whole machine stalled for anybody between these times.
    pub(crate) fn stalled_between(&self, begin: Instant, end: Instant) -> bool {
        [&self.syncs, &self.naps].iter().any(|times| times.stalled_between(begin, end))
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
        assert!(!seen.syncs.all.is_empty());
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        seen.syncs.stalls = vec![(after(10), after(30))];
        seen.naps.stalls = vec![(after(60), after(70))];
        assert!(seen.stalled_between(after(0), after(11)));
        assert!(seen.stalled_between(after(29), after(50)));
        assert!(!seen.stalled_between(after(30), after(50)));
        assert!(seen.stalled_between(after(50), after(61)));
    }
}
