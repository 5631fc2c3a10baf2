//! beanstalkd, and a small client of it: of the crates there are, the older ones have had no release
//! since 2020, and the newer takes text only; all wait for each answer before they send the next
//! command, which would measure the way there and back and not the server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::peer::{About, Confirm, Entry, Found, Missing, Name, Peer};
use super::program;
use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// beanstalkd, if it is installed.
pub(super) async fn find() -> Fallible<Found> {
    let name = Name::Beanstalkd;
    let Some(program) = program::find("beanstalkd") else {
        let reason = "beanstalkd is not installed".to_owned();
        return Ok(Found::Missing(Missing { name, reason, package: Some("beanstalkd") }));
    };
    let about = About {
        name,
        title: "beanstalkd -f 0",
        version: program::version(&program, "-v").await?,
        confirm: Confirm { synced: true, means: "fsync of its log, once for each message" },
        settings: format!(
            "-b DIR -f 0; one connection, commands sent ahead of their answers, up to {GROUP_MAX} \
             reserves at once; a client of our own"
        ),
    };
    Ok(Entry::<Beanstalkd>::ready(about, program))
}

/// Reserves sent at once. Deletes wait behind them, so the next ones are sent after these.
const GROUP_MAX: u32 = 100;

/// Seconds that a job may be held: longer than any run.
const TIME_TO_RUN: u32 = 3_600;

/// A server of its own.
#[derive(Debug)]
pub(crate) struct Beanstalkd {
    server: ServerProcess,
    port: u16,
}

impl Peer for Beanstalkd {
    /// The server's program.
    type Setup = PathBuf;

    async fn start(program: &PathBuf, folder: &Path) -> Fallible<Self> {
        let port = program::free_port()?;
        let mut command = Command::new(program);
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-f", "0", "-b"]).arg(folder);
        let server = ServerProcess::spawn(command)?;
        let beanstalkd = Self { server, port };
        // It has read its log before it listens.
        beanstalkd.server.until(|| beanstalkd.connect()).await?;
        Ok(beanstalkd)
    }
}

impl Beanstalkd {
    async fn connect(&self) -> Fallible<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let (answers, received) = mpsc::channel(ANSWERS_QUEUED);
        let mut reading = JoinSet::new();
        reading.spawn(read_answers(read, answers));
        Ok(Connection { write, answers: received, _reading: reading })
    }
}

impl System for Beanstalkd {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "beanstalkd";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        let mut connection = self.connect().await?;
        connection.order(format!("use {queue}\r\n"), "USING").await?;
        Ok(Publisher { connection })
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        let mut connection = self.connect().await?;
        connection.order(format!("watch {queue}\r\n"), "WATCHING").await?;
        connection.order("ignore default\r\n".to_owned(), "WATCHING").await?;
        let group = window.min(GROUP_MAX);
        let jobs = Vec::new();
        let mut consumer = Consumer { connection, group, reserving: 0, jobs, deleting: 0 };
        consumer.send(String::new()).await?;
        Ok(consumer)
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        Ok(Trip::new(self.publisher(queue).await?, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    /// A tube goes with its last job; what is left is taken out.
    async fn discard(&self, queue: &str) -> Fallible<()> {
        let mut connection = self.connect().await?;
        connection.order(format!("watch {queue}\r\n"), "WATCHING").await?;
        connection.order("ignore default\r\n".to_owned(), "WATCHING").await?;
        loop {
            let deletes: String = (0..GROUP_MAX).map(|_| "reserve-with-timeout 0\r\n").collect();
            connection.send(deletes).await?;
            let mut jobs = Vec::new();
            for _ in 0..GROUP_MAX {
                if let Answer::Reserved(job) = connection.answer().await? {
                    jobs.push(job.id);
                }
            }
            if jobs.is_empty() {
                return Ok(());
            }
            connection.send(jobs.iter().map(|id| format!("delete {id}\r\n")).collect()).await?;
            for _ in jobs {
                connection.answer().await?.expect("DELETED")?;
            }
        }
    }
}

/// Answers that were read and not looked at; more than are ever asked for.
const ANSWERS_QUEUED: usize = 16_384;

/// A connection whose answers are read as they come.
#[derive(Debug)]
struct Connection {
    write: OwnedWriteHalf,
    answers: mpsc::Receiver<Fallible<Answer>>,
    /// Ends with the connection.
    _reading: JoinSet<()>,
}

impl Connection {
    async fn send(&mut self, commands: String) -> Fallible<()> {
        Ok(self.write.write_all(commands.as_bytes()).await?)
    }

    /// The next answer. Canceling it loses nothing.
    async fn answer(&mut self) -> Fallible<Answer> {
        self.answers.recv().await.context("beanstalkd ended a connection")?
    }

    /// Sends one command and waits for its answer.
    async fn order(&mut self, command: String, expected: &str) -> Fallible<()> {
        self.send(command).await?;
        self.answer().await?.expect(expected)
    }
}

/// An answer of the server.
#[derive(Debug, PartialEq)]
enum Answer {
    Reserved(Job),
    /// Nothing is ready.
    TimedOut,
    /// Any other, a line.
    Line(String),
}

/// A job that is reserved.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    id: u64,
    payload: Vec<u8>,
}

impl Answer {
    /// Whether it is a line that begins so.
    fn expect(&self, expected: &str) -> Fallible<()> {
        match self {
            Self::Line(line) if line.starts_with(expected) => Ok(()),
            other => bail!("beanstalkd answered {other:?} in place of {expected}"),
        }
    }
}

async fn read_answers(read: OwnedReadHalf, answers: mpsc::Sender<Fallible<Answer>>) {
    let mut read = BufReader::with_capacity(256 * 1024, read);
    loop {
        let answer = read_answer(&mut read).await;
        let is_last = answer.is_err();
        if answers.send(answer).await.is_err() || is_last {
            return;
        }
    }
}

async fn read_answer(read: &mut BufReader<OwnedReadHalf>) -> Fallible<Answer> {
    let mut line = String::new();
    ensure!(0 < read.read_line(&mut line).await?, "beanstalkd closed a connection");
    let line = line.trim_end();
    let Some((id, length)) = reserved(line) else {
        return Ok(match line {
            "TIMED_OUT" => Answer::TimedOut,
            _ => Answer::Line(line.to_owned()),
        });
    };
    let mut payload = vec![0; length + LINE_END];
    read.read_exact(&mut payload).await?;
    payload.truncate(length);
    Ok(Answer::Reserved(Job { id, payload }))
}

/// Bytes behind a line and behind a payload.
const LINE_END: usize = 2;

/// Id and length out of `RESERVED <id> <bytes>`.
fn reserved(line: &str) -> Option<(u64, usize)> {
    let (id, length) = line.strip_prefix("RESERVED ")?.split_once(' ')?;
    Some((id.parse().ok()?, length.parse().ok()?))
}

/// Puts jobs into a tube.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: Connection,
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        let mut puts = Vec::with_capacity(messages * (payload.len() + 64));
        for _ in 0..messages {
            let head = format!("put 1024 0 {TIME_TO_RUN} {}\r\n", payload.len());
            puts.extend_from_slice(head.as_bytes());
            puts.extend_from_slice(payload);
            puts.extend_from_slice(b"\r\n");
        }
        Ok(self.connection.write.write_all(&puts).await?)
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        self.connection.answer().await?.expect("INSERTED")?;
        let mut messages = 1;
        while let Ok(answer) = self.connection.answers.try_recv() {
            answer?.expect("INSERTED")?;
            messages += 1;
        }
        Ok(messages)
    }
}

