//! The broker on its data folder: started, killed, started again, and what it took in each phase.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use tempfile::TempDir;

use super::exposition::Exposition;
use super::progress::Progress;
use super::recorder::{Recorder, Sample};
use crate::place::folder_in;
use crate::process::EndOnDrop;
use crate::qbroker::Qbroker;
use crate::system::{Fallible, System as _};

/// A broker with its defaults, and all that is written down about it.
#[derive(Debug)]
pub(crate) struct Stage {
    running: Option<Running>,
    recorder: Recorder,
    progress: Arc<Progress>,
    phases: Vec<Phase>,
    /// Of processes that have ended.
    before: Totals,
    data: PathBuf,
    /// How many data folders there were.
    folders: usize,
    program: PathBuf,
    payload_bytes: u32,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    broker: Arc<Qbroker>,
    /// Whoever else holds it.
    _end: EndOnDrop,
}

/// What a broker counts of its writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Totals {
    /// Written to segments, without what the file system adds to each write to fill its blocks.
    pub(crate) log_bytes: f64,
    /// Group commits.
    pub(crate) frames: f64,
    /// Zeros written ahead: the growth of the pool of segments.
    pub(crate) zeroed_bytes: f64,
    /// What compaction copied.
    pub(crate) compacted_bytes: f64,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// When it began, on the clock of the samples.
    pub(crate) begin_seconds: f64,
    pub(crate) seconds: f64,
    /// How many went through; 0 of a phase that is not about messages.
    pub(crate) messages: u64,
    /// At a time: published and not confirmed, delivered and not settled.
    pub(crate) messages_in_flight: u32,
    pub(crate) messages_per_second: f64,
    /// The most memory of its own that was seen (`RssAnon` and `RssShmem`).
    pub(crate) held_max_bytes: u64,
    /// The most that was ever resident, program and mapped files included (`VmHWM`), of the
    /// processes of the phase, since their start.
    pub(crate) peak_bytes: u64,
    pub(crate) disk_max_bytes: u64,
    /// At the end.
    pub(crate) disk_bytes: u64,
    /// To the device, by everybody, zeros ahead included; `None` where nobody counts.
    pub(crate) written_bytes: Option<u64>,
    pub(crate) totals: Totals,
}

/// A phase that has begun.
#[derive(Debug)]
pub(crate) struct Open {
    name: String,
    at: Instant,
    sample: Sample,
    totals: Totals,
}

/// What a phase did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) messages: u64,
    pub(crate) in_flight: u32,
}

impl Stage {
    /// A broker on an empty folder inside `folder`.
    pub(crate) async fn start(
        program: PathBuf,
        folder: TempDir,
        payload_bytes: u32,
    ) -> Fallible<Self> {
        let brokers = folder_in(folder.path(), BROKERS)?;
        let mut stage = Self {
            running: None,
            recorder: Recorder::start(brokers.clone()),
            progress: Arc::new(Progress::new()),
            phases: Vec::new(),
            before: Totals::default(),
            data: brokers,
            folders: 0,
            program,
            payload_bytes,
            folder,
        };
        stage.fresh().await?;
        Ok(stage)
    }

    /// Ends the broker, if one runs, with all that it kept, and starts one on an empty folder.
    pub(crate) async fn fresh(&mut self) -> Fallible<Arc<Qbroker>> {
        if self.running.is_some() {
            self.kill().await?;
            std::fs::remove_dir_all(&self.data)?;
        }
        self.folders += 1;
        let name = format!("data-{}", self.folders);
        self.data = folder_in(&self.folder.path().join(BROKERS), &name)?;
        self.start_again().await
    }

    /// Starts the broker on what is there.
    pub(crate) async fn start_again(&mut self) -> Fallible<Arc<Qbroker>> {
        let broker = Arc::new(Qbroker::start(&self.program, &self.data).await?);
        let server = broker.server();
        self.recorder.server(Some(server.id()))?;
        self.running = Some(Running { _end: server.end_on_drop(), broker: Arc::clone(&broker) });
        Ok(broker)
    }

    /// Ends the broker as a crash would.
    pub(crate) async fn kill(&mut self) -> Fallible<()> {
        self.before = self.totals().await?;
        self.recorder.server(None)?;
        let running = self.running.take().context("no broker runs")?;
        running.broker.server().kill();
        Ok(())
    }

