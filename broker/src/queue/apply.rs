//! Applies records: the one way the lasting state changes, live and in recovery.

use qbroker_storage::Lsn;

use super::Core;
use super::dedup::SeenId;
use super::ids::{QueueId, SessionId};
use super::index::{Index, Message, State};
use super::record::{Nacked, Parked, Published, QueueDefinition, Record, Started, StoredDue};
use super::settled::Kind;

impl<I: Index> Core<I> {
    /// Applies one record at its LSN. Cannot fail: the record was decided on this very state.
    pub fn apply(&mut self, lsn: Lsn, record: &Record) {
        debug_assert_eq!(lsn, self.next, "records are applied in order");
        self.next = Lsn(lsn.0 + 1);
        self.telling.begin();
        match record {
            Record::Started(started) => self.apply_started(started),
            Record::QueuePut(definition) => self.put_queue(QueueDefinition::clone(definition)),
            Record::QueueDeleted(deleted) => self.apply_queue_deleted(QueueId(deleted.queue)),
            Record::Purged(purged) => self.apply_purged(purged),
            Record::ProducerOpened(opened) => self.producers.open(lsn, opened),
            Record::ProducersForgotten(forgotten) => self.producers.forget(&forgotten.producers),
            Record::BatchStored(stored) => {
                self.producers.stored(stored, self.limits.unconfirmed_batches_max);
            }
            Record::BatchRefused(refused) => self.producers.refused(refused),
            Record::Published(published) => self.apply_published(lsn, published),
            Record::SessionOpened(opened) => self.sessions.open(SessionId(lsn.0), opened),
            Record::SessionChanged(changed) => self.sessions.change(changed),
            Record::SessionEnded(ended) => {
                self.sessions.end(SessionId(ended.session));
                self.state.end_session(SessionId(ended.session));
            }
            Record::Granted(granted) => self.apply_granted(lsn, granted),
            Record::Extended(extended) => {
                self.leases.extend(&extended.births, extended.duration_ms)
            }
            Record::Begun(begun) => self.leases.begin(&begun.births),
            Record::LeasesEnded(ended) => self.apply_leases_ended(&ended.births, ended.crashed),
            Record::Resumed(resumed) => self.apply_resumed(resumed),
            Record::Acked(acked) => self.apply_acked(acked),
            Record::Released(released) => self.apply_released(released),
            Record::Nacked(nacked) => self.apply_nacked(lsn, nacked),
            Record::DeadLettered(letter) => self.apply_dead_lettered(lsn, letter),
            Record::CameDue(due) => self.apply_came_due(lsn, &due.births),
            Record::Expired(expired) => self.apply_expired(expired),
            Record::Parked(parked) => self.apply_parked(parked),
            Record::Deleted(deleted) => self.apply_deleted(deleted),
            Record::Dropped(dropped) => self.apply_dropped(dropped),
            Record::Updated(updated) => self.apply_updated(lsn, updated),
            Record::Moved(moved) => self.apply_moved(lsn, moved),
            Record::OperationStarted(started) => self.apply_operation_started(lsn, started),
            Record::OperationStepped(stepped) => self.apply_operation_stepped(stepped),
            Record::Advanced(advanced) => self.apply_advanced(advanced),
            Record::StateChanged(changed) => self.state.apply(lsn, changed, &mut self.retired),
            Record::Patched(patched) => self.apply_patched(lsn, patched),
            Record::OutcomeWritten(outcome) => self.apply_outcome(lsn, outcome),
            Record::OutcomesForgotten(forgotten) => self.apply_outcomes_forgotten(forgotten),
            Record::PagedOut(paged) => self.index.page_out(lsn, &paged.births),
        }
    }

