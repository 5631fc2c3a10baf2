//! Settlements that clients hand in.

use bytes::Bytes;
use prost::Message as _;
use qbroker_proto::raw::SettleRequest;
use qbroker_proto::v1::{self, MessagePatch, settlement};

use super::batch::{BatchLimits, IdHasher};
use super::time::{DURATION_MS_MAX, duration_ms};
use super::token::Seal;
use super::{bounds, effects};
use crate::grpc::fault::Fault;
use crate::queue::body::StoredFailure;
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::policy::check_attempts;
use crate::queue::refused::Refused;
use crate::queue::{Outcome, Settle, Settlement};

/// A call of settlements, as far as its form tells.
pub(in crate::grpc) struct Understood {
    pub(in crate::grpc) command: Settle,
    /// By the place in `command` of the settlement with it: what is to be put together with the
    /// content that the message has.
    pub(in crate::grpc) patches: Vec<(usize, MessagePatch)>,
    /// What is done with these leases cannot be taken; they stay.
    pub(in crate::grpc) refused: Vec<(LeaseToken, Refused)>,
    /// Tokens that this broker never made.
    pub(in crate::grpc) invalid: Vec<Bytes>,
}

/// What settlements are read with.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Reading {
    pub(in crate::grpc) seal: Seal,
    pub(in crate::grpc) hasher: IdHasher,
    pub(in crate::grpc) limits: BatchLimits,
}

pub(in crate::grpc) fn settle(
    request: SettleRequest,
    consumer: ConsumerId,
    reading: Reading,
) -> Result<Understood, Fault> {
    let count = request.settlements.len();
    bounds::batch("settlements", count, bounds::SETTLEMENTS_MAX, "settlements")?;
    let number = |field, number: i64| {
        u64::try_from(number).map_err(|_| Fault::invalid(field, "it must not be negative"))
    };
    let command = Settle {
        consumer,
        number: number("call_id", request.call_id)?,
        answered_through: number("answered_through_call_id", request.answered_through_call_id)?,
        settlements: Vec::with_capacity(count),
    };
    let (patches, refused, invalid) = (Vec::new(), Vec::new(), Vec::new());
    let mut understood = Understood { command, patches, refused, invalid };
    for encoded in request.settlements {
        understood.take(encoded, reading)?;
    }
    Ok(understood)
}

impl Understood {
    fn take(&mut self, encoded: Bytes, reading: Reading) -> Result<(), Fault> {
        let size = encoded.len();
        let v1::Settlement { lease_token, outcome, effects } = v1::Settlement::decode(encoded)
            .map_err(|error| {
                Fault::invalid("settlements", format!("one cannot be read: {error}"))
            })?;
        let (outcome, patch) = self::outcome(outcome)?;
        let Some(token) = reading.seal.open(&lease_token) else {
            self.invalid.push(lease_token);
            return Ok(());
        };
        if effects.is_empty() && patch.is_none() {
            self.command.settlements.push(Settlement::plain(token, outcome));
            return Ok(());
        }
        let checked = patch.as_ref().map_or(Ok(()), effects::check_patch);
        match checked.and_then(|()| effects::effects(effects, size, reading)) {
            Err(fault) => self.refused.push((token, fault.into_refused())),
            Ok(effects) => {
                let place = self.command.settlements.len();
                self.patches.extend(patch.map(|patch| (place, patch)));
                let effects = Some(Box::new(effects));
                self.command.settlements.push(Settlement { token, outcome, effects });
            }
        }
        Ok(())
    }
}

/// What became of the work, and the patch that comes with it, where it changes anything.
fn outcome(outcome: Option<settlement::Outcome>) -> Result<(Outcome, Option<MessagePatch>), Fault> {
    let delay_ms = |delay| duration_ms("delay", delay, 0, DURATION_MS_MAX);
    let (outcome, patch) = match outcome {
        None => {
            return Err(Fault::invalid(
                "outcome",
                "one of ack, nack, release, dead_letter is needed",
            ));
        }
        Some(settlement::Outcome::Ack(_)) => (Outcome::Ack, None),
        Some(settlement::Outcome::Nack(nack)) => {
            let checked = nack.max_attempts.map_or(Ok(()), check_attempts);
            checked.map_err(|why| Fault::invalid("max_attempts", why))?;
            let (delay_ms, failure) = (delay_ms(nack.delay)?, failure(nack.failure));
            let (chance, max_attempts) = (rand::random(), nack.max_attempts);
            (Outcome::Nack { delay_ms, failure, chance, max_attempts }, nack.patch)
        }
        Some(settlement::Outcome::Release(release)) => {
            (Outcome::Release { delay_ms: delay_ms(release.delay)?.unwrap_or_default() }, None)
        }
        Some(settlement::Outcome::DeadLetter(letter)) => {
            (Outcome::DeadLetter { failure: failure(letter.failure) }, letter.patch)
        }
    };
    Ok((outcome, patch.filter(|patch| *patch != MessagePatch::default())))
}

fn failure(failure: Option<v1::Failure>) -> StoredFailure {
    let v1::Failure { r#type, message, details } = failure.unwrap_or_default();
    StoredFailure { kind: r#type, message, details, earlier: Vec::new() }
}
