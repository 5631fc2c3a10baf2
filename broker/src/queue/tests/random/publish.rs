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
        let publish = Publish { messages: vec![message; usize::from(count)] };
        let paused = self.model.queue_named(queue).is_some_and(|queue| queue.publishing_paused);
        let before = self.model.queue_named(queue).map(|queue| queue.id);
        let holders = before.zip(unique).map(|(queue, key)| self.model.key_holders(queue, key));
        let heard = self.stage.turn(|core, now, out| core.publish(&publish, now, out));
        self.heard(&heard, Asked { publish: true, ..Asked::default() });
        assert_eq!(heard.answer.is_err(), self.disk_full || paused, "{:?}", heard.answer);
        let Ok(receipts) = heard.answer else { return };
        let known = id.and_then(|id| self.known(queue, id));
        assert_eq!(by_id(receipts[0]), known);
        if known.is_none() {
            check_unique(&receipts, unique, &holders.unwrap_or_default());
        }
        if let (Some(id), false) = (id, receipts[0].duplicate) {
            let end = self.stage.now.wall_ms + 300_000;
            let queue = self.model.queue_named(queue).expect("it was made").id;
            self.model.ids.insert((queue, id), (receipts[0].birth.0, end));
        }
    }

    /// The message of an id, within the dedup window.
    fn known(&self, queue: &str, id: u8) -> Option<u64> {
        let wall_ms = self.stage.now.wall_ms;
        let key = (self.model.queue_named(queue).expect("it was made").id, id);
        self.model.ids.get(&key).filter(|(_, end)| wall_ms < *end).map(|known| known.0)
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
