//! What publishers get: receipts and confirms.

use std::fmt;

use qbroker_proto::v1::{self, PublishReceipt};
use qbroker_storage::Lsn;

use crate::grpc::fault::retold;
use crate::queue::{BatchOutcome, Receipt};

/// What a message is called whose publisher gave it no id.
pub(in crate::grpc) struct BrokersId(pub(in crate::grpc) Lsn);

impl fmt::Display for BrokersId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q.{}", self.0)
    }
}

pub(in crate::grpc) fn message_id(client_id: &str, birth: Lsn) -> String {
    if client_id.is_empty() { BrokersId(birth).to_string() } else { client_id.to_owned() }
}

pub(in crate::grpc) fn receipt(client_id: &str, receipt: Receipt) -> PublishReceipt {
    // Who holds a unique key may have any id, and always has this one.
    let client_id = if receipt.by_key { "" } else { client_id };
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
            let metadata = refused.values.into_iter().collect();
            let error = v1::ItemError { metadata, ..retold(refused.reason, refused.message) };
            let index = refused.index.cast_signed();
            confirmed.refused.push(v1::BatchRefused { batch_id, index, error: Some(error) });
        }
    }
    confirmed
}
