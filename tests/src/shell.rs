//! A person at a shell: commands of the program, run against one broker.

use std::fs::File;
use std::io::Read as _;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::program::Ran;
use crate::{patiently, program};

/// The program with flags and variables that every command gets.
#[derive(Clone, Debug, Default)]
pub struct Shell {
    flags: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Shell {
    /// Commands go to the broker at this URL.
    pub fn at(url: &str) -> Self {
        Self::default().with(&["--url", url])
    }

    /// Commands get these flags, too.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Commands find this variable in their environment, which is empty otherwise.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a command to its end, with nothing on its stdin.
    ///
    /// # Panics
    /// When it does not end by itself.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"").await
    }

    /// Runs a command that gets `input` on its stdin.
    ///
    /// # Panics
    /// When it does not end by itself.
    pub async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let feed = async move {
            // It need not read it all.
            stdin.write_all(input).await.ok();
        };
        let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
        Ran::of(patiently("the end of the command", ended).await.expect("it is a child"))
    }

    /// Runs a command that must succeed; what it wrote to stdout.
    ///
    /// # Panics
    /// When it does not end with 0.
    pub async fn out(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out
    }

    /// Runs a command that must succeed, and parses the one document that `-o json` gives.
    ///
    /// # Panics
    /// When it does not end with 0, or prints something else.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.out(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// Runs a command on a terminal at which somebody types `answer`. What it wrote to stderr is
    /// what the terminal showed.
    ///
    /// # Panics
    /// When it does not end by itself.
    pub async fn run_on_terminal(&self, arguments: &[&str], answer: &str) -> Ran {
        self.on_terminal(arguments, answer, false).await
    }

    /// [`Self::run_on_terminal`], where stdout is the terminal as well: what was shown is the `out`.
    /// That must not be much, since it is read at the end.
    ///
    /// # Panics
    /// When it does not end by itself.
    pub async fn run_on_screen(&self, arguments: &[&str], answer: &str) -> Ran {
        let ran = self.on_terminal(arguments, answer, true).await;
        Ran { out: ran.err, err: String::new(), ..ran }
    }

    async fn on_terminal(&self, arguments: &[&str], answer: &str, is_screen: bool) -> Ran {
        let terminal =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&terminal).expect("it is ours");
        unlockpt(&terminal).expect("it is ours");
        let far_end = ioctl_tiocgptpeer(&terminal, OpenptFlags::RDWR | OpenptFlags::NOCTTY);
        let far_end = File::from(far_end.expect("it is unlocked"));
        let mut command = self.command(arguments);
        if is_screen {
            command.stdout(far_end.try_clone().expect("it is open"));
        }
        command.stdin(far_end.try_clone().expect("it is open")).stderr(far_end);
        let child = command.spawn().expect("it starts");
        // Its copies of the far end go too, so that the near end sees the last one close.
        drop(command);
        rustix::io::write(&terminal, answer.as_bytes()).expect("it is open");
        let ended = patiently("the end of the command", child.wait_with_output());
        let mut output = ended.await.expect("it is a child");
        // Its end is an error, after all that was shown.
        File::from(terminal).read_to_end(&mut output.stderr).ok();
        Ran::of(output)
    }

    /// Starts a command that goes on until it is stopped.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdin(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut stderr = child.stderr.take().expect("it is piped");
        let (said, err) = tokio::sync::watch::channel(String::new());
        let listening = tokio::spawn(async move {
            let mut heard = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut heard).await {
                said.send_modify(|said| *said += &String::from_utf8_lossy(&heard[..length]));
            }
        });
        Running { child, lines: Some(lines), err, listening }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(arguments);
        command.args(&self.flags).envs(self.variables.iter().cloned());
        let mut command = Command::from(command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// What it writes to stdout, until that is closed here.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    err: tokio::sync::watch::Receiver<String>,
    listening: JoinHandle<()>,
}

impl Running {
    /// The next line it writes to stdout, or whoever it starts does; `None` when it has ended.
    ///
    /// # Panics
    /// When none comes.
    pub async fn line(&mut self) -> Option<String> {
        let lines = self.lines.as_mut().expect("stdout is not closed");
        patiently("a line", lines.next_line()).await.expect("it writes UTF-8")
    }

    /// The next line, which must be JSON.
    ///
    /// # Panics
    /// When it is not, or none comes.
    pub async fn json_line(&mut self) -> Value {
        let line = self.line().await.expect("it goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits until it has said this on stderr.
    ///
    /// # Panics
    /// When it does not, or ends before it does.
    pub async fn wait_for_word(&mut self, word: &str) {
        let heard = patiently(word, self.err.wait_for(|err| err.contains(word))).await;
        drop(heard.unwrap_or_else(|_| panic!("it ended before it said {word:?}")));
    }

    /// Closes the end of its stdout that is here: nobody reads on.
    pub fn close_stdout(&mut self) {
        self.lines = None;
    }

    /// Sends a signal to it alone.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(pid.expect("it runs"), signal).expect("it is not reaped yet");
    }

    /// Waits until it ends by itself; with what it had not written to stdout before.
    ///
    /// # Panics
    /// When it does not.
    pub async fn end(mut self) -> Ran {
        let mut out = Vec::new();
        if let Some(lines) = self.lines.take() {
            let rest =
                patiently("the end of stdout", lines.into_inner().read_to_end(&mut out)).await;
            rest.expect("it can be read");
        }
        let status = patiently("the end of the command", self.child.wait()).await;
        // Its own stderr is closed; who it left behind may hold on to theirs, which is its pipe's.
        patiently("the end of stderr", &mut self.listening).await.expect("it does not panic");
        let stderr = self.err.borrow().clone().into_bytes();
        Ran::of(Output { status: status.expect("it is a child"), stdout: out, stderr })
    }

    /// Ends it with SIGKILL.
    ///
    /// # Panics
    /// When it had ended before.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        patiently("its end", self.child.wait()).await.expect("it is a child");
    }
}
