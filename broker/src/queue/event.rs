//! What a record means to the messages that it names: the log as a story.

use qbroker_storage::Lsn;

use super::ids::{ConsumerId, QueueId};
use super::record::{DeadLetterReason, Record, UnknownRecord};
use super::told::Told;

/// Something that happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The record that says so.
    pub lsn: Lsn,
    /// The message.
    pub birth: Lsn,
    pub kind: EventKind,
    /// The queue it was in by then; zero: an older version wrote the record.
    pub queue: QueueId,
    /// Wall clock; zero as for `queue`.
    pub wall_ms: u64,
    /// Which attempt it was; zero where it was none, or the record does not say.
    pub attempt: u32,
    /// Who had it, or has it now; none for a single call, and where the record does not say.
    pub consumer: ConsumerId,
    /// The record's body tells a failure.
    pub has_failure: bool,
    /// Records of what happened to the message before, as far as this one knows: the grant of the lease
    /// that it lost by it, another step, and its failure before. Zero: none.
    pub before: [Lsn; 3],
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was stored. `size` are the bytes of its body.
    Published { size: u32 },
    /// Its delay is over.
    CameDue,
    /// Somebody has it.
    Leased,
    /// It is done.
    Acked,
    /// An attempt failed.
    Failed,
    /// It was handed back, or never arrived.
    Released,
    /// Its lease ended by time or with its session.
    LeaseLost,
    /// It was given up: moved to a dead-letter queue or, where `to` is zero, deleted.
    DeadLettered { to: QueueId, reason: DeadLetterReason },
    /// It was moved to another queue.
    Moved { to: QueueId },
    /// It was given up in place.
    Parked,
    /// Its time to live or its queue's retention was over, and it is gone.
    Expired,
    /// Its queue held more than it may, and it was the oldest.
    Dropped,
    /// Somebody deleted it.
    Deleted,
    /// It has another priority, another time or another content.
    Updated,
}

impl Event {
    fn after_failure(&self, previous_failure: u64) -> [Lsn; 3] {
        let [grant, step, _] = self.before;
        [grant, step, Lsn(previous_failure)]
    }
}

impl EventKind {
    /// Whether it happened to an attempt, rather than to a message that waits.
    fn is_of_attempt(self) -> bool {
        matches!(self, Self::Leased | Self::Acked | Self::Released | Self::LeaseLost)
    }

    /// Its number in the protocol, and in what is stored of it.
    pub fn number(self) -> u32 {
        match self {
            Self::Published { .. } => 1,
            Self::Leased => 2,
            Self::Acked => 3,
            Self::Failed => 4,
            Self::Released => 5,
            Self::LeaseLost => 6,
            Self::DeadLettered { .. } => 7,
            Self::Expired => 8,
            Self::Moved { .. } => 9,
            Self::Deleted => 10,
            Self::Updated => 11,
            Self::CameDue => 12,
            Self::Parked => 13,
            Self::Dropped => 14,
        }
    }
}

/// What a record tells of messages, in the order in which it names them.
pub fn events(lsn: Lsn, head: &[u8]) -> Result<Vec<Event>, UnknownRecord> {
    let record = Record::decode_head(head)?;
    let teller = Teller { lsn, told: Told::of_head(head) };
    Ok(teller.events(&record))
}

struct Teller {
    lsn: Lsn,
    told: Told,
}

