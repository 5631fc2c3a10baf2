//! Runs any program as a worker: the payload on its stdin, the rest in its environment, and its
//! exit code and stderr for an answer.

use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

/// How much of a program's last words is kept: what the broker stores of a failure.
const STDERR_BYTES_MAX: usize = 4096;

/// How much of a program's output is taken: the largest payload that any broker allows.
const OUTPUT_BYTES_MAX: u64 = 12 << 20;

/// How long the line of a failure may be that lists show.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// How long a program may take to end when it is told to, before it is killed.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// How often to look whether all that a program started has ended.
const TERM_LOOK: Duration = Duration::from_millis(20);

/// How long to read on after a program ended, where something it left behind holds its stderr open.
const STDERR_GRACE: Duration = Duration::from_millis(500);

/// One message, as a program gets it.
#[derive(Debug)]
pub(super) struct Job {
    /// Goes to stdin.
    pub(super) payload: Bytes,
    /// Goes to the environment.
    pub(super) variables: Vec<(String, String)>,
    /// What the program writes to stdout is taken, not passed on.
    pub(super) takes_output: bool,
}

/// What became of a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ended with 0, and wrote this where its output is taken.
    Done(Bytes),
    /// It ended otherwise.
    Failed {
        /// `exit 3` or `signal 9`.
        kind: String,
        /// Its last words, on one line.
        message: String,
        /// The end of its stderr.
        details: String,
    },
    /// It was ended from here, before it was done.
    Stopped,
}

/// Runs `command` by the shell until it ends, or until `stop` ends it and all that it started.
///
/// # Errors
/// Where it cannot be started: the machine's fault, not the message's.
pub(super) async fn execute(
    command: &str,
    job: Job,
    stop: &CancellationToken,
) -> io::Result<Verdict> {
    let mut child = spawn(command, &job)?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let words = LastWords::default();
    let listener = child.stderr.take().expect("it was asked for when spawning");
    let mut listening = tokio::spawn(words.clone().listen(listener));
    let stdin = child.stdin.take().expect("it was asked for when spawning");
    let feeding = tokio::spawn(feed(stdin, job.payload));
    let mut writing = child.stdout.take().map(|stdout| tokio::spawn(output(stdout)));

    let status = wait(&mut child, group, stop, TERM_GRACE).await;
    feeding.abort();
    let output = match &mut writing {
        Some(writing) => tokio::time::timeout(STDERR_GRACE, writing).await,
        None => Ok(Ok(Ok(Vec::new()))),
    };
    // Ends at once, unless a grandchild still holds the pipe.
    if tokio::time::timeout(STDERR_GRACE, &mut listening).await.is_err() {
        listening.abort();
    }
    Ok(match status? {
        None => Verdict::Stopped,
        Some(status) if status.success() => match output {
            Ok(Ok(Ok(output))) => Verdict::Done(output.into()),
            _ => no_output(&words.text()),
        },
        Some(status) => failed(status, &words.text()),
    })
}

/// Reads what a program writes, as far as a message can hold it.
async fn output(stdout: ChildStdout) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output).await?;
    if OUTPUT_BYTES_MAX < output.len() as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(output)
}

/// It ended well, but what it wrote is too large, or something it left behind still writes.
fn no_output(stderr: &str) -> Verdict {
    let message = format!("its output has no end, or more than {OUTPUT_BYTES_MAX} bytes");
    Verdict::Failed { kind: "output".to_owned(), message, details: stderr.to_owned() }
}

