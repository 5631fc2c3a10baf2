//! NATS JetStream: a work-queue stream on disk and a pull consumer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishError};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{Message, stream};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;
use tokio::process::Command;

use super::confirms::Confirms;
use super::peer::{About, Confirm, Entry, Found, Missing, Name, Peer};
use super::program;
use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// When files are synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Every two minutes.
    Default,
    Always,
}

/// The server's program and when it syncs.
#[derive(Debug)]
pub(crate) struct Setup {
    program: PathBuf,
    sync: Sync,
}

/// The first version that has `sync_interval`.
const SYNC_SINCE: (u32, u32) = (2, 10);

/// NATS, if it is installed and new enough.
pub(super) async fn find(sync: Sync) -> Fallible<Found> {
    let name = match sync {
        Sync::Default => Name::NatsDefault,
        Sync::Always => Name::NatsAlways,
    };
    let Some(program) = program::find("nats-server") else {
        let reason = "nats-server is not installed".to_owned();
        return Ok(Found::Missing(Missing { name, reason, package: Some("nats-server") }));
    };
    let version = program::version(&program, "--version").await?;
    if sync == Sync::Always && program::numbers(&version).is_none_or(|own| own < SYNC_SINCE) {
        let reason = format!("{version} has no sync_interval, which came with 2.10");
        return Ok(Found::Missing(Missing { name, reason, package: None }));
    }
    let (title, confirm, setting) = match sync {
        Sync::Default => (
            "NATS JetStream",
            Confirm { synced: false, means: "written to a file, fsync every two minutes" },
            "its defaults",
        ),
        Sync::Always => (
            "NATS JetStream, always",
            Confirm { synced: true, means: "written to a file and fsynced, each message" },
            "sync_interval always",
        ),
    };
    let settings = format!(
        "{setting}; a work-queue stream on disk, publishes ahead of their acks, one pull consumer \
         that asks for its window, explicit acks of which the last is answered"
    );
    let about = About { name, title, version, confirm, settings };
    Ok(Entry::<Nats>::ready(about, Setup { program, sync }))
}

/// Longer than any answer takes; the default of 5 s ends a run on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Publishes without an answer that the client lets through: more than any window.
const IN_FLIGHT_MAX: usize = 10_000;

/// Messages taken at once from those that have come.
const BATCH_MAX: usize = 500;

/// A server of its own and a client.
#[derive(Debug)]
pub(crate) struct Nats {
    server: ServerProcess,
    port: u16,
}

impl Peer for Nats {
    type Setup = Setup;

    async fn start(setup: &Setup, folder: &Path) -> Fallible<Self> {
        let port = program::free_port()?;
        let config = folder.join("nats.conf");
        let sync = match setup.sync {
            Sync::Default => "",
            Sync::Always => "sync_interval: always",
        };
        let store = folder.join("jetstream");
        let text =
            format!("jetstream {{ store_dir: {:?}\n {sync} }}\n", store.display().to_string());
        std::fs::write(&config, text).context("cannot write a configuration")?;
        let mut command = Command::new(&setup.program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"]).arg(config);
        let nats = Self { server: ServerProcess::spawn(command)?, port };
        // JetStream has its streams back before the server listens.
        nats.server.until(|| nats.connect()).await?;
        Ok(nats)
    }
}

impl Nats {
    /// A connection of its own: what is consumed does not queue behind what is published.
    async fn connect(&self) -> Fallible<Context> {
        let client = async_nats::connect(format!("127.0.0.1:{}", self.port)).await?;
        let context = ContextBuilder::new()
            .timeout(ANSWER_WITHIN)
            .ack_timeout(ANSWER_WITHIN)
            .max_ack_inflight(IN_FLIGHT_MAX)
            .build(client);
        Ok(context)
    }

    async fn stream(&self, context: &Context, queue: &str) -> Fallible<stream::Stream> {
        let config = stream::Config {
            name: queue.to_owned(),
            subjects: vec![queue.to_owned()],
            retention: stream::RetentionPolicy::WorkQueue,
            storage: stream::StorageType::File,
            ..stream::Config::default()
        };
        Ok(context.get_or_create_stream(config).await?)
    }
}

impl System for Nats {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "NATS";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        let context = self.connect().await?;
        self.stream(&context, queue).await?;
        Ok(Publisher { context, queue: queue.to_owned(), confirms: Confirms::new() })
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        let context = self.connect().await?;
        let config = pull::Config {
            durable_name: Some("worker".to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: i64::from(window),
            ..pull::Config::default()
        };
        let stream = self.stream(&context, queue).await?;
        let consumer = stream.get_or_create_consumer("worker", config).await?;
        let messages = consumer.stream().max_messages_per_batch(window as usize).messages().await?;
        Ok(Consumer { messages, last: None })
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        Ok(Trip::new(self.publisher(queue).await?, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    async fn discard(&self, queue: &str) -> Fallible<()> {
        let deleted = self.connect().await?.delete_stream(queue).await?;
        ensure!(deleted.success, "NATS did not delete {queue}");
        Ok(())
    }
}

/// Publishes to a stream.
pub(crate) struct Publisher {
    context: Context,
    queue: String,
    confirms: Confirms<BoxFuture<'static, Result<PublishAck, PublishError>>>,
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        for _ in 0..messages {
            let confirm = self.context.publish(self.queue.clone(), payload.clone()).await?;
            self.confirms.add(confirm.into_future());
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        let stored = |confirm: Result<PublishAck, PublishError>| {
            let confirm = confirm?;
            ensure!(!confirm.duplicate, "not stored: {confirm:?}");
            Ok(())
        };
        self.confirms.next(stored).await
    }
}

/// Pulls from a stream.
pub(crate) struct Consumer {
    messages: pull::Stream,
    /// Not acked yet: the ack that is asked to be answered, which tells of those before it.
    last: Option<Message>,
}

impl system::Consumer for Consumer {
    type Batch = Vec<Message>;

    async fn receive(&mut self) -> Fallible<Vec<Message>> {
        let mut batch = vec![self.messages.next().await.context("NATS ended a consumer")??];
        while batch.len() < BATCH_MAX {
            let Some(message) = self.messages.next().now_or_never() else { break };
            batch.push(message.context("NATS ended a consumer")??);
        }
        Ok(batch)
    }

    fn check(batch: &Vec<Message>, payload: &Bytes) -> Fallible<u64> {
        for message in batch {
            let (found, expected) = (message.payload.len(), payload.len());
            ensure!(found == expected, "NATS delivered {found} bytes instead of {expected}");
        }
        Ok(batch.len() as u64)
    }

    async fn ack(&mut self, mut batch: Vec<Message>) -> Fallible<()> {
        let last = batch.pop();
        for message in self.last.take().iter().chain(&batch) {
            message.ack().await.map_err(|error| anyhow!(error))?;
        }
        self.last = last;
        Ok(())
    }

    async fn acked(&mut self) -> Fallible<()> {
        match self.last.take() {
            Some(message) => message.double_ack().await.map_err(|error| anyhow!(error)),
            None => Ok(()),
        }
    }
}
