//! Consumers that take a window's worth of deliveries and read none of it.

use std::collections::BTreeSet;
use std::time::Duration;

use consume_request::Kind as Ask;
use qbroker_client::OutgoingMessage;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use qbroker_tests::wire::Wire;
use tokio_stream::StreamExt as _;
use tokio_stream::iter;
use tonic::Streaming;

use super::Stage;

const READERS: usize = 8;
const MESSAGES: usize = 640;
const BYTES: usize = 200_000;
/// What eight of them may make the broker hold, far below the 128 MB that they are delivered: for
/// each what its window on the wire does not take, a batch of deliveries that is being sent and one
/// that is being read.
const MEMORY: u64 = 64 << 20;

async fn consume(wire: &Wire, session: &str) -> Streaming<ConsumeResponse> {
    let queue = QueueSelector { queue: "big".to_owned(), ..QueueSelector::default() };
    let flow = FlowUpdate { max_outstanding_messages: 80, max_outstanding_bytes: 1 << 30 };
    let open = ConsumeOpen {
        queues: vec![queue],
        flow: Some(flow),
        session_id: session.to_owned(),
        ..ConsumeOpen::default()
    };
    let first = ConsumeRequest { kind: Some(Ask::Open(open)) };
    let requests = iter([first]).chain(tokio_stream::pending());
    wire.consumer().consume(requests).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_do_not_read_hold_up_nobody_and_cost_a_bounded_memory() {
    let stage = Stage::new(&[]).await;
    for _ in 0..MESSAGES / 4 {
        let batch = (0..4).map(|_| OutgoingMessage::new(vec![7; BYTES])).collect();
        stage.client.publish("big", batch).await.unwrap();
    }
    let before = stage.memory_peak();
    let mut silent = Vec::new();
    for reader in 0..READERS {
        let wire = Wire::connect_narrow(&stage.server.url()).await;
        let stream = consume(&wire, &format!("reader-{reader}")).await;
        silent.push((wire, stream));
    }
    let leased = async {
        while stage.client.get_queue("big").await.unwrap().stats.leased < MESSAGES as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("everything is delivered", leased).await;
    stage.work_beside(100).await;
    let cost = stage.memory_peak().saturating_sub(before);
    eprintln!("hostile: {READERS} silent consumers cost {} KiB", cost >> 10);
    assert!(cost < MEMORY, "{cost} bytes of memory for {before} before");

    // Once they read, everything is there, once.
    let mut sequences = BTreeSet::new();
    for (_, stream) in &mut silent {
        let mut seen = 0;
        while seen < MESSAGES / READERS {
            let answer = patiently("a delivery", stream.message()).await.unwrap().unwrap();
            let Some(consume_response::Kind::Deliveries(batch)) = answer.kind else { continue };
            for delivery in batch.deliveries {
                let message = delivery.message.expect("it is delivered whole");
                assert_eq!(message.payload.len(), BYTES);
                assert!(sequences.insert(message.sequence), "{} comes twice", message.sequence);
                seen += 1;
            }
        }
    }
    assert_eq!(sequences.len(), MESSAGES);
}