fn spawn(command: &str, job: &Job) -> io::Result<Child> {
    Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .envs(job.variables.iter().map(|(name, value)| (name, without_nul(value))))
        .stdin(Stdio::piped())
        .stdout(if job.takes_output { Stdio::piped() } else { Stdio::inherit() })
        .stderr(Stdio::piped())
        // Its own group: Ctrl-C on the terminal asks us to finish, not the programs to die.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The environment cannot hold the character that ends its strings.
fn without_nul(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

/// Hands over the payload. A program need not read it.
async fn feed(mut stdin: ChildStdin, payload: Bytes) {
    // It ended or closed its stdin: its exit code says what that means.
    stdin.write_all(&payload).await.ok();
}

/// Waits for the end; `None` where it was brought about here, after `grace` by force.
async fn wait(
    child: &mut Child,
    group: Option<Pid>,
    stop: &CancellationToken,
    grace: Duration,
) -> io::Result<Option<ExitStatus>> {
    tokio::select! {
        status = child.wait() => return status.map(Some),
        () = stop.cancelled() => {}
    }
    signal(group, Signal::TERM);
    if tokio::time::timeout(grace, all_ended(child, group)).await.is_err() {
        signal(group, Signal::KILL);
        child.wait().await?;
    }
    Ok(None)
}

/// The program has ended, and what it started with it.
async fn all_ended(child: &mut Child, group: Option<Pid>) -> io::Result<()> {
    child.wait().await?;
    // Nobody tells of those that are not our own children; as a container's first process we inherit them.
    while let Some(group) = group.filter(|group| !is_gone(*group)) {
        while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
        tokio::time::sleep(TERM_LOOK).await;
    }
    Ok(())
}

fn is_gone(group: Pid) -> bool {
    test_kill_process_group(group) == Err(Errno::SRCH)
}

fn signal(group: Option<Pid>, signal: Signal) {
    // It may have ended by itself meanwhile.
    group.map(|group| kill_process_group(group, signal).ok());
}

fn failed(status: ExitStatus, stderr: &str) -> Verdict {
    use std::os::unix::process::ExitStatusExt as _;
    let kind = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    let last = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let message = last.unwrap_or("it said nothing on stderr");
    let message = message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
    Verdict::Failed { kind, message, details: stderr.to_owned() }
}

/// The end of what a program says on stderr, which is passed on as well.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<VecDeque<u8>>>);

impl LastWords {
    async fn listen(self, mut stderr: ChildStderr) {
        let mut heard = [0; 4096];
        let mut passed_on = tokio::io::stderr();
        while let Ok(length @ 1..) = stderr.read(&mut heard).await {
            // Nobody may be listening to our own stderr.
            passed_on.write_all(&heard[..length]).await.ok();
            self.keep(&heard[..length]);
        }
        passed_on.flush().await.ok();
    }

    fn keep(&self, heard: &[u8]) {
        let mut kept = self.0.lock();
        kept.extend(heard);
        let excess = kept.len().saturating_sub(STDERR_BYTES_MAX);
        kept.drain(..excess);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.lock().iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(payload: &'static str) -> Job {
        let variables = vec![
            ("QBROKER_MESSAGE_ID".to_owned(), "m-1".to_owned()),
            ("QBROKER_MESSAGE_HEADERS".to_owned(), "a\0b".to_owned()),
        ];
        let payload = Bytes::from_static(payload.as_bytes());
        Job { payload, variables, takes_output: false }
    }

    fn done() -> Verdict {
        Verdict::Done(Bytes::new())
    }

    async fn run(command: &str, payload: &'static str) -> Verdict {
        execute(command, job(payload), &CancellationToken::new()).await.unwrap()
    }

    fn failure(verdict: Verdict) -> (String, String, String) {
        match verdict {
            Verdict::Failed { kind, message, details } => (kind, message, details),
            other @ (Verdict::Done(_) | Verdict::Stopped) => panic!("{other:?} is no failure"),
        }
    }

    #[tokio::test]
    async fn a_program_gets_the_payload_and_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let command = format!(
            "{{ cat; printf ' %s %s' \"$QBROKER_MESSAGE_ID\" \"$QBROKER_MESSAGE_HEADERS\"; }} > '{}'",
            out.display()
        );
        assert_eq!(run(&command, "hello").await, done());
        assert_eq!(std::fs::read_to_string(out).unwrap(), "hello m-1 a\u{fffd}b");
    }

    #[tokio::test]
    async fn output_is_taken_where_it_is_asked_for_up_to_a_bound() {
        let take = async |command| {
            let job = Job { takes_output: true, ..job("in") };
            execute(command, job, &CancellationToken::new()).await.unwrap()
        };
        assert_eq!(take("cat; echo out").await, Verdict::Done(Bytes::from_static(b"inout\n")));
        assert_eq!(take("head -c 12582912 /dev/zero").await, {
            Verdict::Done(vec![0; 12 << 20].into())
        });
        let (kind, _, _) = failure(take("head -c 12582913 /dev/zero; exit 0").await);
        assert_eq!(kind, "output");
    }

    #[tokio::test]
    async fn a_failure_has_the_exit_code_and_the_last_words() {
        let verdict = run("echo first >&2; echo ' at last ' >&2; echo >&2; exit 3", "").await;
        let (kind, message, details) = failure(verdict);
        assert_eq!((kind.as_str(), message.as_str()), ("exit 3", "at last"));
        assert_eq!(details, "first\n at last");
        let (kind, message, _) = failure(run("kill -9 $$", "").await);
        assert_eq!((kind.as_str(), message.as_str()), ("signal 9", "it said nothing on stderr"));
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_stderr_is_kept() {
        let command = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1";
        let (_, message, details) = failure(run(command, "").await);
        assert_eq!(message, "line 2999");
        assert!(details.len() <= STDERR_BYTES_MAX && details.ends_with("line 2998\nline 2999"));
    }

    #[tokio::test]
    async fn a_program_need_not_read_a_large_payload() {
        let payload: &'static str = Box::leak("x".repeat(4 << 20).into_boxed_str());
        assert_eq!(run("exit 0", payload).await, done());
        assert_eq!(run("wc -c | grep -q 4194304", payload).await, done());
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_hold_the_message() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        // The grandchild holds stderr open until the fifo is opened, long after its parent ended.
        let command = format!("mkfifo '{0}'; (cat '{0}' >&2) & exit 0", fifo.display());
        assert_eq!(run(&command, "").await, done());
        std::fs::write(fifo, "").unwrap();
    }

    #[tokio::test]
    async fn stopping_ends_a_program_and_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, ended) = (folder.path().join("ready"), folder.path().join("ended"));
        for path in [&ready, &ended] {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap();
        }
        // The inner shell is the one that says so, and both must hear the signal.
        let command = format!(
            "sh -c 'trap \"echo inner > {1}; exit 0\" TERM; echo > {0}; while :; do sleep 0.01; done' & wait",
            ready.display(),
            ended.display()
        );
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { execute(&command, job(""), &stop).await.unwrap() }
        });
        tokio::fs::read(&ready).await.unwrap();
        let said = tokio::fs::read(&ended);
        stop.cancel();
        assert_eq!(said.await.unwrap(), b"inner\n");
        assert_eq!(running.await.unwrap(), Verdict::Stopped);
    }

    #[tokio::test]
    async fn stopping_kills_what_does_not_hear_and_outlives_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let alive = folder.path().join("alive");
        rustix::fs::mkfifoat(rustix::fs::CWD, &alive, 0o600.into()).unwrap();
        // Who reads the fifo is at its end once nobody holds it open any more.
        let deaf = "trap '' TERM; echo >&5; exec sleep 60";
        let command = format!("({deaf}) 5> '{}' & wait", alive.display());
        let mut child = spawn(&command, &job("")).unwrap();
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut held = tokio::fs::File::open(&alive).await.unwrap();
        assert_eq!(held.read_u8().await.unwrap(), b'\n');
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = wait(&mut child, group, &stop, Duration::from_millis(100)).await;
        assert_eq!(ended.unwrap(), None);
        // As long as it would live.
        let end = tokio::time::timeout(Duration::from_secs(60), held.read(&mut [0])).await;
        assert_eq!(end.expect("nobody is left").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_a_failure_of_the_message() {
        let (kind, message, _) = failure(run("/no/such/program", "").await);
        assert_eq!(kind, "exit 127");
        assert!(message.contains("/no/such/program"), "{message}");
    }
}
