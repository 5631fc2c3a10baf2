//! Random commands about queues as such.

use super::{Asked, Play, QUEUES};
use crate::queue::body::small_body;
use crate::queue::index::StateSet;
use crate::queue::outcomes::StoredOutcome;
use crate::queue::tests::stage::StageIndex;
use crate::queue::{DeleteQueue, Lost, PauseQueue, PurgeStep};

impl<I: StageIndex> Play<I> {
    pub(super) fn purge(&mut self, queue: u8, states: StateSet) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()];
        let id = self.model.queue_named(name).map(|queue| queue.id);
        let of_queue = self.model.messages.values().filter(|message| Some(message.queue) == id);
        let purged = of_queue.filter(|message| states.contains(message.state_bit())).count() as u64;
        let heard = self.stage.turn(|core, _, out| {
            let mut purge = core.begin_purge(name, states, Lost::Purged)?;
            core.purge(&mut purge, out)
        });
        let asked = Asked { purge: id.map(|id| (id, states)), ..Asked::default() };
        self.heard(&heard, asked);
        let expected = id.map(|_| PurgeStep { deleted: purged, is_last: true });
        assert_eq!(heard.answer.ok(), expected);
    }

    pub(super) fn delete(&mut self, queue: u8) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()];
        let id = self.model.queue_named(name).map(|queue| queue.id);
        let delete = DeleteQueue { name: name.to_owned(), force: true, allow_missing: true };
        let heard = self.stage.turn(|core, _, out| core.delete_queue(&delete, out));
        self.heard(&heard, Asked { delete: id, ..Asked::default() });
        assert!(self.model.queue_named(name).is_none());
    }

    /// Outcomes are written, of those that were done first.
    pub(super) fn write_outcomes(&mut self, max: usize) {
        let finished = self.stage.core.unwritten_outcomes(max);
        let body = || small_body(&StoredOutcome::default());
        let outcomes: Vec<_> = finished.iter().map(|it| (it.birth, body())).collect();
        let heard = self.stage.turn(|core, now, out| core.write_outcomes(&outcomes, now, out));
        self.heard(&heard, Asked::default());
        let left = self.stage.core.unwritten_outcomes(usize::MAX);
        assert!(finished.iter().all(|it| !left.contains(it)), "each is written, or given up");
    }

    pub(super) fn pause(&mut self, queue: u8, how: u8) {
        let name = QUEUES[usize::from(queue) % QUEUES.len()];
        let pause = PauseQueue { name: name.to_owned(), publishing: how == 0 };
        let heard = self.stage.turn(|core, _, out| match how {
            0 | 1 => core.pause_queue(&pause, out),
            _ => core.resume_queue(name, out),
        });
        self.heard(&heard, Asked::default());
        let Some(queue) = self.model.queue_named(name) else {
            return assert!(heard.answer.is_err());
        };
        assert_eq!((queue.paused, queue.publishing_paused), (how <= 1, how == 0));
    }
}
