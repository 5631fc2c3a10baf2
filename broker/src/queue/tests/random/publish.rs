//! Random messages come in.

use super::{Asked, Play, QUEUES};
use crate::queue::tests::stage::StageIndex;
use crate::queue::{NewMessage, Publish, Receipt};

impl<I: StageIndex> Play<I> {
    pub(super) fn publish(&mut self, queue: u8, count: u8, message: NewMessage, id: Option<u8>) {
        let queue = QUEUES[usize::from(queue) % QUEUES.len()];
        let count = if id.is_some() { 1 } else { count };
        let message = NewMessage {
            queue: queue.into(),
            message_id: id.map_or_else(String::new, |id| id.to_string()),
            id_hash: id.map(u128::from),
            ..message
        };
        let unique = message.unique_hash;
        let paused = self.model.queue_named(queue).is_some_and(|queue| queue.publishing_paused);
        let before = self.model.queue_named(queue).map(|queue| queue.id);
        let holders = before.zip(unique).map(|(queue, key)| self.model.key_holders(queue, key));
        let is_held = holders.as_ref().is_some_and(|holders| !holders.is_empty());
        let is_known = is_held || id.and_then(|id| self.known(before?, id)).is_some();
        let full = !is_known && !self.has_room(queue, count, &message);
        let publish = Publish { messages: vec![message; usize::from(count)] };
        let heard = self.stage.turn(|core, now, out| core.publish(&publish, now, out));
        self.heard(&heard, Asked { publish: true, ..Asked::default() });
        assert_eq!(heard.answer.is_err(), self.disk_full || paused || full, "{:?}", heard.answer);
        let Ok(receipts) = heard.answer else { return };
        let made = self.model.queue_named(queue).expect("it was made").id;
        let known = id.and_then(|id| self.known(made, id));
        assert_eq!(by_id(receipts[0]), known);
        if known.is_none() {
            check_unique(&receipts, unique, &holders.unwrap_or_default());
        }
        if let (Some(id), false) = (id, receipts[0].duplicate) {
            let end = self.stage.now.wall_ms + 300_000;
            self.model.ids.insert((made, id), (receipts[0].birth.0, end));
        }
    }

    /// Whether so many of a message fit its queue; of a unique key there is one. Those that have an
    /// ordering key, or a delay, make no room for the next ones.
    fn has_room(&self, queue: &str, count: u8, message: &NewMessage) -> bool {
        let now = self.stage.now;
        let count = if message.unique_hash.is_some() { 1 } else { u64::from(count) };
        let wait = message.ordering_hash.is_some()
            || message.due.is_some_and(|due| !due.from(now).is_over(now));
        self.model.has_room(queue, (count, message.body.len() as u64), wait, None)
    }

    /// The message of an id, within the dedup window.
    fn known(&self, queue: u32, id: u8) -> Option<u64> {
        let wall_ms = self.stage.now.wall_ms;
        self.model.ids.get(&(queue, id)).filter(|(_, end)| wall_ms < *end).map(|known| known.0)
    }
}

fn by_id(receipt: Receipt) -> Option<u64> {
    (receipt.duplicate && !receipt.by_key).then_some(receipt.birth.0)
}

/// Those of one batch that have a key: at most the first is stored, and all name the one that is.
fn check_unique(receipts: &[Receipt], key: Option<u64>, holders: &[u64]) {
    let duplicates: Vec<_> = receipts.iter().filter(|receipt| receipt.by_key).collect();
    let expected = match (key, holders) {
        (None, _) => 0,
        (Some(_), []) => receipts.len() - 1,
        (Some(_), _) => receipts.len(),
    };
    assert_eq!(duplicates.len(), expected, "of {holders:?}: {receipts:?}");
    let first = receipts[0].birth.0;
    let named = if holders.is_empty() { &[first][..] } else { holders };
    assert!(duplicates.iter().all(|it| it.duplicate && named.contains(&it.birth.0)));
}