/// Reserves and deletes the jobs of a tube.
///
/// A group of reserves is sent at once; only its first waits. The next group follows the deletes of
/// the last: a command behind a reserve that waits is not read by the server.
#[derive(Debug)]
pub(crate) struct Consumer {
    connection: Connection,
    /// Reserves in a group.
    group: u32,
    /// Of the group, without an answer.
    reserving: u32,
    /// Of the group, reserved.
    jobs: Vec<Job>,
    /// Deletes without an answer, which comes before that of any reserve.
    deleting: u32,
}

impl Consumer {
    async fn send(&mut self, deletes: String) -> Fallible<()> {
        let first = std::iter::once("reserve\r\n");
        let others = (1..self.group).map(|_| "reserve-with-timeout 0\r\n");
        let reserves: String = first.chain(others).collect();
        self.reserving = self.group;
        self.connection.send(deletes + &reserves).await
    }

    async fn take_answer(&mut self) -> Fallible<()> {
        match self.connection.answer().await? {
            Answer::Reserved(job) => {
                self.jobs.push(job);
                self.reserving -= 1;
            }
            Answer::TimedOut => self.reserving -= 1,
            line @ Answer::Line(_) => {
                line.expect("DELETED")?;
                self.deleting -= 1;
            }
        }
        Ok(())
    }
}

impl system::Consumer for Consumer {
    type Batch = Vec<Job>;

    async fn receive(&mut self) -> Fallible<Vec<Job>> {
        while 0 < self.reserving {
            self.take_answer().await?;
        }
        Ok(std::mem::take(&mut self.jobs))
    }

    fn check(batch: &Vec<Job>, payload: &Bytes) -> Fallible<u64> {
        for job in batch {
            ensure!(job.payload == *payload, "beanstalkd delivered another payload");
        }
        Ok(batch.len() as u64)
    }

    async fn ack(&mut self, batch: Vec<Job>) -> Fallible<()> {
        self.deleting += u32::try_from(batch.len())?;
        self.send(batch.iter().map(|job| format!("delete {}\r\n", job.id)).collect()).await
    }

    async fn acked(&mut self) -> Fallible<()> {
        while 0 < self.deleting {
            self.take_answer().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_job_is_told_from_other_answers() {
        assert_eq!(reserved("RESERVED 42 1024"), Some((42, 1024)));
        assert_eq!(reserved("DEADLINE_SOON"), None);
        assert_eq!(reserved("RESERVED x 1024"), None);
        Answer::Line("INSERTED 7".to_owned()).expect("INSERTED").unwrap();
        Answer::Line("OUT_OF_MEMORY".to_owned()).expect("INSERTED").unwrap_err();
        Answer::TimedOut.expect("DELETED").unwrap_err();
    }
}
