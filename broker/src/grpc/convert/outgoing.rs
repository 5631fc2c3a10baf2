//! What clients get: deliveries, listed messages, receipts.

use bytes::Buf;
use qbroker_proto::v1::{self, DeadLetterInfo, Failure, PublishReceipt};
use qbroker_storage::{Lsn, StoredRecord};

use super::time::to_timestamp;
use super::token::Seal;
use crate::grpc::fault::{Fault, retold};
use crate::queue::body::{StoredDeadLetter, StoredFailure, StoredMessage};
use crate::queue::record::{DeadLettered, Published, Record};
use crate::queue::{BatchOutcome, Delivery, Receipt};

/// A message's records, read from the log.
pub(in crate::grpc) struct Stored {
    pub(in crate::grpc) birth: Lsn,
    pub(in crate::grpc) message: StoredRecord,
    pub(in crate::grpc) last_failure: Option<StoredRecord>,
    pub(in crate::grpc) dead_letter: Option<StoredRecord>,
}

pub(in crate::grpc) fn message_id(client_id: &str, birth: Lsn) -> String {
    if client_id.is_empty() { format!("q.{birth}") } else { client_id.to_owned() }
}

pub(in crate::grpc) fn receipt(client_id: &str, receipt: Receipt) -> PublishReceipt {
    PublishReceipt {
        message_id: message_id(client_id, receipt.birth),
        sequence: sequence(receipt.birth),
        duplicate: receipt.duplicate,
    }
}

pub(in crate::grpc) fn sequence(lsn: Lsn) -> i64 {
    i64::try_from(lsn.0).unwrap_or(i64::MAX)
}

/// One response for many batches, in the order of their numbers.
pub(in crate::grpc) fn confirmed(
    through: u64,
    outcomes: impl IntoIterator<Item = BatchOutcome>,
) -> v1::BatchesConfirmed {
    let mut confirmed = v1::BatchesConfirmed {
        through_batch_id: i64::try_from(through).unwrap_or(i64::MAX),
        ..v1::BatchesConfirmed::default()
    };
    for outcome in outcomes {
        let batch_id = i64::try_from(outcome.batch).unwrap_or(i64::MAX);
        confirmed.first_sequences.push(sequence(outcome.first));
        if !outcome.duplicates.is_empty() {
            let indexes = outcome.duplicates.into_iter().map(u32::cast_signed).collect();
            confirmed.duplicates.push(v1::BatchDuplicates { batch_id, indexes });
        }
        if let Some(refused) = outcome.refused {
            let error = retold(refused.reason, refused.message);
            let index = refused.index.cast_signed();
            confirmed.refused.push(v1::BatchRefused { batch_id, index, error: Some(error) });
        }
    }
    confirmed
}

/// A delivery with what its records hold.
pub(in crate::grpc) fn delivery(
    delivery: &Delivery,
    stored: Stored,
    seal: Seal,
) -> Result<v1::Delivery, Fault> {
    let last_failure = stored.last_failure.as_ref().map(failure).transpose()?;
    let message = message(delivery.queue.to_string(), stored)?;
    Ok(v1::Delivery {
        lease_token: seal.close(delivery.token),
        message: Some(message),
        attempt: (1 + delivery.failures + delivery.crashes).cast_signed(),
        failures: delivery.failures.cast_signed(),
        crashes: delivery.crashes.cast_signed(),
        last_failure,
    })
}

/// A message as clients see it, wherever it is.
pub(in crate::grpc) fn message(queue: String, stored: Stored) -> Result<v1::Message, Fault> {
    let published = published(&stored.message)?;
    let body: StoredMessage = body(&stored.message)?;
    let last = stored.last_failure.as_ref();
    let dead_letter = stored.dead_letter.map(|letter| dead_letter(&letter, last)).transpose()?;
    Ok(v1::Message {
        message_id: message_id(&body.message_id, stored.birth),
        queue,
        payload: body.payload,
        content_type: body.content_type,
        headers: body.headers.into_iter().collect(),
        message_type: body.message_type,
        correlation_id: body.correlation_id,
        sequence: sequence(stored.birth),
        publish_time: Some(to_timestamp(published.wall_ms)),
        deliver_time: published.due.map(|due| to_timestamp(due.wall_ms)),
        dead_letter,
        ..v1::Message::default()
    })
}

fn dead_letter(
    letter: &StoredRecord,
    last_failure: Option<&StoredRecord>,
) -> Result<DeadLetterInfo, Fault> {
    let Record::DeadLettered(head) = head(letter)? else {
        return Err(Fault::Damaged("a dead letter's record is of another kind".to_owned()));
    };
    let told: StoredDeadLetter = body(letter)?;
    let failure = match told.failure {
        Some(failure) => Some(to_failure(failure)),
        None => last_failure.map(failure).transpose()?,
    };
    let DeadLettered { reason, attempts, wall_ms, .. } = head;
    Ok(DeadLetterInfo {
        source_queue: told.source_queue,
        // The numbers are the protocol's own.
        reason,
        failure,
        attempts: attempts.cast_signed(),
        dead_letter_time: Some(to_timestamp(wall_ms)),
    })
}

fn failure(record: &StoredRecord) -> Result<Failure, Fault> {
    body(record).map(to_failure)
}

fn to_failure(failure: StoredFailure) -> Failure {
    Failure { r#type: failure.kind, message: failure.message, details: failure.details }
}

fn published(record: &StoredRecord) -> Result<Published, Fault> {
    match head(record)? {
        Record::Published(published) => Ok(published),
        _ => Err(Fault::Damaged("a message's record is of another kind".to_owned())),
    }
}

fn head(record: &StoredRecord) -> Result<Record, Fault> {
    Record::decode_head(&record.head).map_err(|error| Fault::Damaged(error.to_string()))
}

fn body<T: prost::Message + Default>(record: &StoredRecord) -> Result<T, Fault> {
    let [prefix, rest] = record.body.parts().clone();
    T::decode(prefix.chain(rest)).map_err(|error| Fault::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::queue::record::DeadLetterReason as Stored;

    use super::v1::DeadLetterReason as Told;

    #[test]
    fn stored_reasons_of_dead_letters_have_the_protocols_numbers() {
        let pairs = [
            (Stored::MaxAttempts, Told::MaxAttempts),
            (Stored::MaxCrashes, Told::MaxCrashes),
            (Stored::ByConsumer, Told::ByConsumer),
        ];
        for (stored, told) in pairs {
            assert_eq!(i32::from(stored), i32::from(told), "{stored:?}");
        }
        let stored = (1..64).filter(|number| Stored::try_from(*number).is_ok());
        assert_eq!(stored.count(), pairs.len(), "each is compared");
    }
}
