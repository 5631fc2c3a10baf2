//! Clients that mean harm, or have lost their minds: nobody else notices, and what they cost is
//! bounded.

mod connections;
mod frames;
mod paused;
mod reader;
mod streams;
mod unfinished;

use std::time::Duration;

use qbroker_client::{Client, Outcome, OutgoingMessage};
use qbroker_tests::folder::Folder;
use qbroker_tests::patiently;
use qbroker_tests::server::Server;

/// A broker, and a client of it that behaves.
struct Stage {
    client: Client,
    server: Server,
    _folder: Folder,
}

impl Stage {
    async fn new(flags: &[&str]) -> Self {
        let folder = Folder::new();
        let server = Server::start(&folder, flags).await;
        let client = Client::builder(server.url()).connections(1).connect().await.unwrap();
        Self { client, server, _folder: folder }
    }

    /// Others publish, take and ack meanwhile.
    async fn work_beside(&self, rounds: usize) {
        let work = async {
            for _ in 0..rounds {
                let job = vec![OutgoingMessage::new("job")];
                self.client.publish("beside", job).await.unwrap();
                let pulled = self.client.pull(["beside"], 1, Duration::ZERO, None).await.unwrap();
                let acks = pulled.into_iter().map(|leased| (leased.lease_token, Outcome::Ack));
                assert_eq!(self.client.settle(acks.collect()).await.unwrap(), [Ok(())]);
            }
        };
        patiently("the work of others", work).await;
    }

    /// The most memory that the broker has had so far.
    fn memory_peak(&self) -> u64 {
        self.server.figure("process_resident_memory_peak_bytes")
    }
}
