//! Memory and disk over time: looked at all the while, whoever is busy.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::Serialize;

use super::footprint::{Device, Footprint, disk_bytes};
use crate::system::Fallible;

/// What was seen at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Since the begin.
    pub(crate) seconds: f64,
    /// As [`Footprint::held_bytes`]; 0 while no broker runs.
    pub(crate) held_bytes: u64,
    pub(crate) resident_bytes: u64,
    /// As [`Footprint::peak_bytes`]: of the process that runs.
    pub(crate) peak_bytes: u64,
    /// Of the data folder.
    pub(crate) disk_bytes: u64,
    /// To the folder's device, by everybody, since the begin; `None` where nobody counts.
    pub(crate) written_bytes: Option<u64>,
}

/// Looks on until it is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    /// Its end is the end.
    _stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    data: PathBuf,
    device: Option<Device>,
    /// What the device had written before.
    written_before: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    server: Option<u32>,
    samples: Vec<Sample>,
}

/// Often enough for a curve; rarely enough to take nothing of two cores.
const INTERVAL: Duration = Duration::from_millis(100);

impl Recorder {
    /// Looks at the folder `data`, which is there, and at no process yet.
    pub(crate) fn start(data: PathBuf) -> Self {
        let state = Mutex::new(State::default());
        let device = Device::of(&data);
        let written_before = device.as_ref().and_then(Device::written_bytes).unwrap_or_default();
        let start = Instant::now();
        let shared = Arc::new(Shared { start, data, device, written_before, state });
        let (stop, stopped) = mpsc::channel();
        // A thread: the runtime's workers are as busy as the clients are.
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    // A folder that is gone is told by whoever looks next on purpose.
                    shared.look().ok();
                }
            }
        });
        Self { shared, _stop: stop, thread: Some(thread) }
    }

    /// The broker's process is this one from now on; `None`: it is about to end.
    ///
    /// # Errors
    ///
    /// As [`Self::look`].
    pub(crate) fn server(&self, id: Option<u32>) -> Fallible<()> {
        self.look()?;
        self.shared.state.lock().server = id;
        Ok(())
    }

    /// Looks now.
    ///
    /// # Errors
    ///
    /// The process has ended, the folder is gone.
    pub(crate) fn look(&self) -> Fallible<Sample> {
        self.shared.look()
    }

    /// What was seen from `since` seconds on.
    pub(crate) fn samples(&self, since: f64) -> Vec<Sample> {
        let state = self.shared.state.lock();
        state.samples.iter().filter(|sample| since <= sample.seconds).copied().collect()
    }
}

impl Shared {
    fn look(&self) -> Fallible<Sample> {
        // Listed without the lock: a folder of many segments takes a while.
        let disk_bytes = disk_bytes(&self.data)?;
        let mut state = self.state.lock();
        let footprint = match state.server {
            Some(id) => Some(Footprint::of(id).context("the broker's process has ended")?),
            None => None,
        };
        let written = self.device.as_ref().and_then(Device::written_bytes);
        let sample = Sample {
            seconds: self.start.elapsed().as_secs_f64(),
            held_bytes: footprint.map_or(0, |footprint| footprint.held_bytes),
            resident_bytes: footprint.map_or(0, |footprint| footprint.resident_bytes),
            peak_bytes: footprint.map_or(0, |footprint| footprint.peak_bytes),
            disk_bytes,
            written_bytes: written.map(|written| written.saturating_sub(self.written_before)),
        };
        state.samples.push(sample);
        Ok(sample)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let (stop, _) = mpsc::channel();
        self._stop = stop;
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and there is nobody to tell.
            thread.join().ok();
        }
    }
}

/// At most `count` samples, each the one of its stretch with the most memory held.
pub(crate) fn thin(samples: &[Sample], count: usize) -> Vec<Sample> {
    let stretch = samples.len().div_ceil(count).max(1);
    let most = |stretch: &[Sample]| stretch.iter().max_by_key(|sample| sample.held_bytes).copied();
    samples.chunks(stretch).filter_map(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_until_it_is_about_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(folder.path().to_owned());
        assert_eq!(recorder.look().unwrap().held_bytes, 0);
        recorder.server(Some(std::process::id())).unwrap();
        let running = recorder.look().unwrap();
        assert!(0 < running.held_bytes && running.held_bytes <= running.peak_bytes, "{running:?}");
        recorder.server(None).unwrap();
        let after = recorder.look().unwrap();
        assert_eq!(after.held_bytes, 0);
        assert!(running.written_bytes <= after.written_bytes);
        assert!(3 <= recorder.samples(0.0).len());
        assert_eq!(recorder.samples(f64::MAX), []);
    }

    #[test]
    fn thinning_keeps_the_peak() {
        let sample = |held_bytes| Sample {
            seconds: 0.0,
            held_bytes,
            resident_bytes: 0,
            peak_bytes: 0,
            disk_bytes: 0,
            written_bytes: None,
        };
        let samples: Vec<_> = [1, 9, 2, 3, 4].map(sample).into();
        assert_eq!(thin(&samples, 3), [sample(9), sample(3), sample(4)]);
        assert_eq!(thin(&samples, 9).len(), 5);
        assert_eq!(thin(&[], 9), []);
    }
}
