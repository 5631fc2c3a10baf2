//! Redis Streams as a work queue: XADD, a consumer group, XACK with XDEL.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::in_flight::InFlight;
use super::peer::{About, Confirm, Entry, Found, Missing, Name, Peer};
use super::program;
use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// When the append-only file is synced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fsync {
    Always,
    EverySecond,
}

/// The server's program and how often it syncs.
#[derive(Debug)]
pub(crate) struct Setup {
    program: PathBuf,
    fsync: Fsync,
}

/// Redis, if it is installed.
pub(super) async fn find(fsync: Fsync) -> Fallible<Found> {
    let (name, title, confirm) = match fsync {
        Fsync::Always => (
            Name::RedisAlways,
            "Redis Streams, always",
            Confirm { synced: true, means: "fsync of the append-only file, once per event loop" },
        ),
        Fsync::EverySecond => (
            Name::RedisEverysec,
            "Redis Streams, everysec",
            Confirm {
                synced: false,
                means: "written to the append-only file, fsync once a second",
            },
        ),
    };
    let Some(program) = program::find("redis-server") else {
        let reason = "redis-server is not installed".to_owned();
        return Ok(Found::Missing(Missing { name, reason, package: Some("redis-server") }));
    };
    let about = About {
        name,
        title,
        version: program::version(&program, "--version").await?,
        confirm,
        settings: format!(
            "--appendonly yes --appendfsync {} --save \"\"; a batch is a pipeline of XADD; one \
             XREADGROUP of up to {READ_MAX} ahead, XACK and XDEL of what it gave in one pipeline",
            fsync.setting()
        ),
    };
    Ok(Entry::<Redis>::ready(about, Setup { program, fsync }))
}

impl Fsync {
    fn setting(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
        }
    }
}

/// Entries asked for at once.
const READ_MAX: usize = 500;

/// Milliseconds that a read waits for entries before it is asked again.
const READ_BLOCK_MS: usize = 1_000;

/// The consumer group; who is in it has one name too.
const GROUP: &str = "workers";

/// A server of its own and a client.
#[derive(Debug)]
pub(crate) struct Redis {
    server: ServerProcess,
    client: Client,
}

impl Peer for Redis {
    type Setup = Setup;

    async fn start(setup: &Setup, folder: &Path) -> Fallible<Self> {
        let port = program::free_port()?;
        let mut command = Command::new(&setup.program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.arg("--dir").arg(folder);
        command.args(["--appendonly", "yes", "--appendfsync", setup.fsync.setting()]);
        command.args(["--save", "", "--daemonize", "no"]);
        let server = ServerProcess::spawn(command)?;
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        let redis = Self { server, client };
        // Refuses while it still reads its file.
        redis.server.until(|| redis.ping()).await?;
        Ok(redis)
    }
}

impl Redis {
    async fn connect(&self) -> Fallible<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            // A read waits for messages longer than half a second, and a sync may take as long.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1_000)
            .set_write_backpressure_boundary(256 * 1024);
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    async fn ping(&self) -> Fallible<()> {
        let mut connection = self.connect().await?;
        Ok(redis::cmd("PING").query_async(&mut connection).await?)
    }

