//! RabbitMQ: quorum and classic queues over AMQP 0-9-1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::future::FutureExt as _;
use futures_util::stream::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
};
use tokio::process::Command;

use super::confirms::Confirms;
use super::peer::{About, Confirm, Entry, Found, Missing, Name, Peer};
use super::program;
use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// The type of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Quorum,
    Classic,
}

/// The programs and the type of queue.
#[derive(Debug)]
pub(crate) struct Setup {
    server: PathBuf,
    epmd: PathBuf,
    kind: Kind,
}

/// The script that neither changes the user nor insists on one; Debian's wrapper in `/usr/sbin` does.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// RabbitMQ, if it is installed.
pub(super) async fn find(kind: Kind) -> Fallible<Found> {
    let name = match kind {
        Kind::Quorum => Name::RabbitmqQuorum,
        Kind::Classic => Name::RabbitmqClassic,
    };
    let script = Some(PathBuf::from(SCRIPT)).filter(|script| script.is_file());
    let (Some(server), Some(epmd)) = (script, program::find("epmd")) else {
        let reason = "rabbitmq-server is not installed".to_owned();
        return Ok(Found::Missing(Missing { name, reason, package: Some("rabbitmq-server") }));
    };
    let version = version(&server)?;
    let (title, confirm, queue) = match kind {
        Kind::Quorum => (
            "RabbitMQ quorum",
            Confirm { synced: true, means: "fdatasync of the Raft log, once for a group" },
            "a quorum queue of one node",
        ),
        Kind::Classic => {
            ("RabbitMQ classic", classic(&version), "a durable classic queue, persistent messages")
        }
    };
    let about = About {
        name,
        title,
        version,
        confirm,
        settings: format!(
            "its defaults, no plugins; {queue}; confirms ahead, prefetch is the window, one ack \
             for many; acks have no answer in AMQP 0-9-1: the end waits for the channel's next one"
        ),
    };
    Ok(Entry::<Rabbitmq>::ready(about, Setup { server, epmd, kind }))
}

/// Since 4.0 classic queues only write before they confirm.
fn classic(version: &str) -> Confirm {
    if program::numbers(version).is_some_and(|version| version < (4, 0)) {
        Confirm { synced: true, means: "fsync of the queue's files, once for what has piled up" }
    } else {
        Confirm { synced: false, means: "written to the queue's files, not fsynced" }
    }
}

/// The script's real folder is called so.
fn version(script: &Path) -> Fallible<String> {
    let real = script.canonicalize().with_context(|| format!("{}", script.display()))?;
    let mut folders = real.ancestors().filter_map(|folder| folder.file_name()?.to_str());
    let folder = folders.find_map(|name| name.strip_prefix("rabbitmq_server-"));
    Ok(format!("RabbitMQ {}", folder.unwrap_or("of unknown version")))
}

/// A server of its own and a client.
pub(crate) struct Rabbitmq {
    server: ServerProcess,
    /// Finds nodes by name; the server must ask one, and would start one that outlives it.
    _epmd: ServerProcess,
    port: u16,
    /// Consumers have their own, as its manual advises: a publisher that is held back must not hold
    /// them up.
    publishing: Connection,
    kind: Kind,
}

impl Peer for Rabbitmq {
    type Setup = Setup;

    /// RabbitMQ 3.10, killed a second after a quorum queue was declared, answered whoever named that
    /// queue with INTERNAL_ERROR for as long as was waited (2 minutes); three seconds were enough.
    const SETTLES_WITHIN: Duration = Duration::from_secs(5);

    async fn start(setup: &Setup, folder: &Path) -> Fallible<Self> {
        let (epmd_port, port) = (program::free_port()?, program::free_port()?);
        let mut epmd = Command::new(&setup.epmd);
        epmd.env("ERL_EPMD_PORT", epmd_port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        let epmd = ServerProcess::spawn(epmd)?;
        // The server starts one of its own where it finds none.
        epmd.until(async || Ok(tokio::net::TcpStream::connect(("127.0.0.1", epmd_port)).await?))
            .await?;
        let server = ServerProcess::spawn(command(setup, folder, epmd_port, port)?)?;
        let publishing = server.until(|| connect(port)).await?;
        Ok(Self { server, _epmd: epmd, port, publishing, kind: setup.kind })
    }
}

/// A node that shares nothing with one that the system may run.
fn command(setup: &Setup, folder: &Path, epmd_port: u16, port: u16) -> Fallible<Command> {
    let in_folder = |name: &str| folder.join(name);
    std::fs::write(in_folder("rabbitmq.conf"), "")?;
    std::fs::write(in_folder("enabled_plugins"), "[].\n")?;
    let mut command = Command::new(&setup.server);
    command.current_dir(folder);
    // The cookie that Erlang makes is in HOME.
    command.env("HOME", folder);
    command.env("ERL_EPMD_PORT", epmd_port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    command.env("RABBITMQ_NODENAME", "qbroker-compare@localhost");
    command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
    command.env("RABBITMQ_NODE_PORT", port.to_string());
    command.env("RABBITMQ_DIST_PORT", program::free_port()?.to_string());
    let interface = "-kernel inet_dist_use_interface {127,0,0,1}";
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", interface);
    command.env("RABBITMQ_MNESIA_BASE", in_folder("mnesia"));
    command.env("RABBITMQ_LOG_BASE", in_folder("log")).env("RABBITMQ_LOGS", "-");
    command.env("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf"));
    command.env("RABBITMQ_CONF_ENV_FILE", in_folder("no-environment"));
    command.env("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins"));
    command.env("RABBITMQ_PID_FILE", in_folder("pid"));
    Ok(command)
}

