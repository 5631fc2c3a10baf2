//! The queues there are: made, described, changed, emptied, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::ids::QueueId;
use super::index::{Index, Lookup, StateSet};
use super::policy::{self, DEAD_LETTER_SUFFIX, Policy};
use super::record::{Purged, QueueDefinition, QueueDeleted, Record};
use super::refused::Refused;
use super::time::Now;
use super::{Core, Draft, Effect, Lost, Output, Stop, Turn};

/// A queue as it is.
#[derive(Clone, Debug)]
pub struct Queue {
    pub definition: Arc<QueueDefinition>,
    /// The name, to be shared by deliveries.
    pub name: Arc<str>,
    pub totals: Totals,
}

impl Queue {
    /// Names the queue for as long as it exists.
    pub fn id(&self) -> QueueId {
        self.definition.queue_id()
    }

    /// Changes with every change of the definition.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.definition.id, self.definition.revision)
    }

    /// The queue's dead letters go there; `None` for a dead-letter queue and where they are discarded.
    pub fn dead_letter_queue_name(&self) -> Option<String> {
        let definition = &self.definition;
        if definition.is_dead_letter_queue || definition.policy.discards_dead_letters() {
            return None;
        }
        let default = || format!("{}{DEAD_LETTER_SUFFIX}", definition.name);
        Some(definition.policy.dead_letter_queue.clone().unwrap_or_else(default))
    }
}

/// What happened since the queue was made. Each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What came from other queues, dead or moved, included.
    pub published: u64,
    pub delivered: u64,
    pub acked: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    pub expired_leases: u64,
    /// Messages whose time to live ended.
    pub expired: u64,
    /// Messages deleted: by name, by a purge, or older than the retention.
    pub deleted: u64,
    /// Messages moved elsewhere.
    pub moved: u64,
    /// Messages deleted because the queue held more than it may.
    pub dropped: u64,
}

/// Makes a queue.
#[derive(Clone, Debug, Default)]
pub struct CreateQueue {
    pub name: String,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    pub policy: Policy,
    pub request_id: String,
    /// An equal queue is as good as a new one.
    pub allow_existing: bool,
}

/// Changes a queue to what is given; the caller has merged it with what was.
#[derive(Clone, Debug, Default)]
pub struct UpdateQueue {
    pub name: String,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    pub policy: Policy,
    /// Refused where it is another one by now.
    pub expected: Expected,
}

/// What the queue must be that is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is, but there.
    #[default]
    Any,
    /// Not there: it is made.
    Absent,
    /// With this etag.
    Etag(String),
}

/// Deletes a queue with everything in it.
#[derive(Clone, Debug, Default)]
pub struct DeleteQueue {
    pub name: String,
    /// Also where it holds messages.
    pub force: bool,
    pub allow_missing: bool,
}

/// Invariant: `names` holds every queue once, under its name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    queues: HashMap<QueueId, Queue, FxBuildHasher>,
    names: BTreeMap<String, QueueId>,
    /// Ids are never given again, so that old records cannot meet a new queue.
    last: QueueId,
}

impl Catalog {
    pub(super) fn get(&self, queue: QueueId) -> Option<&Queue> {
        self.queues.get(&queue)
    }

