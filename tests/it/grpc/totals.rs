//! What a queue has done so far: totals that only grow.

use settlement::Outcome;

use super::{Broker, message, publish, settlement};
use qbroker_proto::v1::*;

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_come_in_and_what_is_deleted_is_counted() {
    let broker = Broker::start(&[]).await;
    let token = broker.lease().await;
    let dead = settlement(&token, Outcome::DeadLetter(DeadLetter::default()));
    assert_eq!(broker.settle(vec![dead]).await.unwrap(), []);
    broker.publish(publish("work", vec![message("m"); 3])).await.unwrap();
    let purge = PurgeQueueRequest { name: "work".to_owned(), ..PurgeQueueRequest::default() };
    broker.wire.admin().purge_queue(purge.clone()).await.unwrap();
    let totals = async |broker: &Broker| {
        let (work, letters) = (broker.stats("work").await, broker.stats("work.dead").await);
        let of = |it: &QueueStats| (it.published_total, it.dead_lettered_total, it.deleted_total);
        assert_eq!((of(&work), of(&letters)), ((4, 1, 3), (1, 0, 0)));
        assert!(letters.oldest_ready_time.is_some() && work.oldest_ready_time.is_none());
    };
    totals(&broker).await;
    let broker = broker.kill_and_start().await;
    totals(&broker).await;
}