    /// What nothing needs any more since it was last asked; for recovery, which has no output.
    pub fn take_retired(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.retired)
    }

    pub(super) fn put_queue(&mut self, definition: QueueDefinition) {
        let queue = definition.queue_id();
        let retention = definition.policy.stays_ms(definition.is_dead_letter_queue);
        self.outcomes.set_retention(queue, definition.policy.outcomes_ms());
        if !self.outcomes.are_wanted(queue) {
            self.trail.forget(queue);
        }
        self.catalog.put(definition);
        self.index.set_retention(queue, retention);
        // What held its messages back may be gone.
        self.consumers.touch(queue);
        self.weigh(queue);
    }

    fn apply_started(&mut self, started: &Started) {
        if started.boot_id != self.boot_id {
            self.index.forget_boot_clock();
            self.state.forget_boot_clock();
            self.boot_id.clone_from(&started.boot_id);
        }
        self.epoch = started.epoch;
    }

    fn apply_published(&mut self, lsn: Lsn, published: &Published) {
        let queue = QueueId(published.queue);
        let due = published.due.map(|due: StoredDue| due.into());
        let mut message = fresh(published, lsn, published.wall_ms);
        if let Some(due) = due {
            message = Message { state: State::Scheduled(due), place: Lsn(0), ..message };
        }
        if message.keys.ordering != 0 && due.is_none() {
            message = self.join_line(message);
        }
        self.index.insert(lsn, message);
        if due.is_some() {
            self.searchable = lsn;
        }
        let of =
            self.catalog.get_mut(queue).expect("a message is published to a queue that is there");
        of.totals.published += 1;
        let is_bounded = of.definition.policy.bounds_size();
        if let Some(hash) = published.id_hash() {
            let window_ms = of.definition.policy.dedup_ms();
            self.dedup.prune(published.wall_ms);
            let end_ms = published.wall_ms.saturating_add(window_ms);
            let seen = SeenId { hash, birth: lsn, end_ms };
            self.dedup.remember(queue, seen, self.limits.message_ids_max);
        }
        if due.is_none() {
            self.consumers.touch(queue);
        }
        if is_bounded {
            self.weigh(queue);
        }
    }

    fn apply_came_due(&mut self, lsn: Lsn, births: &[u64]) {
        for &birth in births {
            let mut message = self.present(Lsn(birth));
            self.telling.message(&message);
            if message.place == Lsn(0) {
                message.place = lsn;
            }
            self.make_ready(Lsn(birth), message);
        }
    }

    fn apply_parked(&mut self, parked: &Parked) {
        for &birth in &parked.births {
            if parked.unreadable {
                self.note_unreadable(Lsn(birth));
            }
            let grant = self.end_lease(Lsn(birth)).map(|lease| lease.grant);
            let mut message = self.present(Lsn(birth));
            self.tell_step(Lsn(birth), &message, grant);
            self.note_step(message.queue, Lsn(birth));
            if !parked.unreadable {
                message.crashes += 1;
                self.catalog.totals(message.queue).expired_leases += 1;
            }
            self.park(Lsn(birth), message);
        }
    }

    pub(super) fn apply_nacked(&mut self, lsn: Lsn, nacked: &Nacked) {
        let birth = Lsn(nacked.birth);
        let kind = if nacked.given_up { Kind::DeadLetter } else { Kind::Nack };
        self.remember_settled(&nacked.call, birth, kind);
        let grant = self.end_lease(birth).map(|lease| lease.grant);
        let mut message = self.present(birth);
        self.tell_step(birth, &message, grant);
        self.note_step(message.queue, birth);
        message.failures += 1;
        if nacked.has_failure {
            self.retire(message.last_failure);
            message.last_failure = lsn;
            self.searchable = lsn;
        }
        self.catalog.totals(message.queue).retried += u64::from(!nacked.parked);
        match nacked.due {
            _ if nacked.parked => self.park(birth, message),
            Some(due) => self.schedule(birth, message, due),
            None => self.make_ready(birth, message),
        }
    }

    /// The message as it is. What is applied was looked up when it was decided.
    pub(super) fn present(&self, birth: Lsn) -> Message {
        let message = self.index.message(birth).expect("what is applied was looked up");
        message.expect("a record names a message that is there")
    }

    pub(super) fn make_ready(&mut self, birth: Lsn, message: Message) {
        let ready = match message.keys.ordering {
            0 => Message { state: State::Ready, ..message },
            _ => self.join_line(message),
        };
        self.change(birth, ready);
        self.consumers.touch(message.queue);
        self.weigh(message.queue);
    }

    fn park(&mut self, birth: Lsn, message: Message) {
        self.change(birth, Message { state: State::Parked, ..message });
        self.weigh(message.queue);
    }

    pub(super) fn schedule(&mut self, birth: Lsn, message: Message, due: StoredDue) {
        self.change(birth, Message { state: State::Scheduled(due.into()), ..message });
    }

    pub(super) fn retire(&mut self, lsn: Lsn) {
        if lsn != Lsn(0) {
            self.retired.push(lsn);
        }
    }
}

/// A ready message of which nothing has happened since it was published.
pub(super) fn fresh(published: &Published, place: Lsn, since_ms: u64) -> Message {
    Message {
        queue: QueueId(published.queue),
        state: State::Ready,
        place,
        priority: u8::try_from(published.priority).unwrap_or(u8::MAX),
        size: published.size,
        since_ms,
        failures: 0,
        crashes: 0,
        last_failure: Lsn(0),
        dead_letter: Lsn(0),
        ttl_end: published.ttl_end(),
        max_attempts: published.max_attempts.unwrap_or_default(),
        keys: published.into(),
        patched: Lsn(0),
    }
}
