//! What clients and operators ask for, but for settlements.

use std::collections::BTreeSet;

use super::bounds::Storing;
use super::{Due, Lease, Message, Model, Policy, Sequence, State, Time, Token, Wrong};

/// A message as it is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    pub(crate) number: u64,
    pub(crate) queue: &'static str,
    pub(crate) due: Option<Due>,
    pub(crate) priority: u8,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) id: Option<u64>,
    pub(crate) unique: Option<u64>,
    pub(crate) ordering: Option<u64>,
    pub(crate) fairness: Option<u64>,
    /// Its own limit of failures; -1: there is none.
    pub(crate) attempts: Option<i32>,
    /// What it takes of its queue's room.
    pub(crate) bytes: u64,
}

/// What goes of a queue for a batch: the oldest, and the numbers of the batch's own.
type Going = (Vec<Sequence>, Vec<u64>);

/// The reason of a refusal.
pub(crate) type Refusal = &'static str;

impl Model {
    /// Time is told with every call.
    pub(crate) fn notice(&mut self, now: Time) {
        self.latest_ms = self.latest_ms.max(now.wall_ms);
        self.now = now;
    }

    /// A batch, and the sequence of each of its messages with whether it is a duplicate.
    pub(crate) fn publish(
        &mut self,
        batch: &[New],
        answer: Result<&[(Sequence, bool)], &str>,
        now: Time,
    ) -> Result<(), Wrong> {
        let receipts = match (answer, self.refusal(batch, now)) {
            (Err(reason), Some(expected)) if reason == expected => return Ok(()),
            // What counts as a duplicate is not certain then.
            (Err("DUPLICATE_IN_BATCH" | "QUEUE_FULL" | "BATCH_TOO_LARGE"), _)
                if batch.iter().any(|new| new.id.is_some() && !self.is_certain(new, now)) =>
            {
                return Ok(());
            }
            (Ok(receipts), None) => receipts,
            (answer, expected) => {
                return Err(format!("publish: {answer:?}, expected refusal: {expected:?}"));
            }
        };
        if receipts.len() != batch.len() {
            return Err(format!("{} receipts for {} messages", receipts.len(), batch.len()));
        }
        for new in batch {
            self.queue_or_new(new.queue, Policy::DEFAULT);
        }
        let going = self.going_for(batch, receipts, now)?;
        let mut last = None;
        for (new, &(sequence, duplicate)) in batch.iter().zip(receipts) {
            self.check_receipt(new, sequence, duplicate, now)?;
            if duplicate {
                continue;
            }
            if last.is_some_and(|last| last + 1 != sequence) {
                return Err(format!("{sequence} does not follow {last:?} in its batch"));
            }
            last = Some(sequence);
            self.insert(new, sequence, now);
        }
        self.evict_for(batch, receipts, &going);
        Ok(())
    }

    /// What goes of each queue for what is stored of a batch.
    fn going_for(
        &self,
        batch: &[New],
        receipts: &[(Sequence, bool)],
        now: Time,
    ) -> Result<Vec<Going>, Wrong> {
        let mut storing = Storing::default();
        for (new, (_, duplicate)) in batch.iter().zip(receipts) {
            match (duplicate, self.remembered(new, now)) {
                (false, _) => storing.add(new, now),
                (true, Some(_)) => {}
                (true, None) => storing.add_duplicate(new, self.holder(new)),
            }
        }
        let going = self.make_room(&storing).map_err(|why| format!("stored, expected {why}"))?;
        let of_queue = |(queue, (ready, of_batch)): (&'static str, _)| {
            let mut oldest = self.oldest_but(queue, &storing.named);
            oldest.truncate(ready);
            let own = storing.stored.iter().filter(|it| it.new.queue == queue && !it.stays);
            let own = own.map(|it| it.new.number).take(of_batch).collect();
            (oldest, own)
        };
        Ok(going.into_iter().map(of_queue).collect())
    }

