//! Dead letters: messages put aside, whole, with the reason.

use qbroker_storage::Lsn;

use super::body::{StoredDeadLetter, StoredFailure, small_body};
use super::ids::QueueId;
use super::index::{Index, Message};
use super::record::{Call, DeadLetterReason, DeadLettered, Nacked, Parked, Record};
use super::settled::Kind;
use super::time::Now;
use super::{Core, Draft, Effect};

/// Why and by whom a message is dead-lettered.
pub(super) struct Letter {
    /// The settlement that did it; none where a crash did.
    pub(super) call: Option<Call>,
    pub(super) reason: DeadLetterReason,
    pub(super) failure: Option<StoredFailure>,
}

impl<I: Index> Core<I> {
    /// One record moves a message, with all it is, into its dead-letter queue. A message that is
    /// there already stays, parked.
    pub(super) fn draft_letter(
        &self,
        draft: &mut Draft,
        birth: Lsn,
        message: &Message,
        letter: Letter,
        now: Now,
    ) {
        let queue = self.catalog.get(message.queue).expect("a message's queue is there");
        if queue.definition.is_dead_letter_queue {
            return self.draft_parking(draft, birth, message, letter);
        }
        let to_queue = queue.dead_letter_queue_name().map_or(QueueId(0), |name| {
            // Whatever the name is by now: dead-lettering does not fail.
            self.draft_dead_letter_queue(draft, &name, now)
        });
        let attempts = match letter.reason {
            // It waited for one that never came.
            DeadLetterReason::Expired | DeadLetterReason::Overflow => {
                message.failures + message.crashes
            }
            _ => message.attempt(),
        };
        let letter_record = DeadLettered {
            call: letter.call,
            birth: birth.0,
            to_queue: to_queue.0,
            reason: letter.reason.into(),
            attempts,
            wall_ms: now.wall_ms,
            previous_failure: message.last_failure.0,
            has_failure: letter.failure.is_some(),
            start_ms: self.attempt_start_ms(birth),
        };
        let source_queue = queue.definition.name.clone();
        let body = small_body(&StoredDeadLetter { source_queue, failure: letter.failure });
        draft.push(Record::DeadLettered(letter_record), body);
    }

    /// A dead letter that fails for good stays where it is.
    fn draft_parking(&self, draft: &mut Draft, birth: Lsn, message: &Message, letter: Letter) {
        let Some(call) = letter.call else {
            let births = vec![birth.0];
            draft.fact(Record::Parked(Parked { births, unreadable: false }));
            return;
        };
        let nacked = Nacked {
            call,
            birth: birth.0,
            due: None,
            parked: true,
            previous_failure: message.last_failure.0,
            has_failure: letter.failure.is_some(),
            given_up: true,
            attempt: message.attempt(),
            start_ms: self.attempt_start_ms(birth),
        };
        let body = letter.failure.as_ref().map(small_body).unwrap_or_default();
        draft.push(Record::Nacked(nacked), body);
    }

    pub(super) fn apply_dead_lettered(&mut self, lsn: Lsn, letter: &DeadLettered) {
        let birth = Lsn(letter.birth);
        if let Some(call) = &letter.call {
            // A nack that was the last one was a nack all the same: its repeat must succeed.
            let given_up = letter.reason() == DeadLetterReason::ByConsumer;
            let kind = if given_up { Kind::DeadLetter } else { Kind::Nack };
            self.remember_settled(call, birth, kind);
        }
        let grant = self.end_lease(birth).map(|lease| lease.grant);
        let mut message = self.present(birth);
        let totals = self.catalog.totals(message.queue);
        totals.dead_lettered += 1;
        match letter.reason() {
            // What is behind it in the queue waited for it to go.
            DeadLetterReason::Expired => {
                totals.expired += 1;
                self.consumers.touch(message.queue);
            }
            DeadLetterReason::Overflow => self.consumers.touch(message.queue),
            _ => totals.expired_leases += u64::from(letter.call.is_none()),
        }
        let source = message.queue;
        if letter.to_queue == 0 {
            self.finish_with(birth, grant, lsn);
            return;
        }
        self.tell_step(birth, &message, grant);
        self.searchable = lsn;
        self.retire(message.dead_letter);
        if letter.has_failure {
            self.retire(message.last_failure);
            message.last_failure = Lsn(0);
        }
        self.catalog.totals(QueueId(letter.to_queue)).published += 1;
        let before = message;
        message.keys.leads = false;
        let moved = Message {
            queue: QueueId(letter.to_queue),
            place: lsn,
            since_ms: letter.wall_ms,
            failures: 0,
            crashes: 0,
            dead_letter: lsn,
            ttl_end: None,
            ..message
        };
        self.note_step(moved.queue, birth);
        self.make_ready(birth, moved);
        self.look_after_line(&before);
        self.weigh(source);
    }

    /// The queues whose messages a draft dead-letters, and how many of each.
    pub(super) fn dead_letters_of(&self, draft: &Draft) -> Vec<Effect> {
        let mut counts = std::collections::BTreeMap::<QueueId, u64>::new();
        for (record, _) in &draft.records {
            if let Record::DeadLettered(letter) = record {
                let queue = self.present(Lsn(letter.birth)).queue;
                *counts.entry(queue).or_default() += 1;
            }
        }
        let name = |queue| self.catalog.get(queue).map(|queue| queue.definition.name.clone());
        counts
            .into_iter()
            .filter_map(|(queue, count)| Some(Effect::DeadLetters { queue: name(queue)?, count }))
            .collect()
    }
}
