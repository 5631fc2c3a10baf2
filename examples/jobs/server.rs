//! The broker as a process: started, killed and started again on the same data and address.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::Fallible;
use crate::tally::Tally;

/// A running broker; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    data_dir: PathBuf,
    address: SocketAddr,
    process: Process,
}

impl Server {
    /// Starts a broker on a free port, with its data in `data_dir`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or ends before it serves: then its last words are told.
    pub(crate) async fn start(program: &Path, data_dir: &Path) -> Fallible<Self> {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = Process::start(program, data_dir, any_port).await?;
        let (program, data_dir) = (program.to_owned(), data_dir.to_owned());
        Ok(Self { program, data_dir, address, process })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the broker `kills` times, evenly over the progress of the work, and watches it
    /// otherwise until the work is finished; how often it came to that.
    ///
    /// # Errors
    ///
    /// The broker ends by itself, or does not come back.
    pub(crate) async fn kill_on_the_way(&mut self, kills: u32, tally: &Tally) -> Fallible<u32> {
        for done in 0..kills {
            let due = f64::from(done + 1) / f64::from(kills + 1);
            let progress = tokio::select! {
                progress = tally.reached(|now| now.finished || due <= now.share()) => progress,
                status = self.process.child.wait() => return self.process.deserted(status?).await,
            };
            if progress.finished {
                return Ok(done);
            }
            let started = Instant::now();
            self.kill_and_restart().await?;
            println!(
                "killed     at {} published, {} and {} worked on; back after {:.1?}: {}",
                progress.published,
                progress.by_rust,
                progress.by_shell,
                started.elapsed(),
                self.process.recovery
            );
        }
        tokio::select! {
            () = tally.finished() => Ok(kills),
            status = self.process.child.wait() => self.process.deserted(status?).await,
        }
    }

    /// Ends the broker as a crash would, and starts it on the same data, at the same address.
    ///
    /// # Errors
    ///
    /// It had ended before, or does not come back.
    pub(crate) async fn kill_and_restart(&mut self) -> Fallible<()> {
        self.process.child.start_kill().context("the broker ended by itself")?;
        self.process.child.wait().await?;
        let started = Process::start(&self.program, &self.data_dir, self.address).await;
        (self.process, _) = started.context("the killed broker does not come back")?;
        Ok(())
    }

    /// Stops the broker in order.
    ///
    /// # Errors
    ///
    /// It does not end with exit code 0.
    pub(crate) async fn stop(mut self) -> Fallible<()> {
        let id = self.process.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(id.context("the broker ended by itself")?, Signal::TERM)?;
        let status = self.process.child.wait().await?;
        if !status.success() {
            return self.process.deserted(status).await;
        }
        Ok(())
    }
}

/// One life of the broker.
#[derive(Debug)]
struct Process {
    child: Child,
    /// What it found at its start, in its own words.
    recovery: String,
    /// The last lines of its log, once it has ended.
    log: Option<JoinHandle<VecDeque<String>>>,
}

impl Process {
    async fn start(
        program: &Path,
        data_dir: &Path,
        listen: SocketAddr,
    ) -> Fallible<(Self, SocketAddr)> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--grpc-listen", &listen.to_string(), "--http-listen", "127.0.0.1:0"]);
        // Enough for this, on machines whose temporary folder is small.
        command.args(["--log-format", "json", "--disk-reserve", "64MiB"]);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let (mut heard, mut recovery) = (VecDeque::new(), String::new());
        loop {
            let Some(line) = lines.next_line().await? else {
                let status = child.wait().await?;
                bail!("the broker ended before it served ({status}):\n{}", quote(&heard));
            };
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(report) = entry["report"].as_str() {
                report.clone_into(&mut recovery);
            }
            keep(&mut heard, line);
            if let Some(address) = entry["grpc"].as_str() {
                let address = address.parse().with_context(|| format!("address {address:?}"))?;
                let log = Some(tokio::spawn(keep_reading(lines, heard)));
                return Ok((Self { child, recovery, log }, address));
            }
        }
    }

    /// The error of a broker that ended although nobody asked it to.
    async fn deserted<T>(&mut self, status: ExitStatus) -> Fallible<T> {
        // Its end closed the pipe.
        let heard = match self.log.take() {
            Some(log) => log.await.unwrap_or_default(),
            None => VecDeque::new(),
        };
        bail!("the broker ended unasked or badly ({status}):\n{}", quote(&heard))
    }
}

/// Lines of the log that are kept to be quoted.
const LINES_KEPT: usize = 20;

/// A pipe that nobody reads would stop the broker once it is full.
async fn keep_reading(
    mut lines: Lines<BufReader<ChildStderr>>,
    mut heard: VecDeque<String>,
) -> VecDeque<String> {
    while let Ok(Some(line)) = lines.next_line().await {
        keep(&mut heard, line);
    }
    heard
}

fn keep(heard: &mut VecDeque<String>, line: String) {
    if heard.len() == LINES_KEPT {
        heard.pop_front();
    }
    heard.push_back(line);
}

fn quote(heard: &VecDeque<String>) -> String {
    heard.iter().map(|line| format!("  | {line}\n")).collect()
}
