//! The part of a run that counts: how long it takes and what the server does in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::process_tree::processor_time;
use crate::system::Fallible;

/// Measures a server.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    server: u32,
    /// Where `perf` writes what the server does.
    profile: Option<PathBuf>,
}

/// A part that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    server: u32,
    at: Instant,
    processor: Duration,
    profiler: Option<Profiler>,
}

/// A part that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    /// The server's processor time.
    pub(crate) server: Duration,
}

impl Meter {
    /// For the server with this process id; with `profile`, `perf` records it into that file.
    pub(crate) fn new(server: u32, profile: Option<PathBuf>) -> Self {
        Self { server, profile }
    }

    pub(crate) async fn begin(&self) -> Fallible<Begun> {
        let profiler = match &self.profile {
            Some(file) => Some(Profiler::start(self.server, file).await?),
            None => None,
        };
        let processor = processor_time(self.server)?;
        Ok(Begun { server: self.server, at: Instant::now(), processor, profiler })
    }
}

impl Begun {
    pub(crate) async fn end(self) -> Fallible<Measured> {
        let elapsed = self.at.elapsed();
        let server = processor_time(self.server)?.saturating_sub(self.processor);
        if let Some(profiler) = self.profiler {
            profiler.stop().await?;
        }
        Ok(Measured { elapsed, server })
    }
}

/// `perf`, recording: it takes orders on its stdin and answers each on its stdout.
#[derive(Debug)]
struct Profiler {
    perf: Child,
    orders: ChildStdin,
    answers: ChildStdout,
}

impl Profiler {
    /// Returns once `perf` records, so that all that comes next is in the profile.
    async fn start(server: u32, file: &Path) -> Fallible<Self> {
        let mut command = Command::new("perf");
        command.args(["record", "--freq", "997", "--call-graph", "dwarf,16384"]);
        command.args(["--delay=-1", "--control", "fd:0,1"]);
        command.arg("--pid").arg(server.to_string()).arg("--output").arg(file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut perf = command.kill_on_drop(true).spawn().context("cannot start perf")?;
        let orders = perf.stdin.take().expect("stdin is a pipe");
        let answers = perf.stdout.take().expect("stdout is a pipe");
        let mut profiler = Self { perf, orders, answers };
        profiler.order("enable\n").await?;
        Ok(profiler)
    }

    async fn stop(mut self) -> Fallible<()> {
        self.order("stop\n").await?;
        let status = self.perf.wait().await?;
        ensure!(status.success(), "perf did not write its profile: {status}");
        Ok(())
    }

    async fn order(&mut self, order: &str) -> Fallible<()> {
        const ANSWER: &[u8; 5] = b"ack\n\0";
        self.orders.write_all(order.as_bytes()).await?;
        let mut answer = [0; ANSWER.len()];
        self.answers.read_exact(&mut answer).await.context("perf does not record")?;
        ensure!(&answer == ANSWER, "perf answers {:?}", answer.escape_ascii().to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_has_its_own_time_and_processor_time() {
        let meter = Meter::new(std::process::id(), None);
        let whole = meter.begin().await.unwrap();
        let part = meter.begin().await.unwrap().end().await.unwrap();
        let whole = whole.end().await.unwrap();
        assert!(part.elapsed <= whole.elapsed, "{part:?} {whole:?}");
        assert!(part.server <= whole.server, "{part:?} {whole:?}");
    }
}