    fn evict_for(&mut self, batch: &[New], receipts: &[(Sequence, bool)], going: &[Going]) {
        for (oldest, own) in going {
            self.evict(oldest);
            let own = batch.iter().zip(receipts).filter(|(new, _)| own.contains(&new.number));
            let own: Vec<_> = own.map(|(_, (sequence, _))| *sequence).collect();
            self.evict(&own);
        }
    }

    pub(super) fn refusal(&self, batch: &[New], now: Time) -> Option<Refusal> {
        if !self.has_room {
            return Some("DISK_FULL");
        }
        let paused = |new: &New| self.queues.get(new.queue).is_some_and(|it| it.publishing_paused);
        if batch.iter().any(paused) {
            return Some("QUEUE_PAUSED");
        }
        let twice = |(at, new): (usize, &New)| {
            let same = |other: &New| (other.queue, other.id) == (new.queue, new.id);
            new.id.is_some() && self.remembered(new, now).is_none() && batch[..at].iter().any(same)
        };
        if batch.iter().enumerate().any(twice) {
            return Some("DUPLICATE_IN_BATCH");
        }
        let (mut keys, mut storing) = (BTreeSet::new(), Storing::default());
        for new in batch.iter().filter(|new| self.remembered(new, now).is_none()) {
            let holder = self.holder(new);
            let is_first = |unique| keys.insert((new.queue, unique));
            if holder.is_none() && new.unique.is_none_or(is_first) {
                storing.add(new, now);
            } else {
                storing.add_duplicate(new, holder);
            }
        }
        self.make_room(&storing).err()
    }

    /// Who holds the unique key of a message, the first where several do.
    fn holder(&self, new: &New) -> Option<Sequence> {
        self.holders(new.queue, new.unique).first().copied()
    }

    fn remembered(&self, new: &New, now: Time) -> Option<Sequence> {
        let &(sequence, end_ms) = self.queues.get(new.queue)?.ids.get(&new.id?)?;
        (now.wall_ms < end_ms).then_some(sequence)
    }

    /// Whether it is certain that an id is remembered, where it is. Once the clock has shown the end of
    /// the window it may be forgotten, whatever it shows now.
    fn is_certain(&self, new: &New, now: Time) -> bool {
        let queue = self.queues.get(new.queue);
        let doubted = queue.zip(new.id).is_some_and(|(queue, id)| queue.doubted.contains(&id));
        now.wall_ms == self.latest_ms && !doubted
    }

    fn check_receipt(
        &self,
        new: &New,
        sequence: Sequence,
        duplicate: bool,
        now: Time,
    ) -> Result<(), Wrong> {
        let remembered = self.remembered(new, now);
        let holders = self.holders(new.queue, new.unique);
        // Numbered batches are told which ones are duplicates, not of what.
        let is_it = |first| first == sequence || sequence == 0;
        match (duplicate, remembered) {
            (true, Some(first)) if is_it(first) => Ok(()),
            (true, _) if holders.iter().any(|holder| is_it(*holder)) => Ok(()),
            (true, other) => Err(format!("{sequence} is no duplicate: {other:?}, {holders:?}")),
            (false, _) if !holders.is_empty() => {
                Err(format!("{sequence} is stored, and {holders:?} hold its key"))
            }
            (false, Some(first)) if self.is_certain(new, now) => {
                Err(format!("{sequence} is a duplicate of {first} and was stored again"))
            }
            (false, _) => Ok(()),
        }
    }

