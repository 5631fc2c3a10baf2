//! A broker in a process of its own: started, watched by its log, stopped or killed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;

use crate::folder::Folder;
use crate::{patiently, program};

/// A running `qbroker serve`. Dropped, it is killed; its log is printed where the test failed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: watch::Receiver<Log>,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// What a process has logged so far.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    /// The process has closed its stderr: it is gone.
    ended: bool,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Everything it logged.
    pub log: String,
}

impl Ended {
    fn new(status: ExitStatus, log: &watch::Receiver<Log>) -> Self {
        let log = log.borrow().lines.join("\n");
        Self { code: status.code(), signal: status.signal(), log }
    }

    /// The first line logged with this message, its fields parsed.
    pub fn event(&self, message: &str) -> Option<Value> {
        self.log.lines().find_map(|line| event(line, message))
    }

    /// How many leases it said to keep over the restart.
    ///
    /// # Panics
    /// When it did not stop in order.
    pub fn leases_kept(&self) -> u64 {
        let stopped = self.event("stopped").unwrap_or_else(|| panic!("no stop:\n{}", self.log));
        stopped["leases_kept"].as_u64().expect("it is a number")
    }

    /// The text of every ERROR.
    pub fn errors(&self) -> String {
        let error = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["level"] == "ERROR").then(|| event["message"].as_str().unwrap_or("").to_owned())
        };
        self.log.lines().filter_map(error).collect::<Vec<_>>().join("\n")
    }
}

/// Settings under which a small test shows everything: free ports, small segments, an index that
/// goes to disk at once, no reserve to speak of. A test's own flags come before them.
const SETTINGS: [(&str, &str); 8] = [
    ("--grpc-listen", "127.0.0.1:0"),
    ("--http-listen", "127.0.0.1:0"),
    ("--segment-bytes", "4MiB"),
    ("--messages-in-memory", "1000"),
    ("--max-batch-bytes", "1MiB"),
    ("--max-payload", "512KiB"),
    ("--disk-reserve", "4MiB"),
    ("--log-format", "json"),
];

impl Server {
    /// Starts a broker on `folder`, on free ports of loopback, and waits until it serves.
    ///
    /// # Panics
    /// When it does not serve.
    pub async fn start(folder: &Folder, flags: &[&str]) -> Self {
        match Self::try_start(folder, flags).await {
            Ok(server) => server,
            Err(ended) => panic!("the broker did not start ({:?}):\n{}", ended.code, ended.log),
        }
    }

    /// [`Self::start`], or how the process ended instead.
    ///
    /// # Errors
    /// When the process ends before it serves.
    pub async fn try_start(folder: &Folder, flags: &[&str]) -> Result<Self, Ended> {
        let mut server = Self::spawn(folder, flags);
        match server.wait_for("serving").await {
            Some(serving) => {
                let address = |name: &str| serving[name].as_str().unwrap_or_default().to_owned();
                server.grpc = address("grpc").parse().expect("the log names the address");
                server.http = address("http").parse().unwrap_or(server.http);
                Ok(server)
            }
            None => Err(server.end().await),
        }
    }

    /// Starts a broker and waits for nothing; where it listens is not known.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn spawn(folder: &Folder, flags: &[&str]) -> Self {
        let mut command = program::command(&["serve", "--data-dir", folder.data_text()]);
        for (flag, value) in SETTINGS {
            if !flags.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.args(flags).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, log) = watch::channel(Log::default());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sender.send_modify(|log| log.lines.push(line));
            }
            sender.send_modify(|log| log.ended = true);
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, log, grpc: nowhere, http: nowhere }
    }

    /// Where gRPC listens.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The process.
    ///
    /// # Panics
    /// When the system's number for it is none.
    pub fn pid(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.expect("a process id")
    }

    /// A figure that it tells at `/metrics`.
    ///
    /// # Panics
    /// When it does not answer, or tells no such figure.
    pub fn figure(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.http).expect("it listens");
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let figure = lines.find_map(|(told, figure)| (told == name).then_some(figure));
        figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    /// Waits for a line with this message and returns its fields; `None` where the process ended.
    pub async fn wait_for(&self, message: &str) -> Option<Value> {
        let mut log = self.log.clone();
        let found = |log: &Log| log.lines.iter().find_map(|line| event(line, message));
        let seen = log.wait_for(|log| log.ended || found(log).is_some());
        let seen = patiently(message, seen).await.expect("the reader says when it ends");
        found(&seen)
    }

    /// Waits until the process has logged anything at all, or has ended.
    pub async fn wait_for_life(&self) {
        let mut log = self.log.clone();
        let seen = log.wait_for(|log| log.ended || !log.lines.is_empty());
        drop(patiently("the first line", seen).await);
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.log.borrow().lines.join("\n")
    }

    /// Ends the process with SIGKILL: nothing is flushed, nothing is said.
    ///
    /// # Panics
    /// When it had ended before.
    pub async fn kill(self) {
        let ended = self.signal(Signal::KILL).end().await;
        assert_eq!(
            ended.signal,
            Some(9),
            "it was killed, and had not ended before:\n{}",
            ended.log
        );
    }

    /// Ends the process with SIGTERM and waits until it is gone.
    ///
    /// # Panics
    /// When it does not end with 0.
    pub async fn stop(self) -> Ended {
        let ended = self.signal(Signal::TERM).end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        ended
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(self, signal: Signal) -> Self {
        kill_process(self.pid(), signal).expect("it is not reaped yet");
        self
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn end(mut self) -> Ended {
        let mut log = self.log.clone();
        let ended = patiently("the end of the process", log.wait_for(|log| log.ended)).await;
        drop(ended.expect("the reader says when it ends"));
        let status = self.child.wait().expect("it is a child");
        Ended::new(status, &self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- log of the broker:\n{}\n---", self.log());
        }
    }
}

/// A line's fields, where it has this message.
fn event(line: &str, message: &str) -> Option<Value> {
    // Cheap before exact: there are many lines.
    if !line.contains(message) {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    (event["message"] == message).then_some(event)
}
