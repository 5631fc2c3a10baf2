//! The floor as the workloads see it: its server as a child process, and a bare client.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::server::READY;
use super::v1::floor_service_client::FloorServiceClient;
use super::v1::{
    ConsumeRequest, ConsumeResponse, Delivery, OutgoingMessage, PublishRequest, PublishResponse,
};
use super::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::process::ServerProcess;
use crate::system::{self, Fallible, System};

/// The floor's server and the connections to it.
#[derive(Debug)]
pub(crate) struct Floor {
    server: ServerProcess,
    connections: Connections,
}

impl Floor {
    /// Starts this program's own floor server with its files in `dir`.
    ///
    /// It makes so many connections to it, or as many as the broker's client does.
    pub(crate) async fn start(
        dir: &Path,
        payload_bytes: usize,
        connections: Option<usize>,
    ) -> Fallible<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.arg("floor-server").arg("--dir").arg(dir);
        command.arg("--payload").arg(payload_bytes.to_string());
        let address = |line: &str| Some(line.strip_prefix(READY)?.to_owned());
        let (server, address) = ServerProcess::start(command, address).await?;
        let connections = Connections::open(&address, connections)
            .await
            .with_context(|| format!("cannot connect to the floor's server at {address}"))?;
        Ok(Self { server, connections })
    }

    async fn acker(&self, window: u32) -> Fallible<Consumer> {
        let (requests, stream) = mpsc::channel(REQUESTS_QUEUED);
        requests.send(ConsumeRequest { window, acked_tags: Vec::new() }).await?;
        let responses = self.connections.next().consume(ReceiverStream::new(stream)).await?;
        Ok(Consumer { requests, responses: responses.into_inner(), acks: 0, acks_stored: 0 })
    }
}

/// Connections that streams and calls take turns on, as many as the broker's client makes.
#[derive(Debug, Clone)]
struct Connections {
    clients: Arc<[FloorServiceClient<Channel>]>,
    turn: Arc<AtomicUsize>,
}

impl Connections {
    async fn open(address: &str, count: Option<usize>) -> Fallible<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES);
        let mut clients = Vec::new();
        let count = match count {
            Some(count) => count,
            None => std::thread::available_parallelism()?.get().min(4),
        };
        for _ in 0..count {
            let client = FloorServiceClient::new(endpoint.connect().await?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            clients.push(client);
        }
        Ok(Self { clients: clients.into(), turn: Arc::new(AtomicUsize::new(0)) })
    }

    fn next(&self) -> FloorServiceClient<Channel> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.clients[turn % self.clients.len()].clone()
    }
}

/// Requests made and not yet taken by the transport.
const REQUESTS_QUEUED: usize = 64;

impl System for Floor {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = RoundTrip;

    const NAME: &'static str = "floor";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, _: &str) -> Fallible<Publisher> {
        let (requests, stream) = mpsc::channel(REQUESTS_QUEUED);
        let responses = self.connections.next().publish_stream(ReceiverStream::new(stream)).await?;
        let responses = responses.into_inner();
        Ok(Publisher { requests, responses, batches: Vec::new(), confirmed: 0 })
    }

    async fn consumer(&self, _: &str, window: u32) -> Fallible<Consumer> {
        self.acker(window).await
    }

    async fn round_trip(&self, queue: &str) -> Fallible<RoundTrip> {
        let publisher = self.publisher(queue).await?;
        Ok(RoundTrip { publisher, acker: self.acker(0).await?, tag: 0 })
    }

    fn needs_messages(&self) -> bool {
        false
    }

    async fn discard(&self, _: &str) -> Fallible<()> {
        Ok(())
    }
}

impl system::Unary for Floor {
    type Caller = Caller;

    async fn caller(&self, _: &str) -> Fallible<Caller> {
        Ok(Caller { connections: self.connections.clone() })
    }
}

