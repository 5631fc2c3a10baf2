//! qbroker as the workloads see it: the real binary, and the Rust client with its defaults.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::{bail, ensure};
use bytes::Bytes;
use qbroker_client::{Client, Delivery, Outcome, OutgoingMessage, PendingBatch, SettlingAll};
use serde::Deserialize;
use tokio::process::Command;

use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// Bytes of the disk that are left free: below it the broker refuses to publish.
pub(crate) const DISK_RESERVE_BYTES: u64 = 1 << 30;

/// What the broker at `program` says of itself.
pub(crate) async fn version(program: &Path) -> Fallible<String> {
    let output = Command::new(program).arg("--version").output().await?;
    ensure!(output.status.success(), "{} --version: {}", program.display(), output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A broker of its own and a client.
#[derive(Debug)]
pub(crate) struct Qbroker {
    server: ServerProcess,
    addresses: Addresses,
    client: Client,
}

/// Where a broker listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Qbroker {
    /// Starts `program` with its defaults, but for a data folder and ports of its own, and less of the
    /// disk kept free: a machine's disk may be full of other things, and this is soon over.
    pub(crate) async fn start(program: &Path, dir: &Path) -> Fallible<Self> {
        Self::start_with(program, dir, &[]).await
    }

    /// As [`Self::start`], with these flags too.
    pub(crate) async fn start_with(program: &Path, dir: &Path, flags: &[&str]) -> Fallible<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--data-dir").arg(dir);
        command.args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.args(["--disk-reserve", &DISK_RESERVE_BYTES.to_string()]);
        command.args(["--log-format", "json"]).args(flags);
        let (server, addresses) = ServerProcess::start(command, serving).await?;
        let client = Client::connect(format!("http://{}", addresses.grpc)).await?;
        Ok(Self { server, addresses, client })
    }

    /// The client that the workloads use.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The workloads go on with a client of so many connections.
    pub(crate) async fn reconnect(&mut self, connections: usize) -> Fallible<()> {
        self.client = self.connect(connections).await?;
        Ok(())
    }

    /// One more client, with so many connections and a session of its own.
    pub(crate) async fn connect(&self, connections: usize) -> Fallible<Client> {
        let options = Client::builder(format!("http://{}", self.addresses.grpc));
        Ok(options.connections(connections).connect().await?)
    }

    /// Where it tells its metrics.
    pub(crate) fn http(&self) -> SocketAddr {
        self.addresses.http
    }
}

/// The addresses, where this line of the broker's log says that it serves now.
fn serving(line: &str) -> Option<Addresses> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line.get("message")? == "serving").then(|| Addresses::deserialize(line).ok())?
}

impl System for Qbroker {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "qbroker";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        let publisher = self.client.publisher(queue).open().await?;
        Ok(Publisher { publisher, pending: VecDeque::new() })
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        let consumer = self.client.consumer([queue]).window(window).open().await?;
        Ok(Consumer::new(consumer))
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        Ok(Trip::new(self.publisher(queue).await?, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    async fn discard(&self, queue: &str) -> Fallible<()> {
        Ok(self.client.delete_queue(queue, true).await?)
    }
}

impl system::Unary for Qbroker {
    type Caller = Caller;

    async fn caller(&self, queue: &str) -> Fallible<Caller> {
        Ok(Caller { client: self.client.clone(), queue: queue.to_owned() })
    }
}

/// A publish stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    publisher: qbroker_client::Publisher,
    /// Batches offered and not confirmed, in order.
    pending: VecDeque<PendingBatch>,
}

impl Publisher {
    /// Sends one request of these messages.
    pub(crate) async fn offer_messages(&mut self, batch: Vec<OutgoingMessage>) -> Fallible<()> {
        self.pending.push_back(self.publisher.offer_batch(batch).await?);
        Ok(())
    }

