//! Keys: who of an ordering key is the first, and who holds a unique key.

use std::collections::BTreeSet;

use super::{Message, Model, Sequence, State};

impl Model {
    /// It could be delivered now: it is ready as the first of its ordering key, or else behind.
    pub(super) fn join_line(&mut self, sequence: Sequence) {
        let message = &self.messages[&sequence];
        let leads = message.leads || !self.others_of_line(message).any(|it| it.is_in_line());
        let has_line = message.ordering.is_some();
        let message = self.message(sequence);
        message.leads = has_line && leads;
        message.state = if !has_line || leads { State::Ready } else { State::Behind };
    }

    fn others_of_line<'a>(&'a self, of: &'a Message) -> impl Iterator<Item = &'a Message> {
        let same = |it: &&Message| (it.queue, it.ordering) == (of.queue, of.ordering);
        let line = self.messages.values().filter(move |_| of.ordering.is_some());
        line.filter(same).filter(|it| !std::ptr::eq(*it, of))
    }

    /// Lines whose first one is done go on with the next.
    pub(crate) fn advance(&mut self) {
        let behind = self.messages.values().filter(|it| it.state == State::Behind);
        let lines: BTreeSet<_> = behind.map(|it| (it.queue, it.ordering)).collect();
        for line in lines {
            let of_line = self.messages.iter().filter(|(_, it)| (it.queue, it.ordering) == line);
            if of_line.clone().any(|(_, it)| it.leads) {
                continue;
            }
            let waiting = of_line.filter(|(_, it)| it.state == State::Behind);
            let next = waiting.map(|(sequence, it)| (it.place, *sequence)).min();
            let (_, next) = next.expect("somebody waits in it");
            let message = self.message(next);
            (message.state, message.leads) = (State::Ready, true);
        }
    }

    /// The unfinished messages of a queue that hold a unique key.
    pub(super) fn holders(&self, queue: &str, unique: Option<u64>) -> BTreeSet<Sequence> {
        let holds = |(_, it): &(&Sequence, &Message)| {
            it.queue == queue && it.unique == unique && it.state != State::Parked
        };
        let messages = self.messages.iter().filter(|_| unique.is_some());
        messages.filter(holds).map(|(sequence, _)| *sequence).collect()
    }
}

impl Message {
    fn is_in_line(&self) -> bool {
        self.leads || self.state == State::Behind
    }
}
