//! The protocol on the wire: what is refused, with which code, reason and values, and what is not.

mod access;
mod admin;
mod attempts;
mod begun;
mod consumers;
mod filter;
mod fairness_key;
mod effects;
mod events;
mod find;
mod flow;
mod full;
mod large;
mod leases;
mod malformed;
mod named;
mod newer;
mod operations;
mod ordering_key;
mod priority;
mod publish;
mod repeats;
mod schedules;
mod state;
mod streams;
mod subscribe;
mod totals;
mod trace;
mod ttl;
mod unique_key;
mod unread;
mod watch;

use std::fmt::Debug;

use bytes::Bytes;
use qbroker_proto::v1::*;
use qbroker_tests::folder::Folder;
use qbroker_tests::server::Server;
use qbroker_tests::wire::{Refusal, Wire};
use tonic::{Response, Status};

/// A broker and a bare connection to it.
struct Broker {
    wire: Wire,
    server: Server,
    /// After the server: its files go when it is gone.
    folder: Folder,
}

impl Broker {
    /// Starts a broker; it is killed with the test.
    async fn start(flags: &[&str]) -> Self {
        let folder = Folder::new();
        let server = Server::start(&folder, flags).await;
        let wire = Wire::connect(&server.url()).await;
        Self { wire, server, folder }
    }

    /// Kills the broker, and starts it again on the same folder.
    async fn kill_and_start(self) -> Self {
        let Self { server, folder, .. } = self;
        server.kill().await;
        let server = Server::start(&folder, &[]).await;
        let wire = Wire::connect(&server.url()).await;
        Self { wire, server, folder }
    }

    /// Stops the broker in order, and starts it again on the same folder.
    async fn stop_and_start(self) -> Self {
        let Self { server, folder, .. } = self;
        server.stop().await;
        let server = Server::start(&folder, &[]).await;
        let wire = Wire::connect(&server.url()).await;
        Self { wire, server, folder }
    }

    async fn publish(&self, request: PublishRequest) -> Result<Vec<PublishReceipt>, Refusal> {
        let response = answer(self.wire.publisher().publish(request).await)?;
        let receipt = |result: PublishResult| match result.outcome {
            Some(publish_result::Outcome::Receipt(receipt)) => receipt,
            other => panic!("a batch that is stored whole has receipts: {other:?}"),
        };
        Ok(response.results.into_iter().map(receipt).collect())
    }

    async fn pull(&self, queue: &str, max: i32) -> Vec<Delivery> {
        let request = PullRequest {
            queues: selectors(&[queue]),
            max_messages: max,
            wait_timeout: Some(seconds(0)),
            ..PullRequest::default()
        };
        let response = self.wire.consumer().pull(request).await.unwrap().into_inner();
        response.batch.expect("it is always set").deliveries
    }

    /// Leases a fresh message; its token.
    async fn lease(&self) -> Bytes {
        self.publish(publish("work", vec![message("job")])).await.unwrap();
        self.pull("work", 1).await.remove(0).lease_token
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<SettleFailure>, Refusal> {
        let request = SettleRequest { call_id: 7, settlements, ..SettleRequest::default() };
        let response = answer(self.wire.consumer().settle(request).await)?;
        assert_eq!(response.call_id, 7, "it is echoed");
        Ok(response.failures)
    }

    async fn stats(&self, queue: &str) -> QueueStats {
        let request = GetQueueRequest { name: queue.to_owned() };
        let response = self.wire.admin().get_queue(request).await.unwrap().into_inner();
        response.queue.unwrap().stats.unwrap()
    }

    /// It still serves: whatever came before did not hurt it.
    async fn check_alive(&self) {
        let stored = self.publish(publish("alive", vec![message("yes")])).await.unwrap();
        assert_eq!(stored.len(), 1);
    }
}

fn answer<T: Debug>(answer: Result<Response<T>, Status>) -> Result<T, Refusal> {
    answer.map(Response::into_inner).map_err(|status| Refusal::of(&status))
}

/// The refusal of a call that must be refused.
fn refusal<T: Debug>(answer: Result<Response<T>, Status>) -> Refusal {
    self::answer(answer).expect_err("it must be refused")
}

fn message(payload: &str) -> OutgoingMessage {
    OutgoingMessage { payload: payload.to_owned().into(), ..OutgoingMessage::default() }
}

fn publish(queue: &str, messages: Vec<OutgoingMessage>) -> PublishRequest {
    PublishRequest { queue: queue.to_owned(), messages, allow_partial: false }
}

fn selectors(queues: &[&str]) -> Vec<QueueSelector> {
    let selector =
        |queue: &&str| QueueSelector { queue: (*queue).to_owned(), ..Default::default() };
    queues.iter().map(selector).collect()
}

fn settlement(token: &Bytes, outcome: settlement::Outcome) -> Settlement {
    let lease_token = token.clone();
    Settlement { lease_token, outcome: Some(outcome), effects: Vec::new() }
}

fn ack(token: &Bytes) -> Settlement {
    settlement(token, settlement::Outcome::Ack(Ack {}))
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}
