//! What happened to messages, as it is told.

use qbroker_proto::v1::{Failure, MessageEvent};
use qbroker_storage::{Lsn, StoredRecord};

use super::delivery;
use super::outgoing::{message_id, sequence};
use super::time::to_timestamp;
use crate::queue::event::{Event, EventKind};
use crate::queue::ids::ConsumerId;
use crate::queue::outcomes::StoredEvent;

/// What is known of a message beside what happens to it. All empty where its record is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::grpc) struct Names {
    pub(in crate::grpc) message_id: String,
    pub(in crate::grpc) message_type: String,
    pub(in crate::grpc) correlation_id: String,
}

/// An event; `queue` and `destination` are the names of its queues.
pub(in crate::grpc) fn event(
    event: &Event,
    names: &Names,
    queue: String,
    destination: String,
    failure: Option<Failure>,
) -> MessageEvent {
    let consumer = Some(event.consumer).filter(|consumer| *consumer != ConsumerId::NONE);
    let dead_letter_reason = match event.kind {
        EventKind::DeadLettered { reason, .. } => reason.into(),
        _ => 0,
    };
    MessageEvent {
        sequence: sequence(event.lsn),
        time: Some(event.wall_ms).filter(|ms| *ms != 0).map(to_timestamp),
        // The numbers are the protocol's own.
        kind: event.kind.number().cast_signed(),
        queue,
        message_id: message_id(&names.message_id, event.birth),
        message_type: names.message_type.clone(),
        correlation_id: names.correlation_id.clone(),
        attempt: event.attempt.cast_signed(),
        consumer_id: consumer.map(|consumer| consumer.to_string()).unwrap_or_default(),
        failure,
        message_sequence: sequence(event.birth),
        destination_queue: destination,
        dead_letter_reason,
    }
}

/// An event as an outcome tells it.
pub(in crate::grpc) fn stored_event(it: StoredEvent, birth: Lsn, names: &Names) -> MessageEvent {
    let consumer = Some(ConsumerId(it.consumer)).filter(|id| *id != ConsumerId::NONE);
    MessageEvent {
        sequence: sequence(Lsn(it.lsn)),
        time: Some(it.wall_ms).filter(|ms| *ms != 0).map(to_timestamp),
        // The numbers are the protocol's own.
        kind: it.kind.cast_signed(),
        queue: it.queue,
        message_id: message_id(&names.message_id, birth),
        message_type: names.message_type.clone(),
        correlation_id: names.correlation_id.clone(),
        attempt: it.attempt.cast_signed(),
        consumer_id: consumer.map(|consumer| consumer.to_string()).unwrap_or_default(),
        failure: it.failure.map(delivery::to_failure),
        message_sequence: sequence(birth),
        destination_queue: it.to_queue,
        dead_letter_reason: it.reason,
    }
}

/// What the record of an event tells of a failure.
pub(in crate::grpc) fn failure(record: &StoredRecord) -> Option<Failure> {
    let told = delivery::attempt(record).ok().filter(|told| told.tells)?;
    Some(delivery::to_failure(told.attempt.failure))
}
