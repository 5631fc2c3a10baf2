//! The command line against a real broker: what goes in, what comes out, and how it ends.

mod access;
mod away;
mod consume;
mod consumers;
mod data;
mod definitions;
mod exec;
mod find;
mod flow;
mod full;
mod health;
mod lists;
mod named;
mod operations;
mod publish;
mod pull;
mod queue;
mod schedule;
mod state;
mod stop;
mod top;
mod trace;
mod watch;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::program::Ran;
use qbroker_tests::server::Server;
use qbroker_tests::shell::Shell;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;

/// A broker and a shell beside it.
struct Stage {
    shell: Shell,
    server: Server,
    /// After the server: its files go when it is gone.
    folder: Folder,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With flags of the broker's.
    async fn with(flags: &[&str]) -> Self {
        let folder = Folder::new();
        let server = Server::start(&folder, flags).await;
        Self { shell: Shell::at(&server.url()), server, folder }
    }

    /// Publishes each payload as a message of its own.
    async fn publish(&self, queue: &str, payloads: &[&str]) {
        for payload in payloads {
            self.shell.out(&["message", "publish", queue, payload]).await;
        }
    }

    /// What `queue show` knows.
    async fn show(&self, queue: &str) -> Value {
        self.shell.json(&["queue", "show", queue]).await
    }

    /// How many messages are ready, leased and scheduled.
    async fn held(&self, queue: &str) -> [u64; 3] {
        let shown = self.show(queue).await;
        ["ready", "leased", "scheduled"].map(|key| shown[key].as_u64().expect("it is a number"))
    }

    /// The messages that lie in the queue.
    async fn peek(&self, queue: &str) -> Vec<Value> {
        let peeked = self.shell.json(&["message", "peek", queue, "--max", "1000"]).await;
        peeked.as_array().expect("it is a list").clone()
    }
}

/// Where the commands of a worker wait until the test lets them go on.
struct Gate {
    path: PathBuf,
    /// Open for both, so that neither side waits for the other to open it.
    pipe: File,
}

impl Gate {
    fn new(folder: &Folder) -> Self {
        let path = folder.beside("gate");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let pipe = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, pipe }
    }

    /// Words of the shell that wait.
    fn wait(&self) -> String {
        format!("read line < '{}'", self.path.display())
    }

    /// Lets so many through, now or when they come.
    fn let_through(&mut self, count: usize) {
        self.pipe.write_all("\n".repeat(count).as_bytes()).unwrap();
    }
}

/// Asks until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    patiently(what, asking).await;
}

/// A refusal: its exit code, nothing on stdout, and on stderr, under the program's name, these words.
fn check_refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
    assert!(ran.err.starts_with("qbroker: "), "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not told: {}", ran.err);
    }
}

/// What the program says of a line that cannot be.
fn check_usage(ran: &Ran, word: &str) {
    assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{}", ran.err);
    assert!(ran.err.contains(word), "{word:?} is not told: {}", ran.err);
}

/// One object per line.
fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// One text of each message.
fn each<'a>(messages: &'a [Value], key: &str) -> Vec<&'a str> {
    messages.iter().map(|message| message[key].as_str().unwrap_or_default()).collect()
}
