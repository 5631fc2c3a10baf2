//! Messages go to another queue, or dead letters back to their own: whole, and each with one record.
//!
//! A moved message keeps its birth, its body and its id; its place is that of one that came now. What a
//! queue refuses stays where it was.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::candidates::Candidate;
use super::catalog::Queue;
use super::filter::Told;
use super::ids::QueueId;
use super::index::{Index, Lookup, Message, State};
use super::record::{BIRTHS_MAX, Moved, OperationStarted, OperationStepped, Record};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Draft, Stop, Turn};

/// A message that is to be moved, and what its records tell, where they can be read.
type Chosen<'a> = (&'a Candidate, Message, Option<&'a Told>);

/// What a step is about to move, beside which the next message must find its place.
#[derive(Default)]
struct Coming {
    /// Messages and bytes.
    sizes: BTreeMap<QueueId, (u64, u64)>,
    unique_keys: BTreeSet<(QueueId, u64)>,
}

impl Coming {
    fn add(&mut self, to: QueueId, message: &Message) {
        let (messages, bytes) = self.sizes.entry(to).or_default();
        *messages += 1;
        *bytes += u64::from(message.size);
        if message.keys.unique != 0 {
            self.unique_keys.insert((to, message.keys.unique));
        }
    }
}

/// What the messages of one record share, beside the queue they go to: the failures and crashes that they
/// keep, and whether they are without a time to live.
type Alike = (u32, u32, bool);

fn alike(message: &Message, reset_attempts: bool) -> Alike {
    let (failures, crashes) =
        if reset_attempts { (0, 0) } else { (message.failures, message.crashes) };
    (failures, crashes, message.ttl_end.is_none())
}

/// What goes, by queue, in the order in which it stood: neighbours that are alike share a record.
#[derive(Default)]
struct Going(BTreeMap<QueueId, Vec<(Alike, Vec<u64>)>>);

impl Going {
    fn add(&mut self, to: QueueId, alike: Alike, birth: Lsn) {
        let records = self.0.entry(to).or_default();
        match records.last_mut() {
            Some((of, births)) if *of == alike && births.len() < BIRTHS_MAX => births.push(birth.0),
            _ => records.push((alike, vec![birth.0])),
        }
    }
}

impl<I: Index> Core<I> {
    /// Whether messages of `queue` can be moved to the queue of this name; empty: to their own.
    pub fn check_destination(&self, queue: &str, destination: &str) -> Result<(), Refused> {
        if destination.is_empty() {
            return Ok(());
        }
        if destination == queue {
            return Err(Refused::MoveToItself(queue.to_owned()));
        }
        check_open(self.queue(destination)?)
    }

    /// Drafts the moves of up to `left` messages, and counts those that are refused; how many go.
    pub(super) fn draft_moves(
        &self,
        draft: &mut Draft,
        (started, operation, left): (&OperationStarted, Lsn, usize),
        chosen: Vec<Chosen<'_>>,
        progress: &mut OperationStepped,
        now: Now,
    ) -> Lookup<u64> {
        let mut going = Going::default();
        let mut coming = Coming::default();
        let mut done = 0;
        for chosen in chosen {
            if done == left {
                break;
            }
            match self.check_move(started, &chosen, &coming, now) {
                Ok(to) => {
                    let alike = alike(&chosen.1, started.reset_attempts);
                    going.add(to, alike, chosen.0.birth);
                    coming.add(to, &chosen.1);
                    done += 1;
                }
                Err(Stop::Refused(refused)) => progress.refuse(&refused),
                Err(Stop::Missing(page)) => return Err(page),
            }
        }
        for (to, records) in going.0 {
            let queue = self.catalog.get(to).expect("it was found just now");
            for ((failures, crashes, without_ttl), births) in records {
                draft.fact(Record::Moved(Moved {
                    births,
                    to_queue: to.0,
                    wall_ms: now.wall_ms,
                    reset_attempts: started.reset_attempts,
                    is_to_dead_letters: queue.definition.is_dead_letter_queue,
                    operation: operation.0,
                    failures: Some(failures),
                    crashes: Some(crashes),
                    without_ttl,
                }));
            }
        }
        Ok(done as u64)
    }

