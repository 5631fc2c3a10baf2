//! A settlement with all that is done together with it, or not at all.
//!
//! What it publishes, what it changes of the state, the content that it patches and the settlement
//! itself are one commit: a crash leaves all of it or nothing. Where one part is refused, nothing is done
//! and the lease is kept.

use super::index::Index;
use super::overflow::{Evicted, Leaving};
use super::patch::Patch;
use super::publish::NewMessage;
use super::record::{Acked, Call, Record};
use super::refused::Refused;
use super::settle::{Outcome, Settlement};
use super::state::StateChange;
use super::time::Now;
use super::{Core, Draft, Output, Turn};

/// What is done together with a settlement.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Of a nack or a dead-letter alone.
    pub patch: Option<Patch>,
    pub publish: Vec<NewMessage>,
    pub changes: Vec<StateChange>,
}

impl<I: Index> Core<I> {
    /// Settles one lease that holds, with its effects.
    pub(super) fn settle_with(
        &mut self,
        (call, answered_through): (Call, u64),
        (settlement, effects): (&Settlement, &Effects),
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        if self.disk_full {
            return Err(Refused::DiskFull.into());
        }
        let birth = settlement.token.birth;
        let message = self.index.message(birth)?.expect("a lease is of a message that is there");
        let mut draft = self.draft();
        let leaves = self.leaves_queue(&settlement.outcome, &message);
        draft.leaving = leaves.then(|| Leaving::new(&message));
        let evicted = self.draft_effects(&mut draft, effects, now)?;
        if let Some(patch) = &effects.patch {
            self.draft_patch(&mut draft, birth, &message, patch)?;
        }
        match settlement.outcome {
            Outcome::Ack => {
                let births = vec![birth.0];
                draft.fact(Record::Acked(Acked { call, answered_through, births }));
            }
            _ => self.draft_settlement(&mut draft, call, settlement, now)?,
        }
        let max = self.limits.commit_bytes_max;
        if max < draft.bytes() {
            return Err(Refused::Limit { what: "commit_bytes", max }.into());
        }
        self.commit_settlements(draft, out);
        self.evict(&evicted, now, out);
        Ok(())
    }

    /// Drafts effects; returns what makes room for them, after them.
    fn draft_effects(&self, draft: &mut Draft, effects: &Effects, now: Now) -> Turn<Vec<Evicted>> {
        let completions = match &effects.changes[..] {
            [] => Vec::new(),
            changes => self.draft_changes(draft, changes, now)?,
        };
        if completions.is_empty() {
            return self.draft_also(draft, &effects.publish, now);
        }
        // One batch: of two, neither would know of the queues, ids and room that the other takes.
        let messages: Vec<_> = effects.publish.iter().cloned().chain(completions).collect();
        self.check_completions(&messages)?;
        self.draft_also(draft, &messages, now)
    }

    /// Drafts messages that are published together with something else; returns what makes room for
    /// them, after them.
    pub(super) fn draft_also(
        &self,
        draft: &mut Draft,
        messages: &[NewMessage],
        now: Now,
    ) -> Turn<Vec<Evicted>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let drafted = self.draft_messages(draft, messages, now);
        Ok(drafted.map_err(|(_, stop)| stop)?.1)
    }
}