/// A publish stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    requests: mpsc::Sender<PublishRequest>,
    responses: Streaming<PublishResponse>,
    /// Sizes of the batches, by their number less one.
    batches: Vec<usize>,
    /// How many of them are on disk.
    confirmed: usize,
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        self.batches.push(messages);
        let batch_id = self.batches.len() as u64;
        let message = || OutgoingMessage { payload: payload.clone() };
        let messages = std::iter::repeat_with(message).take(messages).collect();
        let sent = self.requests.send(PublishRequest { batch_id, messages }).await;
        sent.context("the floor's publish stream has ended")
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        let response = self.responses.message().await?;
        let response = response.context("the floor ended a publish stream")?;
        let through = usize::try_from(response.through_batch_id)?;
        ensure!(
            self.confirmed < through && through <= self.batches.len(),
            "the floor confirmed through batch {through} after {}, of {}",
            self.confirmed,
            self.batches.len()
        );
        let messages = self.batches[self.confirmed..through].iter().sum::<usize>();
        self.confirmed = through;
        Ok(messages as u64)
    }
}

/// Publishes by single calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    connections: Connections,
}

impl system::Caller for Caller {
    async fn publish(&mut self, payload: Bytes) -> Fallible<()> {
        let messages = vec![OutgoingMessage { payload }];
        self.connections.next().publish(PublishRequest { batch_id: 0, messages }).await?;
        Ok(())
    }
}

/// A consume stream.
#[derive(Debug)]
pub(crate) struct Consumer {
    requests: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
    acks: u64,
    acks_stored: u64,
}

impl Consumer {
    async fn response(&mut self) -> Fallible<Vec<Delivery>> {
        let response = self.responses.message().await?;
        let response = response.context("the floor ended a consume stream")?;
        self.acks_stored = self.acks_stored.max(response.acks_stored);
        Ok(response.deliveries)
    }

    async fn ack_tags(&mut self, acked_tags: Vec<u64>) -> Fallible<()> {
        self.acks += acked_tags.len() as u64;
        let sent = self.requests.send(ConsumeRequest { window: 0, acked_tags }).await;
        sent.context("the floor's consume stream has ended")
    }
}

impl system::Consumer for Consumer {
    type Batch = Vec<Delivery>;

    async fn receive(&mut self) -> Fallible<Vec<Delivery>> {
        loop {
            let deliveries = self.response().await?;
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
        }
    }

    fn check(batch: &Vec<Delivery>, payload: &Bytes) -> Fallible<u64> {
        for delivery in batch {
            let (found, expected) = (delivery.payload.len(), payload.len());
            ensure!(found == expected, "the floor delivered {found} bytes instead of {expected}");
        }
        Ok(batch.len() as u64)
    }

    async fn ack(&mut self, batch: Vec<Delivery>) -> Fallible<()> {
        self.ack_tags(batch.iter().map(|delivery| delivery.tag).collect()).await
    }

    async fn acked(&mut self) -> Fallible<()> {
        while self.acks_stored < self.acks {
            // What is delivered meanwhile stays unacked: the floor has no end of it.
            self.response().await?;
        }
        Ok(())
    }
}

/// Publish and confirm, then ack and answer: the floor delivers nothing in between.
#[derive(Debug)]
pub(crate) struct RoundTrip {
    publisher: Publisher,
    acker: Consumer,
    tag: u64,
}

impl system::RoundTrip for RoundTrip {
    async fn there(&mut self, payload: &Bytes) -> Fallible<()> {
        system::Publisher::offer(&mut self.publisher, payload, 1).await?;
        let confirmed = system::Publisher::confirmed(&mut self.publisher).await?;
        ensure!(confirmed == 1, "the floor confirmed {confirmed} messages of 1");
        Ok(())
    }

    async fn back(&mut self) -> Fallible<()> {
        self.tag += 1;
        self.acker.ack_tags(vec![self.tag]).await?;
        system::Consumer::acked(&mut self.acker).await
    }
}
