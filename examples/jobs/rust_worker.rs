//! The worker in Rust: takes passages in batches, counts their words, acks them.

use qbroker_client::{Client, Consumer, Delivery, Error};

use crate::Fallible;
use crate::jobs::{RUST_QUEUE, count_words};
use crate::tally::{Tally, Worker};

/// Messages counted, recorded and acked together.
const BATCH_MESSAGES: usize = 256;

/// Works until the tally is finished.
///
/// Two consumers share the queue, so that one can work while the other waits for its acks.
///
/// # Errors
///
/// A consumer ends, or a result is not what it must be.
pub(crate) async fn work(client: &Client, tally: &Tally) -> Fallible<()> {
    let consumer = || client.consumer([RUST_QUEUE]).client_id("rust-worker").open();
    let (one, two) = tokio::try_join!(consumer(), consumer())?;
    tokio::try_join!(consume(one, tally), consume(two, tally))?;
    Ok(())
}

async fn consume(consumer: Consumer, tally: &Tally) -> Fallible<()> {
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch(BATCH_MESSAGES) => batch?,
            () = tally.finished() => return Ok(consumer.close().await?),
        };
        count(&batch, tally)?;
        for (position, error) in consumer.ack_all(batch).await {
            // A lease that ended is no accident here: the message comes again, and its result is
            // there already.
            let Error::LeaseLost(_) = error else {
                return Err(anyhow::Error::new(error).context(format!("ack of {position}")));
            };
            tally.lease_lost();
        }
    }
}

/// Records the results before the acks: a crash between the two repeats work and loses none.
fn count(batch: &[Delivery], tally: &Tally) -> Fallible<()> {
    for delivery in batch {
        let words = count_words(&delivery.message.payload);
        tally.record(&delivery.message.message_id, words, Worker::Rust)?;
    }
    Ok(())
}