    /// Takes the answers that are there; how many messages they confirm, once there are some.
    fn poll_confirmed(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Fallible<u64>> {
        let mut messages = 0;
        while let Some(pending) = self.pending.front_mut() {
            match Pin::new(pending).poll(cx) {
                Poll::Ready(receipt) => {
                    let receipt = receipt?;
                    if !receipt.duplicates().is_empty() {
                        return Poll::Ready(Err(anyhow::anyhow!("not stored: {receipt:?}")));
                    }
                    messages += receipt.len() as u64;
                    self.pending.pop_front();
                }
                Poll::Pending if messages == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(messages))
    }
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        // A batch is a request of its own; single offers would share one.
        let message = || OutgoingMessage::new(payload.clone());
        let batch = std::iter::repeat_with(message).take(messages).collect();
        self.offer_messages(batch).await
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        std::future::poll_fn(|cx| self.poll_confirmed(cx)).await
    }
}

/// Publishes by single calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    client: Client,
    queue: String,
}

impl system::Caller for Caller {
    async fn publish(&mut self, payload: Bytes) -> Fallible<()> {
        let messages = vec![OutgoingMessage::new(payload)];
        let receipts = self.client.publish(&self.queue, messages).await?;
        let [receipt] = &receipts[..] else { bail!("1 message, {} receipts", receipts.len()) };
        ensure!(!receipt.duplicate, "not stored: {receipt:?}");
        Ok(())
    }
}

/// A consumer, and the acks whose answers it waits for.
#[derive(Debug)]
pub(crate) struct Consumer {
    consumer: qbroker_client::Consumer,
    acks: VecDeque<SettlingAll>,
}

impl Consumer {
    /// Takes the answers of the acks that have come, in order; ready when all have.
    fn poll_acks(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Fallible<()>> {
        while let Some(ack) = self.acks.front_mut() {
            if let Some((_, error)) = ready!(Pin::new(ack).poll(cx)).into_iter().next() {
                return Poll::Ready(Err(error.into()));
            }
            self.acks.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl Consumer {
    /// Settles deliveries, all with the same outcome; it is on its way when this returns.
    pub(crate) async fn settle(&mut self, batch: Vec<Delivery>, outcome: &Outcome) -> Fallible<()> {
        self.acks.push_back(self.consumer.settle_all(batch, outcome));
        // Whatever is answered by now need not be kept.
        let answered = std::future::poll_fn(|cx| match self.poll_acks(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        });
        answered.await
    }

    /// A consumer that is open.
    pub(crate) fn new(consumer: qbroker_client::Consumer) -> Self {
        Self { consumer, acks: VecDeque::new() }
    }
}

impl system::Consumer for Consumer {
    type Batch = Vec<Delivery>;

    async fn receive(&mut self) -> Fallible<Vec<Delivery>> {
        let batch = self.consumer.next_batch(usize::MAX).await?;
        ensure!(!batch.is_empty(), "the broker drained a consumer");
        Ok(batch)
    }

    fn check(batch: &Vec<Delivery>, payload: &Bytes) -> Fallible<u64> {
        for delivery in batch {
            let (found, expected) = (delivery.message.payload.len(), payload.len());
            ensure!(found == expected, "delivered {found} bytes instead of {expected}");
            ensure!(delivery.attempt == 1, "delivered again: {}", delivery.message.message_id);
        }
        Ok(batch.len() as u64)
    }

    async fn ack(&mut self, batch: Vec<Delivery>) -> Fallible<()> {
        self.settle(batch, &Outcome::Ack).await
    }

    async fn acked(&mut self) -> Fallible<()> {
        std::future::poll_fn(|cx| self.poll_acks(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_it_serves_names_the_addresses() {
        let line = r#"{"level":"INFO","message":"serving","grpc":"127.0.0.1:4","http":"[::1]:5"}"#;
        let addresses = serving(line).unwrap();
        assert_eq!((addresses.grpc.port(), addresses.http.port()), (4, 5));
        assert_eq!(serving("not JSON"), None);
        assert_eq!(serving(&line.replace("serving", "listening, and recovering first")), None);
    }
}
