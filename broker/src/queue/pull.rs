//! Pulls: single requests for messages, answered at once or when there are some.

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use super::catalog::Queue;
use super::consumer::WaitingPull;
use super::dispatch::{Delivery, Room};
use super::ids::{LeaseToken, QueueId, SessionId};
use super::index::{Index, Lookup, Message};
use super::refused::Refused;
use super::shares::{Selector, order_of_pull};
use super::time::Now;
use super::{Core, Effect, Output, Turn};

/// A pull that waits, of this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullId(pub u64);

/// Grace of a session that came by a pull.
const SESSION_GRACE_MS: u64 = 15_000;

/// Asks for messages once.
#[derive(Clone, Debug)]
pub struct Pull {
    pub queues: Vec<Selector>,
    pub messages_max: u32,
    pub lease_duration_ms: Option<u64>,
    /// Empty: the leases live with their time alone.
    pub session: String,
    /// What the client calls it, so that its repeat gets the same; empty: it has no name.
    pub request_id: String,
}

/// What a pull gets at once.
#[derive(Debug, PartialEq)]
pub enum Pulled {
    Now(Vec<Delivery>),
    /// The answer is an [`Effect::AnswerPull`](super::Effect::AnswerPull).
    Waiting(PullId),
}

impl<I: Index> Core<I> {
    /// Takes messages at once, or waits for the first to come.
    pub fn pull(&mut self, pull: &Pull, now: Now, out: &mut Output) -> Turn<Pulled> {
        if let Some(deliveries) = self.repeat_pull(pull, now)? {
            return Ok(Pulled::Now(deliveries));
        }
        if self.limits.leases_max <= self.leases.len() {
            return Err(Refused::LeasesFull(self.limits.leases_max).into());
        }
        let mut draft = self.draft();
        for selector in &pull.queues {
            self.queue_or_draft(&mut draft, &selector.queue, now)?;
        }
        let session = match (pull.session.as_str(), self.sessions.named(&pull.session)) {
            ("", _) => SessionId::NONE,
            (_, Some(session)) => session,
            (name, None) => self.draft_session(&mut draft, name, SESSION_GRACE_MS, 0)?,
        };
        let mut pull = pull.clone();
        let mut named = BTreeSet::new();
        pull.queues.retain(|selector| named.insert(selector.queue.clone()));
        let chosen = self.choose_for_pull(&pull, now)?;
        self.commit(draft, out);
        self.give_way(session, &pull.request_id, now, out);
        self.sessions.touch(session, now.boot_ms);
        let waiting = WaitingPull { pull, session };
        if chosen.is_empty() {
            self.sessions.connect(session);
            // What is ready in them and may not be delivered yet is waited for.
            for selector in &waiting.pull.queues {
                let queue = self.catalog.named(&selector.queue).map(Queue::id);
                queue.into_iter().for_each(|queue| self.consumers.touch(queue));
            }
            return Ok(Pulled::Waiting(self.consumers.wait(waiting)));
        }
        let grant = |(queue, chosen)| self.grant_to_pull(&waiting, queue, chosen, now, out);
        Ok(Pulled::Now(chosen.into_iter().flat_map(grant).collect()))
    }

    /// What a pull got before under the same name, where it did.
    fn repeat_pull(&mut self, pull: &Pull, now: Now) -> Lookup<Option<Vec<Delivery>>> {
        let session = match pull.session.as_str() {
            "" => Some(SessionId::NONE),
            name => self.sessions.named(name),
        };
        let Some(session) = session.filter(|_| !pull.request_id.is_empty()) else {
            return Ok(None);
        };
        let before = self.pulled_before(&(session, pull.request_id.clone()))?;
        if let Some(before) = &before {
            self.leases.tell_again(before.iter().map(|delivery| delivery.token.birth));
            self.sessions.touch(session, now.boot_ms);
        }
        Ok(before)
    }

    /// A pull of the same name that waits is answered with nothing: its client asks anew.
    fn give_way(&mut self, session: SessionId, request: &str, now: Now, out: &mut Output) {
        if let Some(pull) = self.consumers.pull_named(session, request) {
            self.cancel_pull(pull, now);
            out.effects.push(Effect::AnswerPull { pull, deliveries: Vec::new() });
        }
    }

    /// A pull waits no more. Returns whether it did: otherwise its answer is on its way.
    pub fn cancel_pull(&mut self, pull: PullId, now: Now) -> bool {
        let Some(waiting) = self.consumers.stop_waiting(pull) else { return false };
        self.sessions.disconnect(waiting.session, now.boot_ms);
        true
    }

    /// Releases deliveries that could not be handed over, but for those that another call of the same name
    /// has as well; counts nothing.
    pub fn undeliver(
        &mut self,
        tokens: impl IntoIterator<Item = LeaseToken>,
        out: &mut Output,
    ) -> Turn<()> {
        let held = tokens
            .into_iter()
            .filter_map(|token| Some((token.birth.0, self.held(token).ok()?.calls)));
        let held: BTreeMap<_, _> = held.collect();
        let (last, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|&(_, calls)| calls == 1);
        let births: Vec<_> = last.into_iter().map(|(birth, _)| birth).collect();
        let mut draft = self.draft();
        self.draft_releases(&mut draft, &births)?;
        self.commit(draft, out);
        others.into_iter().for_each(|(birth, _)| self.leases.not_told(Lsn(birth)));
        Ok(())
    }

    /// How many messages of a queue a waiting pull takes; `None` where another one of its queues
    /// comes first.
    pub(super) fn share_of_pull(&self, pull: &Pull, queue: &str, now: Now) -> Option<u64> {
        let own = pull.queues.iter().find(|selector| selector.queue == queue);
        let own = own.expect("a pull stands in its queues' lines");
        let better = |selector: &&Selector| selector.rank < own.rank;
        let is_passed =
            pull.queues.iter().filter(better).any(|better| self.gives(&better.queue, now));
        let most = u64::from(own.window.unwrap_or(u32::MAX).min(pull.messages_max));
        (!is_passed).then_some(most)
    }

    /// What a pull gets of each queue. All of it is looked up before any of it is granted.
    #[expect(clippy::type_complexity, reason = "of each queue what is chosen of it")]
    fn choose_for_pull(
        &self,
        pull: &Pull,
        now: Now,
    ) -> Lookup<Vec<(QueueId, Vec<(Lsn, Message)>)>> {
        let mut room = self.leases_room(u64::from(pull.messages_max));
        let (mut chosen, mut bytes) = (Vec::new(), None);
        for selector in order_of_pull(&pull.queues, self.next.0) {
            let named = self.catalog.named(&selector.queue);
            let Some(queue) = named else { continue };
            let most = room.min(selector.window.map_or(u64::MAX, u64::from));
            let most = most.min(self.quota(queue, now));
            let room_of_queue = Room::of_pull(most, bytes);
            let of_queue = self.choose(queue.id(), room_of_queue, now)?.messages;
            room -= of_queue.len() as u64;
            if !of_queue.is_empty() {
                let added: u64 = of_queue.iter().map(|(_, message)| u64::from(message.size)).sum();
                bytes = Some(bytes.unwrap_or_default() + added);
                chosen.push((queue.id(), of_queue));
            }
        }
        Ok(chosen)
    }
}