    pub(super) fn insert(&mut self, new: &New, sequence: Sequence, now: Time) {
        let place = self.next_place();
        let due = new.due.filter(|due| !due.is_over(now));
        let ttl_ms = new.ttl_ms.or_else(|| self.policy(new.queue).ttl_ms);
        let message = Message {
            number: new.number,
            queue: new.queue,
            state: due.map_or(State::Ready, State::Scheduled),
            place: if due.is_some() { 0 } else { place },
            priority: new.priority,
            failures: 0,
            crashes: 0,
            ttl_end: ttl_ms.map(|ms| now.after(ms)),
            failure: None,
            letter: None,
            id: new.id,
            unique: new.unique,
            ordering: new.ordering,
            fairness: new.fairness,
            attempts: new.attempts,
            bytes: new.bytes,
            leads: false,
            since_ms: now.wall_ms,
            published_ms: now.wall_ms,
            touched: 0,
        };
        self.messages.insert(sequence, message);
        if due.is_none() {
            self.join_line(sequence);
        }
        if let (Some(id), Some(queue)) = (new.id, self.queues.get_mut(new.queue)) {
            queue.doubted.remove(&id);
            queue.ids.insert(id, (sequence, now.wall_ms + queue.policy.dedup_ms));
        }
    }

    /// Deliveries were told: their leases run.
    pub(crate) fn let_go(&mut self, tokens: &[Token], now: Time) {
        for token in tokens {
            if let Some((_, lease)) = self.lease(token) {
                lease.run(now);
            }
        }
    }

    /// Whether the lease of a token holds.
    pub(crate) fn is_held(&self, token: &Token) -> bool {
        self.leased().any(|(_, lease)| lease.token == *token)
    }

    /// Work has begun on these leases of a session.
    pub(crate) fn begin(&mut self, session: &str, tokens: &[Token]) {
        for token in tokens {
            if let Some((_, lease)) = self.lease(token)
                && lease.session == Some(session)
            {
                lease.unstarted = false;
            }
        }
    }

    /// The lease that a token names, with its message.
    pub(super) fn lease(&mut self, token: &Token) -> Option<(Sequence, &mut Lease)> {
        self.messages.iter_mut().find_map(|(&sequence, message)| match &mut message.state {
            State::Leased(lease) if lease.token == *token => Some((sequence, lease)),
            _ => None,
        })
    }