    /// The broker that runs.
    pub(crate) fn broker(&self) -> Fallible<Arc<Qbroker>> {
        Ok(Arc::clone(&self.running.as_ref().context("no broker runs")?.broker))
    }

    /// Its figures.
    pub(crate) async fn metrics(&self) -> Fallible<Exposition> {
        Exposition::read(self.broker()?.http()).await
    }

    /// A phase begins.
    pub(crate) async fn begin(&self, name: &str, messages: Option<u64>) -> Fallible<Open> {
        self.progress.begin(name, messages);
        let (totals, sample) = (self.totals().await?, self.recorder.look()?);
        Ok(Open { name: name.to_owned(), at: Instant::now(), sample, totals })
    }

    /// The phase is over.
    pub(crate) async fn end(&mut self, open: Open, done: Done) -> Fallible<Phase> {
        let seconds = open.at.elapsed().as_secs_f64();
        let (totals, end) = (self.totals().await?, self.recorder.look()?);
        let samples = self.recorder.samples(open.sample.seconds);
        let most = |value: fn(&Sample) -> u64| samples.iter().map(value).max().unwrap_or_default();
        let phase = Phase {
            name: open.name,
            begin_seconds: open.sample.seconds,
            seconds,
            messages: done.messages,
            messages_in_flight: done.in_flight,
            messages_per_second: done.messages as f64 / seconds,
            held_max_bytes: most(|sample| sample.held_bytes),
            peak_bytes: most(|sample| sample.peak_bytes),
            disk_max_bytes: most(|sample| sample.disk_bytes),
            disk_bytes: end.disk_bytes,
            written_bytes: end.written_bytes.zip(open.sample.written_bytes).map(|(e, b)| e - b),
            totals: totals.since(open.totals),
        };
        self.phases.push(phase.clone());
        Ok(phase)
    }

    /// What the data folder takes now.
    pub(crate) fn disk_bytes(&self) -> Fallible<u64> {
        Ok(self.recorder.look()?.disk_bytes)
    }

    /// Memory that the broker holds of its own now.
    pub(crate) fn held_bytes(&self) -> Fallible<u64> {
        Ok(self.recorder.look()?.held_bytes)
    }

    pub(crate) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.recorder.samples(0.0)
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }

    /// Beside the data folder, and on no record.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn totals(&self) -> Fallible<Totals> {
        if self.running.is_none() {
            return Ok(self.before);
        }
        let metrics = self.metrics().await?;
        let Totals { log_bytes, frames, zeroed_bytes, compacted_bytes } = self.before;
        Ok(Totals {
            log_bytes: log_bytes + metrics.value("qbroker_log_written_bytes_total")?,
            frames: frames + metrics.value("qbroker_log_frames_total")?,
            zeroed_bytes: zeroed_bytes + metrics.value("qbroker_log_zeroed_bytes_total")?,
            compacted_bytes: compacted_bytes
                + metrics.value("qbroker_log_compacted_bytes_total")?,
        })
    }
}

/// The folder that the recorder looks at.
const BROKERS: &str = "brokers";

impl Totals {
    fn since(self, earlier: Self) -> Self {
        Self {
            log_bytes: self.log_bytes - earlier.log_bytes,
            frames: self.frames - earlier.frames,
            zeroed_bytes: self.zeroed_bytes - earlier.zeroed_bytes,
            compacted_bytes: self.compacted_bytes - earlier.compacted_bytes,
        }
    }
}

impl Phase {
    /// What the device has written, zeros ahead aside, for each byte of payload.
    pub(crate) fn amplification(&self, payload_bytes: u32) -> Option<f64> {
        let written = self.written_bytes? as f64 - self.totals.zeroed_bytes;
        Some(written / self.payload(payload_bytes))
    }

    /// Bytes of segments, hot and cold, for each byte of payload: what the broker meant to write.
    pub(crate) fn log_amplification(&self, payload_bytes: u32) -> f64 {
        (self.totals.log_bytes + self.totals.compacted_bytes) / self.payload(payload_bytes)
    }

    /// Zeros written ahead for each byte of payload.
    pub(crate) fn pool_growth(&self, payload_bytes: u32) -> f64 {
        self.totals.zeroed_bytes / self.payload(payload_bytes)
    }

    fn payload(&self, payload_bytes: u32) -> f64 {
        self.messages as f64 * f64::from(payload_bytes)
    }
}
