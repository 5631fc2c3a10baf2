//! What is told of a message's attempts: read from the log when somebody asks.
//!
//! A failure's record names the one before, so a message's history is a chain of records. The latest
//! is kept for as long as the message; those before are there for as long as the log has not dropped
//! their segment, or copied what lives on in it.

use std::sync::Arc;

use qbroker_proto::v1::AttemptInfo;
use qbroker_storage::Lsn;

use super::convert::delivery;
use super::fault::Fault;
use crate::engine::Engine;
use crate::queue::index::Message;

/// Attempts that are told of at most: the latest.
const ATTEMPTS_MAX: usize = 10;

/// The attempts of a message that told a failure, the oldest first.
pub(super) async fn read(
    engine: &Arc<Engine>,
    message: &Message,
) -> Result<Vec<AttemptInfo>, Fault> {
    let mut attempts = Vec::new();
    // What happened in the dead-letter queue stands before the letter, what happened before behind it.
    let (mut failure, mut letter) = (message.last_failure, message.dead_letter);
    while attempts.len() < ATTEMPTS_MAX && failure.max(letter) != Lsn(0) {
        let lsn = failure.max(letter);
        let read = engine.read(vec![lsn]).await?.pop().expect("an answer for each");
        // What is older is older than what the log still has.
        let Ok(record) = read else { break };
        let told = delivery::attempt(&record)?;
        if lsn == letter {
            letter = Lsn(0);
        }
        if told.tells || lsn == failure {
            failure = told.previous;
        }
        attempts.extend(Some(told.info).filter(|_| told.tells));
    }
    attempts.reverse();
    Ok(attempts)
}