    pub(super) fn get_mut(&mut self, queue: QueueId) -> Option<&mut Queue> {
        self.queues.get_mut(&queue)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Queue> {
        self.names.get(name).map(|id| &self.queues[id])
    }

    pub(super) fn after<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Queue> {
        let range = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
        self.names.range::<str, _>(range).map(|(_, id)| &self.queues[id])
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn last(&self) -> QueueId {
        self.last
    }

    /// Counters of a queue. Only called for queues that hold a message.
    pub(super) fn totals(&mut self, queue: QueueId) -> &mut Totals {
        &mut self.queues.get_mut(&queue).expect("a message's queue is there").totals
    }

    pub(super) fn put(&mut self, definition: QueueDefinition) {
        let id = definition.queue_id();
        self.last = self.last.max(id);
        match self.queues.get_mut(&id) {
            Some(queue) => {
                // Nobody renames a queue; what a repair has lost may come to light, though.
                if queue.definition.name != definition.name {
                    self.names.remove(&queue.definition.name);
                    self.names.insert(definition.name.clone(), id);
                    queue.name = Arc::from(definition.name.as_str());
                }
                queue.definition = Arc::new(definition);
            }
            None => {
                self.names.insert(definition.name.clone(), id);
                let name = Arc::from(definition.name.as_str());
                let (definition, totals) = (Arc::new(definition), Totals::default());
                self.queues.insert(id, Queue { definition, name, totals });
            }
        }
    }

    /// Every queue, as it is at this moment, in no order.
    pub(super) fn frozen(&self) -> Vec<(Arc<QueueDefinition>, Totals)> {
        self.queues.values().map(|queue| (queue.definition.clone(), queue.totals)).collect()
    }

    /// A queue that was deleted leaves its id behind.
    pub(super) fn ids(&self) -> impl Iterator<Item = QueueId> {
        self.names.values().copied()
    }

    pub(super) fn restore_last(&mut self, last: QueueId) {
        self.last = self.last.max(last);
    }

    fn remove(&mut self, queue: QueueId) {
        if let Some(queue) = self.queues.remove(&queue) {
            self.names.remove(&queue.definition.name);
        }
    }
}

impl<I: Index> Core<I> {
    /// Makes a queue, and the dead-letter queue that it names.
    pub fn create_queue(&mut self, create: &CreateQueue, now: Now, out: &mut Output) -> Turn<()> {
        policy::check_name(&create.name)?;
        create.policy.check()?;
        if let Some(queue) = self.catalog.named(&create.name) {
            let it = &queue.definition;
            let retried = !create.request_id.is_empty() && it.request_id == create.request_id;
            let equal = it.policy == create.policy
                && it.description == create.description
                && it.labels == create.labels;
            if retried || (create.allow_existing && equal) {
                return Ok(());
            }
            return Err(Refused::QueueExists(create.name.clone()).into());
        }
        let mut draft = self.draft();
        let definition = QueueDefinition {
            name: create.name.clone(),
            description: create.description.clone(),
            labels: create.labels.clone(),
            policy: create.policy.clone(),
            request_id: create.request_id.clone(),
            ..QueueDefinition::default()
        };
        self.draft_queue(&mut draft, definition, now)?;
        self.draft_named_dead_letter_queue(&mut draft, &create.name, &create.policy, now)?;
        self.commit(draft, out);
        Ok(())
    }

    /// Changes a queue's description, labels and policy.
    pub fn update_queue(&mut self, update: &UpdateQueue, now: Now, out: &mut Output) -> Turn<()> {
        update.policy.check()?;
        let Some(queue) = self.catalog.named(&update.name) else {
            if update.expected != Expected::Absent {
                return Err(Refused::QueueNotFound(update.name.clone()).into());
            }
            let create = CreateQueue {
                name: update.name.clone(),
                description: update.description.clone(),
                labels: update.labels.clone(),
                policy: update.policy.clone(),
                ..CreateQueue::default()
            };
            return self.create_queue(&create, now, out);
        };
        let is_expected = match &update.expected {
            Expected::Any => true,
            Expected::Absent => false,
            Expected::Etag(etag) => *etag == queue.etag(),
        };
        if !is_expected {
            return Err(
                Refused::EtagMismatch { name: update.name.clone(), actual: queue.etag() }.into()
            );
        }
        let mut draft = self.draft();
        self.draft_named_dead_letter_queue(&mut draft, &update.name, &update.policy, now)?;
        draft.put_queue(QueueDefinition {
            description: update.description.clone(),
            labels: update.labels.clone(),
            policy: update.policy.clone(),
            update_ms: now.wall_ms,
            revision: queue.definition.revision + 1,
            ..QueueDefinition::clone(&queue.definition)
        });
        self.commit(draft, out);
        Ok(())
    }

    /// Deletes a queue. Its consumers stay connected, and meet it again if it is made again.
    pub fn delete_queue(&mut self, delete: &DeleteQueue, out: &mut Output) -> Turn<()> {
        let Some(queue) = self.catalog.named(&delete.name) else {
            if delete.allow_missing {
                return Ok(());
            }
            return Err(Refused::QueueNotFound(delete.name.clone()).into());
        };
        let id = queue.id();
        let messages = self.index.counts(id).messages();
        if 0 < messages && !delete.force {
            return Err(Refused::QueueNotEmpty { name: delete.name.clone(), messages }.into());
        }
        let lost = self.tell_lost(id, StateSet::ALL, Lost::Deleted)?;
        out.effects.extend(lost);
        let mut draft = self.draft();
        draft.fact(Record::QueueDeleted(QueueDeleted { queue: id.0 }));
        self.commit(draft, out);
        Ok(())
    }

    /// Looks up the messages that go; tells whoever holds one of them.
    fn tell_lost(&self, queue: QueueId, states: StateSet, why: Lost) -> Lookup<Vec<Effect>> {
        let mut gone = Vec::new();
        self.index.list(queue, states, None, usize::MAX, &mut gone)?;
        Ok(self.lost_leases(gone.into_iter().map(|cursor| cursor.birth), why))
    }

    pub(super) fn apply_queue_deleted(&mut self, queue: QueueId) {
        // They go with it.
        self.outcomes.set_retention(queue, None);
        self.trail.forget(queue);
        self.apply_purged(&Purged { queue: queue.0, states: StateSet::ALL.0 });
        self.index.set_retention(queue, None);
        self.flow.forget(queue);
        self.consumers.forget(queue);
        self.waiting_for_ends.remove(&queue);
        self.fairness.forget(queue);
        self.overfull.remove(&queue);
        self.catalog.remove(queue);
    }

    pub(super) fn apply_purged(&mut self, purged: &Purged) {
        let mut gone = Vec::new();
        let (queue, states) = (QueueId(purged.queue), StateSet(purged.states));
        self.index
            .list(queue, states, None, usize::MAX, &mut gone)
            .expect("what is applied was looked up");
        for cursor in gone {
            let grant = self.end_lease(cursor.birth).map(|lease| lease.grant);
            self.finish(cursor.birth, grant);
            self.catalog.totals(queue).deleted += 1;
        }
    }

    /// The queue of this name, drafted where it is missing and may be made.
    pub(super) fn queue_or_draft(
        &self,
        draft: &mut Draft,
        name: &str,
        now: Now,
    ) -> Result<QueueId, Stop> {
        if let Some(queue) = self.catalog.named(name) {
            return Ok(queue.id());
        }
        if let Some(queue) = draft.queue_named(name) {
            return Ok(queue);
        }
        policy::check_name(name)?;
        if !self.limits.auto_create_queues {
            return Err(Refused::QueueNotFound(name.to_owned()).into());
        }
        let definition = QueueDefinition { name: name.to_owned(), ..QueueDefinition::default() };
        Ok(self.draft_queue(draft, definition, now)?)
    }

    /// [`Self::queue_or_draft`] for a name that may be, whatever the limits.
    pub(super) fn queue_or_draft_unbounded(
        &self,
        draft: &mut Draft,
        name: &str,
        now: Now,
    ) -> QueueId {
        let there = self.catalog.named(name).map(Queue::id).or_else(|| draft.queue_named(name));
        there.unwrap_or_else(|| {
            let definition = QueueDefinition { name: name.to_owned(), ..Default::default() };
            self.draft_queue_unbounded(draft, definition, now)
        })
    }

    fn draft_queue(
        &self,
        draft: &mut Draft,
        definition: QueueDefinition,
        now: Now,
    ) -> Result<QueueId, Refused> {
        if self.limits.queues_max <= self.catalog.len() + draft.queues.len() {
            return Err(Refused::Limit { what: "queues", max: self.limits.queues_max });
        }
        Ok(self.draft_queue_unbounded(draft, definition, now))
    }

    /// Drafts a queue whatever the limit: dead-lettering must not fail.
    pub(super) fn draft_queue_unbounded(
        &self,
        draft: &mut Draft,
        definition: QueueDefinition,
        now: Now,
    ) -> QueueId {
        let id = draft.last_queue.0 + 1;
        draft.last_queue = QueueId(id);
        let (create_ms, update_ms) = (now.wall_ms, now.wall_ms);
        // Also where somebody waits for dead letters before there are any.
        let is_dead_letter_queue =
            definition.is_dead_letter_queue || definition.name.ends_with(DEAD_LETTER_SUFFIX);
        draft.put_queue(QueueDefinition {
            id,
            create_ms,
            update_ms,
            is_dead_letter_queue,
            ..definition
        });
        QueueId(id)
    }

    /// Makes the dead-letter queue that a policy names, or refuses the name.
    fn draft_named_dead_letter_queue(
        &self,
        draft: &mut Draft,
        of: &str,
        policy: &Policy,
        now: Now,
    ) -> Result<(), Refused> {
        let Some(name) = &policy.dead_letter_queue else { return Ok(()) };
        let refuse = |why| Refused::DeadLetterQueue { name: name.clone(), of: of.to_owned(), why };
        policy::check_name(name)?;
        if name == of {
            return Err(refuse("a queue cannot be its own"));
        }
        let of_letters = self.catalog.named(of).map(|queue| queue.definition.is_dead_letter_queue);
        if of_letters.unwrap_or_else(|| of.ends_with(DEAD_LETTER_SUFFIX)) {
            return Err(refuse("a dead-letter queue has none itself"));
        }
        let target = self.catalog.named(name).map(|queue| &*queue.definition);
        if target.is_some_and(|target| target.policy.dead_letter_queue.is_some()) {
            return Err(refuse("it has a dead-letter queue of its own"));
        }
        // Its messages would be deleted after a dead letter's time, which nobody asked for.
        let would_expire = |target: &&Queue| {
            let it = &target.definition;
            let holds_some = 0 < self.index.counts(target.id()).messages();
            holds_some && !it.is_dead_letter_queue && it.policy.retention_ms.is_none()
        };
        if self.catalog.named(name).as_ref().is_some_and(would_expire) {
            return Err(refuse(
                "it holds messages of its own, which would then be deleted after 7 days; \
                 set its retention first (0 keeps them for ever)",
            ));
        }
        self.draft_dead_letter_queue(draft, name, now);
        Ok(())
    }

    /// The queue of this name as a dead-letter queue, made or marked as one where it is not yet.
    pub(super) fn draft_dead_letter_queue(
        &self,
        draft: &mut Draft,
        name: &str,
        now: Now,
    ) -> QueueId {
        if let Some(queue) = draft.queue_named(name) {
            draft.mark_as_dead_letter_queue(queue);
            return queue;
        }
        match self.catalog.named(name) {
            Some(queue) if queue.definition.is_dead_letter_queue => queue.id(),
            Some(queue) => {
                let mut definition = QueueDefinition::clone(&queue.definition);
                definition.is_dead_letter_queue = true;
                definition.revision += 1;
                draft.put_queue(definition);
                queue.id()
            }
            None => {
                let name = name.to_owned();
                let is_dead_letter_queue = true;
                let definition =
                    QueueDefinition { name, is_dead_letter_queue, ..QueueDefinition::default() };
                self.draft_queue_unbounded(draft, definition, now)
            }
        }
    }
}

impl Draft {
    pub(super) fn put_queue(&mut self, definition: QueueDefinition) {
        self.queues.insert(definition.name.clone(), definition.queue_id());
        self.fact(Record::QueuePut(Box::new(definition)));
    }

    fn queue_named(&self, name: &str) -> Option<QueueId> {
        self.queues.get(name).copied()
    }

    /// A queue of this draft is made as a dead-letter queue.
    fn mark_as_dead_letter_queue(&mut self, queue: QueueId) {
        for (record, _) in &mut self.records {
            if let Record::QueuePut(definition) = record
                && definition.queue_id() == queue
            {
                // Asked for each letter, of which there may be thousands behind it.
                if definition.is_dead_letter_queue {
                    return;
                }
                definition.is_dead_letter_queue = true;
            }
        }
    }
}
