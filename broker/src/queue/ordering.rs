//! Ordering keys: of the messages of a queue that share one, one at a time, in order.
//!
//! They stand in a line by their places. The first one, the leader, is ready, with a consumer, or on
//! its way back from one; the others are behind. When the leader is done or given up, or somebody
//! gives it another time, the next one takes its place, by a record of its own: what ended the leader
//! need not know who that is. So a queue's ready messages may all be delivered, whatever their keys,
//! and nobody looks past others to find them.

use std::collections::BTreeSet;

use qbroker_storage::Lsn;

use super::ids::QueueId;
use super::index::{Index, Lookup, Message, State};
use super::record::Record;
use super::{Core, Output};

/// Messages are the first of their ordering keys now: those before them are done.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Advanced {
    #[prost(uint64, repeated, tag = "1")]
    pub births: Vec<u64>,
}

/// Most lines that one record advances: their messages may be in as many pages.
const LINES_AT_ONCE: usize = 64;

/// Lines without a leader in which somebody waits, by queue and hash of the key. Between two records
/// there may be some; when a turn is over there are none.
pub(super) type Leaderless = BTreeSet<(QueueId, u32)>;

impl<I: Index> Core<I> {
    /// A message that could be delivered now joins its line: ready as the leader, or else behind.
    pub(super) fn join_line(&self, message: Message) -> Message {
        let (queue, line) = (message.queue, message.keys.ordering);
        let leads = message.keys.leads
            || !(self.index.has_leader(queue, line) || self.index.has_behind(queue, line));
        let state = if leads { State::Ready } else { State::Behind };
        Message { state, ..message }.in_line()
    }

    /// Puts a message in the place of what it was; every change but its coming and its going.
    pub(super) fn change(&mut self, birth: Lsn, message: Message) {
        self.first_may_be_another(message.queue);
        if message.keys.ordering == 0 {
            return self.index.change(birth, message);
        }
        self.index.change(birth, message.in_line());
        self.look_after_line(&message);
    }

    /// To be called after every change of a message that has or had a place in this line.
    pub(super) fn look_after_line(&mut self, of: &Message) {
        if of.keys.ordering != 0 {
            self.look_for_leader(of.queue, of.keys.ordering);
        }
    }

    /// To be called after every change of a line.
    pub(super) fn look_for_leader(&mut self, queue: QueueId, line: u32) {
        if !self.index.has_leader(queue, line) && self.index.has_behind(queue, line) {
            self.leaderless.insert((queue, line));
        } else {
            self.leaderless.remove(&(queue, line));
        }
    }

    /// Gives the lines new leaders whose old ones are done.
    pub(super) fn advance_lines(&mut self, out: &mut Output) -> Lookup<()> {
        while !self.leaderless.is_empty() {
            let (mut births, mut empty) = (Vec::new(), Vec::new());
            let at_once = self.limits.step_max.min(LINES_AT_ONCE);
            for &(queue, line) in self.leaderless.iter().take(at_once) {
                // Of a page that was made anew nobody may be known to wait in it any more.
                let Some(next) = self.index.first_behind(queue, line)? else {
                    empty.push((queue, line));
                    continue;
                };
                self.index.message(next)?;
                births.push(next.0);
            }
            for line in empty {
                self.leaderless.remove(&line);
            }
            if births.is_empty() {
                continue;
            }
            let mut draft = self.draft();
            draft.fact(Record::Advanced(Advanced { births }));
            self.commit(draft, out);
        }
        Ok(())
    }

    pub(super) fn apply_advanced(&mut self, advanced: &Advanced) {
        for &birth in &advanced.births {
            let birth = Lsn(birth);
            let message = self.present(birth);
            // Behind a gap of the log it may be something else.
            if message.state == State::Behind {
                self.change(birth, Message { state: State::Ready, ..message });
                self.consumers.touch(message.queue);
                self.weigh(message.queue);
            }
        }
    }
}
