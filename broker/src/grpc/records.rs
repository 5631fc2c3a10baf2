//! Reads messages with everything that belongs to them, a page at a time.

use std::sync::Arc;

use qbroker_storage::{Lsn, ReadError, StoredRecord};

use super::convert::delivery::Stored;
use super::fault::Fault;
use crate::engine::Engine;

/// Which records a message is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) birth: Lsn,
    pub(super) content: Lsn,
    pub(super) last_failure: Lsn,
    pub(super) dead_letter: Lsn,
}

/// Reads the records of messages, in order.
pub(super) async fn read(
    engine: &Arc<Engine>,
    messages: &[Parts],
) -> Result<Vec<Result<Stored, Fault>>, Fault> {
    let lsns: Vec<Lsn> = messages
        .iter()
        .flat_map(|parts| [parts.content, parts.last_failure, parts.dead_letter])
        .filter(|lsn| *lsn != Lsn(0))
        .collect();
    let mut records = engine.read(lsns).await?.into_iter();
    Ok(messages.iter().map(|parts| stored(*parts, &mut records)).collect())
}

fn stored(
    parts: Parts,
    records: &mut impl Iterator<Item = Result<StoredRecord, ReadError>>,
) -> Result<Stored, Fault> {
    let mut next = |lsn: Lsn| (lsn != Lsn(0)).then(|| records.next().expect("one for each LSN"));
    // All three first: what one message lacks must not shift the next one's.
    let (message, last_failure, dead_letter) =
        (next(parts.content), next(parts.last_failure), next(parts.dead_letter));
    Ok(Stored {
        birth: parts.birth,
        message: message.expect("a message has a content")?,
        last_failure: last_failure.transpose()?,
        dead_letter: dead_letter.transpose()?,
    })
}
