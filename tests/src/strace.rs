//! System calls that fail as a test says, in a process that runs already.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::server::Server;

/// An `strace` that holds on to a broker. Dropped, it lets go.
#[derive(Debug)]
pub struct Strace {
    child: Child,
}

impl Strace {
    /// From now on lets these calls of `server` fail, by `--inject` of strace(1):
    /// `fdatasync:error=EIO:when=3`, say.
    ///
    /// `None` where there is no strace, or it may not be used: the test then says so, and what it
    /// shows is left to the simulated disk.
    ///
    /// # Panics
    /// When strace ends in another way.
    pub fn attach(server: &Server, inject: &str) -> Option<Self> {
        let pid = server.pid().as_raw_nonzero().to_string();
        let (call, _) = inject.split_once(':').expect("calls, and what becomes of them");
        let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-p", &pid, "-e", &trace, "-e", &inject, "-o", "/dev/null"]);
        let spawned = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = match spawned.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED, there is no strace: {error}");
                return None;
            }
        };
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let first = said.next().map_or_else(String::new, |line| line.expect("it writes text"));
        if first.contains("attached") {
            // Nobody reads on; a full pipe must not hold it up.
            std::thread::spawn(move || said.for_each(drop));
            return Some(Self { child });
        }
        drop(child.wait());
        assert!(first.contains("not permitted"), "strace ended: {first}");
        eprintln!("SKIPPED, strace may not be used here: {first}");
        None
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It ends by itself with the process that it holds.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