    /// The queue that takes a message, or why none does.
    fn check_move(
        &self,
        started: &OperationStarted,
        (candidate, message, told): &Chosen<'_>,
        coming: &Coming,
        now: Now,
    ) -> Turn<QueueId> {
        let birth = candidate.birth;
        let id = || format!("q.{birth}");
        if message.state == State::Leased {
            return Err(Refused::MessageLeased(id()).into());
        }
        let told = told.ok_or_else(|| Refused::MessageUnreadable(id()))?;
        let to = match (started.destination.as_str(), &told.letter) {
            ("", None) => return Err(Refused::NotDeadLetter(id()).into()),
            ("", Some((_, source))) => self.queue(source)?,
            (name, _) => self.queue(name)?,
        };
        if to.id() == message.queue {
            return Err(Refused::NotDeadLetter(id()).into());
        }
        check_open(to)?;
        let max = to.definition.policy.max_payload_bytes.unwrap_or(u64::MAX);
        let bytes = told.message.as_ref().map_or(0, |stored| stored.payload.len() as u64);
        if max < bytes {
            let queue = to.definition.name.clone();
            return Err(Refused::TooLargeFor { id: id(), bytes, max, queue }.into());
        }
        let known = told.id_hash.and_then(|hash| self.dedup.find(to.id(), hash, now.wall_ms));
        if known.is_some_and(|known| known != birth) {
            let queue = to.definition.name.clone();
            return Err(Refused::DuplicateMessageId { id: id(), queue }.into());
        }
        if self.is_key_held(to, message.keys.unique, coming)? {
            let queue = to.definition.name.clone();
            return Err(Refused::UniqueKeyHeld { id: id(), queue }.into());
        }
        let coming = coming.sizes.get(&to.id()).copied().unwrap_or_default();
        self.check_room_beside(to, coming, message.size.into())?;
        Ok(to.id())
    }

    /// Whether another message has the unique key where this one is to go. Dead letters may share one.
    fn is_key_held(&self, to: &Queue, key: u64, coming: &Coming) -> Lookup<bool> {
        if key == 0 || to.definition.is_dead_letter_queue {
            return Ok(false);
        }
        Ok(coming.unique_keys.contains(&(to.id(), key))
            || self.index.holder(to.id(), key)?.is_some())
    }

    pub(super) fn apply_moved(&mut self, lsn: Lsn, moved: &Moved) {
        for &birth in &moved.births {
            let birth = Lsn(birth);
            let before = self.present(birth);
            let mut message = before;
            message.keys.leads = false;
            self.tell_step(birth, &before, None);
            self.note_step(QueueId(moved.to_queue), birth);
            self.catalog.totals(message.queue).moved += 1;
            self.catalog.totals(QueueId(moved.to_queue)).published += 1;
            // What is behind it may have waited for it to go.
            self.consumers.touch(message.queue);
            if !moved.is_to_dead_letters {
                self.end_as_dead_letter(&mut message);
            }
            if moved.reset_attempts {
                (message.failures, message.crashes) = (0, 0);
            }
            // Where a page is made anew, what was before may be known in part only.
            message.failures = moved.failures.unwrap_or(message.failures);
            message.crashes = moved.crashes.unwrap_or(message.crashes);
            message.ttl_end = message.ttl_end.filter(|_| !moved.without_ttl);
            message.queue = QueueId(moved.to_queue);
            message.since_ms = moved.wall_ms;
            if message.place != Lsn(0) {
                message.place = lsn;
            }
            match message.state {
                State::Scheduled(_) => self.change(birth, message),
                State::Ready | State::Leased | State::Parked | State::Behind => {
                    self.make_ready(birth, message);
                }
            }
            self.look_after_line(&before);
            self.weigh(message.queue);
        }
    }

    /// It is an ordinary message again, whose last failure is the one that it died of.
    fn end_as_dead_letter(&mut self, message: &mut Message) {
        let letter = std::mem::take(&mut message.dead_letter);
        if message.last_failure == Lsn(0) {
            message.last_failure = letter;
        } else {
            self.retire(letter);
        }
    }
}

fn check_open(queue: &Queue) -> Result<(), Refused> {
    match &queue.definition {
        it if it.publishing_paused => Err(Refused::QueuePaused(it.name.clone())),
        _ => Ok(()),
    }
}