async fn connect(port: u16) -> Fallible<Connection> {
    let address = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    Ok(Connection::connect(&address, ConnectionProperties::default()).await?)
}

impl Rabbitmq {
    async fn declare(&self, channel: &Channel, queue: &str) -> Fallible<()> {
        let kind = match self.kind {
            Kind::Quorum => "quorum",
            Kind::Classic => "classic",
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
        Ok(())
    }
}

impl System for Rabbitmq {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "RabbitMQ";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        let channel = self.publishing.create_channel().await?;
        self.declare(&channel, queue).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Publisher { channel, queue: queue.to_owned(), confirms: Confirms::new() })
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        let connection = connect(self.port).await?;
        let channel = connection.create_channel().await?;
        self.declare(&channel, queue).await?;
        let prefetch = u16::try_from(window).context("a prefetch has 16 bits")?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let deliveries = channel
            .basic_consume(queue.into(), "worker".into(), options, FieldTable::default())
            .await?;
        Ok(Consumer { _connection: connection, channel, deliveries, queue: queue.to_owned() })
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        Ok(Trip::new(self.publisher(queue).await?, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    async fn discard(&self, queue: &str) -> Fallible<()> {
        let channel = self.publishing.create_channel().await?;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }
}

/// Publishes on a channel with confirms.
pub(crate) struct Publisher {
    channel: Channel,
    queue: String,
    confirms: Confirms<PublisherConfirm>,
}

/// Delivery mode 2: to be stored.
const PERSISTENT: u8 = 2;

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        for _ in 0..messages {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let (queue, options) = (self.queue.as_str().into(), BasicPublishOptions::default());
            let publish =
                self.channel.basic_publish("".into(), queue, options, payload, properties);
            self.confirms.add(publish.await?);
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        let acked = |confirm: lapin::Result<Confirmation>| match confirm? {
            Confirmation::Ack(None) => Ok(()),
            other => bail!("not confirmed: {other:?}"),
        };
        self.confirms.next(acked).await
    }
}

/// Consumes on a connection of its own.
pub(crate) struct Consumer {
    /// Closed with it.
    _connection: Connection,
    channel: Channel,
    deliveries: lapin::Consumer,
    queue: String,
}

/// Deliveries taken at once from those that have come.
const BATCH_MAX: usize = 500;

impl system::Consumer for Consumer {
    type Batch = Vec<Delivery>;

    async fn receive(&mut self) -> Fallible<Vec<Delivery>> {
        let mut batch = vec![self.deliveries.next().await.context("RabbitMQ ended a consumer")??];
        while batch.len() < BATCH_MAX {
            let Some(delivery) = self.deliveries.next().now_or_never() else { break };
            batch.push(delivery.context("RabbitMQ ended a consumer")??);
        }
        Ok(batch)
    }

    fn check(batch: &Vec<Delivery>, payload: &Bytes) -> Fallible<u64> {
        for delivery in batch {
            let (found, expected) = (delivery.data.len(), payload.len());
            ensure!(found == expected, "RabbitMQ delivered {found} bytes instead of {expected}");
        }
        Ok(batch.len() as u64)
    }

    /// Batches come in order, so the last tag stands for all before it.
    async fn ack(&mut self, batch: Vec<Delivery>) -> Fallible<()> {
        let Some(last) = batch.last() else { return Ok(()) };
        let options = BasicAckOptions { multiple: true };
        Ok(self.channel.basic_ack(last.delivery_tag, options).await?)
    }

    /// There is no answer to an ack: the next answer on the channel comes after its acks were taken.
    async fn acked(&mut self) -> Fallible<()> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.queue.as_str().into();
        self.channel.queue_declare(queue, options, FieldTable::default()).await?;
        Ok(())
    }
}
