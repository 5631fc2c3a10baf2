//! The messages that a filter may mean, a bounded step at a time.

use qbroker_storage::Lsn;

use super::Core;
use super::filter::Filter;
use super::ids::QueueId;
use super::index::{Cursor, Index, Lookup, Message};

/// A message that may be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where a look behind it goes on.
    pub cursor: Cursor,
    pub birth: Lsn,
    /// As it was when it was looked at.
    pub message: Message,
    /// So many messages were looked at up to here in the step.
    pub nth: u64,
}

/// How much one step looks at, at most.
#[derive(Clone, Copy, Debug)]
pub struct StepBounds {
    pub messages: usize,
    /// Stored bytes of the candidates; a single one may be larger.
    pub bytes: u64,
}

/// What a step has found.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    pub found: Vec<Candidate>,
    /// Where the next step goes on; unset: at the beginning.
    pub after: Option<Cursor>,
    /// There is nothing behind.
    pub is_end: bool,
    /// Messages that were looked at.
    pub examined: u64,
}

impl<I: Index> Core<I> {
    /// Looks at the next messages of a queue, in the order of listings; those that are named by their
    /// births alone in the order of these.
    pub fn candidates(
        &self,
        queue: QueueId,
        filter: &Filter,
        after: Option<Cursor>,
        bounds: StepBounds,
    ) -> Lookup<Candidates> {
        let (cursors, is_all) = match filter.births() {
            Some(births) => named(births, after, bounds.messages),
            None => {
                let mut cursors = Vec::new();
                self.index.list(queue, filter.states(), after, bounds.messages, &mut cursors)?;
                let is_all = cursors.len() < bounds.messages;
                (cursors, is_all)
            }
        };
        let mut step = Candidates { after, is_end: is_all, ..Candidates::default() };
        let mut bytes = 0;
        for cursor in cursors {
            let birth = cursor.birth;
            let message = self.index.message(birth)?.filter(|message| message.queue == queue);
            let message = message.filter(|message| filter.may_hold(birth, message));
            bytes += message.map_or(0, |message| u64::from(message.size));
            if bounds.bytes < bytes && !step.found.is_empty() {
                step.is_end = false;
                break;
            }
            step.examined += 1;
            step.after = Some(cursor);
            let nth = step.examined;
            step.found.extend(message.map(|message| Candidate { cursor, birth, message, nth }));
        }
        Ok(step)
    }
}

/// The next of these births, each as a place of its own, and whether these are the last.
fn named(births: &[u64], after: Option<Cursor>, max: usize) -> (Vec<Cursor>, bool) {
    let from = after.map_or(0, |after| births.partition_point(|birth| *birth <= after.birth.0));
    let rest = &births[from..];
    let cursor = |birth: &u64| Cursor { section: 0, key: 0, birth: Lsn(*birth) };
    (rest.iter().take(max).map(cursor).collect(), rest.len() <= max)
}