    /// Makes the stream and its group where they are not there yet.
    async fn create(&self, queue: &str) -> Fallible<()> {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(queue).arg(GROUP).arg("0").arg("MKSTREAM");
        match command.query_async::<()>(&mut self.connect().await?).await {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            made => Ok(made?),
        }
    }
}

impl System for Redis {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "Redis";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        self.create(queue).await?;
        let connection = self.connect().await?;
        Ok(Publisher { connection, queue: queue.to_owned(), in_flight: InFlight::default() })
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        self.create(queue).await?;
        Ok(Consumer {
            // A blocking read holds up whatever shares its connection.
            reads: self.connect().await?,
            acks: self.connect().await?,
            queue: queue.to_owned(),
            window: u64::from(window),
            held: 0,
            reading: JoinSet::new(),
            acking: InFlight::default(),
        })
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        Ok(Trip::new(self.publisher(queue).await?, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    async fn discard(&self, queue: &str) -> Fallible<()> {
        Ok(redis::cmd("DEL").arg(queue).query_async(&mut self.connect().await?).await?)
    }
}

/// Adds to a stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: MultiplexedConnection,
    queue: String,
    in_flight: InFlight,
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        let mut pipeline = redis::pipe();
        for _ in 0..messages {
            pipeline.cmd("XADD").arg(&self.queue).arg("*").arg("d").arg(&payload[..]);
        }
        let mut connection = self.connection.clone();
        self.in_flight.add(async move {
            let ids: Vec<Value> = pipeline.query_async(&mut connection).await?;
            Ok(ids.len() as u64)
        });
        Ok(())
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        self.in_flight.answered().await
    }
}

/// Some entries of a stream.
#[derive(Debug)]
pub(crate) struct Entries {
    ids: Vec<Vec<u8>>,
    payloads: Vec<Vec<u8>>,
}

/// One consumer of the group.
#[derive(Debug)]
pub(crate) struct Consumer {
    reads: MultiplexedConnection,
    acks: MultiplexedConnection,
    queue: String,
    window: u64,
    /// Read and not acked.
    held: u64,
    /// At most one read, in a task: when nobody waits for it any more it must not be lost.
    reading: JoinSet<Fallible<Entries>>,
    acking: InFlight,
}

impl Consumer {
    /// Asks for entries as far as the window reaches.
    fn read(&mut self) {
        let room = usize::try_from(self.window - self.held).expect("a window is small");
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg("worker").arg("COUNT").arg(room.min(READ_MAX));
        command.arg("BLOCK").arg(READ_BLOCK_MS).arg("STREAMS").arg(&self.queue).arg(">");
        let mut connection = self.reads.clone();
        self.reading.spawn(async move { entries(command.query_async(&mut connection).await?) });
    }
}

impl system::Consumer for Consumer {
    type Batch = Entries;

    async fn receive(&mut self) -> Fallible<Entries> {
        loop {
            self.held -= self.acking.already_answered()?;
            if self.reading.is_empty() {
                if self.held == self.window {
                    self.held -= self.acking.answered().await?;
                }
                self.read();
            }
            let read = self.reading.join_next().await.expect("a read is on its way")??;
            if !read.ids.is_empty() {
                self.held += read.ids.len() as u64;
                if self.held < self.window {
                    self.read();
                }
                return Ok(read);
            }
        }
    }

    fn check(batch: &Entries, payload: &Bytes) -> Fallible<u64> {
        for found in &batch.payloads {
            ensure!(found.len() == payload.len(), "Redis delivered {} bytes", found.len());
        }
        Ok(batch.ids.len() as u64)
    }

    async fn ack(&mut self, batch: Entries) -> Fallible<()> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XACK").arg(&self.queue).arg(GROUP).arg(&batch.ids);
        pipeline.cmd("XDEL").arg(&self.queue).arg(&batch.ids);
        let messages = batch.ids.len() as u64;
        let mut connection = self.acks.clone();
        self.acking.add(async move {
            let counts: (u64, u64) = pipeline.query_async(&mut connection).await?;
            ensure!(counts == (messages, messages), "of {messages} Redis acked {counts:?}");
            Ok(messages)
        });
        Ok(())
    }

    async fn acked(&mut self) -> Fallible<()> {
        self.held -= self.acking.all_answered().await?;
        Ok(())
    }
}

/// What a read gave: nil, or one stream, its name and `[id, [field, value]]` of each entry.
fn entries(read: Value) -> Fallible<Entries> {
    let mut entries = Entries { ids: Vec::new(), payloads: Vec::new() };
    if read == Value::Nil {
        return Ok(entries);
    }
    let mut stream = array(array(read)?.pop().context("a read without a stream")?)?;
    for entry in array(stream.pop().context("a stream without entries")?)? {
        let [id, fields] = <[Value; 2]>::try_from(array(entry)?)
            .map_err(|parts| anyhow::anyhow!("an entry of {} parts", parts.len()))?;
        let payload = array(fields)?.pop().context("an entry without a value")?;
        entries.ids.push(bulk(id)?);
        entries.payloads.push(bulk(payload)?);
    }
    Ok(entries)
}

fn array(value: Value) -> Fallible<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        other => bail!("not an array: {other:?}"),
    }
}

fn bulk(value: Value) -> Fallible<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => bail!("not a string: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_taken_out_of_a_read() {
        let entry = |id, payload| {
            Value::Array(vec![text(id), Value::Array(vec![text("d"), text(payload)])])
        };
        let stream = vec![text("queue"), Value::Array(vec![entry("1-0", "a"), entry("2-0", "b")])];
        let read = entries(Value::Array(vec![Value::Array(stream)])).unwrap();
        assert_eq!(read.ids, [b"1-0", b"2-0"]);
        assert_eq!(read.payloads, [b"a", b"b"]);
        assert!(entries(Value::Nil).unwrap().ids.is_empty());
        entries(Value::Int(1)).unwrap_err();
    }
}
