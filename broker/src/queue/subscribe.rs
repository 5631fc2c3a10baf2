//! Changing what an open stream consumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use qbroker_storage::Lsn;

use super::consumer::Consumer;
use super::consumers::Consumers;
use super::ids::ConsumerId;
use super::index::Index;
use super::shares::{Selector, Shares};
use super::time::Now;
use super::{Core, Output, Turn};

impl<I: Index> Core<I> {
    /// Replaces the queues of a stream, as its opening would have named them. What it holds of queues
    /// that it leaves stays its own, and keeps taking room. A stream that is gone is none.
    pub fn subscribe(
        &mut self,
        id: ConsumerId,
        queues: &[Selector],
        now: Now,
        out: &mut Output,
    ) -> Turn<()> {
        let Some(session) = self.consumers.get(id).map(|consumer| consumer.session) else {
            return Ok(());
        };
        let mut draft = self.draft();
        for selector in queues {
            self.queue_or_draft(&mut draft, &selector.queue, now)?;
        }
        // Whose share they take is asked once the queues are there.
        let has_shares = queues.iter().any(|selector| !selector.is_plain());
        let held: Vec<Lsn> = self.held_by(session, id).map(Lsn).collect();
        for birth in held.iter().filter(|_| has_shares) {
            self.index.message(*birth)?;
        }
        self.commit(draft, out);
        let holds: Vec<Arc<str>> = held
            .into_iter()
            .filter(|_| has_shares)
            .map(|birth| {
                let queue = self.catalog.get(self.present(birth).queue);
                queue.expect("a message's queue is there").name.clone()
            })
            .collect();
        self.consumers.subscribe(id, queues, &holds);
        for selector in queues {
            let queue = self.catalog.named(&selector.queue).expect("it was made just now").id();
            self.consumers.touch(queue);
        }
        Ok(())
    }
}

impl Consumer {
    /// Takes from these queues from now on; `holds` are the queues of what it holds.
    fn take_from(&mut self, selectors: &BTreeMap<&str, &Selector>, holds: &[Arc<str>]) {
        self.queues = selectors.keys().map(|name| Arc::from(*name)).collect();
        self.set_shares(Shares::new(selectors.values().copied()));
        holds.iter().for_each(|queue| self.hold(queue));
    }
}

impl Consumers {
    /// A stream stands at the end of the lines of its new queues, and of no others.
    fn subscribe(&mut self, id: ConsumerId, queues: &[Selector], holds: &[Arc<str>]) {
        let Some(mut consumer) = self.detach(id) else { return };
        let selectors: BTreeMap<&str, &Selector> =
            queues.iter().rev().map(|selector| (selector.queue.as_str(), selector)).collect();
        consumer.take_from(&selectors, holds);
        self.put_back(id, consumer);
    }
}
