//! What happened to messages, as it is told.

use qbroker_proto::v1::{Failure, MessageEvent, MessageEventKind};
use qbroker_storage::StoredRecord;

use super::delivery;
use super::outgoing::{message_id, sequence};
use super::time::to_timestamp;
use crate::queue::event::{Event, EventKind};
use crate::queue::ids::ConsumerId;

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
        // The numbers are the protocol's own.
        EventKind::DeadLettered { reason, .. } => reason.into(),
        _ => 0,
    };
    MessageEvent {
        sequence: sequence(event.lsn),
        time: Some(event.wall_ms).filter(|ms| *ms != 0).map(to_timestamp),
        kind: kind(event.kind).into(),
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

/// What the record of an event tells of a failure.
pub(in crate::grpc) fn failure(record: &StoredRecord) -> Option<Failure> {
    delivery::attempt(record).ok().filter(|attempt| attempt.tells)?.info.failure
}

fn kind(kind: EventKind) -> MessageEventKind {
    match kind {
        EventKind::Published { .. } => MessageEventKind::Published,
        EventKind::CameDue => MessageEventKind::Due,
        EventKind::Leased => MessageEventKind::Leased,
        EventKind::Acked => MessageEventKind::Acked,
        EventKind::Failed => MessageEventKind::Failed,
        EventKind::Released => MessageEventKind::Released,
        EventKind::LeaseLost => MessageEventKind::LeaseLost,
        EventKind::DeadLettered { .. } => MessageEventKind::DeadLettered,
        EventKind::Moved { .. } => MessageEventKind::Moved,
        EventKind::Parked => MessageEventKind::Parked,
        EventKind::Expired => MessageEventKind::Expired,
        EventKind::Dropped => MessageEventKind::Dropped,
        EventKind::Deleted => MessageEventKind::Deleted,
        EventKind::Updated => MessageEventKind::Updated,
    }
}