impl Teller {
    fn events(&self, record: &Record) -> Vec<Event> {
        match record {
            Record::Published(it) => {
                let (queue, wall_ms) = (QueueId(it.queue), it.wall_ms);
                let kind = EventKind::Published { size: it.size };
                vec![Event { queue, wall_ms, ..self.event(self.lsn.0, kind) }]
            }
            Record::CameDue(it) => self.all(&it.births, EventKind::CameDue),
            Record::Granted(it) => {
                let consumer = ConsumerId(it.consumer);
                let all = self.all(&it.births, EventKind::Leased).into_iter();
                all.map(|event| Event { consumer, ..event }).collect()
            }
            Record::Acked(it) => {
                let (consumer, wall_ms) = (ConsumerId(it.call.consumer), it.call.wall_ms);
                let all = self.all(&it.births, EventKind::Acked).into_iter();
                all.map(|event| Event { consumer, wall_ms, ..event }).collect()
            }
            Record::Nacked(it) => {
                let event = self.event(it.birth, EventKind::Failed);
                vec![Event {
                    attempt: it.attempt,
                    consumer: ConsumerId(it.call.consumer),
                    wall_ms: it.call.wall_ms,
                    has_failure: it.has_failure,
                    before: event.after_failure(it.previous_failure),
                    ..event
                }]
            }
            Record::Released(it) => vec![Event {
                consumer: ConsumerId(it.call.consumer),
                wall_ms: it.call.wall_ms,
                ..self.event(it.birth, EventKind::Released)
            }],
            Record::LeasesEnded(it) => {
                let kind = if it.crashed { EventKind::LeaseLost } else { EventKind::Released };
                self.all(&it.births, kind)
            }
            Record::DeadLettered(it) => {
                let (to, reason) = (QueueId(it.to_queue), it.reason());
                let event = self.event(it.birth, EventKind::DeadLettered { to, reason });
                vec![Event {
                    attempt: it.attempts,
                    consumer: it.call.map(|call| ConsumerId(call.consumer)).unwrap_or_default(),
                    wall_ms: it.wall_ms,
                    has_failure: it.has_failure,
                    before: event.after_failure(it.previous_failure),
                    ..event
                }]
            }
            Record::Moved(it) => {
                let (to, wall_ms) = (QueueId(it.to_queue), it.wall_ms);
                let all = self.all(&it.births, EventKind::Moved { to }).into_iter();
                all.map(|event| Event { wall_ms, ..event }).collect()
            }
            Record::Parked(it) => self.all(&it.births, EventKind::Parked),
            Record::Expired(it) => self.all(&it.births, EventKind::Expired),
            Record::Dropped(it) => self.all(&it.births, EventKind::Dropped),
            Record::Deleted(it) => self.all(&it.births, EventKind::Deleted),
            Record::Updated(it) => self.all(&it.births, EventKind::Updated),
            Record::Patched(it) => vec![self.event(it.birth, EventKind::Updated)],
            // They tell of others than messages. What is in a queue that is deleted was deleted
            // before, and older versions named none where they purged.
            Record::Started(_)
            | Record::QueuePut(_)
            | Record::QueueDeleted(_)
            | Record::Purged(_)
            | Record::ProducerOpened(_)
            | Record::ProducersForgotten(_)
            | Record::BatchStored(_)
            | Record::BatchRefused(_)
            | Record::SessionOpened(_)
            | Record::SessionChanged(_)
            | Record::SessionEnded(_)
            | Record::Extended(_)
            | Record::Begun(_)
            | Record::OperationStarted(_)
            | Record::OperationStepped(_)
            | Record::Advanced(_)
            | Record::StateChanged(_)
            | Record::Resumed(_)
            | Record::OutcomeWritten(_)
            | Record::OutcomesForgotten(_)
            | Record::PagedOut(_) => Vec::new(),
        }
    }

    fn event(&self, birth: u64, kind: EventKind) -> Event {
        self.event_at(0, birth, kind)
    }

    fn all(&self, births: &[u64], kind: EventKind) -> Vec<Event> {
        births.iter().enumerate().map(|(at, &birth)| self.event_at(at, birth, kind)).collect()
    }

    fn event_at(&self, at: usize, birth: u64, kind: EventKind) -> Event {
        Event {
            lsn: self.lsn,
            birth: Lsn(birth),
            kind,
            queue: self.told.queue(at),
            wall_ms: self.told.wall_ms(),
            attempt: if kind.is_of_attempt() { self.told.attempt(at) } else { 0 },
            consumer: ConsumerId::NONE,
            has_failure: false,
            before: [self.told.grant(at), self.told.previous(at), Lsn(0)],
        }
    }
}
