//! Servers under measurement: child processes that end with the benchmark.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::system::Fallible;

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    /// Held for what its end does: kill the server, and close the stdin that the floor's watches.
    _child: Child,
    id: u32,
    log: Arc<Mutex<VecDeque<String>>>,
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
        let program = command.as_std().get_program().to_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let id = child.id().expect("a child that was not waited for has an id");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let found = loop {
            let Some(line) = lines.next_line().await? else {
                let status = child.wait().await?;
                let words = quote(&log.lock());
                return Err(anyhow!("{program:?} ended before it was ready ({status}):\n{words}"));
            };
            let found = ready(&line);
            keep(&log, line);
            if let Some(found) = found {
                break found;
            }
        };
        tokio::spawn(keep_reading(lines, Arc::clone(&log)));
        Ok((Self { _child: child, id, log }, found))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The latest lines of its log.
    pub(crate) fn last_words(&self) -> String {
        quote(&self.log.lock())
    }
}

/// Lines of a server's log that are kept to be quoted.
const LINES_KEPT: usize = 20;

/// A pipe that nobody reads would stop the server once it is full.
async fn keep_reading(mut lines: Lines<BufReader<ChildStderr>>, log: Arc<Mutex<VecDeque<String>>>) {
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

/// The processor time that a process has used, in all its threads.
pub(crate) fn processor_time(id: u32) -> Fallible<Duration> {
    let path = format!("/proc/{id}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(ticks_of(&stat).with_context(|| format!("cannot understand {path}: {stat:?}"))?)
}

/// The time that is so many ticks of the kernel's accounts.
pub(crate) fn ticks(ticks: u64) -> Fallible<Duration> {
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// User and system time are fields 14 and 15, counted behind the name, which may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut times = behind_name.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_user_and_system_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 0 0 20 0 1 0 9 9 9";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("7 (a) S 1"), None);
        processor_time(std::process::id()).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_does_not_start_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such folder >&2; exit 3"]);
        let error = ServerProcess::start(command, |_| None::<()>).await.unwrap_err().to_string();
        let expected = "\"sh\" ended before it was ready (exit status: 3):\n  | no such folder\n";
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
