//! Servers under measurement: child processes that end with the benchmark.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::process_tree;
use crate::system::Fallible;

/// A running server; clones are the same one. When the last is dropped, it and all that it has
/// started are ended.
#[derive(Debug, Clone)]
pub(crate) struct ServerProcess {
    running: Arc<Running>,
    log: Log,
}

/// The latest lines that a server wrote.
type Log = Arc<Mutex<VecDeque<String>>>;

/// Ends it on drop.
#[derive(Debug)]
struct Running {
    /// Held also for its stdin, whose end the floor's server watches.
    child: Mutex<Child>,
    id: u32,
    /// What it is asked to end by before it is killed.
    ends_by: OnceLock<Signal>,
}

impl ServerProcess {
    /// Starts `command` and reads its stderr until `ready` finds in a line what it looks for.
    ///
    /// # Errors
    ///
    /// The server cannot be started, or ends before it is ready: then its last words are told.
    pub(crate) async fn start<T>(
        mut command: Command,
        ready: impl Fn(&str) -> Option<T>,
    ) -> Fallible<(Self, T)> {
        command.stdout(Stdio::null());
        let (server, mut output) = Self::spawn_child(command)?;
        let mut lines = BufReader::new(output.stderr.take().expect("stderr is a pipe")).lines();
        let found = loop {
            let Some(line) = lines.next_line().await? else {
                return Err(server.ended().await);
            };
            let found = ready(&line);
            keep(&server.log, line);
            if let Some(found) = found {
                break found;
            }
        };
        tokio::spawn(keep_reading(lines, Arc::clone(&server.log)));
        Ok((server, found))
    }

    /// Starts `command`, which does not say when it is ready: [`Self::until`] it answers.
    ///
    /// # Errors
    ///
    /// The server cannot be started.
    pub(crate) fn spawn(mut command: Command) -> Fallible<Self> {
        command.stdout(Stdio::piped());
        let (server, output) = Self::spawn_child(command)?;
        let stdout = BufReader::new(output.stdout.expect("stdout is a pipe")).lines();
        let stderr = BufReader::new(output.stderr.expect("stderr is a pipe")).lines();
        tokio::spawn(keep_reading(stdout, Arc::clone(&server.log)));
        tokio::spawn(keep_reading(stderr, Arc::clone(&server.log)));
        Ok(server)
    }

    fn spawn_child(mut command: Command) -> Fallible<(Self, Output)> {
        let program = command.as_std().get_program().to_owned();
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is for the benchmark, which ends its servers itself.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let id = child.id().expect("a child that was not waited for has an id");
        let output = Output { stdout: child.stdout.take(), stderr: child.stderr.take() };
        let running = Arc::new(Running { child: Mutex::new(child), id, ends_by: OnceLock::new() });
        Ok((Self { running, log: Log::default() }, output))
    }

    /// Has it asked to end by this signal before it is killed.
    #[cfg(feature = "peers")]
    pub(crate) fn ends_by(self, signal: Signal) -> Self {
        self.running.ends_by.get_or_init(|| signal);
        self
    }

    /// Asks until the server answers.
    ///
    /// # Errors
    ///
    /// The server ends, or takes longer than anybody would wait.
    pub(crate) async fn until<T, A>(&self, mut ask: impl FnMut() -> A) -> Fallible<T>
    where
        A: Future<Output = Fallible<T>>,
    {
        let begin = Instant::now();
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if self.running.has_ended()? {
                return Err(self.ended().await);
            }
            if READY_WITHIN < begin.elapsed() {
                return Err(error.context(format!("not ready:\n{}", self.last_words())));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What it said before it ended by itself.
    async fn ended(&self) -> anyhow::Error {
        while let Ok(false) = self.running.has_ended() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        let status = self.running.child.lock().try_wait().ok().flatten();
        let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
        anyhow!("the server ended before it was ready ({status}):\n{}", self.last_words())
    }

    /// Ends the server when this is dropped, whoever else holds it.
    pub(crate) fn end_on_drop(&self) -> EndOnDrop {
        EndOnDrop(self.clone())
    }

    /// Kills the server and all that it has started, as a crash would, and waits for the end.
    pub(crate) fn kill(&self) {
        self.running.kill();
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.running.id
    }

    /// The latest lines of its log.
    pub(crate) fn last_words(&self) -> String {
        quote(&self.log.lock())
    }
}

/// See [`ServerProcess::end_on_drop`].
#[derive(Debug)]
pub(crate) struct EndOnDrop(ServerProcess);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.running.end();
    }
}

/// A backlog may have to be read first.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Who is asked to end has so long before it is killed.
const END_WITHIN: Duration = Duration::from_secs(20);

/// How often a server that starts is asked. Restart times are known no better.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// Where a server's words come out.
struct Output {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Running {
    fn has_ended(&self) -> Fallible<bool> {
        Ok(self.child.lock().try_wait()?.is_some())
    }

    /// Asks it to end where it is to be asked, and kills what is left.
    fn end(&self) {
        if let (Some(signal), Ok(false)) = (self.ends_by.get(), self.has_ended()) {
            process_tree::signal(self.id, *signal);
            let begin = Instant::now();
            while let (Ok(false), true) = (self.has_ended(), begin.elapsed() < END_WITHIN) {
                std::thread::sleep(ASK_AGAIN);
            }
        }
        self.kill();
    }

    fn kill(&self) {
        let mut child = self.child.lock();
        // One that was waited for has given its number back.
        if let Ok(None) = child.try_wait() {
            process_tree::kill(self.id);
        }
        // Short: nothing outlives SIGKILL but a write to the disk that is under way.
        while let Ok(None) = child.try_wait() {
            std::thread::sleep(ASK_AGAIN);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines of a server's log that are kept to be quoted.
const LINES_KEPT: usize = 20;

/// A pipe that nobody reads would stop the server once it is full.
async fn keep_reading<R: AsyncRead + Unpin>(mut lines: Lines<BufReader<R>>, log: Log) {
    while let Ok(Some(line)) = lines.next_line().await {
        keep(&log, line);
    }
}

fn keep(log: &Mutex<VecDeque<String>>, line: String) {
    let mut log = log.lock();
    if log.len() == LINES_KEPT {
        log.pop_front();
    }
    log.push_back(line);
}

fn quote(log: &VecDeque<String>) -> String {
    log.iter().map(|line| format!("  | {line}\n")).collect()
}

/// The time that is so many ticks of the kernel's accounts.
pub(crate) fn ticks(ticks: u64) -> Fallible<Duration> {
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_start_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such folder >&2; exit 3"]);
        let error = ServerProcess::start(command, |_| None::<()>).await.unwrap_err().to_string();
        let expected =
            "the server ended before it was ready (exit status: 3):\n  | no such folder\n";
        assert_eq!(error, expected);
    }

    #[tokio::test]
    async fn a_server_is_ready_when_its_log_says_so() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo warming up >&2; echo ready 7 >&2; cat"]);
        let ready = |line: &str| line.strip_prefix("ready ")?.parse::<u32>().ok();
        let (server, number) = ServerProcess::start(command, ready).await.unwrap();
        assert_eq!(number, 7);
        assert_eq!(server.last_words(), "  | warming up\n  | ready 7\n");
    }
}