    /// An extension, and whether it was refused.
    pub(crate) fn extend(
        &mut self,
        token: &Token,
        duration_ms: u64,
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        let settled = self.settled.contains_key(token);
        let is_right = match (self.lease(token), refused) {
            (Some((_, lease)), None) => {
                // Another one lives with its session, and needs no extension.
                if lease.timed {
                    lease.duration_ms = duration_ms;
                    lease.run(now);
                }
                true
            }
            (None, Some("LEASE_LOST")) => true,
            (None, Some("ALREADY_SETTLED")) => settled,
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("extension of {token:?}: {refused:?}")) }
    }

    pub(crate) fn delete(
        &mut self,
        sequence: Sequence,
        refused: Option<Refusal>,
    ) -> Result<(), Wrong> {
        match (self.messages.remove(&sequence), refused) {
            (Some(_), None) | (None, Some("MESSAGE_NOT_FOUND")) => Ok(()),
            (was, refused) => Err(format!("deletion of {sequence}, {was:?}: {refused:?}")),
        }
    }

    /// Another priority, or another time.
    pub(crate) fn update(
        &mut self,
        sequence: Sequence,
        (priority, due): (Option<u8>, Option<Due>),
        refused: Option<Refusal>,
        now: Time,
    ) -> Result<(), Wrong> {
        let place = self.next_place();
        let expected = match self.messages.get(&sequence).map(|message| message.state) {
            _ if !self.has_room => Some("DISK_FULL"),
            None => Some("MESSAGE_NOT_FOUND"),
            Some(State::Leased(_)) if due.is_some() => Some("MESSAGE_LEASED"),
            Some(_) => None,
        };
        if refused != expected {
            return Err(format!("update of {sequence}: {refused:?}, expected {expected:?}"));
        }
        if expected.is_some() {
            return Ok(());
        }
        let message = self.message(sequence);
        message.priority = priority.unwrap_or(message.priority);
        match due {
            None => {}
            Some(due) if due.is_over(now) => self.make_ready(sequence, place),
            Some(due) => {
                // Who waits lets the others pass; a retry keeps them waiting.
                message.leads &= matches!(message.state, State::Scheduled(_));
                message.state = State::Scheduled(due);
            }
        }
        Ok(())
    }

    /// What is in these states in a queue is deleted; `None` where the queue was not found.
    pub(crate) fn purge(
        &mut self,
        queue: &str,
        states: u32,
        deleted: Option<u64>,
    ) -> Result<(), Wrong> {
        let gone = self.delete_all(|it| it.queue == queue && states & it.state.bit() != 0);
        let expected = self.queues.contains_key(queue).then_some(gone);
        if deleted == expected {
            return Ok(());
        }
        Err(format!("purge of {queue}: {deleted:?} messages, expected {expected:?}"))
    }

    /// What a queue has in these states in its dead-letter queue is deleted, and nothing of others.
    pub(crate) fn purge_letters(
        &mut self,
        queue: &str,
        states: u32,
        deleted: Option<u64>,
    ) -> Result<(), Wrong> {
        let has_letters = self.queues.contains_key(queue) && !self.policy(queue).discards;
        let letters = has_letters.then(|| self.letters_of(queue));
        let of_queue = |it: &Message| it.letter.as_ref().is_some_and(|it| it.from == queue);
        let gone = self.delete_all(|it| {
            Some(it.queue) == letters && of_queue(it) && states & it.state.bit() != 0
        });
        let expected = self.queues.contains_key(queue).then_some(gone);
        if deleted == expected {
            return Ok(());
        }
        Err(format!("purge of the dead letters of {queue}: {deleted:?}, expected {expected:?}"))
    }

    fn delete_all(&mut self, goes: impl Fn(&Message) -> bool) -> u64 {
        let before = self.messages.len();
        self.messages.retain(|_, message| !goes(message));
        (before - self.messages.len()) as u64
    }

    /// Pauses or resumes; the answer is whether it was done.
    pub(crate) fn pause(
        &mut self,
        queue: &str,
        (paused, publishing): (bool, bool),
        done: bool,
    ) -> Result<(), Wrong> {
        if done != self.queues.contains_key(queue) {
            return Err(format!("pausing {queue}: {done}"));
        }
        if let Some(queue) = self.queues.get_mut(queue) {
            (queue.paused, queue.publishing_paused) = (paused, publishing);
        }
        Ok(())
    }

    pub(crate) fn create(
        &mut self,
        queue: &'static str,
        policy: Policy,
        done: bool,
    ) -> Result<(), Wrong> {
        if done == self.queues.contains_key(queue) {
            return Err(format!("making {queue}: {done}"));
        }
        self.queue_or_new(queue, policy);
        Ok(())
    }

    /// A queue has this policy from now on, and the dead-letter queue that it names is there; whether the
    /// queue was.
    pub(crate) fn change(&mut self, queue: &str, policy: Policy, done: bool) -> Result<(), Wrong> {
        let Some(found) = self.queues.get_mut(queue).filter(|_| done) else {
            return match done == self.queues.contains_key(queue) {
                true => Ok(()),
                false => Err(format!("changing {queue}: {done}")),
            };
        };
        found.policy = policy;
        if let Some(letters) = policy.letters {
            self.queue_or_new(letters, Policy::DEFAULT);
        }
        Ok(())
    }

    /// A queue is deleted with everything in it.
    pub(crate) fn drop_queue(&mut self, queue: &str, done: bool) -> Result<(), Wrong> {
        if done != self.queues.contains_key(queue) {
            return Err(format!("deleting {queue}: {done}"));
        }
        self.messages.retain(|_, message| message.queue != queue);
        self.queues.remove(queue);
        self.delivered.remove(queue);
        self.turns.forget(queue);
        Ok(())
    }
}
