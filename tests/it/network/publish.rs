//! Numbered batches over a connection that is cut: each is stored once, and its receipt is true.

use qbroker_client::{Client, OutgoingMessage};
use qbroker_tests::network::Strike;
use qbroker_tests::{patiently, seed};

use super::{Stage, strikes};

const BATCHES: usize = 6;
const MESSAGES: usize = 3;

/// Payloads of a batch; each batch is larger than the one before.
fn payloads(batch: usize) -> impl Iterator<Item = String> {
    (0..MESSAGES).map(move |message| format!("{batch}.{message} {}", "x".repeat(batch * 20)))
}

/// Publishes everything, all of it on its way at once; the sequence that each message was given.
async fn publish(client: &Client, queue: &str) -> Vec<u64> {
    let publisher = client.publisher(queue).open().await.unwrap();
    let mut pending = Vec::new();
    for batch in 0..BATCHES {
        let messages = payloads(batch).map(OutgoingMessage::new).collect();
        pending.push(publisher.offer_batch(messages).await.unwrap());
    }
    let mut sequences = Vec::new();
    for receipt in pending {
        let receipt = receipt.await.unwrap();
        assert_eq!((receipt.len(), receipt.duplicates()), (MESSAGES, &[][..]));
        sequences.extend((0..MESSAGES).map(|message| receipt.sequence(message).unwrap()));
    }
    publisher.close().await.unwrap();
    sequences
}

async fn check(stage: &Stage, queue: &str, sequences: &[u64], how: &str) {
    let there = stage.pull(queue).await;
    let found: Vec<_> = there.iter().map(|leased| leased.message.sequence).collect();
    assert_eq!(found, sequences, "{how}");
    let texts = there.iter().map(|leased| leased.message.payload.to_vec());
    assert!(texts.eq((0..BATCHES).flat_map(payloads).map(String::into_bytes)), "{how}");
    let stats = stage.direct.get_queue(queue).await.unwrap().stats;
    assert_eq!(stats.published_total, (BATCHES * MESSAGES) as u64, "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_once_at_whichever_byte_the_connection_is_cut() {
    let mut rng = seed::rng("network publish");
    let stage = Stage::new().await;
    let client = stage.client().await;
    let whole = Box::pin(async {
        let sequences = publish(&client, "whole").await;
        check(&stage, "whole", &sequences, "nothing was cut").await;
    });
    let bytes = stage.bytes_of(whole).await;
    let mut cut = 0;
    for (number, strike) in strikes(bytes, 40, &mut rng).into_iter().enumerate() {
        let (queue, how) = (format!("cut-{number}"), format!("{strike:?}"));
        stage.front.strike(strike);
        let sequences = patiently(&how, publish(&client, &queue)).await;
        check(&stage, &queue, &sequences, &how).await;
        cut += u32::from(!stage.front.is_to_strike());
    }
    eprintln!("network publish: {bytes:?} bytes, cut {cut} times");
    assert!(10 < cut, "{cut}");
}

/// The opening of the connection and of the stream, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_opens_at_whichever_byte_its_first_connection_is_cut() {
    let mut rng = seed::rng("network open");
    let stage = Stage::new().await;
    let whole = Box::pin(async {
        let client = stage.client().await;
        publish(&client, "whole").await;
    });
    let bytes = stage.bytes_of(whole).await;
    for (number, strike) in strikes(bytes, 30, &mut rng).into_iter().enumerate() {
        let (queue, how) = (format!("cut-{number}"), format!("{strike:?}"));
        let Strike { toward, after, trouble } = strike;
        stage.front.strike_next(Strike { toward, after: after / 2, trouble });
        let client = stage.client().await;
        let sequences = patiently(&how, publish(&client, &queue)).await;
        check(&stage, &queue, &sequences, &how).await;
    }
    eprintln!("network open: {bytes:?} bytes, {} connections", stage.front.connections());
}
