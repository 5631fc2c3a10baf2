//! Single calls over a connection that is cut: repeated until they are answered, done once.

use std::time::Duration;

use qbroker_client::{Client, Outcome, OutgoingMessage};
use qbroker_tests::{patiently, seed};

use super::{HOUR, Stage, strikes};

const MESSAGES: usize = 3;

/// Publishes, takes and acks some messages with one call each.
async fn work(client: &Client, queue: &str, how: &str) {
    let messages = (0..MESSAGES).map(|number| OutgoingMessage::new(number.to_string()));
    let receipts = client.publish(queue, messages.collect()).await;
    let receipts = receipts.unwrap_or_else(|error| panic!("{how}: {error}"));
    let pulled = client.pull([queue], 10, Duration::ZERO, Some(HOUR)).await;
    let pulled = pulled.unwrap_or_else(|error| panic!("{how}: {error}"));
    assert_eq!(pulled.len(), MESSAGES, "{how}");
    for ((number, leased), receipt) in pulled.iter().enumerate().zip(receipts) {
        assert_eq!(leased.message.payload, number.to_string(), "{how}");
        assert_eq!((leased.attempt, leased.crashes), (1, 0), "{how}");
        // A repeated call is answered with where the message was stored by the first.
        assert_eq!(Some(leased.message.sequence), receipt.sequence, "{how}");
    }
    let acks = pulled.into_iter().map(|leased| (leased.lease_token, Outcome::Ack)).collect();
    let settled = client.settle(acks).await;
    let settled = settled.unwrap_or_else(|error| panic!("{how}: {error}"));
    assert_eq!(settled, vec![Ok(()); MESSAGES], "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_done_once_at_whichever_byte_the_connection_is_cut() {
    let mut rng = seed::rng("network calls");
    let stage = Stage::new().await;
    let client = stage.client().await;
    let bytes = stage.bytes_of(work(&client, "whole", "nothing was cut")).await;
    let mut cut = 0;
    for (number, strike) in strikes(bytes, 40, &mut rng).into_iter().enumerate() {
        let (queue, how) = (format!("cut-{number}"), format!("{strike:?}"));
        stage.front.strike(strike);
        patiently(&how, work(&client, &queue, &how)).await;
        let stats = stage.direct.get_queue(&queue).await.unwrap().stats;
        let done = (stats.published_total, stats.acked_total);
        assert_eq!(done, (MESSAGES as u64, MESSAGES as u64), "{how}");
        assert_eq!((stats.ready, stats.leased, stats.expired_leases_total), (0, 0, 0), "{how}");
        cut += u32::from(!stage.front.is_to_strike());
    }
    eprintln!("network calls: {bytes:?} bytes, cut {cut} times");
    assert!(10 < cut, "{cut}");
}
