//! Operations as clients see them.

use qbroker_proto::v1::{self, ItemError};
use qbroker_storage::Lsn;

use super::filter;
use super::time::to_timestamp;
use crate::grpc::fault::{Fault, retold};
use crate::queue::Operation;
use crate::queue::record::{OperationKind, OperationStarted, OperationState};

/// How ids of operations begin; the LSN follows.
const ID_START: &str = "o.";
/// Messages a second.
const RATE_MAX: f64 = 1_000_000.0;
const RATE_MIN: f64 = 0.001;

/// The id of an operation.
pub(in crate::grpc) fn id(lsn: Lsn) -> String {
    format!("{ID_START}{lsn}")
}

/// Reads [`id`].
pub(in crate::grpc) fn parse_id(id: &str) -> Result<Lsn, Fault> {
    let number = id.strip_prefix(ID_START).and_then(|number| number.parse().ok());
    number.map(Lsn).ok_or_else(|| Fault::invalid("operation_id", "it is not o. and a number"))
}

/// Thousandths of a message a second; 0: no limit.
pub(in crate::grpc) fn rate(rate: f64) -> Result<u64, Fault> {
    if rate == 0.0 {
        return Ok(0);
    }
    if !(RATE_MIN..=RATE_MAX).contains(&rate) {
        let why = format!("{rate} is not within {RATE_MIN} to {RATE_MAX}");
        return Err(Fault::invalid("max_rate", why));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds")]
    Ok((rate * 1_000.0).round() as u64)
}

/// An operation as it is.
pub(in crate::grpc) fn to_wire(lsn: Lsn, operation: &Operation) -> v1::Operation {
    let (progress, failed) = (&operation.progress, operation.failed());
    let state = match progress.state() {
        OperationState::Running => v1::OperationState::Running,
        OperationState::Succeeded => v1::OperationState::Succeeded,
        OperationState::Failed => v1::OperationState::Failed,
        OperationState::Canceled => v1::OperationState::Canceled,
    };
    let reasons =
        progress.refused.iter().map(|refused| (refused.reason.clone(), count(refused.count)));
    v1::Operation {
        operation_id: id(lsn),
        state: state.into(),
        matched: count(progress.done.saturating_add(failed)),
        done: count(progress.done),
        failed: count(failed),
        end_time: (progress.end_ms != 0).then(|| to_timestamp(progress.end_ms)),
        error: error(operation),
        examined: count(progress.examined),
        failed_reasons: reasons.collect(),
        ..begun(&operation.started)
    }
}

/// Why it failed, or why the first message did that it could do nothing with.
fn error(operation: &Operation) -> Option<ItemError> {
    let progress = &operation.progress;
    if !progress.error_reason.is_empty() {
        return Some(retold(progress.error_reason.clone(), progress.error.clone()));
    }
    let first = progress.refused.first()?;
    Some(retold(first.reason.clone(), first.first.clone()))
}

/// What was asked for.
fn begun(started: &OperationStarted) -> v1::Operation {
    let kind = match started.kind() {
        OperationKind::Delete => v1::OperationKind::Delete,
        OperationKind::Move => v1::OperationKind::Move,
        OperationKind::Unknown => v1::OperationKind::Unspecified,
    };
    v1::Operation {
        create_time: Some(to_timestamp(started.wall_ms)),
        kind: kind.into(),
        queue: started.queue_name.clone(),
        destination_queue: started.destination.clone(),
        filter: Some(filter::to_wire(&started.filter)),
        total: count(started.messages),
        reset_attempts: started.reset_attempts,
        #[expect(clippy::cast_precision_loss, reason = "below 2 to the 53rd")]
        max_rate: started.rate as f64 / 1_000.0,
        limit: count(started.limit),
        ..v1::Operation::default()
    }
}

/// An operation that was only counted; it goes on where not everything was looked at.
pub(in crate::grpc) fn counted(
    started: &OperationStarted,
    matched: u64,
    is_all: bool,
) -> v1::Operation {
    let state = if is_all { v1::OperationState::Succeeded } else { v1::OperationState::Running };
    v1::Operation { state: state.into(), matched: count(matched), ..begun(started) }
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_bounds_at_them_and_one_beyond() {
        assert_eq!(rate(0.0).unwrap(), 0);
        assert_eq!((rate(0.001).unwrap(), rate(1_000_000.0).unwrap()), (1, 1_000_000_000));
        for bad in [0.0009, 1_000_000.1, -1.0, f64::NAN, f64::INFINITY] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_reads_as_it_was_written_and_nothing_else_does() {
        assert_eq!(parse_id(&id(Lsn(17))).unwrap(), Lsn(17));
        for bad in ["", "17", "o.", "o.x", "q.17"] {
            assert!(parse_id(bad).is_err(), "{bad}");
        }
    }
}
