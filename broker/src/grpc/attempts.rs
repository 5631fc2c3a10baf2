//! What is told of a message's attempts: read when somebody asks, and when the next one fails.
//!
//! The record of a failure carries the failures before it, and stays for as long as it is the message's
//! last one: so a history is one record, and takes no memory. Who hands in a failure has read what came
//! before. Where a record carries nothing, since an older version wrote it or the disk was full, it names
//! the one before, which is there for as long as the log has it.

use std::sync::Arc;

use qbroker_proto::v1::AttemptInfo;
use qbroker_storage::{Lsn, ReadError, StoredRecord};
use tracing::warn;

use super::convert::delivery;
use super::fault::Fault;
use crate::engine::{Engine, Stopped};
use crate::queue::body::{self, StoredAttempt, StoredFailure};
use crate::queue::index::{Index as _, Lookup, Message};
use crate::queue::{Outcome, Settlement};

/// Attempts that are told of at most: the latest.
const ATTEMPTS_MAX: usize = 1 + body::EARLIER_MAX;
/// Bytes of a record that are read for a settlement, and of what it then carries, at most and about.
pub(super) const CARRIED_BYTES: usize =
    body::FAILURE_BYTES_MAX + 2 * body::EARLIER_MAX * (body::EARLIER_BYTES_MAX + 64);

/// Where the failures of a message are told: in its last one, and in its dead-lettering.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    failure: Lsn,
    letter: Lsn,
}

impl Past {
    fn of(message: &Message) -> Self {
        Self { failure: message.last_failure, letter: message.dead_letter }
    }

    /// The latest record; zero: there is none.
    fn last(self) -> Lsn {
        self.failure.max(self.letter)
    }
}

/// The attempts of a message that told a failure, the oldest first.
pub(super) async fn read(
    engine: &Arc<Engine>,
    message: &Message,
) -> Result<Vec<AttemptInfo>, Fault> {
    let past = Past::of(message);
    if past.last() == Lsn(0) {
        return Ok(Vec::new());
    }
    // What cannot be read is told with the message, which needs it too.
    let Ok(last) = one(engine, past.last()).await? else { return Ok(Vec::new()) };
    let attempts = follow(engine, past, last).await?;
    Ok(attempts.into_iter().map(delivery::attempt_info).collect())
}

/// Of settlements that tell a failure, by their places: where those before it are told.
pub(super) fn past(
    engine: &Engine,
    settlements: &[Settlement],
) -> Result<Vec<(usize, Past)>, Stopped> {
    let told = settlements.iter().enumerate();
    let told = told.filter(|(_, it)| failure(&it.outcome).is_some_and(|it| !it.is_empty()));
    let tokens: Vec<_> = told.map(|(place, settlement)| (place, settlement.token)).collect();
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let (_, past) = engine.look_up(|core| {
        let held = tokens.iter().filter(|(_, token)| core.is_held(*token));
        let past = held.map(|(place, token)| {
            let message = core.index().message(token.birth)?;
            Ok(message.map(|message| (*place, Past::of(&message))))
        });
        let past = past.filter_map(Result::transpose).collect::<Lookup<Vec<_>>>()?;
        Ok(past.into_iter().filter(|(_, past)| past.last() != Lsn(0)).collect())
    })?;
    Ok(past)
}

/// Gives failures that are told those before them. A settlement is not refused for what is lost of
/// them.
pub(super) async fn carry(
    engine: &Arc<Engine>,
    settlements: &mut [Settlement],
    past: &[(usize, Past)],
) -> Result<(), Fault> {
    let last = engine.read(past.iter().map(|(_, past)| past.last()).collect()).await?;
    for (&(place, past), last) in past.iter().zip(last) {
        let settlement = &mut settlements[place];
        let attempts = match last {
            Ok(last) => follow(engine, past, last).await,
            Err(error) => Err(error.into()),
        };
        let outcome = &mut settlement.outcome;
        let (Outcome::Nack { failure, .. } | Outcome::DeadLetter { failure }) = outcome else {
            unreachable!("it tells a failure");
        };
        match attempts {
            Ok(attempts) => failure.earlier = body::earlier(attempts),
            Err(Fault::Damaged(why)) => {
                let token = settlement.token;
                // Settled meanwhile by a repeat of the call, its record may be gone.
                if engine.look(|core| core.is_held(token)).1 {
                    let sequence = token.birth.0;
                    warn!(sequence, "a message's earlier failures are not kept any more: {why}");
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

fn failure(outcome: &Outcome) -> Option<&StoredFailure> {
    match outcome {
        Outcome::Nack { failure, .. } | Outcome::DeadLetter { failure } => Some(failure),
        Outcome::Ack | Outcome::Release { .. } => None,
    }
}

/// The latest attempts that told a failure, the oldest first, from the last record on.
async fn follow(
    engine: &Arc<Engine>,
    past: Past,
    last: StoredRecord,
) -> Result<Vec<StoredAttempt>, Fault> {
    // What happened in the dead-letter queue stands before the letter, what happened before behind it.
    let Past { mut failure, mut letter } = past;
    let (mut attempts, mut record) = (Vec::new(), last);
    loop {
        let lsn = failure.max(letter);
        let told = delivery::attempt(&record)?;
        if lsn == letter {
            letter = Lsn(0);
        }
        if told.tells || lsn == failure {
            failure = told.previous;
        }
        attempts.extend(Some(told.attempt).filter(|_| told.tells));
        let carries = !told.earlier.is_empty();
        attempts.extend(told.earlier.into_iter().rev());
        let next = failure.max(letter);
        if carries || ATTEMPTS_MAX <= attempts.len() || next == Lsn(0) {
            break;
        }
        // What is older is older than what the log still has.
        let Ok(older) = one(engine, next).await? else { break };
        record = older;
    }
    attempts.truncate(ATTEMPTS_MAX);
    attempts.reverse();
    Ok(attempts)
}

async fn one(engine: &Arc<Engine>, lsn: Lsn) -> Result<Result<StoredRecord, ReadError>, Stopped> {
    Ok(engine.read(vec![lsn]).await?.pop().expect("an answer for each"))
}

#[cfg(test)]
mod tests;
