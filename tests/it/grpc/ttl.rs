//! Times to live on the wire: their bounds, and many of them at once, most of them in pages.

use prost_types::Duration;
use qbroker_proto::v1::*;
use qbroker_tests::patiently;
use tonic::Code::InvalidArgument;

use super::{Broker, message, publish, seconds};

fn mortal(payload: &str, ttl: Duration) -> OutgoingMessage {
    OutgoingMessage { ttl: Some(ttl), ..message(payload) }
}

const LONGEST_SECONDS: i64 = 3_650 * 24 * 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_beyond_its_bounds_is_refused() {
    let broker = Broker::start(&[]).await;
    let longest = broker.publish(publish("q", vec![mortal("m", seconds(LONGEST_SECONDS))])).await;
    longest.unwrap();
    let past = Duration { seconds: LONGEST_SECONDS, nanos: 1 };
    for ttl in [past, seconds(-1), Duration { seconds: 0, nanos: -1 }] {
        let refused = broker.publish(publish("q", vec![mortal("m", ttl)])).await.unwrap_err();
        assert_eq!(refused.is(), (InvalidArgument, "INVALID_ARGUMENT"), "{ttl:?}");
        assert_eq!(refused.metadata["field"], "ttl");
    }
    let listed = ListMessagesRequest { queue: "q".to_owned(), ..Default::default() };
    let listed = broker.wire.admin().list_messages(listed).await.unwrap().into_inner().messages;
    let message = listed[0].message.as_ref().unwrap();
    let (published, expires) = (message.publish_time.unwrap(), message.expire_time.unwrap());
    assert_eq!(expires.seconds - published.seconds, LONGEST_SECONDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_pages_expires_and_nothing_else_over_a_kill() {
    let broker = Broker::start(&[]).await;
    // Mostly there when the broker is killed; it makes no difference.
    let messages = |of: &str| match of {
        "mortal" => vec![mortal(of, seconds(3)); 500],
        other => vec![message(other); 500],
    };
    for of in ["mortal", "stays", "mortal", "stays", "mortal", "stays", "mortal", "stays"] {
        broker.publish(publish("q", messages(of))).await.unwrap();
    }
    let broker = broker.kill_and_start().await;
    let gone = async {
        while broker.stats("q").await.expired_total < 2_000 {
            tokio::task::yield_now().await;
        }
    };
    patiently("the end of their time", gone).await;
    let stats = broker.stats("q").await;
    assert_eq!((stats.ready, stats.dead, stats.dead_lettered_total), (2_000, 2_000, 2_000));
    for (queue, of, reason) in [("q", "stays", 0), ("q.dead", "mortal", 3)] {
        for _ in 0..4 {
            for delivery in broker.pull(queue, 500).await {
                let message = delivery.message.unwrap();
                assert_eq!(message.payload, of);
                assert_eq!(message.dead_letter.map_or(0, |letter| letter.reason), reason);
            }
        }
        assert_eq!((broker.stats(queue).await.ready, broker.stats(queue).await.leased), (0, 2_000));
    }
}
